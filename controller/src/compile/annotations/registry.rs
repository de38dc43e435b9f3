//! Every annotation of the nginx, ALB, MSE and Higress families that we know: the one table that parsing, `ringway
//! check`, ANNOTATIONS.md and the tests read.
//!
//! A name that ends in `*` stands for all that begin so. `good` and `bad` are values that the tests try: the first is
//! honoured (or ignored, as the verdict says), the second refused by name; an empty `bad` means that any value will do.

mod entries;
mod words;

pub use self::entries::ENTRIES;

/// Which product's annotation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `mse.ingress.kubernetes.io/`
    Mse,
    /// `alb.ingress.kubernetes.io/`
    Alb,
    /// `higress.ingress.kubernetes.io/` and `higress.io/`
    Higress,
    /// `nginx.ingress.kubernetes.io/`
    Nginx,
}

impl Family {
    /// Prefixes, in the order in which the first one that says something wins.
    pub const PREFIXES: [(&'static str, Self); 5] = [
        ("mse.ingress.kubernetes.io/", Self::Mse),
        ("alb.ingress.kubernetes.io/", Self::Alb),
        ("higress.ingress.kubernetes.io/", Self::Higress),
        ("higress.io/", Self::Higress),
        ("nginx.ingress.kubernetes.io/", Self::Nginx),
    ];

    fn letter(self) -> char {
        match self {
            Self::Mse => 'm',
            Self::Alb => 'a',
            Self::Higress => 'h',
            Self::Nginx => 'n',
        }
    }
}

/// What becomes of an annotation whose value is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As documented.
    Honoured,
    /// Honoured, but not to the letter: how.
    Differs(&'static str),
    /// Not used: why.
    Ignored(&'static str),
    /// It protects something, and we cannot: the Ingress's rules answer 503. Why.
    Closes(&'static str),
}

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name without the family's prefix.
    pub name: &'static str,
    /// The families that have it: letters of `nmha`.
    pub families: &'static str,
    /// What it may hold, for people.
    pub grammar: &'static str,
    /// A value that is accepted.
    pub good: &'static str,
    /// A value that is refused.
    pub bad: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

impl Entry {
    /// Is it this family's?
    #[must_use]
    pub fn is_of(&self, family: Family) -> bool {
        self.families.contains(family.letter())
    }

    /// Is it meant by this name?
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(start) => name.len() > start.len() && name.starts_with(start),
            None => name == self.name,
        }
    }
}

/// The entry of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.is_named(name))
}
