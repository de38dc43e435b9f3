//! Names and passwords (RFC 7617): the credentials of a request, and what becomes of it.

use std::task::Context;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use routing::model::BasicAuth;
use routing::table::RuleRef;
use wire::head::RequestView;

use super::Stop;
use crate::exchange::reply::Reply;
use crate::exchange::turn::{deadline, has_passed};
use crate::exchange::{Request, turn};
use crate::observe::stats::Limit;
use crate::passwords::NoVerdict;
use crate::worker::clock;

/// Bytes of a name with its password: more is no password of anybody's, and long ones cost time to hash.
const CREDENTIALS_BYTES_MAX: usize = 1024;

/// `None` = the request may go on.
pub(in crate::exchange) async fn authenticate<'r>(
    request: &mut Request<'_>,
    rule: &RuleRef,
    basic: &'r BasicAuth,
) -> Option<Stop<'r>> {
    let Some(users) = &basic.users else {
        // Never open: the Secret that says who may come is not there.
        return Some(Stop::Reply(Reply::new(503, "auth_secret_missing")));
    };
    let given = credentials(&request.view);
    let found = given.as_ref().and_then(|(name, password)| Some((password, users.find(name)?)));
    let Some((password, hash)) = found else { return Some(refused(request, basic)) };
    let (worker, client) = (request.worker, &request.client);
    let due = deadline(request.began, rule.policy().timeouts.request);
    turn::set(client, due);
    let late = |cx: &mut Context<'_>| {
        if client.deadline.poll(cx).is_pending() {
            return false;
        }
        // It fires for a drain, too, which waits for what has begun.
        turn::set(client, due);
        worker.is_stopping() || has_passed(due) || client.deadline.poll(cx).is_ready()
    };
    let verdict = worker.passwords.verify(worker.id, &worker.peers, (password, hash), late).await;
    request.work.seen = clock::now();
    match verdict {
        Ok(true) => None,
        Ok(false) => Some(refused(request, basic)),
        Err(NoVerdict::Busy) => {
            worker.stats.hit(Limit::PasswordChecks);
            Some(Stop::Reply(Reply::shed("password_checks_max")))
        }
        Err(NoVerdict::Late) => Some(Stop::Reply(Reply::new(504, "password_check"))),
    }
}

/// The same answer whether the name or the password is wrong.
fn refused<'r>(request: &Request<'_>, basic: &'r BasicAuth) -> Stop<'r> {
    request.worker.stats.hit(Limit::Basic);
    Stop::Reply(Reply { realm: Some(&basic.realm), ..Reply::new(401, "not_authenticated") })
}

/// Name and password of `Authorization: Basic`. Not those of two such lines: which of them counts?
fn credentials(view: &RequestView<'_>) -> Option<(String, Vec<u8>)> {
    let named = |name: &[u8]| name.eq_ignore_ascii_case(b"authorization");
    let mut lines = view.head.headers.iter().filter(|field| named(field.name.of(view.bytes)));
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let value = line.value.of(view.bytes);
    let (scheme, token) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let token = token.trim_ascii();
    if token.len() > CREDENTIALS_BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    let decoded = STANDARD.decode(token).ok()?;
    let colon = memchr::memchr(b':', &decoded)?;
    let name = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
    Some((name, decoded[colon + 1..].to_vec()))
}
