//! The annotations that one object carries, by their names without the family's prefix, and what becomes of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Annotations;
use super::registry::{self, Entry, Family, Fate};
use crate::verdict::{Notes, shown};

/// Bytes of one annotation that is read.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody asked for it.
    Unread,
    /// Somebody did, and could read it.
    Read,
    /// It was reported.
    Told,
}

/// One annotation that is known.
#[derive(Debug)]
struct Held<'a> {
    full: &'a str,
    value: &'a str,
    family: Family,
    entry: &'static Entry,
    state: State,
    /// `false` = it is there and says nothing: what it protects must not be open for that.
    is_readable: bool,
}

/// See the module.
pub struct Given<'a, 'n> {
    held: BTreeMap<&'a str, Held<'a>>,
    notes: &'n mut Notes,
}

/// Where an annotation stands, for reports.
pub(super) fn field(name: &str) -> String {
    format!("metadata.annotations[{}]", shown(name))
}

impl<'a, 'n> Given<'a, 'n> {
    /// Those of known families; others are reported at once. Of two families with one name the first in the order of
    /// [`Family::PREFIXES`] holds.
    pub fn new(annotations: &'a BTreeMap<String, String>, notes: &'n mut Notes) -> Self {
        let mut given = Self { held: BTreeMap::new(), notes };
        for (prefix, family) in Family::PREFIXES {
            for (full, value) in annotations {
                if let Some(name) = full.strip_prefix(prefix) {
                    given.add(full, name, value, family);
                }
            }
        }
        given
    }

    fn add(&mut self, full: &'a str, name: &'a str, value: &'a str, family: Family) {
        let Some(entry) = registry::find(name) else {
            self.notes.ignored(field(full), value, "ignored: no annotation of this name is known");
            return;
        };
        if !entry.is_of(family) {
            let reason =
                "ignored: it is an annotation of another family, and means nothing under this prefix";
            self.notes.ignored(field(full), value, reason);
        } else if let Some(first) = self.held.get(name) {
            let reason = format!("ignored: {} says the same, and comes first", first.full);
            self.notes.ignored(field(full), value, reason);
        } else {
            let is_readable = value.len() <= VALUE_BYTES_MAX
                && !value.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
            let mut state = State::Unread;
            if !is_readable {
                let reason = format!("allowed: at most {VALUE_BYTES_MAX} bytes, no control characters");
                self.notes.refused_part(field(full), value, reason);
                state = State::Told;
            }
            self.held.insert(name, Held { full, value, family, entry, state, is_readable });
        }
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The value, without the white space around it. Counts as read. `None` also where it is there and cannot be read:
    /// [`Given::family`] tells the two apart.
    pub fn raw(&mut self, name: &str) -> Option<&'a str> {
        let held = self.held.get_mut(name).filter(|held| held.is_readable)?;
        if held.state == State::Unread {
            held.state = State::Read;
        }
        Some(held.value.trim())
    }

    /// Whose it is, if it is there.
    #[must_use]
    pub fn family(&self, name: &str) -> Option<Family> {
        self.held.get(name).map(|held| held.family)
    }

    /// The value, when it is good; otherwise it is reported with what is allowed.
    pub fn parse<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let raw = self.raw(name)?;
        match parse(raw) {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.refuse(name, &format!("allowed: {allowed}"));
                None
            }
        }
    }

    /// `true` or `false`; `None` where it is absent or wrong.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.parse(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("true, false".to_owned()),
        })
    }

    /// A whole number within bounds.
    pub fn number(&mut self, name: &str, min: i64, max: i64) -> Option<u32> {
        self.parse(name, |text| {
            let number: i64 = text.parse().map_err(|_| format!("{min} to {max}"))?;
            crate::text::bounded(number, min, max)
        })
    }

    /// Reports that the value is wrong.
    pub fn refuse(&mut self, name: &str, reason: &str) {
        if let Some(held) = self.held.get_mut(name)
            && held.state != State::Told
        {
            held.state = State::Told;
            self.notes.refused_part(field(held.full), held.value, reason);
        }
    }

    /// Reports that the value is good and is not used all the same.
    pub fn ignore(&mut self, name: &str, reason: &str) {
        if let Some(held) = self.held.get_mut(name)
            && held.state != State::Told
        {
            held.state = State::Told;
            self.notes.ignored(field(held.full), held.value, format!("ignored: {reason}"));
        }
    }

    /// The rests of all names that begin with `start`, with their full names.
    #[must_use]
    pub fn rests(&self, start: &str) -> Vec<(&'a str, &'a str)> {
        let names = self.held.keys().copied();
        names.filter_map(|name| Some((name.strip_prefix(start)?, name))).collect()
    }

    /// Says what became of each that was not reported yet.
    pub fn finish(self, out: &mut Annotations) {
        for held in self.held.into_values() {
            let (field, value) = (field(held.full), held.value);
            match (held.state, held.entry.fate) {
                // However its value reads: it is asked for, and not supported.
                (State::Told, Fate::Closes(_)) => {
                    out.closed.get_or_insert_with(|| Arc::from(held.entry.name));
                }
                (State::Told, _) => {}
                (_, Fate::Ignored(why)) => self.notes.ignored(field, value, format!("ignored: {why}")),
                (_, Fate::Closes(why)) => {
                    self.notes.refused_part(field, value, format!("not supported: {why}"));
                    out.closed.get_or_insert_with(|| Arc::from(held.entry.name));
                }
                (State::Read, Fate::Honoured) => self.notes.info(field, value, "honoured"),
                (State::Read, Fate::Differs(how)) => {
                    self.notes.info(field, value, format!("honoured with a difference: {how}"));
                }
                (State::Unread, Fate::Honoured | Fate::Differs(_)) => {
                    let reason = "ignored: it says something only together with another annotation";
                    self.notes.ignored(field, value, reason);
                }
            }
        }
    }
}
