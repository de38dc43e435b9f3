//! What of a request, besides its host, path and method, decides where it goes: for whoever keeps requests to ask
//! another table about them, and wants to keep nothing else.

use std::rc::Rc;

use super::{RuleRef, Table};
use crate::matcher::{Mismatch, mismatch};
use crate::model::{Pin, PinMatch, Predicate, RuleMatch, ValueMatch};
use crate::subject::Subject;

/// Rules of a request's host that are looked through; beyond it [`Table::looks`] says that it has not seen all.
pub const LOOKS_RULES_MAX: usize = 1_000;

/// One thing that a condition or a pin asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look<'a> {
    /// The header of this name, in lower case.
    Header(&'a str),
    /// The cookie of this name.
    Cookie(&'a str),
    /// The query parameter of this name.
    Query(&'a str),
    /// The client's address.
    Source,
}

/// Was everything seen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Yes.
    All,
    /// The host has more than [`LOOKS_RULES_MAX`] rules.
    InPart,
}

impl Table {
    /// Calls `see` with all that the conditions of the host's rules ask for, whatever their paths, and the pins of the rule
    /// that serves. A thing may be named twice.
    pub fn looks(
        &self,
        subject: &Subject<'_>,
        rule: Option<&RuleRef>,
        see: &mut dyn FnMut(Look<'_>),
    ) -> Seen {
        let mut left = LOOKS_RULES_MAX;
        for listener in self.world.hosts.owners(subject.bind, subject.host()) {
            let ended = self.world.hosts.first(*listener, subject.host(), |entry| {
                for rule in entry.rules.rules.iter().take(left) {
                    of_rule(&rule.matches, see);
                }
                (entry.rules.rules.len() > left).then_some(Seen::InPart).or_else(|| {
                    left -= entry.rules.rules.len();
                    None
                })
            });
            if let Some(in_part) = ended {
                return in_part;
            }
        }
        if let Some(rule) = rule {
            rule.policy().pins.iter().for_each(|pin| of_pin(pin, see));
        }
        Seen::All
    }
}

impl Table {
    /// The same of those rules only that are tried up to `rule`, or all when none serves, and whose path and method fit: what
    /// decided that it is this one.
    pub fn decisive(&self, subject: &Subject<'_>, rule: Option<&RuleRef>, see: &mut dyn FnMut(Look<'_>)) {
        for listener in self.world.hosts.owners(subject.bind, subject.host()) {
            let ended = self.world.hosts.first(*listener, subject.host(), |entry| {
                for (index, each) in (0_u32..).zip(&entry.rules.rules) {
                    match mismatch(&each.matches, subject) {
                        Some(Mismatch::Path | Mismatch::Method) => {}
                        Some(Mismatch::Header(_) | Mismatch::Query(_) | Mismatch::More(_)) | None => {
                            of_rule(&each.matches, see);
                        }
                    }
                    if rule.is_some_and(|rule| Rc::ptr_eq(&rule.entry, entry) && rule.rule == index) {
                        return Some(());
                    }
                }
                None
            });
            if ended.is_some() {
                break;
            }
        }
        if let Some(rule) = rule {
            rule.policy().pins.iter().for_each(|pin| of_pin(pin, see));
        }
    }
}

/// What the conditions of a rule ask for.
fn of_rule(matches: &RuleMatch, see: &mut dyn FnMut(Look<'_>)) {
    matches.headers.iter().for_each(|header| see(Look::Header(&header.name)));
    matches.query.iter().for_each(|parameter| see(Look::Query(&parameter.name)));
    matches.more.iter().for_each(|predicate| of_predicate(predicate, see));
}

fn of_predicate(predicate: &Predicate, see: &mut dyn FnMut(Look<'_>)) {
    match predicate {
        Predicate::Cookie(ValueMatch { name, .. }) => see(Look::Cookie(name)),
        Predicate::Header(ValueMatch { name, .. }) => see(Look::Header(name)),
        Predicate::Query(ValueMatch { name, .. }) => see(Look::Query(name)),
        Predicate::Source(_) => see(Look::Source),
        Predicate::Methods(_) | Predicate::Host(_) | Predicate::Path(_) => {}
        Predicate::Any(alternatives) => {
            alternatives.iter().for_each(|alternative| of_predicate(alternative, see));
        }
    }
}

fn of_pin(pin: &Pin, see: &mut dyn FnMut(Look<'_>)) {
    see(match &pin.when {
        PinMatch::Header(name, _) => Look::Header(name),
        PinMatch::Cookie(name, _) => Look::Cookie(name),
        PinMatch::Query(name, _) => Look::Query(name),
        PinMatch::SourceCidr(_) => Look::Source,
    });
}
