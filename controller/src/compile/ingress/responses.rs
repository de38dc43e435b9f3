//! Rules about responses (ALB's `rule-direction.SERVICE: Response`).
//!
//! A path whose backend is `SERVICE` with the port `use-annotation` serves nothing: its changes hold for the responses of
//! Ingresses of its namespace on its host, where request and response are as it says.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressBackend;
use routing::model::{HostKey, HostPattern, PathMatch, ResponseRule, Target};

use super::Compiler;
use super::action::{USE_ANNOTATION, port_of};
use crate::compile::annotations::ServiceRule;
use crate::compile::route::{Builder, Rank, Row};
use crate::merge::PortRef;

impl Compiler<'_> {
    fn service_rule(&self, backend: &IngressBackend) -> Option<&ServiceRule> {
        let service = backend.service.as_ref()?;
        self.annotations.services.get(service.name.as_str())
    }

    /// Does a path with this backend change responses, and nothing else?
    pub(super) fn is_of_responses(&self, backend: &IngressBackend) -> bool {
        let is_of_responses = self.service_rule(backend).is_some_and(|rule| rule.is_of_responses);
        is_of_responses && port_of(backend) == Some(PortRef::Name(Arc::from(USE_ANNOTATION)))
    }

    /// Its rows. What cannot be read was refused by name, and changes nothing.
    pub(super) fn response_rows(
        &self,
        builder: &mut Builder<'_, '_>,
        patterns: &[HostPattern],
        matched: &PathMatch,
        backend: &IngressBackend,
    ) {
        let Some(rule) = self.service_rule(backend).filter(|rule| !rule.broken) else { return };
        let Some(conditions) = &rule.conditions else { return };
        let request = self.matches(matched, conditions);
        let response = Arc::new(self.response_rule(rule, request.clone()));
        let policy = builder.policy(&self.class.default, &self.class.permitted, &[]);
        let nobody = Target::Reply { status: 404, reason: Arc::from("it is about responses") };
        let action = Arc::new(builder.action(0, nobody, policy));
        for listener in &self.listeners {
            for pattern in patterns {
                let key = HostKey { listener: *listener, pattern: pattern.clone() };
                let row = Row::new(key, Rank::Rule, request.clone(), action.clone());
                builder.row(Row { response: Some(response.clone()), ..row });
            }
        }
    }

    /// What it changes, and where.
    pub(super) fn response_rule(
        &self,
        rule: &ServiceRule,
        request: routing::model::RuleMatch,
    ) -> ResponseRule {
        ResponseRule {
            request,
            statuses: rule.statuses.clone().into(),
            headers: rule.response_fields.clone().into(),
            edits: rule.response_headers.clone(),
        }
    }
}
