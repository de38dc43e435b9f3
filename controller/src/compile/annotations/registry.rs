//! Every annotation of the nginx, ALB, MSE and Higress families that we know: the one table that parsing, `ringway
//! check`, ANNOTATIONS.md and the tests read.
//!
//! A name that ends in `*` stands for all that begin so. `good` and `bad` are values that the tests try: the first is
//! honoured (or ignored, as the verdict says), the second refused by name; an empty `bad` means that any value will do.

/// Which product's annotation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `mse.ingress.kubernetes.io/`
    Mse,
    /// `alb.ingress.kubernetes.io/`
    Alb,
    /// `higress.ingress.kubernetes.io/` and `higress.io/`
    Higress,
    /// `nginx.ingress.kubernetes.io/`
    Nginx,
}

impl Family {
    /// Prefixes, in the order in which the first one that says something wins.
    pub const PREFIXES: [(&'static str, Self); 5] = [
        ("mse.ingress.kubernetes.io/", Self::Mse),
        ("alb.ingress.kubernetes.io/", Self::Alb),
        ("higress.ingress.kubernetes.io/", Self::Higress),
        ("higress.io/", Self::Higress),
        ("nginx.ingress.kubernetes.io/", Self::Nginx),
    ];

    fn letter(self) -> char {
        match self {
            Self::Mse => 'm',
            Self::Alb => 'a',
            Self::Higress => 'h',
            Self::Nginx => 'n',
        }
    }
}

/// What becomes of an annotation whose value is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As documented.
    Honoured,
    /// Honoured, but not to the letter: how.
    Differs(&'static str),
    /// Not used: why.
    Ignored(&'static str),
    /// It protects something, and we cannot: the Ingress's rules answer 503. Why.
    Closes(&'static str),
}

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name without the family's prefix.
    pub name: &'static str,
    /// The families that have it: letters of `nmha`.
    pub families: &'static str,
    /// What it may hold, for people.
    pub grammar: &'static str,
    /// A value that is accepted.
    pub good: &'static str,
    /// A value that is refused.
    pub bad: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

impl Entry {
    /// Is it this family's?
    #[must_use]
    pub fn is_of(&self, family: Family) -> bool {
        self.families.contains(family.letter())
    }

    /// Is it meant by this name?
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(start) => name.len() > start.len() && name.starts_with(start),
            None => name == self.name,
        }
    }
}

/// The entry of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.is_named(name))
}

const fn yes(
    name: &'static str,
    families: &'static str,
    grammar: &'static str,
    good: &'static str,
    bad: &'static str,
) -> Entry {
    Entry { name, families, grammar, good, bad, fate: Fate::Honoured }
}

const fn but(
    name: &'static str,
    families: &'static str,
    grammar: &'static str,
    good: &'static str,
    bad: &'static str,
    how: &'static str,
) -> Entry {
    Entry { name, families, grammar, good, bad, fate: Fate::Differs(how) }
}

const fn no(name: &'static str, families: &'static str, why: &'static str) -> Entry {
    Entry { name, families, grammar: "anything", good: "x", bad: "", fate: Fate::Ignored(why) }
}

const fn shut(name: &'static str, families: &'static str, why: &'static str) -> Entry {
    Entry { name, families, grammar: "anything", good: "x", bad: "", fate: Fate::Closes(why) }
}

const CLOUD: &str = "cloud provisioning";
const SNIPPET: &str = "there are no templates here, and never will be: a snippet is nginx's own language";
const BUFFERS: &str = "bodies are streamed; buffers are bounded by limits.* in gateway.toml";
const TLS_LATER: &str = "TLS of this kind is not configured by annotation yet";
const EXTERNAL: &str = "requests cannot be authorised here yet; the rules answer 503 instead of being open";
const BOOL: &str = "true, false";
const CONNECTIONS: &str = "connections are bounded for the whole node: pool.* in gateway.toml";
const PLUGIN: &str = "plugins are not supported";

/// All of them, by what they are for.
pub const ENTRIES: &[Entry] = &[
    // ------------------------------------------------ where to
    but(
        "rewrite-target",
        "nmha",
        "a path; $1 to $9 or ${1} to ${9} are captures of the path",
        "/$2",
        "no-slash",
        "only the paths of this Ingress become regular expressions, and only where captures or use-regex ask for it",
    ),
    but(
        "use-regex",
        "nmha",
        BOOL,
        "true",
        "maybe",
        "RE2 syntax, from the path's beginning; other Ingresses of the host keep their own matching",
    ),
    yes("full-path-regex", "h", BOOL, "true", "maybe"),
    yes("ignore-path-case", "h", BOOL, "true", "maybe"),
    yes("rewrite-path", "h", "a path that replaces the matched prefix", "/v2", "v2"),
    yes("upstream-vhost", "nmh", "a DNS name", "inner.example", "not a host"),
    yes("app-root", "nmh", "a path", "/app", "app"),
    yes("server-alias", "nmh", "DNS names, *.NAME, by comma", "a.example,*.b.example", "~^www"),
    but(
        "permanent-redirect",
        "nmh",
        "a URL or a path",
        "https://a.example/x",
        "javascript:x",
        "the status is 301 unless permanent-redirect-code says another",
    ),
    yes("permanent-redirect-code", "nmh", "301, 302, 303, 307, 308", "308", "200"),
    yes("temporal-redirect", "nmh", "a URL or a path", "/elsewhere", "ftp://x"),
    yes("temporal-redirect-code", "nmh", "301, 302, 303, 307, 308", "307", "404"),
    but(
        "ssl-redirect",
        "nmha",
        BOOL,
        "true",
        "maybe",
        "answered with 308, where the host has TLS (ALB: always); X-Forwarded-Proto of trusted peers is believed",
    ),
    but(
        "force-ssl-redirect",
        "nmh",
        BOOL,
        "true",
        "maybe",
        "answered with 308; X-Forwarded-Proto of trusted peers is believed",
    ),
    yes("from-to-www-redirect", "n", BOOL, "true", "maybe"),
    but(
        "order",
        "a",
        "1 to 1000",
        "5",
        "0",
        "decides among all Ingresses and routes of one host, not of the listener",
    ),
    but(
        "listen-ports",
        "a",
        r#"[{"HTTP":80}]"#,
        r#"[{"HTTP":80}]"#,
        "80",
        "chooses among the listeners of the class; it opens none",
    ),
    yes(
        "conditions.*",
        "a",
        "a JSON list of conditions",
        r#"[{"type":"Method","methodConfig":{"values":["GET"]}}]"#,
        "[{]",
    ),
    yes(
        "actions.*",
        "a",
        "a JSON list of actions",
        r#"[{"type":"FixedResponse","FixedResponseConfig":{"contentType":"text/plain","httpCode":"200","content":"ok"}}]"#,
        "{}",
    ),
    yes("rule-direction.*", "a", "Request", "Request", "Sideways"),
    yes("match-method", "h", "methods by space", "GET POST", "get"),
    yes("exact-match-header-*", "h", "a value", "1", ""),
    yes("prefix-match-header-*", "h", "the beginning of a value", "1", ""),
    yes("regex-match-header-*", "h", "a regular expression", "a.*", "("),
    yes("exact-match-query-*", "h", "a value", "1", ""),
    yes("prefix-match-query-*", "h", "the beginning of a value", "1", ""),
    yes("regex-match-query-*", "h", "a regular expression", "a.*", "("),
    no("exact-match-pseudo-header-*", "h", "pseudo headers are matched by host, path and match-method"),
    no("preserve-trailing-slash", "n", "paths keep their slashes"),
    // ------------------------------------------------ which backend, which cluster
    but(
        "canary",
        "nmha",
        BOOL,
        "true",
        "maybe",
        "the rule that it belongs to lends it everything but its backend, its balancing and its affinity",
    ),
    yes(
        "canary-by-header",
        "nmha",
        "a header name; its value is always or never unless another annotation says",
        "x-canary",
        "x canary",
    ),
    yes("canary-by-header-value", "nmha", "a value", "beta", ""),
    yes("canary-by-header-pattern", "nmh", "a regular expression (RE2), the whole value", "b.*", "("),
    yes("canary-by-cookie", "nmha", "a cookie name; its value is always or never", "canary", "a b"),
    yes("canary-by-cookie-value", "mh", "a value", "beta", ""),
    yes("canary-by-query", "mh", "a parameter name", "canary", "a b"),
    yes("canary-by-query-value", "mh", "a value", "beta", ""),
    yes("canary-by-query-pattern", "mh", "a regular expression, the whole value", "b.*", "("),
    yes("canary-weight", "nmha", "0 to canary-weight-total", "20", "many"),
    yes("canary-weight-total", "nmh", "1 to 1000000; default 100", "1000", "0"),
    yes("cluster-weight.*", "a", "0 to 1000000; the name goes on with the cluster", "10", "-1"),
    yes("service-subset", "mh", "a name; empty or base = all", "gray", ""),
    but(
        "subset-labels",
        "mh",
        "topology.istio.io/cluster CLUSTER",
        "topology.istio.io/cluster alpha",
        "no-value",
        "only the cluster label chooses endpoints: topology.istio.io/cluster or ringway.dev/cluster",
    ),
    yes(
        "destination",
        "mh",
        "lines of [PERCENT%] SERVICE.NAMESPACE.svc.cluster.local[:PORT]",
        "web.default.svc.cluster.local:80",
        "100 percent of web",
    ),
    yes("default-backend", "nmh", "a Service of the Ingress's namespace", "web", "not/a name"),
    but(
        "custom-http-errors",
        "nmh",
        "statuses from 300 to 599, by comma",
        "404,503",
        "200",
        "needs default-backend on the same Ingress; a request whose body was not kept (retry.maxBodyBytes) gets the answer as it is",
    ),
    no("service-upstream", "n", "requests always go to pods: that is what failover is made of"),
    no(
        "disable-proxy-intercept-errors",
        "n",
        "custom-http-errors holds for the Ingress that carries it only",
    ),
    // ------------------------------------------------ heads
    yes("request-header-control-add", "mh", "NAME VALUE, one a line", "x-a 1", "host a"),
    yes("request-header-control-update", "mh", "NAME VALUE, one a line", "x-a 1", "x-a"),
    yes("request-header-control-remove", "mh", "NAMEs by comma", "x-a,x-b", "connection"),
    yes("response-header-control-add", "mh", "NAME VALUE, one a line", "x-a 1", "content-length 1"),
    yes("response-header-control-update", "mh", "NAME VALUE, one a line", "x-a 1", "x-a"),
    yes("response-header-control-remove", "mh", "NAMEs by comma", "server", "a b"),
    yes("x-forwarded-prefix", "n", "a path", "/app", "app"),
    yes("enable-cors", "nmha", BOOL, "true", "maybe"),
    but(
        "cors-allow-origin",
        "nmha",
        "* or origins by comma; one * in place of labels",
        "https://a.example",
        "a.example",
        "with * no credentials are allowed: browsers refuse both together",
    ),
    yes("cors-allow-methods", "nmha", "methods by comma", "GET, PUT", "G?T"),
    yes("cors-allow-headers", "nmha", "header names by comma, or *", "x-a, x-b", "a b"),
    yes("cors-expose-headers", "nmha", "header names by comma, or *", "x-a", "a b"),
    yes("cors-allow-credentials", "nmha", BOOL, "false", "maybe"),
    yes("cors-max-age", "nmha", "-1 to 1728000 seconds", "600", "long"),
    // ------------------------------------------------ how long, how often
    yes("timeout", "mh", "0 to 86400 seconds; 0 = none", "5", "soon"),
    yes("proxy-connect-timeout", "n", "1 to 86400 seconds", "2", "2s"),
    but(
        "proxy-read-timeout",
        "n",
        "1 to 86400 seconds",
        "60",
        "60s",
        "bounds the wait for the response head and the pause between two reads; the limit of the whole exchange is lifted",
    ),
    no(
        "proxy-send-timeout",
        "n",
        "what takes too long to be written is bounded by timeouts.write_stall in gateway.toml",
    ),
    but(
        "proxy-next-upstream",
        "nmh",
        "error, timeout, invalid_header, http_NNN, non_idempotent, off, by space",
        "error http_503",
        "sometimes",
        "what was never sent always moves on; idempotent requests are tried again within the retry budget",
    ),
    but(
        "proxy-next-upstream-tries",
        "nmh",
        "0 to 10; 0 = 10",
        "2",
        "11",
        "counts all tries, within the retry budget",
    ),
    no("proxy-next-upstream-timeout", "nmh", "all tries together are bounded by the request's timeout"),
    // ------------------------------------------------ which endpoint
    but(
        "load-balance",
        "nmh",
        "round_robin, least_conn, random, ewma",
        "round_robin",
        "fastest",
        "ewma is the less busy of two; whichever it is, endpoints that hang or fail are left out",
    ),
    but(
        "upstream-hash-by",
        "nmh",
        "$request_uri, $uri, $host, $remote_addr, $http_NAME, $arg_NAME, $cookie_NAME",
        "$arg_user",
        "$pid",
        "of $request_uri the path counts; a consistent hash within the cluster that was chosen",
    ),
    no("upstream-hash-by-subset", "n", "a hash names one endpoint"),
    no("upstream-hash-by-subset-size", "n", "a hash names one endpoint"),
    but(
        "backend-scheduler",
        "a",
        "wrr, wlc, sch, uch",
        "wlc",
        "fast",
        "sch and uch are consistent hashes within the cluster that was chosen",
    ),
    yes("backend-scheduler-uch-value", "a", "a query parameter", "user", "a b"),
    but(
        "affinity",
        "nmh",
        "cookie",
        "cookie",
        "ip",
        "the cookie names an endpoint; when that cannot serve, another is named",
    ),
    but(
        "affinity-mode",
        "nmh",
        "balanced, persistent",
        "balanced",
        "loose",
        "always persistent: a session stays while its endpoint serves",
    ),
    no("affinity-canary-behavior", "n", "sessions stay with the backend that they have"),
    yes("session-cookie-name", "nmh", "a cookie name", "route", "a b"),
    yes("session-cookie-path", "nmh", "a path", "/app", "app"),
    yes("session-cookie-max-age", "nmh", "0 to 31536000 seconds", "600", "-1"),
    but("session-cookie-expires", "nmh", "0 to 31536000 seconds", "600", "soon", "sent as Max-Age"),
    yes("session-cookie-domain", "n", "a DNS name", "a.example", "a b"),
    yes("session-cookie-samesite", "n", "None, Lax, Strict", "Strict", "Sometimes"),
    yes("session-cookie-secure", "n", BOOL, "true", "maybe"),
    no("session-cookie-conditional-samesite-none", "n", "browsers that need it are gone"),
    no("session-cookie-change-on-failure", "n", "the cookie always follows a failure"),
    but(
        "sticky-session",
        "a",
        BOOL,
        "true",
        "maybe",
        "the cookie names an endpoint; when that cannot serve, another is named",
    ),
    but(
        "sticky-session-type",
        "a",
        "Insert, Server",
        "Insert",
        "Cookie",
        "Server: a cookie of the gateway's own beside the application's",
    ),
    yes("cookie-timeout", "a", "1 to 86400 seconds", "1000", "0"),
    no("cookie", "a", "the session is kept in a cookie of the gateway's own, SERVERID"),
    no("backend-keepalive", "a", "connections to endpoints are always kept and used again"),
    but(
        "backend-protocol",
        "nmha",
        "HTTP",
        "HTTP",
        "SMTP",
        "others than HTTP are not spoken to backends yet",
    ),
    but(
        "warmup",
        "mh",
        "0 to 3600 seconds",
        "30",
        "slow",
        "an endpoint that comes back after a failure; a new one takes its share at once",
    ),
    no("connection-policy-tcp-max-connection", "mh", CONNECTIONS),
    no("connection-policy-tcp-max-connection-per-endpoint", "mh", CONNECTIONS),
    no(
        "connection-policy-http-max-request-per-connection",
        "mh",
        "connections to endpoints are used until they are idle",
    ),
    // ------------------------------------------------ health
    but(
        "healthcheck-enabled",
        "a",
        BOOL,
        "true",
        "maybe",
        "beside the failure detector, which needs no checks",
    ),
    yes("healthcheck-path", "a", "a path of 1 to 80 characters", "/healthz", "healthz"),
    but("healthcheck-protocol", "a", "HTTP, TCP", "TCP", "ICMP", "GRPC and HTTPS: no check is made"),
    no("healthcheck-httpversion", "a", "checks speak HTTP/1.1"),
    but("healthcheck-method", "a", "HEAD, GET", "GET", "PUT", "checks are made with GET"),
    but(
        "healthcheck-httpcode",
        "a",
        "http_2xx, http_3xx, http_4xx, http_5xx by comma",
        "http_2xx",
        "200",
        "a status from 200 to 399 is good",
    ),
    but(
        "healthcheck-code",
        "a",
        "http_2xx, http_3xx, http_4xx, http_5xx by comma",
        "http_2xx",
        "ok",
        "a status from 200 to 399 is good",
    ),
    yes("healthcheck-timeout-seconds", "a", "1 to 300", "5", "0"),
    yes("healthcheck-interval-seconds", "a", "1 to 50", "2", "0"),
    yes("healthy-threshold-count", "a", "2 to 10", "3", "1"),
    yes("unhealthy-threshold-count", "a", "2 to 10", "3", "11"),
    but("healthcheck-connect-port", "a", "0 to 65535", "0", "70000", "checks go to the endpoint's own port"),
    // ------------------------------------------------ who may, how much
    yes("whitelist-source-range", "nmh", "ranges by comma", "10.0.0.0/8,192.0.2.1", "10.0.0.0/99"),
    yes("allowlist-source-range", "n", "ranges by comma", "10.0.0.0/8", "everybody"),
    yes("denylist-source-range", "nmh", "ranges by comma", "10.0.0.0/8", "nobody"),
    yes("blacklist-source-range", "mh", "ranges by comma", "10.0.0.0/8", "nobody"),
    but(
        "domain-whitelist-source-range",
        "mh",
        "ranges by comma",
        "10.0.0.0/8",
        "all",
        "holds for the rules of this Ingress, not for others of the host",
    ),
    but(
        "domain-blacklist-source-range",
        "mh",
        "ranges by comma",
        "10.0.0.0/8",
        "all",
        "holds for the rules of this Ingress, not for others of the host",
    ),
    yes("limit-rps", "n", "1 to 1000000", "10", "0"),
    yes("limit-rpm", "n", "1 to 1000000", "600", "0"),
    yes("limit-burst-multiplier", "n", "1 to 1000; default 5", "3", "0"),
    yes("limit-whitelist", "n", "ranges by comma", "10.0.0.0/8", "all"),
    no(
        "limit-connections",
        "n",
        "connections of one source are bounded for the whole node: limits.connections_per_source_max",
    ),
    no("limit-rate", "n", "bandwidth is not bounded"),
    no("limit-rate-after", "n", "bandwidth is not bounded"),
    yes("route-limit-rps", "mh", "1 to 1000000", "10", "0"),
    yes("route-limit-rpm", "mh", "1 to 1000000", "600", "0"),
    yes("route-limit-burst-multiplier", "mh", "1 to 1000; default 5", "3", "0"),
    but(
        "rate-limit",
        "mh",
        "1 to 1000000",
        "10",
        "0",
        "counted by each node for itself: divide it by the number of nodes",
    ),
    yes("rate-limit-fallback-custom-response-code", "mh", "200 to 599", "429", "99"),
    yes("rate-limit-fallback-custom-response-body-type", "mh", "text, json", "json", "xml"),
    yes("rate-limit-fallback-custom-response-body", "mh", "at most 16 KiB", "slow down", ""),
    yes("rate-limit-fallback-redirect-url", "mh", "a URL or a path", "/busy", "ftp://x"),
    but("concurrency-limit", "mh", "1 to 1000000", "10", "0", "counted by each node for itself"),
    yes("concurrency-limit-fallback-custom-response-code", "mh", "200 to 599", "429", "99"),
    yes("concurrency-limit-fallback-custom-response-body-type", "mh", "text, json", "json", "xml"),
    yes("concurrency-limit-fallback-custom-response-body", "mh", "at most 16 KiB", "slow down", ""),
    yes("concurrency-limit-fallback-redirect-url", "mh", "a URL or a path", "/busy", "ftp://x"),
    but("traffic-limit-qps", "a", "1 to 100000", "100", "0", "counted by each node for itself"),
    but(
        "traffic-limit-ip-qps",
        "a",
        "1 to 100000",
        "10",
        "0",
        "counted by each node for itself; of IPv6 a /64 is one source",
    ),
    but(
        "proxy-body-size",
        "n",
        "a size such as 8m; 0 = any",
        "8m",
        "large",
        "judged by Content-Length: a chunked body is not counted",
    ),
    shut("auth-type", "nmh", EXTERNAL),
    no("auth-secret", "nmh", "goes with auth-type"),
    no("auth-secret-type", "nmh", "goes with auth-type"),
    no("auth-realm", "nmh", "goes with auth-type"),
    shut("auth-url", "n", EXTERNAL),
    no("auth-method", "n", "goes with auth-url"),
    no("auth-signin", "n", "goes with auth-url"),
    no("auth-signin-redirect-param", "n", "goes with auth-url"),
    no("auth-response-headers", "n", "goes with auth-url"),
    no("auth-request-redirect", "n", "goes with auth-url"),
    no("auth-proxy-set-headers", "n", "goes with auth-url"),
    no("auth-cache-key", "n", "goes with auth-url"),
    no("auth-cache-duration", "n", "goes with auth-url"),
    no("auth-keepalive*", "n", "goes with auth-url"),
    no("auth-always-set-cookie", "n", "goes with auth-url"),
    no("auth-snippet", "n", SNIPPET),
    no("enable-global-auth", "n", "there is no global authorisation"),
    no("satisfy", "n", "source ranges and authorisation must both hold"),
    // ------------------------------------------------ beside
    yes("mirror-target-service", "mh", "[NAMESPACE/]SERVICE:PORT", "default/web:80", "web"),
    yes("mirror-percentage", "mh", "0 to 100; default 100", "10", "101"),
    no(
        "mirror-target",
        "n",
        "only Services are mirrored to: mse.ingress.kubernetes.io/mirror-target-service",
    ),
    no("mirror-request-body", "n", "a body that came whole with its request is mirrored"),
    no("mirror-host", "n", "the mirror gets the request as the backend does"),
    // ------------------------------------------------ TLS
    shut(
        "auth-tls-secret",
        "nmh",
        "clients' certificates are not asked for yet; the rules answer 503 instead of being open",
    ),
    no("auth-tls-verify-client", "n", "goes with auth-tls-secret"),
    no("auth-tls-verify-depth", "n", "goes with auth-tls-secret"),
    no("auth-tls-error-page", "n", "goes with auth-tls-secret"),
    no("auth-tls-pass-certificate-to-upstream", "n", "goes with auth-tls-secret"),
    no("auth-tls-match-cn", "n", "goes with auth-tls-secret"),
    no("tls-min-protocol-version", "mh", TLS_LATER),
    no("tls-max-protocol-version", "mh", TLS_LATER),
    no("ssl-cipher", "mh", TLS_LATER),
    no("ssl-ciphers", "n", TLS_LATER),
    no("ssl-prefer-server-ciphers", "n", TLS_LATER),
    no("ssl-passthrough", "n", TLS_LATER),
    no("proxy-ssl-secret", "nmh", TLS_LATER),
    no("proxy-ssl-name", "nmh", TLS_LATER),
    no("proxy-ssl-server-name", "nmh", TLS_LATER),
    no("proxy-ssl-verify", "n", TLS_LATER),
    no("proxy-ssl-verify-depth", "n", TLS_LATER),
    no("proxy-ssl-protocols", "n", TLS_LATER),
    no("proxy-ssl-ciphers", "n", TLS_LATER),
    no("http2-push-preload", "n", "HTTP/2 push is gone"),
    // ------------------------------------------------ nginx's own machinery
    no("configuration-snippet", "n", SNIPPET),
    no("server-snippet", "n", SNIPPET),
    no("stream-snippet", "n", SNIPPET),
    no("modsecurity-snippet", "n", SNIPPET),
    no("enable-modsecurity", "n", "there is no web application firewall"),
    no("enable-owasp-core-rules", "n", "there is no web application firewall"),
    no("modsecurity-transaction-id", "n", "there is no web application firewall"),
    no(
        "custom-headers",
        "n",
        "it names a ConfigMap; response headers: mse.ingress.kubernetes.io/response-header-control-add",
    ),
    no("connection-proxy-header", "n", "the gateway speaks for itself on each hop"),
    no(
        "proxy-set-headers",
        "n",
        "it names a ConfigMap; request headers: mse.ingress.kubernetes.io/request-header-control-add",
    ),
    no("client-body-buffer-size", "n", BUFFERS),
    no("proxy-buffering", "n", BUFFERS),
    no("proxy-buffers-number", "n", BUFFERS),
    no("proxy-buffer-size", "n", BUFFERS),
    no("proxy-busy-buffers-size", "n", BUFFERS),
    no("proxy-max-temp-file-size", "n", BUFFERS),
    no("proxy-request-buffering", "n", BUFFERS),
    no("proxy-http-version", "n", "backends are spoken to in HTTP/1.1"),
    no("proxy-cookie-domain", "n", "cookies of backends pass as they are"),
    no("proxy-cookie-path", "n", "cookies of backends pass as they are"),
    no("proxy-redirect-from", "n", "Location of backends passes as it is"),
    no("proxy-redirect-to", "n", "Location of backends passes as it is"),
    no("enable-access-log", "n", "the access log is of the whole node"),
    no("enable-rewrite-log", "n", "`ringway explain` says what a request becomes"),
    no("enable-opentelemetry", "n", "requests are not traced"),
    no("enable-opentracing", "n", "requests are not traced"),
    no("opentelemetry-trust-incoming-span", "n", "requests are not traced"),
    no("opentracing-trust-incoming-span", "n", "requests are not traced"),
    no("opentelemetry-operation-name", "n", "requests are not traced"),
    no("enable-influxdb", "n", "metrics are for Prometheus"),
    no("secure-verify-ca-secret", "n", TLS_LATER),
    no("gzip*", "nmha", "responses pass as their backends send them"),
    // ------------------------------------------------ the cloud's
    no("server-group-id", "a", CLOUD),
    no("vswitch-ids", "a", CLOUD),
    no("address-type", "a", CLOUD),
    no("albconfig.name", "a", CLOUD),
    no("wasm*", "mh", PLUGIN),
    no("mcp-*", "mh", PLUGIN),
    no("backend-config", "mh", PLUGIN),
];
