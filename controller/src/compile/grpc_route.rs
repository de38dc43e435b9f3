//! `GRPCRoute` as what it is on the wire (Gateway API v1, GEP-1016): an `HTTPRoute` whose paths are `/SERVICE/METHOD`, to
//! backends that are spoken to in HTTP/2.
//!
//! Rewritten, then compiled by [`gateway_api`](super::gateway_api): attachment, hosts, headers, filters, weights and policies
//! are one code for both. Whether TLS is spoken to a backend its `BackendTLSPolicy` or its port says.

use std::sync::Arc;

use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use serde_json::{Map, Value, json};

use crate::compile::annotations::escaped;
use crate::compile::gateway_api as http;
use crate::compile::route::{Env, RouteOutput};
use crate::compile::transport::{Spoken, TransportPart};
use crate::object::Object;

/// What stands for any service, or any method, in a pattern.
const ANY: &str = "[^/]+";

/// Compiles one `GRPCRoute`. What is wrong is reported and costs itself only.
pub fn compile(env: &mut Env<'_>, object: &Object, route: &GrpcRoute) -> RouteOutput {
    let mut out = match as_http(route) {
        Ok(route) => http::compile(env, object, &route),
        Err(reason) => {
            let mut out = RouteOutput::default();
            out.notes.refused("spec.rules", "", reason);
            return out;
        }
    };
    out.transport =
        Some(Arc::new(TransportPart { spoken: Spoken::Http2AsThePortSays, ..Default::default() }));
    out
}

/// The generated types of the two kinds have the same fields, but for the method match.
fn as_http(route: &GrpcRoute) -> Result<HttpRoute, String> {
    let mut value = serde_json::to_value(route).map_err(|error| error.to_string())?;
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        spec.remove("useDefaultGateways");
    }
    value["kind"] = "HTTPRoute".into();
    let rules = value.pointer_mut("/spec/rules").and_then(Value::as_array_mut);
    for matched in rules.into_iter().flatten().filter_map(|rule| rule.get_mut("matches")) {
        for matched in matched.as_array_mut().into_iter().flatten() {
            let Some(fields) = matched.as_object_mut() else { continue };
            if let Some(Value::Object(method)) = fields.remove("method") {
                fields.insert("path".to_owned(), path(&method));
            }
        }
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// The path that a method match stands for.
fn path(method: &Map<String, Value>) -> Value {
    let text = |name: &str| method.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (service, name) = (text("service"), text("method"));
    let is_pattern = text("type") == Some("RegularExpression");
    match (service, name) {
        (Some(service), Some(name)) if !is_pattern => {
            json!({"type": "Exact", "value": format!("/{service}/{name}")})
        }
        // By elements: `/shop.Web` matches every method of that service, and of no other.
        (Some(service), None) if !is_pattern => json!({"type": "PathPrefix", "value": format!("/{service}")}),
        (None, None) => json!({"type": "PathPrefix", "value": "/"}),
        (service, name) => {
            let pattern = |part: Option<&str>| match part {
                None => ANY.to_owned(),
                Some(part) if is_pattern => format!("(?:{part})"),
                Some(part) => escaped(part),
            };
            let value = format!("/{}/{}", pattern(service), pattern(name));
            json!({"type": "RegularExpression", "value": value})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(method: &Value) -> String {
        let path = path(method.as_object().unwrap());
        format!("{} {}", path["type"].as_str().unwrap(), path["value"].as_str().unwrap())
    }

    #[test]
    fn a_method_match_is_a_path() {
        for (method, expected) in [
            (json!({"service": "shop.Web", "method": "Get"}), "Exact /shop.Web/Get"),
            (json!({"type": "Exact", "service": "shop.Web"}), "PathPrefix /shop.Web"),
            (json!({"method": "Get"}), "RegularExpression /[^/]+/Get"),
            (json!({}), "PathPrefix /"),
            (
                json!({"type": "RegularExpression", "service": "shop\\..*", "method": "Get|List"}),
                "RegularExpression /(?:shop\\..*)/(?:Get|List)",
            ),
            (json!({"type": "RegularExpression", "service": "a|b"}), "RegularExpression /(?:a|b)/[^/]+"),
        ] {
            assert_eq!(path_of(&method), expected, "{method}");
        }
    }
}
