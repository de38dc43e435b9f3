//! Replays that are about fields: cookies, cross-origin requests, credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::backend::{Backend, Then, respond};
use crate::support::client::Response;
use crate::support::config;
use crate::support::fleet::Fleet;
use crate::support::manifests::{N, get, ingress, services, with};

/// One annotation of ingress-nginx.
pub(crate) type Said<'a> = (&'a str, &'a str);

/// One Ingress for everything with these annotations.
pub(crate) fn one(path: &str, said: &[Said<'_>]) -> (Fleet, Backend) {
    let web = Backend::named("web");
    let all: Vec<_> = said.iter().map(|(name, value)| (N, *name, *value)).collect();
    (with(&ingress("web", path, "web", &all), &[("web", &[web.addr])]), web)
}

/// The cookie that a first request to `path` gets.
pub(crate) fn cookie(path: &str, said: &[Said<'_>], asked: &str) -> String {
    let all: Vec<Said<'_>> = [("affinity", "cookie")].iter().chain(said).copied().collect();
    let (fleet, _web) = one(path, &all);
    let response = get(&fleet, asked, "");
    assert_eq!(response.status, 200);
    response.one("set-cookie").unwrap_or_default().to_owned()
}

/// Which origins are answered with which allowance.
pub(crate) fn origins(allowed: Option<&str>, asked: &[(&str, Option<&str>)]) {
    let mut said = vec![("enable-cors", "true")];
    said.extend(allowed.map(|allowed| ("cors-allow-origin", allowed)));
    let (fleet, _web) = one("/", &said);
    for (origin, wanted) in asked {
        let field = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\n") };
        let response = get(&fleet, "/", &field);
        assert_eq!(response.status, 200, "{allowed:?} {origin}");
        assert_eq!(response.one("access-control-allow-origin"), *wanted, "{allowed:?} {origin}");
    }
}

/// A field of the answer to a preflight, or of a plain answer.
pub(crate) fn cors_field(said: Said<'_>, preflight: bool, name: &str, wanted: Option<&str>) {
    let (fleet, _web) =
        one("/", &[("enable-cors", "true"), ("cors-allow-origin", "https://a.example"), said]);
    let method = if preflight { "OPTIONS" } else { "GET" };
    let request = format!(
        "{method} / HTTP/1.1\nHost: shop.example\nOrigin: https://a.example\nAccess-Control-Request-Method: GET\n\n"
    );
    let response = crate::support::manifests::send(&fleet, &request);
    assert_eq!(response.one(name), wanted, "{said:?}: {}", response.head);
}

/// `{SHA}` of `bar`.
const FOO: &str = "foo:{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=";

/// An Ingress that asks for names and passwords of a Secret, and what comes of a request with these credentials.
pub(crate) fn password(said: &[Said<'_>], key: &str, content: &str, credentials: &str) -> Response {
    let web = Backend::named("web");
    let mut all =
        vec![(N, "auth-type", "basic"), (N, "auth-secret", "staff"), (N, "auth-realm", "test auth")];
    all.extend(said.iter().map(|(name, value)| (N, *name, *value)));
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: staff}}\nstringData: {{{key}: {content:?}}}\n"
    );
    let text = ingress("web", "/", "web", &all);
    let files = [
        ("fleet/web.yaml", text.as_str()),
        ("fleet/secret.yaml", &secret),
        ("clusters/one/all.yaml", &services(&[("web", &[web.addr])])),
    ];
    let kept: &[(&str, &str)] = if key.is_empty() { &[files[0], files[2]] } else { &files };
    let fleet = Fleet::start(config(), kept);
    let field = match credentials {
        "" => String::new(),
        credentials => format!("Authorization: Basic {}\n", STANDARD.encode(credentials)),
    };
    get(&fleet, "/", &field)
}

pub(crate) fn password_of_a_file(credentials: &str) -> Response {
    password(&[], "auth", FOO, credentials)
}

pub(crate) fn password_of_a_map(credentials: &str) -> Response {
    let (_, hash) = FOO.split_once(':').unwrap();
    password(&[("auth-secret-type", "auth-map")], "foo", hash, credentials)
}

/// An Ingress that asks a Service, which says yes to `user:password` and sets a cookie; its own backend answers with
/// `status`. What comes of a request with these fields.
pub(crate) fn external(said: &[Said<'_>], status: &'static str, fields: &str) -> (Response, Option<String>) {
    let auth = Backend::start(|request, stream| {
        use std::io::Write;
        let yes = format!("Basic {}", STANDARD.encode("user:password"));
        let good = request.one("authorization") == Some(&yes);
        let head = if good { "200 OK" } else { "401 Who" };
        let _ = stream.write_all(
            format!("HTTP/1.1 {head}\r\nSet-Cookie: alma=armud\r\nfoo: bar\r\nContent-Length: 0\r\n\r\n")
                .as_bytes(),
        );
        Then::Keep
    });
    let web = Backend::start(move |_, stream| {
        use std::io::Write;
        if status == "200 OK" {
            return respond(stream, b"web");
        }
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        Then::Keep
    });
    let mut all = vec![(N, "auth-url", "http://auth.default.svc.cluster.local/basic-auth")];
    all.extend(said.iter().map(|(name, value)| (N, *name, *value)));
    let fleet = with(&ingress("web", "/", "web", &all), &[("web", &[web.addr]), ("auth", &[auth.addr])]);
    let response = get(&fleet, "/?a=b&c=d", fields);
    let seen = web.requests().first().and_then(|request| request.one("foo").map(str::to_owned));
    (response, seen)
}

pub(crate) fn signed_in() -> String {
    format!("Authorization: Basic {}\n", STANDARD.encode("user:password"))
}

/// The answer to a request whose backend sends this field.
pub(crate) fn answered(said: &[Said<'_>], field: &'static str) -> Response {
    let web = Backend::start(move |_, stream| {
        use std::io::Write;
        let _ = stream
            .write_all(format!("HTTP/1.1 302 Found\r\n{field}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        Then::Keep
    });
    let all: Vec<_> = said.iter().map(|(name, value)| (N, *name, *value)).collect();
    let fleet = with(&ingress("web", "/", "web", &all), &[("web", &[web.addr])]);
    get(&fleet, "/", "")
}

/// What becomes of a backend's `Location: hello.com/x`.
pub(crate) fn location(from: &str, to: &str) {
    let said = [("proxy-redirect-from", from), ("proxy-redirect-to", to)];
    let answer = answered(&said, "Location: hello.com/x");
    let wanted = if from == "hello.com" { format!("{to}/x") } else { "hello.com/x".to_owned() };
    assert_eq!(answer.one("location"), Some(&*wanted), "{from}");
}
