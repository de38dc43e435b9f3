//! What is said about an object: accepted, refused or partly ignored, and why.
//!
//! Made by every step that reads objects; shown by `ringway check`, by the admin API and, on the hub, as conditions and Events ([`crate::finding`]).

use std::fmt;
use std::sync::Arc;

use crate::object::ObjectId;

/// Characters of a refused value that are shown.
const VALUE_CHARS_MAX: usize = 80;
/// Notes kept of one object; more are counted in a last one.
pub const NOTES_PER_OBJECT_MAX: usize = 64;

/// What a note costs the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth saying; nothing is lost.
    Info,
    /// Valid, but not used: not supported yet, not ours, or shadowed by another object.
    Ignored,
    /// Wrong: this field's part is not served; the rest of the object is.
    RefusedPart,
    /// Wrong: nothing of the object is used.
    Refused,
}

/// Why, in a word that other programs know: the reasons of Gateway API conditions, and two of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant but the last two is the reason of that name in the Gateway API")]
pub enum Code {
    NotAllowedByListeners,
    NoMatchingParent,
    NoMatchingListenerHostname,
    RefNotPermitted,
    BackendNotFound,
    InvalidKind,
    UnsupportedProtocol,
    InvalidCertificateRef,
    InvalidRouteKinds,
    InvalidParameters,
    HostnameConflict,
    ProtocolConflict,
    UnsupportedAddress,
    AddressNotUsable,
    AddressNotAssigned,
    InvalidCaCertificateRef,
    Conflicted,
    /// A value that is not served; the Gateway API's reason of that name.
    UnsupportedValue,
    /// Another controller's object: nothing is written about it.
    Foreign,
}

impl Code {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowedByListeners => "NotAllowedByListeners",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::NoMatchingListenerHostname => "NoMatchingListenerHostname",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::InvalidCertificateRef => "InvalidCertificateRef",
            Self::InvalidRouteKinds => "InvalidRouteKinds",
            Self::InvalidParameters => "InvalidParameters",
            Self::HostnameConflict => "HostnameConflict",
            Self::ProtocolConflict => "ProtocolConflict",
            Self::UnsupportedAddress => "UnsupportedAddress",
            Self::AddressNotUsable => "AddressNotUsable",
            Self::AddressNotAssigned => "AddressNotAssigned",
            Self::InvalidCaCertificateRef => "InvalidCACertificateRef",
            Self::Conflicted => "Conflicted",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::Foreign => "Foreign",
        }
    }
}

/// One remark on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it costs.
    pub severity: Severity,
    /// Why, where a condition has a word for it.
    pub code: Option<Code>,
    /// Where: `spec.rules[0].host`, or empty for the whole object.
    pub field: String,
    /// What stands there, cut and with control characters escaped; empty where that says nothing.
    pub value: String,
    /// Why, and what is allowed.
    pub reason: String,
}

impl Note {
    /// A remark of this severity on `field`, which holds `value`.
    #[must_use]
    pub fn new(
        severity: Severity,
        field: impl Into<String>,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        let value = shown(&value.to_string());
        Self { severity, code: None, field: field.into(), value, reason: reason.into() }
    }

    /// The same, with the word that conditions have for it.
    #[must_use]
    pub fn because(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }
}

/// A value as it is shown: escaped, and cut to a bound.
#[must_use]
pub fn shown(value: &str) -> String {
    let mut out: String = value.chars().take(VALUE_CHARS_MAX).flat_map(char::escape_debug).collect();
    if value.chars().nth(VALUE_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// A bounded list of notes of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    list: Vec<Note>,
    left_out: usize,
    worst_left_out: Option<Severity>,
}

impl Notes {
    /// Adds a note; beyond [`NOTES_PER_OBJECT_MAX`] it is only counted.
    pub fn push(&mut self, note: Note) {
        if self.list.len() < NOTES_PER_OBJECT_MAX {
            self.list.push(note);
        } else {
            self.left_out += 1;
            self.worst_left_out = self.worst_left_out.max(Some(note.severity));
        }
    }

    /// Worth saying.
    pub fn info(&mut self, field: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) {
        self.push(Note::new(Severity::Info, field, value, reason));
    }

    /// Valid, but not used.
    pub fn ignored(&mut self, field: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) {
        self.push(Note::new(Severity::Ignored, field, value, reason));
    }

    /// Wrong: this part is not served.
    pub fn refused_part(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) {
        self.push(Note::new(Severity::RefusedPart, field, value, reason));
    }

    /// Wrong: nothing of the object is used.
    pub fn refused(&mut self, field: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) {
        self.push(Note::new(Severity::Refused, field, value, reason));
    }

    /// Nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, with a last one that counts what was left out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Note> {
        let mut notes = self.list.clone();
        if let Some(severity) = self.worst_left_out {
            notes.push(Note::new(severity, "", "", format!("and {} more", self.left_out)));
        }
        notes
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for note in other.to_vec() {
            self.push(note);
        }
    }
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All of it is in force.
    Accepted,
    /// Some of it is not used.
    PartlyIgnored,
    /// Some of it is wrong and not served.
    PartlyRefused,
    /// Nothing of it is used.
    Refused,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accepted => "accepted",
            Self::PartlyIgnored => "partly ignored",
            Self::PartlyRefused => "partly refused",
            Self::Refused => "refused",
        })
    }
}

/// What became of one object, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which object; `None` for a remark on a whole file.
    pub object: Option<ObjectId>,
    /// The file it was read from, relative to the directory. Empty when it did not come from a file.
    pub origin: Arc<str>,
    /// The worst of its notes.
    pub outcome: Outcome,
    /// Why.
    pub notes: Vec<Note>,
}

impl Verdict {
    /// The verdict that these notes amount to.
    #[must_use]
    pub fn new(object: Option<ObjectId>, origin: Arc<str>, notes: Vec<Note>) -> Self {
        let outcome =
            notes.iter().map(|note| note.severity).max().map_or(Outcome::Accepted, |worst| match worst {
                Severity::Info => Outcome::Accepted,
                Severity::Ignored => Outcome::PartlyIgnored,
                Severity::RefusedPart => Outcome::PartlyRefused,
                Severity::Refused => Outcome::Refused,
            });
        Self { object, origin, outcome, notes }
    }
}
