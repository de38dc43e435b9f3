//! The rows, by file and in the order of each file.

use crate::support::backend::Backend;
use crate::support::manifests::{N, get, ingress, send, with};
use crate::support::until;

use super::Row;
use super::Verdict::{Differs, Holds, Machinery, Shown};
use super::heads::{
    answered, cookie, cors_field, external, location, one, origins, password, password_of_a_file,
    password_of_a_map, signed_in,
};
use super::routes::{canary_text, chosen, from, in_turn, only_canary, seen, sent, share, sources};

const SNIPPET: &str = "a snippet is nginx's own language: never taken";
const KEPT: &str = "connections are kept by `[pool]`, whatever is said";
const STREAMED: &str = "bodies are streamed, and bounded by `limits.*`";
const COOKIE_PATH: &str =
    "with regular expressions the cookie's path is `/` unless `session-cookie-path` names one";
const CACHE: &str = "every request is asked about: nothing is cached";
const FCGI: &str = "FastCGI is not spoken: the rules answer 503";
const WAF: &str = "there is no web application firewall";
const LOGS: &str = "logs are the whole node's";
const MIRROR: &str = "a URL is not mirrored to; `mirror-target-service` of MSE is";
const HEADER: &str = "CanaryByHeader";

/// All of them.
pub(crate) const ROWS: &[Row] = &[
    (
        "affinity",
        "the cookie has the name",
        Holds(|| {
            assert!(cookie("/", &[("session-cookie-name", "SERVERID")], "/").starts_with("SERVERID="));
        }),
    ),
    (
        "affinity",
        "a changed name",
        Holds(|| {
            let (fleet, web) = one("/", &[("affinity", "cookie"), ("session-cookie-name", "ONE")]);
            let changed = [(N, "affinity", "cookie"), (N, "session-cookie-name", "OTHER")];
            assert!(get(&fleet, "/", "").one("set-cookie").unwrap().starts_with("ONE="));
            fleet.write("fleet/web.yaml", &ingress("web", "/", "web", &changed));
            until("the new name", || {
                get(&fleet, "/", "").one("set-cookie").is_some_and(|set| set.starts_with("OTHER="))
            });
            drop(web);
        }),
    ),
    (
        "affinity",
        "the path of the rule",
        Holds(|| assert!(cookie("/something", &[], "/something").contains("; Path=/something;"))),
    ),
    (
        "affinity",
        "the paths of two rules",
        Shown("annotations", "sessions_of_two_services_of_one_host_do_not_meet"),
    ),
    (
        "affinity",
        "Expires beside Max-Age",
        Holds(|| {
            let said = [("session-cookie-expires", "172800"), ("session-cookie-max-age", "259200")];
            let before = std::time::SystemTime::now();
            let set = cookie("/", &said, "/");
            let expires = set.split("; ").find_map(|part| part.strip_prefix("Expires=")).unwrap();
            let lasts = httpdate::parse_http_date(expires).unwrap().duration_since(before).unwrap();
            assert!(
                (172_790..=172_890).contains(&lasts.as_secs()) && set.contains("; Max-Age=259200"),
                "{set}"
            );
        }),
    ),
    (
        "affinity",
        "a domain",
        Holds(|| {
            assert!(cookie("/", &[("session-cookie-domain", "foo.bar")], "/").contains("; Domain=foo.bar"));
        }),
    ),
    ("affinity", "no domain", Holds(|| assert!(!cookie("/", &[], "/").contains("Domain")))),
    (
        "affinity",
        "regular expressions and a path",
        Holds(|| {
            let said = [
                ("session-cookie-name", "SERVERID"),
                ("use-regex", "true"),
                ("session-cookie-path", "/foo/bar"),
            ];
            let set = cookie("/foo/.*", &said, "/foo/bar");
            assert!(set.starts_with("SERVERID=") && set.contains("; Path=/foo/bar"), "{set}");
        }),
    ),
    ("affinity", "a warning about regular expressions without a path", Differs(COOKIE_PATH)),
    (
        "affinity",
        "of two Ingresses one keeps sessions",
        Holds(|| {
            let web = Backend::named("web");
            let keeps = [(N, "affinity", "cookie"), (N, "session-cookie-path", "/foo/bar")];
            let text = ingress("a", "/foo", "web", &[]) + &ingress("b", "/foo/bar", "web", &keeps);
            let fleet = with(&text, &[("web", &[web.addr])]);
            assert_eq!(get(&fleet, "/foo", "").one("set-cookie"), None);
            assert!(get(&fleet, "/foo/bar", "").one("set-cookie").unwrap().contains("; Path=/foo/bar"));
        }),
    ),
    (
        "affinity",
        "without a host",
        Holds(|| {
            let web = Backend::named("web");
            let text = ingress(
                "web",
                "/",
                "web",
                &[(N, "affinity", "cookie"), (N, "session-cookie-name", "SERVERID")],
            );
            let fleet = with(
                &text.replace("  - host: shop.example\n    http:", "  - http:"),
                &[("web", &[web.addr])],
            );
            assert!(from(&fleet, "any.example", "/").one("set-cookie").unwrap().starts_with("SERVERID="));
        }),
    ),
    (
        "affinity",
        "aliases",
        Holds(|| {
            let (fleet, _web) =
                one("/bar", &[("affinity", "cookie"), ("server-alias", "b.example,c.example")]);
            for host in ["shop.example", "b.example", "c.example"] {
                assert!(from(&fleet, host, "/bar").one("set-cookie").is_some(), "{host}");
            }
        }),
    ),
    (
        "affinity",
        "Secure, over HTTP",
        Holds(|| {
            assert!(cookie("/", &[("session-cookie-secure", "true")], "/").contains("; Secure"));
        }),
    ),
    (
        "affinity",
        "not Secure, over HTTP",
        Holds(|| {
            assert!(!cookie("/", &[("session-cookie-secure", "false")], "/").contains("Secure"));
        }),
    ),
    (
        "affinity",
        "Secure all the same, over HTTPS",
        Shown("answers", "a_session_of_ingress_nginx_is_secure_where_it_came_by_tls"),
    ),
    (
        "affinitymode",
        "balanced: sessions move when endpoints come",
        Differs("a session stays while its endpoint serves"),
    ),
    (
        "affinitymode",
        "persistent: they stay",
        Holds(|| {
            let (web, more) = (Backend::named("web"), Backend::named("more"));
            let said = [(N, "affinity", "cookie"), (N, "affinity-mode", "persistent")];
            let fleet = with(&ingress("web", "/", "web", &said), &[("web", &[web.addr])]);
            let set = get(&fleet, "/", "").one("set-cookie").unwrap().to_owned();
            let both = crate::support::manifests::services(&[("web", &[web.addr, more.addr])]);
            fleet.write("clusters/one/all.yaml", &both);
            until("the new endpoint serves", || get(&fleet, "/", "").text() == "more");
            let field = format!("Cookie: {}\n", set.split(';').next().unwrap());
            assert!((0..50).all(|_| get(&fleet, "/", &field).text() == "web"));
        }),
    ),
    (
        "alias",
        "a host without alias",
        Holds(|| {
            let (fleet, _web) = one("/", &[]);
            assert_eq!(
                (from(&fleet, "shop.example", "/").status, from(&fleet, "bar", "/").status),
                (200, 404)
            );
        }),
    ),
    (
        "alias",
        "an alias",
        Holds(|| {
            let (fleet, _web) = one("/", &[("server-alias", "bar")]);
            assert_eq!(
                (from(&fleet, "shop.example", "/").status, from(&fleet, "bar", "/").status),
                (200, 200)
            );
        }),
    ),
    (
        "alias",
        "two Ingresses of a host with one alias",
        Holds(|| {
            let (a, b) = (Backend::named("a"), Backend::named("b"));
            let said = [(N, "server-alias", "bar")];
            let text = ingress("a", "/app-a", "a", &said) + &ingress("b", "/app-b", "b", &said);
            let fleet = with(&text, &[("a", &[a.addr]), ("b", &[b.addr])]);
            for host in ["shop.example", "bar"] {
                let bodies = ["/app-a", "/app-b"].map(|path| from(&fleet, host, path).text());
                assert_eq!(bodies, ["a", "b"], "{host}");
            }
        }),
    ),
    (
        "approot",
        "the root is sent elsewhere",
        Holds(|| {
            let (fleet, _web) = one("/", &[("app-root", "/foo")]);
            let response = get(&fleet, "/", "");
            assert!(response.status == 302 && response.one("location").unwrap().ends_with("/foo"));
            assert_eq!(get(&fleet, "/foo", "").status, 200);
        }),
    ),
    ("auth", "open without annotations", Holds(|| assert_eq!(get(&one("/", &[]).0, "/", "").status, 200))),
    ("auth", "a Secret that is missing", Holds(|| assert_eq!(password(&[], "", "", "").status, 503))),
    (
        "auth",
        "no credentials",
        Holds(|| {
            let response = password_of_a_file("");
            assert_eq!(response.status, 401);
            assert!(response.one("www-authenticate").unwrap().contains("test auth"));
        }),
    ),
    ("auth", "wrong credentials", Holds(|| assert_eq!(password_of_a_file("user:pass").status, 401))),
    (
        "auth",
        "a refusal has the fields of CORS",
        Holds(|| {
            let said = [("enable-cors", "true")];
            let response = password(&said, "auth", "foo:{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=", "user:pass");
            assert_eq!((response.status, response.one("access-control-allow-origin")), (401, Some("*")));
        }),
    ),
    ("auth", "right credentials", Holds(|| assert_eq!(password_of_a_file("foo:bar").status, 200))),
    ("auth", "right credentials of a map", Holds(|| assert_eq!(password_of_a_map("foo:bar").status, 200))),
    (
        "auth",
        "a Secret that holds no file",
        Holds(|| {
            assert_eq!(password(&[], "auth", "foo:", "foo:bar").status, 401);
        }),
    ),
    ("auth", "a snippet with external authentication", Differs(SNIPPET)),
    ("auth", "a snippet without it", Differs(SNIPPET)),
    (
        "auth",
        "fields of a ConfigMap for the question",
        Shown("answers", "a_question_carries_the_fields_of_a_config_map"),
    ),
    ("auth", "a key of a cache", Differs(CACHE)),
    (
        "auth",
        "a cookie of the authoriser",
        Holds(|| {
            assert_eq!(external(&[], "200 OK", &signed_in()).0.one("set-cookie"), Some("alma=armud"));
        }),
    ),
    (
        "auth",
        "no cookie with an error of the backend",
        Holds(|| {
            let response = external(&[], "503 Broken", &signed_in()).0;
            assert_eq!((response.status, response.one("set-cookie")), (503, None));
        }),
    ),
    (
        "auth",
        "a cookie with an error, where it is always",
        Holds(|| {
            let said = [("auth-always-set-cookie", "true")];
            let response = external(&said, "503 Broken", &signed_in()).0;
            assert_eq!((response.status, response.one("set-cookie")), (503, Some("alma=armud")));
        }),
    ),
    (
        "auth",
        "external: signed in",
        Holds(|| assert_eq!(external(&[], "200 OK", &signed_in()).0.status, 200)),
    ),
    (
        "auth",
        "external: sent to sign in",
        Holds(|| {
            let response = external(&[("auth-signin", "http://$host/auth/start")], "200 OK", "").0;
            let there = "http://shop.example/auth/start?rd=http://shop.example%2F%3Fa%3Db%26c%3Dd";
            assert_eq!((response.status, response.one("location")), (302, Some(there)));
        }),
    ),
    (
        "auth",
        "external: a bad Ingress costs nobody else",
        Holds(|| {
            let web = Backend::named("web");
            let bad = ingress("bad", "/bad", "web", &[(N, "auth-url", "http://")]);
            let fleet = with(&(bad + &ingress("web", "/", "web", &[])), &[("web", &[web.addr])]);
            assert_eq!((get(&fleet, "/bad", "").status, get(&fleet, "/", "").status), (503, 200));
        }),
    ),
    (
        "auth",
        "external: a field of the answer comes before the client's",
        Holds(|| {
            let said = [("auth-response-headers", "Foo")];
            let fields = signed_in() + "Foo: 123\n";
            assert_eq!(external(&said, "200 OK", &fields).1.as_deref(), Some("bar"));
        }),
    ),
    ("auth", "no upstream block without keepalive", Machinery(KEPT)),
    ("auth", "no upstream block for a variable host", Machinery(KEPT)),
    ("auth", "no upstream block for a negative number", Machinery(KEPT)),
    ("auth", "no upstream block with HTTP/2", Machinery(KEPT)),
    ("auth", "an upstream block with HTTP/1", Machinery(KEPT)),
    ("auth", "variables are not shared", Machinery(KEPT)),
    ("auth", "variables are shared", Machinery(KEPT)),
    (
        "auth",
        "external with a parameter: signed in",
        Holds(|| {
            let said = [("auth-signin", "http://$host/auth/start"), ("auth-signin-redirect-param", "orig")];
            assert_eq!(external(&said, "200 OK", &signed_in()).0.status, 200);
        }),
    ),
    (
        "auth",
        "external with a parameter: sent to sign in",
        Holds(|| {
            let said = [("auth-signin", "http://$host/auth/start"), ("auth-signin-redirect-param", "orig")];
            let there = "http://shop.example/auth/start?orig=http://shop.example%2F%3Fa%3Db%26c%3Dd";
            assert_eq!(external(&said, "200 OK", "").0.one("location"), Some(there));
        }),
    ),
    (
        "auth",
        "external with a parameter: a bad Ingress costs nobody else",
        Holds(|| {
            let web = Backend::named("web");
            let bad = [(N, "auth-url", "http://"), (N, "auth-signin-redirect-param", "orig")];
            let text = ingress("bad", "/bad", "web", &bad) + &ingress("web", "/", "web", &[]);
            let fleet = with(&text, &[("web", &[web.addr])]);
            assert_eq!((get(&fleet, "/bad", "").status, get(&fleet, "/", "").status), (503, 200));
        }),
    ),
    ("auth", "cached: still in when the authoriser is gone", Differs(CACHE)),
    (
        "auth",
        "cached: not in at another path of the host",
        Holds(|| {
            let web = Backend::named("web");
            let auth = Backend::answering(
                "HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n",
                crate::support::backend::Then::Keep,
            );
            let said = [(N, "auth-url", "http://auth.default.svc/"), (N, "auth-cache-key", "$remote_user")];
            let text = ingress("a", "/a", "web", &said) + &ingress("b", "/b", "web", &said);
            let fleet = with(&text, &[("web", &[web.addr]), ("auth", &[auth.addr])]);
            assert_eq!((get(&fleet, "/a", "").status, get(&fleet, "/b", "").status), (401, 401));
        }),
    ),
    (
        "auth",
        "cached: not in at another host",
        Holds(|| {
            assert_eq!(
                external(
                    &[("auth-cache-key", "foo"), ("auth-cache-duration", "200 202 401 30m")],
                    "200 OK",
                    ""
                )
                .0
                .status,
                401
            );
        }),
    ),
    (
        "auth",
        "cached: sent to sign in",
        Holds(|| {
            let said = [("auth-cache-key", "foo"), ("auth-signin", "http://$host/auth/start")];
            assert_eq!(external(&said, "200 OK", "").0.status, 302);
        }),
    ),
    (
        "auth",
        "a URL that is none",
        Holds(|| {
            assert_eq!(get(&one("/", &[("auth-url", "https://invalid..auth.url")]).0, "/", "").status, 503);
        }),
    ),
    (
        "auth",
        "a URL that is none, in the configuration",
        Machinery("`check` and the Ingress's status name it"),
    ),
    (
        "authtls",
        "a certificate is asked for",
        Shown("client_certificates", "only_a_certificate_of_the_authority_lets_in_and_the_backend_is_told"),
    ),
    ("authtls", "off", Shown("client_certificates", "the_annotations_say_what_follows")),
    ("authtls", "a page for those without", Shown("client_certificates", "the_annotations_say_what_follows")),
    (
        "authtls",
        "the certificate is passed on",
        Shown("client_certificates", "the_annotations_say_what_follows"),
    ),
    ("authtls", "on, then off", Shown("client_certificates", "the_annotations_say_what_follows")),
    ("authtls", "another name", Shown("client_certificates", "the_annotations_say_what_follows")),
    ("authtls", "the name", Shown("client_certificates", "the_annotations_say_what_follows")),
    (
        "authtls",
        "the name, changed while it is served",
        Differs("not replayed with a change; the name itself holds"),
    ),
    ("authtls", "one of several names", Shown("client_certificates", "the_annotations_say_what_follows")),
    (
        "backendprotocol",
        "HTTPS",
        Shown("upstream_tls", "annotations_of_ingress_nginx_verify_where_they_say_so"),
    ),
    (
        "backendprotocol",
        "https",
        Shown("upstream_tls", "annotations_of_ingress_nginx_verify_where_they_say_so"),
    ),
    (
        "backendprotocol",
        "AUTO_HTTP",
        Differs("a backend is not spoken to as its client speaks: the rules answer 503"),
    ),
    (
        "backendprotocol",
        "GRPC",
        Shown("upstream_h2", "a_service_port_or_an_annotation_says_that_a_backend_speaks_it"),
    ),
    (
        "backendprotocol",
        "GRPCS",
        Shown(
            "upstream_tls",
            "http_2_over_tls_is_agreed_on_by_alpn_and_its_authority_counts_for_open_connections",
        ),
    ),
    ("backendprotocol", "FCGI", Differs(FCGI)),
    ("canary", "requests of the Ingress", Holds(|| chosen(&[("canary-by-header", HEADER)], &[("", "web")]))),
    (
        "canary",
        "a canary alone serves nothing",
        Holds(|| {
            let gray = Backend::named("gray");
            let fleet = with(&only_canary(&[("canary-by-header", HEADER)]), &[("gray", &[gray.addr])]);
            assert_eq!(get(&fleet, "/", "CanaryByHeader: always\n").status, 404);
        }),
    ),
    (
        "canary",
        "the Ingress comes first",
        Holds(|| {
            in_turn(
                &ingress("web", "/", "web", &[]),
                &only_canary(&[("canary-by-header", HEADER)]),
                ("CanaryByHeader: always\n", "gray"),
                &[("CanaryByHeader: never\n", "web"), ("CanaryByHeader: always\n", "gray")],
            );
        }),
    ),
    (
        "canary",
        "the canary comes first",
        Holds(|| {
            in_turn(
                &only_canary(&[("canary-by-header", HEADER)]),
                &ingress("web", "/", "web", &[]),
                ("", "web"),
                &[("CanaryByHeader: never\n", "web"), ("CanaryByHeader: always\n", "gray")],
            );
        }),
    ),
    (
        "canary",
        "the Ingress is changed",
        Holds(|| {
            let canary = [("canary-by-header", HEADER)];
            let (fleet, _backends) = super::routes::canary(&canary);
            let changed = canary_text(&canary).replace("    x: y\n", "    x: z\n");
            fleet.write("fleet/web.yaml", &changed);
            for (fields, wanted) in [("CanaryByHeader: never\n", "web"), ("CanaryByHeader: always\n", "gray")]
            {
                until("it is settled", || fleet.is_settled());
                assert_eq!(get(&fleet, "/", fields).text(), wanted);
            }
        }),
    ),
    (
        "canary",
        "the canary is changed",
        Holds(|| {
            let (fleet, _backends) = super::routes::canary(&[("canary-by-header", HEADER)]);
            fleet.write("fleet/web.yaml", &canary_text(&[("canary-by-header", "CanaryByHeader2")]));
            until("the new header counts", || get(&fleet, "/", "CanaryByHeader2: always\n").text() == "gray");
            assert_eq!(get(&fleet, "/", "CanaryByHeader2: never\n").text(), "web");
        }),
    ),
    (
        "canary",
        "a header",
        Holds(|| {
            let asked = [
                ("CanaryByHeader: always\n", "gray"),
                ("CanaryByHeader: never\n", "web"),
                ("CanaryByHeader: bad\n", "web"),
            ];
            chosen(&[("canary-by-header", HEADER)], &asked);
        }),
    ),
    (
        "canary",
        "a header with a value",
        Holds(|| {
            let said = [("canary-by-header", HEADER), ("canary-by-header-value", "DoCanary")];
            let asked = [
                ("CanaryByHeader: DoCanary\n", "gray"),
                ("CanaryByHeader: always\n", "web"),
                ("CanaryByHeader: never\n", "web"),
                ("CanaryByHeader: other\n", "web"),
            ];
            chosen(&said, &asked);
        }),
    ),
    (
        "canary",
        "a header with a pattern",
        Holds(|| {
            let said = [("canary-by-header", HEADER), ("canary-by-header-pattern", "^Do[A-Z][a-z]+y$")];
            chosen(&said, &[("CanaryByHeader: DoCanary\n", "gray"), ("CanaryByHeader: Docanary\n", "web")]);
        }),
    ),
    (
        "canary",
        "a value comes before a pattern",
        Holds(|| {
            let said = [
                ("canary-by-header", HEADER),
                ("canary-by-header-value", "DoCanary"),
                ("canary-by-header-pattern", "^Do[A-Z][a-z]+y$"),
            ];
            chosen(&said, &[("CanaryByHeader: DoCananry\n", "web")]);
        }),
    ),
    (
        "canary",
        "a pattern that is none, with a cookie",
        Differs("the pattern is refused by name, and the cookie's word counts"),
    ),
    (
        "canary",
        "another value, and a cookie",
        Holds(|| {
            let said = [
                ("canary-by-header", HEADER),
                ("canary-by-header-value", "DoCanary"),
                ("canary-by-cookie", "c"),
            ];
            chosen(&said, &[("CanaryByHeader: other\nCookie: c=always\n", "gray")]);
        }),
    ),
    (
        "canary",
        "a cookie",
        Holds(|| {
            let asked = [
                ("Cookie: C-C=always\n", "gray"),
                ("Cookie: C-C=never\n", "web"),
                ("Cookie: C-C=bad\n", "web"),
            ];
            chosen(&[("canary-by-cookie", "C-C")], &asked);
        }),
    ),
    ("canary", "a weight of 0", Holds(|| assert_eq!(share(&[("canary-weight", "0")]), 0))),
    ("canary", "a weight of 100", Holds(|| assert_eq!(share(&[("canary-weight", "100")]), 200))),
    (
        "canary",
        "a weight that is the total",
        Holds(|| {
            assert_eq!(share(&[("canary-weight", "1000"), ("canary-weight-total", "1000")]), 200);
        }),
    ),
    ("canary", "a weight of 50", Holds(|| assert!((60..=140).contains(&share(&[("canary-weight", "50")]))))),
    (
        "canary",
        "100 of 200",
        Holds(|| {
            assert!((60..=140).contains(&share(&[("canary-weight", "100"), ("canary-weight-total", "200")])));
        }),
    ),
    (
        "canary",
        "a canary is no catch-all",
        Holds(|| {
            let gray = Backend::named("gray");
            let text = only_canary(&[("canary-by-header", HEADER)])
                .replace("  - host: shop.example\n    http:", "  - http:");
            let fleet = with(&text, &[("gray", &[gray.addr])]);
            assert_eq!(get(&fleet, "/", "CanaryByHeader: always\n").status, 404);
        }),
    ),
    (
        "canary",
        "a canary serves no host",
        Holds(|| {
            let gray = Backend::named("gray");
            let fleet = with(&only_canary(&[("canary-by-header", HEADER)]), &[("gray", &[gray.addr])]);
            assert_eq!(get(&fleet, "/", "").status, 404);
        }),
    ),
    (
        "canary",
        "paths that the Ingress does not have",
        Holds(|| {
            let (web, gray) = (Backend::named("web"), Backend::named("gray"));
            let other =
                only_canary(&[("canary-by-header", HEADER)]).replace("path: \"/\"", "path: \"/other\"");
            let fleet = with(
                &(ingress("web", "/web", "web", &[]) + &other),
                &[("web", &[web.addr]), ("gray", &[gray.addr])],
            );
            assert_eq!(
                (get(&fleet, "/web", "").text().as_str(), get(&fleet, "/other", "").status),
                ("web", 404)
            );
        }),
    ),
    (
        "canary",
        "a session stays with the canary",
        Shown("annotations", "a_session_stays_with_its_side_of_a_canary_unless_it_is_to_be_chosen_anew"),
    ),
    (
        "canary",
        "sticky",
        Shown("annotations", "a_session_stays_with_its_side_of_a_canary_unless_it_is_to_be_chosen_anew"),
    ),
    (
        "canary",
        "legacy",
        Shown("annotations", "a_session_stays_with_its_side_of_a_canary_unless_it_is_to_be_chosen_anew"),
    ),
    ("clientbodybuffersize", "1000", Machinery(STREAMED)),
    ("clientbodybuffersize", "1K", Machinery(STREAMED)),
    ("clientbodybuffersize", "1k", Machinery(STREAMED)),
    ("clientbodybuffersize", "1m", Machinery(STREAMED)),
    ("clientbodybuffersize", "1M", Machinery(STREAMED)),
    ("clientbodybuffersize", "1b", Machinery(STREAMED)),
    ("connection", "the field Connection", Differs("the gateway speaks for itself on each hop")),
    (
        "cors",
        "methods that are allowed, and any origin",
        Holds(|| {
            let (fleet, _web) = one("/", &[("enable-cors", "true")]);
            let asks = "OPTIONS / HTTP/1.1\nHost: shop.example\nOrigin: http://a.example\nAccess-Control-Request-Method: PUT\n\n";
            let response = send(&fleet, asks);
            assert_eq!(
                response.one("access-control-allow-methods"),
                Some("GET, PUT, POST, DELETE, PATCH, OPTIONS")
            );
            assert_eq!(get(&fleet, "/", "").status, 200);
        }),
    ),
    (
        "cors",
        "methods",
        Holds(|| {
            cors_field(
                ("cors-allow-methods", "POST, GET"),
                true,
                "access-control-allow-methods",
                Some("POST, GET"),
            );
        }),
    ),
    (
        "cors",
        "an age",
        Holds(|| cors_field(("cors-max-age", "200"), true, "access-control-max-age", Some("200"))),
    ),
    (
        "cors",
        "no credentials",
        Holds(|| {
            cors_field(("cors-allow-credentials", "false"), false, "access-control-allow-credentials", None);
        }),
    ),
    (
        "cors",
        "an origin",
        Holds(|| {
            let origin = "https://origin.cors.example:8080";
            origins(Some(origin), &[(origin, Some(origin))]);
        }),
    ),
    (
        "cors",
        "fields of requests",
        Holds(|| {
            cors_field(
                ("cors-allow-headers", "DNT, User-Agent"),
                true,
                "access-control-allow-headers",
                Some("DNT, User-Agent"),
            );
        }),
    ),
    (
        "cors",
        "fields of responses",
        Holds(|| {
            cors_field(
                ("cors-expose-headers", "X-One, X-Two"),
                false,
                "access-control-expose-headers",
                Some("X-One, X-Two"),
            );
        }),
    ),
    (
        "cors",
        "one of several origins",
        Holds(|| {
            let origin = "https://origin.cors.example:8080";
            origins(Some("https://origin.cors.example:8080, https://two.example"), &[(origin, Some(origin))]);
        }),
    ),
    (
        "cors",
        "none of several origins",
        Holds(|| {
            origins(
                Some("http://two.example, https://origin.example"),
                &[("http://no.origin.example", None)],
            );
        }),
    ),
    (
        "cors",
        "an origin that is none beside good ones",
        Holds(|| {
            let (two, one) = ("https://two.example", "https://origin.example");
            let asked = [("origin.cors.example:8080", None), (two, Some(two)), (one, Some(one))];
            origins(Some("origin.cors.example:8080, https://two.example, https://origin.example"), &asked);
        }),
    ),
    ("cors", "any", Holds(|| origins(Some("*"), &[("", Some("*"))]))),
    ("cors", "any, where nothing is said", Holds(|| origins(None, &[("", Some("*"))]))),
    ("cors", "any, and one more", Holds(|| origins(Some("*, foo.bar.example"), &[("", Some("*"))]))),
    (
        "cors",
        "a dot is a dot",
        Holds(|| origins(Some("https://foo.bar.example"), &[("https://fooxbar.example", None)])),
    ),
    (
        "cors",
        "a port",
        Holds(|| {
            let origin = "http://origin.example:8080";
            origins(
                Some("http://origin.cors.example:8080, http://origin.example:8080"),
                &[(origin, Some(origin))],
            );
        }),
    ),
    (
        "cors",
        "a port that is not listed",
        Holds(|| {
            origins(
                Some("https://two.example, http://origin.example"),
                &[("http://origin.example:8080", None)],
            );
        }),
    ),
    (
        "cors",
        "no port where one is listed",
        Holds(|| {
            origins(
                Some("http://origin.cors.example:8080, http://origin.example:8080"),
                &[("http://origin.example", None)],
            );
        }),
    ),
    (
        "cors",
        "a wildcard",
        Holds(|| {
            let (one, two) = ("http://foo.origin.cors.example", "http://bar-foo.origin.cors.example");
            origins(
                Some("http://*.origin.cors.example, http://*.origin.example:8080"),
                &[(one, Some(one)), (two, Some(two))],
            );
        }),
    ),
    (
        "cors",
        "a wildcard is one label",
        Holds(|| {
            let asked = [("http://bar.foo.origin.cors.example", None)];
            origins(Some("http://*.origin.cors.example, http://*.origin.example:8080"), &asked);
        }),
    ),
    (
        "cors",
        "a wildcard with a port",
        Holds(|| {
            let origin = "http://abc.origin.example:8080";
            origins(
                Some("http://origin.cors.example:8080, http://*.origin.example:8080"),
                &[(origin, Some(origin))],
            );
        }),
    ),
    (
        "cors",
        "a wildcard without the port",
        Holds(|| {
            let asked = [("http://abc.origin.example", None)];
            origins(Some("http://origin.cors.example:8080, http://*.origin.example:8080"), &asked);
        }),
    ),
    (
        "cors",
        "a wildcard is not nothing",
        Holds(|| {
            let good = "http://bar.origin.example:8080";
            let asked = [("http://origin.example:8080", None), (good, Some(good))];
            origins(Some("http://origin.cors.example:8080, http://*.origin.example:8080"), &asked);
        }),
    ),
    ("cors", "an empty list", Differs("a list that names nobody allows nobody, and is refused by name")),
    (
        "cors",
        "commas too many",
        Holds(|| {
            let (one, two) = ("https://origin-123.cors.example:8080", "https://origin-321.cors.example:8080");
            let asked = [(one, Some(one)), (two, Some(two)), ("https://unknown.cors.example:8080", None)];
            origins(
                Some("https://origin-123.cors.example:8080,   ,https://origin-321.cors.example:8080,"),
                &asked,
            );
        }),
    ),
    (
        "cors",
        "other schemes",
        Holds(|| {
            let said = "test://localhost, tauri://localhost:3000";
            let asked = [
                ("test://localhost", Some("test://localhost")),
                ("tauri://localhost:3000", Some("tauri://localhost:3000")),
                ("tauri://localhost", None),
                ("http://localhost", None),
            ];
            origins(Some(said), &asked);
        }),
    ),
    ("customheaders", "none", Holds(|| assert_eq!(get(&one("/", &[]).0, "/", "").status, 200))),
    (
        "customheaders",
        "a ConfigMap that is missing",
        Holds(|| {
            let (fleet, web) = one("/", &[("custom-headers", "default/custom-headers")]);
            assert_eq!((get(&fleet, "/", "").status, web.count()), (503, 0));
        }),
    ),
    (
        "customheaders",
        "a ConfigMap",
        Shown("answers", "fields_of_a_config_map_are_set_on_responses_and_one_that_cannot_be_used_closes"),
    ),
    (
        "customhttperrors",
        "statuses without default-backend",
        Differs("they need `default-backend`: there is no default backend of the whole gateway"),
    ),
    (
        "default_backend",
        "what the fallback is told",
        Shown("answers", "a_fallback_is_told_what_was_asked_for_and_of_which_rule"),
    ),
    ("disableaccesslog", "all", Machinery(LOGS)),
    ("disableaccesslog", "of HTTP", Machinery(LOGS)),
    ("disableaccesslog", "of streams", Machinery(LOGS)),
    (
        "disableproxyintercepterrors",
        "in the configuration",
        Machinery("`custom-http-errors` holds for the Ingress that carries it only"),
    ),
    ("fastcgi", "pass", Differs(FCGI)),
    ("fastcgi", "index", Differs(FCGI)),
    ("fastcgi", "params", Differs(FCGI)),
    ("fastcgi", "a request", Differs(FCGI)),
    (
        "forcesslredirect",
        "to https",
        Holds(|| sent("/", &[("force-ssl-redirect", "true")], "/", (308, "https://shop.example/"))),
    ),
    (
        "fromtowwwredirect",
        "over HTTP",
        Holds(|| {
            let (fleet, _web) = one("/", &[("from-to-www-redirect", "true")]);
            let response = from(&fleet, "www.shop.example", "/foo");
            let there = format!("http://shop.example:{}/foo", fleet.addr.port());
            assert_eq!((response.status, response.one("location")), (308, Some(there.as_str())));
        }),
    ),
    (
        "fromtowwwredirect",
        "over HTTPS",
        Differs("the case needs a snippet; the redirect alone is not replayed over TLS"),
    ),
    ("grpc", "GRPC", Shown("upstream_h2", "a_call_of_http_2_is_one_from_end_to_end")),
    ("grpc", "metadata of the authoriser", Differs("not replayed over gRPC; the same filter serves it")),
    (
        "grpc",
        "GRPCS",
        Shown(
            "upstream_tls",
            "http_2_over_tls_is_agreed_on_by_alpn_and_its_authority_counts_for_open_connections",
        ),
    ),
    ("grpc", "within the timeout", Differs("not replayed over gRPC; timeouts are the same for all")),
    ("grpc", "beyond the timeout", Differs("not replayed over gRPC; timeouts are the same for all")),
    ("http2pushpreload", "push", Machinery("HTTP/2 push is gone")),
    (
        "ipallowlist",
        "ranges",
        Holds(|| {
            sources(
                &[("allowlist-source-range", "18.0.0.0/8, 56.0.0.1")],
                &[("18.0.0.1", 200), ("56.0.0.1", 200), ("56.0.0.2", 403)],
            );
        }),
    ),
    (
        "ipdenylist",
        "ranges",
        Holds(|| {
            sources(
                &[("denylist-source-range", "18.0.0.0/8, 56.0.0.1")],
                &[("18.0.0.1", 403), ("56.0.0.1", 403), ("56.0.0.2", 200)],
            );
        }),
    ),
    (
        "ipdenylist",
        "both lists",
        Holds(|| {
            let said = [
                ("denylist-source-range", "18.1.0.0/16, 56.0.0.0/8"),
                ("whitelist-source-range", "18.0.0.0/8, 55.0.0.0/8"),
            ];
            sources(
                &said,
                &[
                    ("18.1.0.1", 403),
                    ("56.0.0.1", 403),
                    ("18.4.0.1", 200),
                    ("55.0.0.1", 200),
                    ("59.0.0.1", 403),
                ],
            );
        }),
    ),
    (
        "limitconnections",
        "at once",
        Shown("annotations", "requests_of_one_source_at_once_are_bounded_and_their_places_given_back"),
    ),
    ("limitrate", "bandwidth", Differs("bandwidth is not bounded")),
    ("log", "access", Machinery(LOGS)),
    ("log", "rewrite", Machinery(LOGS)),
    ("mirror", "a path", Differs(MIRROR)),
    ("mirror", "a URL", Differs(MIRROR)),
    ("mirror", "without bodies", Differs(MIRROR)),
    ("modsecurity", "on", Differs(WAF)),
    ("modsecurity", "with transaction and rules", Differs(WAF)),
    ("modsecurity", "off", Differs(WAF)),
    ("modsecurity", "with a snippet", Differs(WAF)),
    ("modsecurity", "by a snippet", Differs(WAF)),
    ("modsecurity", "off by a snippet", Differs(WAF)),
    ("modsecurity", "blocks", Differs(WAF)),
    ("modsecurity", "blocks everywhere", Differs(WAF)),
    ("modsecurity", "with all rules", Differs(WAF)),
    ("modsecurity", "by the ConfigMap", Differs(WAF)),
    ("modsecurity", "by the ConfigMap, no snippets", Differs(WAF)),
    ("modsecurity", "no defaults", Differs(WAF)),
    (
        "preservetrailingslash",
        "the slash stays",
        Holds(|| {
            let web = Backend::named("web");
            let said = [(N, "ssl-redirect", "true"), (N, "preserve-trailing-slash", "true")];
            let text = ingress("web", "/", "web", &said)
                .replace("spec:\n  rules", "spec:\n  tls: [{hosts: [shop.example]}]\n  rules");
            let response = get(&with(&text, &[("web", &[web.addr])]), "/", "");
            assert_eq!((response.status, response.one("location")), (308, Some("https://shop.example/")));
        }),
    ),
    ("proxy", "redirect: off", Holds(|| location("off", "hello.com"))),
    ("proxy", "redirect: default", Holds(|| location("default", "hello.com"))),
    ("proxy", "redirect: a pair", Holds(|| location("hello.com", "goodbye.com"))),
    (
        "proxy",
        "the size of a body",
        Holds(|| {
            let (fleet, _web) = one("/", &[("proxy-body-size", "8m")]);
            let post = |length: u32| {
                send(&fleet, &format!("POST / HTTP/1.1\nHost: shop.example\nContent-Length: {length}\n\n"))
            };
            assert_eq!(post(8 * 1024 * 1024 + 1).status, 413);
        }),
    ),
    (
        "proxy",
        "the size of a body that is none",
        Holds(|| {
            let (fleet, _web) = one("/", &[("proxy-body-size", "15r")]);
            let posted = send(&fleet, "POST / HTTP/1.1\nHost: shop.example\nContent-Length: 2\n\nhi");
            assert_eq!(posted.status, 200);
        }),
    ),
    (
        "proxy",
        "timeouts",
        Holds(|| {
            let slow = Backend::raw(|peer| while peer.request().is_some() {});
            let text = ingress("web", "/", "web", &[(N, "proxy-read-timeout", "1")]);
            assert_eq!(get(&with(&text, &[("web", &[slow.addr])]), "/", "").status, 504);
        }),
    ),
    (
        "proxy",
        "timeouts that are none",
        Holds(|| {
            let said = [
                ("proxy-connect-timeout", "50k"),
                ("proxy-send-timeout", "20k"),
                ("proxy-read-timeout", "20k"),
            ];
            assert_eq!(get(&one("/", &said).0, "/", "").status, 200);
        }),
    ),
    ("proxy", "buffering", Machinery(STREAMED)),
    ("proxy", "buffering of requests", Machinery(STREAMED)),
    ("proxy", "the next endpoint", Shown("annotations", "a_listed_status_is_tried_again_elsewhere")),
    (
        "proxy",
        "cookies",
        Holds(|| {
            let said = [("proxy-cookie-domain", "localhost example.org"), ("proxy-cookie-path", "/one/ /")];
            let answer = answered(&said, "Set-Cookie: a=b; Domain=localhost; Path=/one/two");
            assert_eq!(answer.one("set-cookie"), Some("a=b; Domain=example.org; Path=/two"));
        }),
    ),
    ("proxy", "the version", Differs("`backend-protocol` says what is spoken")),
    (
        "proxyssl",
        "a certificate of ours",
        Shown("upstream_tls", "a_backend_that_asks_for_a_certificate_gets_ours"),
    ),
    ("proxyssl", "verified", Shown("upstream_tls", "annotations_of_ingress_nginx_verify_where_they_say_so")),
    (
        "proxyssl",
        "ciphers",
        Differs("the ciphers of TLS 1.3, and of 1.2 those with forward secrecy and AEAD"),
    ),
    ("proxyssl", "protocols", Differs("TLS 1.3 and 1.2 are spoken")),
    ("proxyssl", "where it stands in the configuration", Machinery("backends are asked for one by one")),
    (
        "redirect",
        "permanent",
        Holds(|| {
            sent(
                "/",
                &[("permanent-redirect", "http://redirect.example.com")],
                "/something",
                (301, "http://redirect.example.com"),
            );
        }),
    ),
    (
        "redirect",
        "with a status",
        Holds(|| {
            let said =
                [("permanent-redirect", "http://redirect.example.com"), ("permanent-redirect-code", "308")];
            sent("/", &said, "/something", (308, "http://redirect.example.com"));
        }),
    ),
    ("relativeredirects", "in the configuration", Machinery("Location is what the annotation says")),
    (
        "relativeredirects",
        "made absolute",
        Differs("Location is what the annotation says (RFC 9110 §10.2.2 allows a path)"),
    ),
    (
        "relativeredirects",
        "a path",
        Holds(|| {
            sent(
                "/",
                &[("permanent-redirect", "/something"), ("relative-redirects", "true")],
                "/a",
                (301, "/something"),
            );
        }),
    ),
    ("rewrite", "a log of rewrites", Machinery("`ringway explain` says what a request becomes")),
    (
        "rewrite",
        "the longest path",
        Holds(|| {
            let web = Backend::named("web");
            let text = ingress("a", "/.well-known/acme/challenge", "web", &[])
                + &ingress("b", "/", "web", &[(N, "rewrite-target", "/new/backend")]);
            let fleet = with(&text, &[("web", &[web.addr])]);
            assert_eq!(get(&fleet, "/.well-known/acme/challenge", "").status, 200);
            assert_eq!(web.only_request().target(), "/.well-known/acme/challenge");
        }),
    ),
    (
        "rewrite",
        "a regular expression beside a path",
        Holds(|| {
            let web = Backend::named("web");
            let said = [(N, "use-regex", "true"), (N, "rewrite-target", "/new/backend")];
            let text = ingress("a", "/foo", "web", &[]) + &ingress("b", "/foo.+", "web", &said);
            let fleet = with(&text, &[("web", &[web.addr])]);
            assert_eq!((get(&fleet, "/foo", "").status, get(&fleet, "/foo/bar", "").status), (200, 200));
            let targets: Vec<_> = web.requests().iter().map(|request| request.target().to_owned()).collect();
            assert!(
                targets.contains(&"/foo".to_owned()) && targets.contains(&"/new/backend".to_owned()),
                "{targets:?}"
            );
        }),
    ),
    (
        "rewrite",
        "the trap that their documentation warns of",
        Differs("a regular expression of one Ingress changes nothing for the paths of another"),
    ),
    (
        "rewrite",
        "captures",
        Holds(|| {
            let said = [("use-regex", "true"), ("rewrite-target", "/new/backend/$1")];
            assert_eq!(seen("/foo/bar/(.+)", &said, "/foo/bar/bar").target(), "/new/backend/bar");
        }),
    ),
    ("satisfy", "in the configuration", Machinery("`ringway check` shows what became of it")),
    (
        "satisfy",
        "any of two",
        Shown("annotations", "a_source_of_the_list_or_a_password_is_enough_where_any_is"),
    ),
    ("serversnippet", "is used", Differs(SNIPPET)),
    ("serversnippet", "is dropped", Differs(SNIPPET)),
    ("serviceupstream", "by annotation", Differs("requests always go to pods")),
    ("serviceupstream", "by ConfigMap", Differs("requests always go to pods")),
    (
        "serviceupstream",
        "off by annotation",
        Holds(|| {
            assert_eq!(get(&one("/", &[("service-upstream", "false")]).0, "/", "").text(), "web");
        }),
    ),
    ("snippet", "is used", Differs(SNIPPET)),
    ("snippet", "is dropped", Differs(SNIPPET)),
    ("sslciphers", "changed", Shown("client_certificates", "versions_and_ciphers_are_a_host_s_own")),
    ("sslciphers", "kept", Shown("client_certificates", "versions_and_ciphers_are_a_host_s_own")),
    ("streamsnippet", "is used", Differs(SNIPPET)),
    ("streamsnippet", "is dropped", Differs(SNIPPET)),
    (
        "upstreamhashby",
        "one endpoint for a path",
        Holds(|| {
            let backends = [Backend::named("a"), Backend::named("b"), Backend::named("c")];
            let text = ingress("web", "/", "web", &[(N, "upstream-hash-by", "$request_uri")]);
            let fleet = with(&text, &[("web", &backends.each_ref().map(|backend| backend.addr))]);
            let first = get(&fleet, "/same", "").text();
            assert!((0..30).all(|_| get(&fleet, "/same", "").text() == first));
        }),
    ),
    ("upstreamhashby", "a subset", Differs("a hash names one endpoint")),
    (
        "upstreamvhost",
        "the backend's host",
        Holds(|| {
            assert_eq!(
                seen("/", &[("upstream-vhost", "upstream.example")], "/").one("host"),
                Some("upstream.example")
            );
        }),
    ),
    (
        "xforwardedprefix",
        "a prefix",
        Holds(|| {
            let said = [("x-forwarded-prefix", "/test/value"), ("rewrite-target", "/foo")];
            assert_eq!(seen("/", &said, "/").one("x-forwarded-prefix"), Some("/test/value"));
        }),
    ),
    (
        "xforwardedprefix",
        "an empty one",
        Holds(|| {
            let said = [("x-forwarded-prefix", ""), ("rewrite-target", "/foo")];
            assert_eq!(seen("/", &said, "/").one("x-forwarded-prefix"), None);
        }),
    ),
];
