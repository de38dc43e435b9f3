//! How the backends of an Ingress are spoken to: `backend-protocol` and `proxy-ssl-*`.
//!
//! ingress-nginx and MSE verify a backend's certificate only where `proxy-ssl-verify` is `on`, which is documented, and so do
//! we for these annotations. A `BackendTLSPolicy` on the Service always verifies, and comes before them.

use std::sync::Arc;

use super::Annotations;
use super::Reading;
use super::given::Given;
use super::protect::secret_name;
use crate::compile::transport::{Spoken, TransportPart};
use crate::text;

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    let allowed = "HTTP, HTTPS, HTTP2, GRPC, GRPCS";
    let spoken = given.parse("backend-protocol", |text| match text.to_ascii_uppercase().as_str() {
        "HTTP" => Ok(Some(Spoken::Http)),
        "HTTPS" => Ok(Some(Spoken::Https)),
        "HTTP2" | "GRPC" => Ok(Some(Spoken::Http2)),
        "GRPCS" => Ok(Some(Spoken::Http2Tls)),
        "AUTO_HTTP" | "FCGI" => Ok(None),
        _ => Err(allowed.to_owned()),
    });
    if spoken == Some(None) {
        let reason = format!("allowed: {allowed}; not spoken to backends: the rules answer 503");
        given.refuse("backend-protocol", &reason);
        out.closed.get_or_insert_with(|| Arc::from("backend-protocol"));
    }
    let own = reading.id.namespace.clone();
    let given_secret = given.family("proxy-ssl-secret").is_some();
    let secret = given.parse("proxy-ssl-secret", |text| secret_name(text, &own));
    let verify = switch(given, "proxy-ssl-verify");
    let name = given.parse("proxy-ssl-name", text::check_host);
    let sends_name = switch(given, "proxy-ssl-server-name");
    let Some(spoken) = spoken.flatten() else { return };
    if given_secret && secret.is_none() {
        // Whom it trusts, or how it shows who we are: without it, it is not what was asked for.
        out.closed.get_or_insert_with(|| Arc::from("proxy-ssl-secret"));
    }
    out.transport = Some(Arc::new(TransportPart {
        spoken,
        secret,
        verify: verify.unwrap_or(false),
        name,
        sends_name: sends_name.unwrap_or(false),
    }));
}

fn switch(given: &mut Given<'_, '_>, name: &str) -> Option<bool> {
    given.parse(name, |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on, off".to_owned()),
    })
}
