//! Objects made to hurt (SECURITY S36–S40), as YAML: by the road of manifests and by that of the API.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its own part of this")]

pub fn ingress(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: bad}}\nspec: {spec}\n")
}

pub fn path(path: &str) -> String {
    ingress(&format!(
        "{{rules: [{{host: bad.example, http: {{paths: [{{path: {path}, pathType: Prefix, backend: {{service: \
         {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}"
    ))
}

pub fn annotated(annotation: &str) -> String {
    path("/").replace("{name: bad}", &format!("{{name: bad, annotations: {{{annotation}}}}}"))
}

pub fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bad}}\n\
         spec: {{parentRefs: [{{name: public}}], rules: [{rule}]}}\n"
    )
}

pub fn slice(kind: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: bad, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {kind}\n\
         ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
    )
}

pub fn policy(spec: &str) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: bad}}\n\
         spec: {{targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: nobody}}], {spec}}}\n"
    )
}

pub fn hostile_policies() -> Vec<String> {
    vec![
        policy("timeouts: {connect: 1e9s}"),
        policy("clusters: [{name: alpha, weight: -5}]"),
        policy("clusters: [{name: alpha, priority: 256}]"),
        policy("retry: {attempts: 0}"),
        policy("retry: {maxBodyBytes: 99999999999}"),
        policy("hedge: {mode: Sometimes}"),
        policy("writeFence: On"),
        policy("spill: {healthyPercent: 9223372036854775807}"),
        policy("panic: {usablePercent: -9223372036854775808}"),
        policy("capacity: {maxInFlight: 4294967296}"),
        policy("capacity: {routePriority: -1}"),
        policy("detection: {errors: {window: 1ms}}"),
        policy("detection: {errors: {minimum: 4294967297}}"),
        policy("failback: {ramp: 99999h}"),
        policy("healthCheck: {interval: 1ms}"),
        policy("healthCheck: {interval: 0s}"),
        policy("healthCheck: {timeout: 0s}"),
        policy("healthCheck: {protocol: GRPC}"),
        policy(r#"healthCheck: {protocol: "HTTP\r\n"}"#),
        policy(r#"healthCheck: {path: "/ok HTTP/1.1\r\nHost: evil\r\n\r\n"}"#),
        policy(r#"healthCheck: {path: "/ok?a=b c"}"#),
        policy("healthCheck: {path: healthz}"),
        policy("healthCheck: {path: /../admin}"),
        policy(r#"healthCheck: {host: "evil\r\nX: y"}"#),
        policy("healthCheck: {host: 169.254.169.254}"),
        policy("healthCheck: {host: '*.example'}"),
        policy("healthCheck: {unhealthyThreshold: 4294967296}"),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\n\
         metadata: {name: alpha, annotations: {ringway.dev/promoted: \"1\"}}\nspec: {}\n"
            .to_owned(),
        policy(r#"pins: [{when: {cookie: {name: "a=b", value: c}}, cluster: alpha}]"#),
    ]
}

pub fn hostile_fleet() -> Vec<String> {
    let backend = "backendRefs: [{name: web, port: 80}]";
    let long = "a".repeat(300);
    let mut bad = vec![
        path(r#""/\r\nX-Injected: 1""#),
        path(r#""/\0""#),
        path(r#""/a b""#),
        path(r#""/a;\u001b[31m""#),
        path("/../../etc/passwd"),
        path("/%2e%2e%2fadmin"),
        path("//evil.example/"),
        path(&format!("/{}", "a".repeat(5000))),
        ingress(r#"{rules: [{host: "bad.example\r\nx: y", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "*", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "*.*.example", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: 10.0.0.1, http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "bad.example:80", http: {paths: []}}]}"#),
        ingress(r#"{ingressClassName: "nginx\n", rules: []}"#),
        ingress("{defaultBackend: {resource: {kind: Secret, name: x}}}"),
        ingress("{defaultBackend: {service: {name: web, port: {number: 70000}}}}"),
        ingress("{defaultBackend: {service: {name: web, port: {number: 80, name: http}}}}"),
        ingress("{defaultBackend: {service: {name: web}}}"),
        ingress("[]"),
        annotated(r#"ringway.dev/load-balance: "hash(header:x\r\ny)""#),
        annotated(r#"ringway.dev/affinity-cookie: "a;Domain=evil""#),
        annotated(r#"ringway.dev/rewrite-prefix: "/x\r\nHost: y""#),
        annotated(r#"ringway.dev/cluster: "../../alpha""#),
        annotated(r#"ringway.dev/cluster-weight.alpha: "99999999999999999999""#),
        annotated(r#"ringway.dev/server-snippet: "load_module /tmp/x.so;""#),
        annotated("ringway.dev/cluster-weight.alpha: 5"),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: \"a\\r\\nb\"}\nspec: {}\n".to_owned(),
        format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {long}}}\nspec: {{}}\n"),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: []\n".to_owned(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, namespace: ../kube-system}\n".to_owned(),
        route(r#"{matches: [{path: {type: RegularExpression, value: "(a+)+$("}}]}"#),
        route(r#"{matches: [{path: {type: RegularExpression, value: "((a{1000}){1000}){1000}"}}]}"#),
        route(r#"{matches: [{path: {type: RegularExpression, value: "a)|(.*"}}]}"#),
        route(&format!("{{matches: [{{path: {{type: RegularExpression, value: \"{}\"}}}}]}}", "(".repeat(900))),
        route(r#"{matches: [{headers: [{name: "x\r\ny", value: v}]}]}"#),
        route(r#"{matches: [{headers: [{name: x, type: RegularExpression, value: "\\p{Greek}{9999}"}]}]}"#),
        route(r#"{matches: [{queryParams: [{name: "a&b", value: v}]}]}"#),
        route(r#"{matches: [{queryParams: [{name: a, value: "\u0000"}]}]}"#),
        route(r#"{matches: [{method: "GET /"}]}"#),
        route("{backendRefs: [{name: web, namespace: kube-system, port: 80}]}"),
        route("{backendRefs: [{name: web, port: 80, weight: -1}]}"),
        route("{backendRefs: [{kind: ExternalName, group: evil, name: web, port: 80}]}"),
        route("{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]}"),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: alpha}\nspec: {weight: -1}\n".to_owned(),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: UPPER}\nspec: {}\n".to_owned(),
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
         g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
            .to_owned(),
        "[".repeat(100_000),
        "kind: List\nitems: [".repeat(50),
        "\u{0}\u{1}\u{2}".to_owned(),
    ];
    bad.extend(hostile_policies());
    // The rest of a broken route's rules must not be catch-alls.
    bad.push(route(&format!("{{matches: [{{headers: [{{name: \"\", value: v}}]}}], {backend}}}")));
    bad
}
