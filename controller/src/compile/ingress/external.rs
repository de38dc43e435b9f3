//! Whom an Ingress's rules ask about each request (`auth-url`).

use std::sync::Arc;

use routing::model::{Authoriser, ExternalAuth, WeightedBackend};

use super::protect::field_of;
use super::{Compiler, maps};
use crate::compile::annotations::Asked;
use crate::compile::route::Builder;
use crate::compile::transport::{Spoken, TransportPart};
use crate::merge::PortRef;

impl Compiler<'_> {
    /// Where the Service may not be used every request is answered 503, never served unasked.
    pub(super) fn authoriser(&self, builder: &mut Builder<'_, '_>) -> Option<Arc<ExternalAuth>> {
        let spec = self.annotations.checks.external.as_ref().filter(|_| self.annotations.closed.is_none())?;
        let fields = spec.fields.as_ref().map(|name| maps::question(builder, name));
        let is_told = fields.as_ref().is_none_or(Option::is_some);
        let fields = fields.flatten();
        let asked = match &spec.to {
            // What the question is to say is not known: an authoriser might take its absence for leave.
            _ if !is_told => Authoriser::Unusable,
            Asked::Host(host) => Authoriser::Host(host.clone()),
            Asked::Service { service, port, secure, host } => {
                let field = field_of(builder, "auth-url");
                let (backend, key) = self.reference(builder, service, &PortRef::Number(*port), 1, &field);
                if let Some(key) = key {
                    // How the Ingress speaks to its own backends says nothing of this one; certificates are not verified, as
                    // ingress-nginx does not. A BackendTLSPolicy on the Service verifies. Where the rules go to it as well,
                    // what they say of it holds ([`Compiler::known`]).
                    let part = TransportPart { spoken: Spoken::Https, ..TransportPart::default() };
                    builder.out.apart.insert(key, secure.then(|| Arc::new(part)));
                }
                match backend.filter(|backend| backend.backend.is_some()) {
                    Some(backend) => Authoriser::Service {
                        backends: Box::new([WeightedBackend { cluster: None, ..backend }]),
                        host: host.clone(),
                    },
                    None => Authoriser::Unusable,
                }
            }
        };
        Some(Arc::new(ExternalAuth {
            asked,
            target: spec.target.clone(),
            method: spec.method,
            signin: spec.signin.clone(),
            redirect: spec.redirect.clone(),
            passes: spec.passes.clone().into(),
            fields: fields.unwrap_or_default(),
            always_sets_cookie: spec.always_sets_cookie,
        }))
    }
}
