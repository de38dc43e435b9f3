//! What gRPC calls the end of a call, and which ends are tried again.

use std::fmt;

/// A status code of gRPC (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(u8);

/// How many codes there are.
pub const GRPC_CODES: usize = 17;

/// Names in the order of their numbers, for logs and metrics, and what HTTP calls the same (`google.rpc.Code`).
const TABLE: [(&str, u16); GRPC_CODES] = [
    ("ok", 200),
    ("cancelled", 499),
    ("unknown", 500),
    ("invalid_argument", 400),
    ("deadline_exceeded", 504),
    ("not_found", 404),
    ("already_exists", 409),
    ("permission_denied", 403),
    ("resource_exhausted", 429),
    ("failed_precondition", 400),
    ("aborted", 409),
    ("out_of_range", 400),
    ("unimplemented", 501),
    ("internal", 500),
    ("unavailable", 503),
    ("data_loss", 500),
    ("unauthenticated", 401),
];

impl GrpcCode {
    /// The caller took it back.
    pub const CANCELLED: Self = Self(1);
    /// Something that has no code.
    pub const UNKNOWN: Self = Self(2);
    /// Its time was over.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// The caller may not.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// A quota is spent.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Nobody serves that method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Something is broken.
    pub const INTERNAL: Self = Self(13);
    /// Not now; perhaps elsewhere or later.
    pub const UNAVAILABLE: Self = Self(14);
    /// Who asks is not known.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// The code of that number; what is none is `UNKNOWN`, as clients of gRPC read it.
    #[must_use]
    pub fn of(number: u8) -> Self {
        if usize::from(number) < GRPC_CODES { Self(number) } else { Self::UNKNOWN }
    }

    /// What gRPC calls a status of HTTP that stands in for a missing code: "HTTP to gRPC Status Code Mapping" of its
    /// documentation.
    #[must_use]
    pub fn of_http(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its name, for logs and metrics: lower case, words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE[usize::from(self.0)].0
    }

    /// What HTTP calls the same.
    #[must_use]
    pub fn http_status(self) -> u16 {
        TABLE[usize::from(self.0)].1
    }

    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).take(GRPC_CODES).map(Self)
    }
}

impl fmt::Display for GrpcCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of codes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct GrpcCodes(u32);

impl GrpcCodes {
    /// The codes that a call may be tried again for, with the names that policies spell them by.
    pub const RETRYABLE: [(&'static str, GrpcCode); 5] = [
        ("cancelled", GrpcCode::CANCELLED),
        ("deadline-exceeded", GrpcCode::DEADLINE_EXCEEDED),
        ("internal", GrpcCode::INTERNAL),
        ("resource-exhausted", GrpcCode::RESOURCE_EXHAUSTED),
        ("unavailable", GrpcCode::UNAVAILABLE),
    ];

    /// Adds one.
    pub fn insert(&mut self, code: GrpcCode) {
        self.0 |= 1 << code.0;
    }

    /// Is it one of them?
    #[must_use]
    pub fn contains(self, code: GrpcCode) -> bool {
        self.0 >> code.0 & 1 != 0
    }

    /// Those in it, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = GrpcCode> {
        GrpcCode::all().filter(move |code| self.contains(*code))
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for GrpcCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(GrpcCode::name)).finish()
    }
}

impl FromIterator<GrpcCode> for GrpcCodes {
    fn from_iter<I: IntoIterator<Item = GrpcCode>>(codes: I) -> Self {
        let mut set = Self::default();
        codes.into_iter().for_each(|code| set.insert(code));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_mapped_as_grpc_documents_it() {
        let table = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
            (408, 2),
            (431, 2),
        ];
        for (status, code) in table {
            assert_eq!(GrpcCode::of_http(status).number(), code, "{status}");
        }
    }

    #[test]
    fn a_number_that_is_no_code_is_unknown() {
        assert_eq!(GrpcCode::of(17), GrpcCode::UNKNOWN);
        assert_eq!(GrpcCode::of(255).name(), "unknown");
        assert_eq!(GrpcCode::all().count(), GRPC_CODES);
        assert_eq!(GrpcCode::all().last(), Some(GrpcCode::UNAUTHENTICATED));
        assert_eq!((GrpcCode::UNAVAILABLE.name(), GrpcCode::UNAVAILABLE.http_status()), ("unavailable", 503));
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set: GrpcCodes = [GrpcCode::UNAVAILABLE, GrpcCode::CANCELLED].into_iter().collect();
        assert_eq!(set.iter().map(GrpcCode::number).collect::<Vec<_>>(), [1, 14]);
        assert!(!set.contains(GrpcCode::INTERNAL) && GrpcCodes::default().is_empty());
    }
}
