//! Source ranges of a whole host (MSE's scope "Domain"): what one Ingress asks for holds for every rule of its hosts,
//! whoever's it is.
//!
//! Only Ingresses of the namespace that the host's oldest route belongs to decide for others: a list can shut them out.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use routing::model::{Access, Filters, RuleAction};

use crate::compile::ingress::action::both;
use crate::compile::order::Placed;
use crate::compile::route::Row;

/// Why a list holds for its own Ingress only.
pub(super) const ANOTHERS: &str =
    "its domain-*-source-range hold for this Ingress only: another namespace's route has this host first";

/// The lists of one host.
#[derive(Default)]
pub(super) struct Domain {
    /// The list of the oldest Ingress that has one of who may, and all of who may not.
    access: Access,
    /// Routes whose lists hold for themselves only.
    strangers: BTreeSet<Arc<str>>,
}

impl Domain {
    /// What the rows of a host ask for; `None` = nothing.
    pub(super) fn of(rows: &[Placed<'_>]) -> Option<Self> {
        if rows.iter().all(|(_, row)| row.domain.is_none()) {
            return None;
        }
        let mut by_age: Vec<&Placed<'_>> = rows.iter().collect();
        by_age.sort_by_key(|(route, _)| (route.created, &route.namespaced_name));
        let namespace = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        let owner = by_age.first().map(|(route, _)| namespace(&route.namespaced_name));
        let mut domain = Self::default();
        let mut deny: BTreeSet<IpNet> = BTreeSet::new();
        for (route, row) in by_age {
            let Some(list) = &row.domain else { continue };
            if Some(namespace(&route.namespaced_name)) != owner {
                domain.strangers.insert(row.action.route.clone());
                continue;
            }
            if domain.access.allow.is_empty() {
                domain.access.allow.clone_from(&list.allow);
            }
            deny.extend(&list.deny);
        }
        domain.access.deny = deny.into_iter().collect();
        Some(domain)
    }

    /// Routes whose lists do not hold for others.
    pub(super) fn strangers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.strangers.iter()
    }

    /// The action of a row with the lists of its host.
    pub(super) fn guard(&self, row: &Row, action: &Arc<RuleAction>) -> Arc<RuleAction> {
        let own = row.domain.as_deref().filter(|_| self.strangers.contains(&row.action.route));
        let mut access = self.access.clone();
        if row.lists {
            // The narrower list says who may come.
            access.allow = Box::default();
        }
        let wanted = both((access != Access::default()).then_some(&access), own);
        let filters = action.filters.as_deref();
        let guarded = both(wanted.as_ref(), filters.and_then(|filters| filters.access.as_ref()));
        if guarded.as_ref() == filters.and_then(|filters| filters.access.as_ref()) {
            return Arc::clone(action);
        }
        let filters = Filters { access: guarded, ..filters.cloned().unwrap_or_default() };
        Arc::new(RuleAction { filters: Some(Arc::new(filters)), ..RuleAction::clone(action) })
    }
}
