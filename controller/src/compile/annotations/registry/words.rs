//! What the table is written with: its rows in short, and reasons and grammars that stand in it more than once, or are long.

use super::{Entry, Fate};

pub(super) const fn yes(
    name: &'static str,
    families: &'static str,
    grammar: &'static str,
    good: &'static str,
    bad: &'static str,
) -> Entry {
    Entry { name, families, grammar, good, bad, fate: Fate::Honoured }
}

pub(super) const fn but(
    name: &'static str,
    families: &'static str,
    grammar: &'static str,
    good: &'static str,
    bad: &'static str,
    how: &'static str,
) -> Entry {
    Entry { name, families, grammar, good, bad, fate: Fate::Differs(how) }
}

pub(super) const fn no(name: &'static str, families: &'static str, why: &'static str) -> Entry {
    Entry { name, families, grammar: "anything", good: "x", bad: "", fate: Fate::Ignored(why) }
}

pub(super) const fn shut(name: &'static str, families: &'static str, why: &'static str) -> Entry {
    Entry { name, families, grammar: "anything", good: "x", bad: "", fate: Fate::Closes(why) }
}

pub(super) const CLOUD: &str = "cloud provisioning";
pub(super) const SNIPPET: &str =
    "there are no templates here, and never will be: a snippet is nginx's own language";
pub(super) const BUFFERS: &str = "bodies are streamed; buffers are bounded by limits.* in gateway.toml";
pub(super) const TLS_LATER: &str = "TLS of this kind is not configured by annotation yet";
pub(super) const AUTH_URL: &str = "http or https, SERVICE.NAMESPACE.svc[.cluster.local][:PORT], $host or a host of this gateway, a path; of variables $host, $http_host, $scheme, $request_uri, $escaped_request_uri, $uri, $args, $request_method";
pub(super) const EXTERNAL: &str = "only Services and hosts that this gateway serves are asked; a Service of another namespace needs a ReferenceGrant";
pub(super) const AUTH_CACHE: &str =
    "no verdict is older than its request: a kept one lets in who was shut out since";
pub(super) const AUTH_FIELDS: &str = "another namespace needs a ReferenceGrant; one that cannot be used, or holds another variable: the rules answer 503";
pub(super) const CONFIG_MAP: &str = "any field but those of framing and hops, without global-allowed-response-headers; another namespace needs a ReferenceGrant; one that cannot be used: the rules answer 503";
pub(super) const AUTH_SNIPPET: &str = "a snippet is nginx's own language, and what it says decides who may come: the rules answer 503 instead of being open";
pub(super) const BOOL: &str = "true, false";
pub(super) const TO_A_MILLION: &str = "1 to 1000000";
pub(super) const IN_USE: &str =
    "connections in use are counted, by each node for each Service of the Ingress; further requests get 503";
pub(super) const ENDPOINT_SHARE: &str =
    "connections in use are counted; every worker of a node has its share, at least one";
pub(super) const OWN_HOST: &str = "for every rule of the Ingress's hosts, where the host's oldest route is of its namespace; else for its own";
pub(super) const CIPHERS: &str =
    "OpenSSL's names by colon or comma; those of TLS 1.2 with ECDHE and GCM or ChaCha20 are used";
pub(super) const TLS_VERSIONS: &str = "TLSv1.0, TLSv1.1, TLSv1.2, TLSv1.3";
pub(super) const HANDSHAKES: &str = "for the Ingress's hosts; older versions and weak ciphers are not spoken";
pub(super) const ON_OFF: &str = "on, off";
pub(super) const CHECK_TLS: &str = "HTTPS is HTTP over TLS where backend-protocol speaks it; HTTP goes over TLS there, too, unless healthcheck-connect-port names a port";
pub(super) const CHECK_CODES: &str = "http_2xx, http_3xx, http_4xx, http_5xx by comma; of GRPC codes and ranges from 0 to 99; default http_2xx, or 0";
pub(super) const CHECK_PORT: &str = "checks of GRPC go to the endpoint's own port";
pub(super) const FASTCGI: &str = "FastCGI is not spoken: with backend-protocol FCGI the rules answer 503";
pub(super) const PLUGIN: &str = "plugins are not supported";
pub(super) const RESPONSES: &str = "Response with the port use-annotation: InsertHeader and RemoveHeader for responses of all Ingresses of its namespace on the same host";
