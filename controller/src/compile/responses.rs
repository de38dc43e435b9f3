//! Rules about responses, of a whole host: what they change holds for the Ingresses of their namespace there, whichever of
//! them they stand on. The responses of another namespace's Ingresses, and of routes, stay as they are.

use std::sync::Arc;

use routing::model::{Filters, ResponseRule, RuleAction};

use crate::compile::order::Placed;

/// Those of one host, in the order of its rows.
#[derive(Default)]
pub(super) struct Responses(Vec<(Arc<str>, Arc<ResponseRule>)>);

impl Responses {
    /// Takes out the rows that serve nothing.
    pub(super) fn taken_from(rows: &mut Vec<Placed<'_>>) -> Self {
        let mut taken = Vec::new();
        rows.retain(|(_, row)| match &row.response {
            Some(response) => {
                taken.push((row.action.route.clone(), response.clone()));
                false
            }
            None => true,
        });
        Self(taken)
    }

    /// The action of a row with the changes of its host.
    pub(super) fn changed(&self, action: Arc<RuleAction>) -> Arc<RuleAction> {
        let own = namespace(&action.route);
        let mine = self.0.iter().filter(|(route, _)| namespace(route) == own);
        let mut mine = mine.map(|(_, response)| response.clone()).peekable();
        if mine.peek().is_none() {
            return action;
        }
        let mut filters: Filters = action.filters.as_deref().cloned().unwrap_or_default();
        filters.responses = filters.responses.iter().cloned().chain(mine).collect();
        Arc::new(RuleAction { filters: Some(Arc::new(filters)), ..RuleAction::clone(&action) })
    }
}

/// Kind and namespace of `KIND NAMESPACE/NAME`.
fn namespace(route: &str) -> &str {
    route.rsplit('/').nth(1).unwrap_or_default()
}
