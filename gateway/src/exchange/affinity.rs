//! The cookie that names an endpoint (`sticky`), set on the response.

use routing::balance::sticky;
use routing::model::Policy;
use routing::table::Pick;

use crate::worker::clock;

/// The value of Set-Cookie, if one is due, written into `out`.
pub(super) fn set_cookie<'a>(
    policy: &Policy,
    pick: &Pick,
    came_by_tls: impl FnOnce() -> bool,
    out: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    let (affinity, value) = (policy.affinity.as_ref()?, pick.set_cookie?);
    out.clear();
    out.extend_from_slice(affinity.cookie.as_bytes());
    out.push(b'=');
    out.extend_from_slice(&sticky::format(value));
    out.extend_from_slice(b"; Path=");
    out.extend_from_slice(affinity.path.as_bytes());
    if let Some(max_age) = affinity.max_age {
        out.extend_from_slice(b"; Max-Age=");
        out.extend_from_slice(itoa::Buffer::new().format(max_age.as_secs()).as_bytes());
    }
    if let Some(expires) = affinity.expires {
        out.extend_from_slice(b"; Expires=");
        out.extend_from_slice(httpdate::fmt_http_date(clock::wall() + expires).as_bytes());
    }
    if affinity.secure_over_tls && came_by_tls() {
        out.extend_from_slice(b"; Secure");
    }
    out.extend_from_slice(affinity.attributes.as_bytes());
    Some(out)
}
