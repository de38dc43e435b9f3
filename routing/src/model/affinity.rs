//! Sessions: which endpoint a client's cookie names, and what that means among several backends.

use std::sync::Arc;
use std::time::Duration;

/// Cookie affinity. The cookie names the endpoint; when that cannot serve, another is chosen and set anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieAffinity {
    /// The cookie's name.
    pub cookie: Arc<str>,
    /// The cookie's `Path` attribute.
    pub path: Arc<str>,
    /// The cookie's `Max-Age`; `None` = a session cookie.
    pub max_age: Option<Duration>,
    /// Its further attributes as they are sent, the first `; ` included. Default [`COOKIE_ATTRIBUTES`].
    pub attributes: Arc<str>,
    /// Does a session stay with its backend, too, where a rule has several?
    pub across: AcrossBackends,
}

/// What a session means for the choice between the backends of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcrossBackends {
    /// It stays with the backend that it has, whatever the weights.
    #[default]
    Stay,
    /// The backend is chosen by weight for each request; the session holds within it.
    Anew,
}

/// What an affinity cookie carries unless it is told otherwise.
pub const COOKIE_ATTRIBUTES: &str = "; HttpOnly; SameSite=Lax";
