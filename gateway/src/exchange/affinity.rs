//! The cookie that names an endpoint (`sticky`), set on the response.

use routing::balance::sticky;
use routing::model::Policy;
use routing::table::Pick;

/// The value of Set-Cookie, if one is due, written into `out`.
pub(super) fn set_cookie<'a>(policy: &Policy, pick: &Pick, out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
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
    out.extend_from_slice(affinity.attributes.as_bytes());
    Some(out)
}
