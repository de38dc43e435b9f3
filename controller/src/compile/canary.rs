//! Canaries: rows that take their share of another Ingress's row with the same match.
//!
//! A canary serves nothing by itself. Its conditions become rows in front of the row that it belongs to, in the order
//! header, query, cookie; its weight becomes one more backend of that row. Everything but backend, balancing and
//! affinity is lent by the row that it belongs to, as ingress-nginx does.

use std::collections::BTreeSet;
use std::sync::Arc;

use routing::model::{
    AcrossBackends, CookieAffinity, Policy, RuleAction, RuleMatch, Target, WeightedBackend,
};

use crate::compile::annotations::{Canary, CanaryWord};
use crate::compile::order::Placed;
use crate::compile::route::Row;
use crate::digest;
use crate::object::ObjectId;

/// Why a canary serves nothing.
pub const ALONE: &str = "ignored: no Ingress without canary has this host and path";
/// Why a canary's weight is not used.
const OTHER_TOTAL: &str = "ignored: another canary of this host and path has another canary-weight-total";

/// A row of one host, as it is served.
pub struct Served<'a> {
    /// The row that it comes from, or whose filters it is lent.
    pub row: &'a Row,
    /// What must hold.
    pub matches: RuleMatch,
    /// The digest of it, as rows have one.
    pub digest: u64,
    /// What is done.
    pub action: Arc<RuleAction>,
}

/// What composing told of a canary: its route, and why it serves nothing.
pub type Told = BTreeSet<(Arc<str>, &'static str)>;

/// The rows of one host, which are in order of precedence, with the canaries put where they belong.
pub fn compose<'a>(rows: &[Placed<'a>], told: &mut Told) -> Vec<Served<'a>> {
    let is_canary = |row: &&Placed<'_>| row.1.canary.is_some();
    let mut out = Vec::with_capacity(rows.len());
    if !rows.iter().any(|row| is_canary(&row)) {
        out.extend(rows.iter().map(|(_, row)| plain(row, &row.action)));
        return out;
    }
    let mut used: BTreeSet<Arc<str>> = BTreeSet::new();
    for (_, row) in rows.iter().filter(|row| !is_canary(row)) {
        let mine = rows.iter().filter_map(|(_, other)| {
            let canary = other.canary.as_ref().filter(|_| other.matches == row.matches)?;
            Some((canary, &other.action))
        });
        let mine: Vec<_> = mine.collect();
        used.extend(mine.iter().map(|(_, action)| action.route.clone()));
        for (canary, action) in &mine {
            let to = Arc::new(lent(&row.action, action, canary));
            for when in &canary.spec.when {
                let mut matches = row.matches.clone();
                matches.more = matches.more.iter().cloned().chain([when.when.clone()]).collect();
                match when.word {
                    CanaryWord::Always => out.push(conditional(row, matches, &to)),
                    CanaryWord::Never => out.push(conditional(row, matches, &row.action)),
                }
            }
        }
        let action = weighted(&row.action, &mine, told);
        out.push(plain(row, &action));
    }
    for (_, row) in rows.iter().filter(is_canary) {
        if !used.contains(&row.action.route) {
            told.insert((row.action.route.clone(), ALONE));
        }
    }
    out
}

fn plain<'a>(row: &'a Row, action: &Arc<RuleAction>) -> Served<'a> {
    Served { row, matches: row.matches.clone(), digest: row.digest, action: Arc::clone(action) }
}

fn conditional<'a>(row: &'a Row, matches: RuleMatch, action: &Arc<RuleAction>) -> Served<'a> {
    Served { row, digest: digest::of(&matches), matches, action: Arc::clone(action) }
}

/// A canary of one row.
#[derive(Clone, Debug)]
pub struct CanaryRow {
    /// Which requests.
    pub spec: Canary,
    /// Do its own annotations say how its backend is served? Otherwise the row that it belongs to does.
    pub own_policy: bool,
}

/// What a canary does with a request that is its own.
fn lent(main: &RuleAction, canary: &RuleAction, row: &CanaryRow) -> RuleAction {
    RuleAction {
        route: canary.route.clone(),
        rule_index: canary.rule_index,
        stat: canary.stat,
        target: canary.target.clone(),
        policy: if row.own_policy { canary.policy.clone() } else { main.policy.clone() },
        ..main.clone()
    }
}

/// The row's action with the shares of its canaries.
fn weighted(
    main: &Arc<RuleAction>,
    canaries: &[(&Arc<CanaryRow>, &Arc<RuleAction>)],
    told: &mut Told,
) -> Arc<RuleAction> {
    let shares: Vec<_> = canaries.iter().filter(|(canary, _)| canary.spec.weight > 0).collect();
    let (Target::Forward(own), Some((first, _))) = (&main.target, shares.first()) else {
        return main.clone();
    };
    let total = first.spec.total;
    let (mut refs, mut taken): (Vec<WeightedBackend>, u32) = (Vec::new(), 0);
    let own_sum: u64 = own.iter().map(|backend| u64::from(backend.weight)).sum();
    for (canary, action) in shares {
        if canary.spec.total != total {
            told.insert((action.route.clone(), OTHER_TOTAL));
            continue;
        }
        let Target::Forward(backends) = &action.target else { continue };
        let weight = canary.spec.weight.min(total - taken);
        taken += weight;
        refs.extend(scaled(backends, u64::from(weight), own_sum));
    }
    let rest = scaled(own, u64::from(total - taken), own_sum);
    let target = Target::Forward(rest.chain(refs).collect());
    let anew = canaries.iter().any(|(canary, _)| canary.spec.legacy_sessions);
    let policy = match &main.policy.affinity {
        Some(affinity) if anew => {
            let affinity = Some(CookieAffinity { across: AcrossBackends::Anew, ..affinity.clone() });
            Arc::new(Policy { affinity, ..Policy::clone(&main.policy) })
        }
        Some(_) | None => main.policy.clone(),
    };
    Arc::new(RuleAction { target, policy, ..RuleAction::clone(main) })
}

/// Backends whose weights sum up to `share` times `unit`, in their own proportion.
fn scaled(backends: &[WeightedBackend], share: u64, unit: u64) -> impl Iterator<Item = WeightedBackend> + '_ {
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    backends.iter().map(move |backend| {
        let weight = u64::from(backend.weight) * share * unit.max(1) / sum.max(1);
        // Ratios survive: weights are at most a million, and few.
        WeightedBackend { weight: u32::try_from(weight).unwrap_or(u32::MAX), ..backend.clone() }
    })
}

/// The routes of `ids` that were told something, with what.
pub fn told_of(told: Told, ids: &BTreeSet<ObjectId>) -> Vec<(ObjectId, String)> {
    let named = told.into_iter().filter_map(|(route, reason)| {
        let id = ids.iter().find(|id| id.to_string() == *route)?;
        Some((id.clone(), reason.to_owned()))
    });
    named.collect()
}
