//! Label selectors over namespaces: which namespaces' routes a listener admits.
//!
//! Labels come from the hub's `Namespace` objects. A namespace that no object describes has the one label that
//! Kubernetes itself gives to every namespace, `kubernetes.io/metadata.name`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gateway_api::experimental::gateways::GatewayListenersAllowedRoutesNamespacesSelector as Selector;

use crate::object::{Kind, Spec};
use crate::world::World;

/// The label that every namespace has: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Conditions of one selector.
const CONDITIONS_MAX: usize = 64;

/// The labels of the hub's namespaces.
#[derive(Debug, Default)]
pub struct Namespaces(HashMap<Arc<str>, BTreeMap<String, String>>);

impl Namespaces {
    /// Reads the hub's `Namespace` objects.
    pub fn read(world: &World) -> Self {
        let labels = world.fleet(Kind::Namespace).filter_map(|object| {
            let Spec::Namespace(labels) = &object.spec else { return None };
            Some((object.id.name.clone(), labels.clone()))
        });
        Self(labels.collect())
    }

    /// Does the selector choose this namespace?
    #[must_use]
    pub fn is_selected(&self, namespace: &str, selector: &NamespaceSelector) -> bool {
        let labels = self.0.get(namespace);
        let label = |key: &str| match key {
            NAME_LABEL => Some(namespace),
            _ => labels.and_then(|labels| labels.get(key)).map(String::as_str),
        };
        selector.conditions.iter().all(|condition| condition.holds(label(&condition.key)))
    }
}

/// Conditions that must all hold; none = every namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSelector {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    key: String,
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    In(Vec<String>),
    /// Holds for a namespace without the label, too (Kubernetes: label selectors).
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        let is_one_of = |values: &[String]| value.is_some_and(|value| values.iter().any(|v| v == value));
        match &self.wanted {
            Wanted::In(values) => is_one_of(values),
            Wanted::NotIn(values) => !is_one_of(values),
            Wanted::Exists => value.is_some(),
            Wanted::DoesNotExist => value.is_none(),
        }
    }
}

impl NamespaceSelector {
    /// Reads a selector: `matchLabels` and `matchExpressions`, all of which must hold.
    ///
    /// # Errors
    /// The field and value that are wrong, and what is allowed. The selector must not be used then: without its
    /// condition it would admit more than was meant.
    pub fn read(given: &Selector) -> Result<Self, (String, String, &'static str)> {
        let mut conditions: Vec<Condition> = (given.match_labels.iter().flatten())
            .map(|(key, value)| Condition { key: key.clone(), wanted: Wanted::In(vec![value.clone()]) })
            .collect();
        for (index, expression) in given.match_expressions.iter().flatten().enumerate() {
            let field = |name: &str| format!("matchExpressions[{index}].{name}");
            let values = expression.values.clone().unwrap_or_default();
            let wanted = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Wanted::In(values),
                ("NotIn", false) => Wanted::NotIn(values),
                ("Exists", true) => Wanted::Exists,
                ("DoesNotExist", true) => Wanted::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err((field("values"), String::new(), "In and NotIn need at least one value"));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err((field("values"), values.join(", "), "none with Exists and DoesNotExist"));
                }
                (other, _) => {
                    let allowed = "In, NotIn, Exists, DoesNotExist";
                    return Err((field("operator"), other.to_owned(), allowed));
                }
            };
            conditions.push(Condition { key: expression.key.clone(), wanted });
        }
        match conditions.len() {
            0..=CONDITIONS_MAX => Ok(Self { conditions }),
            many => Err((String::new(), many.to_string(), "at most 64 conditions")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> Result<NamespaceSelector, (String, String, &'static str)> {
        NamespaceSelector::read(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn all_conditions_must_hold_as_kubernetes_reads_them() {
        let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
        let namespaces = Namespaces(HashMap::from([(Arc::from("shop"), labels)]));
        for (json, shop, bare) in [
            ("{}", true, true),
            (r#"{"matchLabels": {"team": "web"}}"#, true, false),
            (r#"{"matchLabels": {"team": "db"}}"#, false, false),
            (r#"{"matchLabels": {"kubernetes.io/metadata.name": "bare"}}"#, false, true),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "web"]}]}"#,
                true,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["web"]}]}"#,
                false,
                true,
            ),
            (r#"{"matchExpressions": [{"key": "team", "operator": "Exists"}]}"#, true, false),
            (r#"{"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}"#, false, true),
            (
                r#"{"matchLabels": {"team": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}"#,
                false,
                false,
            ),
        ] {
            let selector = selector(json).unwrap();
            assert_eq!(namespaces.is_selected("shop", &selector), shop, "shop: {json}");
            assert_eq!(namespaces.is_selected("bare", &selector), bare, "bare: {json}");
        }
    }

    #[test]
    fn a_condition_that_cannot_be_read_refuses_the_selector() {
        for json in [
            r#"{"matchExpressions": [{"key": "a", "operator": "Is"}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}"#,
        ] {
            assert!(selector(json).is_err(), "{json}");
        }
    }
}
