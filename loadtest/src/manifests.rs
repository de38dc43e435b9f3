//! Kubernetes objects as the gateway reads them from a directory: what every command that starts one needs of them.

use std::fmt::{Display, Write as _};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use crate::bench::{BenchError, Result};

/// A reader sees the old content or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    // Not a name that is read as a manifest.
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(BenchError::io(format!("write {}", path.display())))
}

/// `[admin]` of a gateway whose folder this is: nothing of it is the machine's, where a gateway may serve whose operators'
/// words would be read here, and the other way round.
pub(crate) fn admin(home: &Path) -> String {
    let (socket, state) = (home.join("admin.sock"), home.join("state"));
    format!(
        "[admin]\nsocket = {:?}\nstate_dir = {:?}\n",
        socket.display().to_string(),
        state.display().to_string()
    )
}

/// What a slice says of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// They serve.
    Ready,
    /// They finish what they have.
    Terminating,
}

/// A Service with one port, 80, and where it leads: a number, or a name that the slices resolve.
pub(crate) fn service(namespace: &str, name: &str, target_port: impl Display) -> String {
    service_speaking(namespace, name, target_port, "")
}

/// The same with an `appProtocol`, where it is not empty.
pub(crate) fn service_speaking(
    namespace: &str,
    name: &str,
    target_port: impl Display,
    app_protocol: &str,
) -> String {
    let speaks =
        if app_protocol.is_empty() { String::new() } else { format!(", appProtocol: {app_protocol}") };
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports:
  - {{name: http, port: 80, protocol: TCP, targetPort: {target_port}{speaks}}}
---
"
    )
}

/// Slice number `nth` of a Service: these endpoints, all on one port.
pub(crate) fn slice(
    namespace: &str,
    service: &str,
    nth: usize,
    endpoints: &[SocketAddr],
    condition: Condition,
) -> String {
    let family = if endpoints.iter().all(SocketAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let port = endpoints.first().map_or(0, SocketAddr::port);
    let conditions = match condition {
        Condition::Ready => "{ready: true, serving: true, terminating: false}",
        Condition::Terminating => "{ready: false, serving: true, terminating: true}",
    };
    let mut text = format!(
        "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{nth}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports:
- {{name: http, port: {port}, protocol: TCP}}
endpoints:
"
    );
    for endpoint in endpoints {
        let address = endpoint.ip();
        writeln!(text, "- {{addresses: [\"{address}\"], conditions: {conditions}}}")
            .expect("writing to a string");
    }
    text.push_str("---\n");
    text
}

/// A Gateway that accepts TCP there, and its way to port 80 of Service `web`.
pub(crate) fn tcp_route(namespace: &str, listen: SocketAddr) -> String {
    let (address, port) = (listen.ip(), listen.port());
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ringway}}
spec: {{controllerName: ringway.dev/gateway}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: {namespace}}}
spec:
  gatewayClassName: ringway
  addresses: [{{type: IPAddress, value: \"{address}\"}}]
  listeners: [{{name: tcp, port: {port}, protocol: TCP}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: web, namespace: {namespace}}}
spec:
  parentRefs: [{{name: web}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
---
"
    )
}

/// A certificate that signs itself, and its key, as PEM.
pub(crate) struct Certificate {
    /// The certificate.
    pub(crate) chain: String,
    /// Its key.
    pub(crate) key: String,
}

impl Certificate {
    /// A new one.
    pub(crate) fn of(host: &str) -> Result<Self> {
        let failed = |why: rcgen::Error| BenchError::failed("certificate", why.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let params = CertificateParams::new(vec![host.to_owned()]).map_err(failed)?;
        let chain = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { chain, key: key.serialize_pem() })
    }

    /// As a Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> String {
        let block = |pem: &str| pem.lines().map(|line| format!("\n    {line}")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             stringData:\n  tls.crt: |{}\n  tls.key: |{}\n",
            block(&self.chain),
            block(&self.key)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_measured_keeps_what_it_is_told_in_its_own_folder() {
        let text = admin(Path::new("/run-of-ours/ringway"));
        for key in ["socket", "state_dir"] {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
            assert!(value.is_some_and(|value| value.starts_with("\"/run-of-ours/ringway/")), "{key}: {text}");
        }
    }
}
