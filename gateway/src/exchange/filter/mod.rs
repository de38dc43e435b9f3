//! What a rule checks before it does anything, in the order of the fields of [`Filters`]: one place, whether an
//! annotation or an `HTTPRoute` asked for it. A rule without filters costs one branch.

mod basic;
mod cors;
mod external;
mod mirror;
mod responses;
mod shown;
mod values;

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use routing::model::{Access, ConcurrencyLimit, Filters, FixedResponse, HttpsRedirect, RateKey, RateLimit};
use routing::table::RuleRef;
use routing::time::MonoTime;
use wire::head::{BodyLength, Known, RequestView};

use super::Request;
use super::reply::Reply;
use crate::downstream::h1::Client;
use crate::observe::stats::Limit;

pub(super) use basic::authenticate;
pub(super) use cors::{Fields, fields as cors_fields};
pub(super) use external::{Granted, ask};
pub(super) use mirror::mirror;
pub(super) use responses::changed;
pub(super) use shown::{Told, fields as shown_fields};
pub(super) use values::rewritten;

/// Why a request goes no further.
pub(super) enum Stop<'r> {
    /// It is answered with this.
    Reply(Reply<'r>),
    /// It is sent to the same address with `https`.
    ToHttps(HttpsRedirect),
    /// It is sent to this address, to sign in.
    ToSignIn(Vec<u8>),
}

/// Runs the filters that come before forwarding. `None` = the request may go on.
pub(super) fn judge<'r>(request: &mut Request<'_>, rule: &RuleRef, filters: &'r Filters) -> Option<Stop<'r>> {
    let stats = &request.worker.stats;
    let peer = request.subject().peer.ip().to_canonical();
    if filters.access.as_ref().is_some_and(|access| !admits(access, peer)) {
        stats.hit(Limit::Access);
        return Some(Stop::Reply(Reply::new(403, "source_not_allowed")));
    }
    if let Some(https) = filters.https
        && !came_by_tls(request.client, &request.view)
    {
        return Some(Stop::ToHttps(https));
    }
    if let Some(wanted) = &filters.client
        && let Some(stop) = shown::judge(request, wanted)
    {
        return Some(stop);
    }
    if filters.cors.is_some() && cors::is_preflight(&request.view) {
        return Some(Stop::Reply(Reply { content: Some(("", b"")), ..Reply::new(204, "preflight") }));
    }
    let refused = filters.rates.iter().find(|limit| !takes(limit, peer, request.began));
    if let Some(limit) = refused {
        stats.hit(Limit::Rate);
        return Some(Stop::Reply(fixed(&limit.answer, "rate_limit")));
    }
    if let Some(limit) = enter(request, rule, &filters.concurrency, peer) {
        request.worker.stats.hit(Limit::Concurrency);
        return Some(Stop::Reply(fixed(&limit.answer, "concurrency_limit")));
    }
    let stats = &request.worker.stats;
    let length = match request.view.head.body {
        BodyLength::Exact(length) => length,
        BodyLength::None | BodyLength::Chunked | BodyLength::UntilClose => 0,
    };
    if filters.body_bytes_max > 0 && length > filters.body_bytes_max {
        stats.hit(Limit::RuleBody);
        return Some(Stop::Reply(Reply::new(413, "body_bytes_max")));
    }
    None
}

/// What a fallback is told beside the status: what was asked for, in which format, and of which rule.
pub(super) fn told_of_fallback<'a>(rule: &'a RuleRef, view: &RequestView<'a>) -> Told<'a> {
    let mut told = Told::new();
    told.extend(view.header(b"accept").map(|accept| ("X-Format", accept)));
    told.push(("X-Original-URI", external::target_of(view)));
    let fallback = super::fallback_of(rule).map(|fallback| &*fallback.told).unwrap_or_default();
    told.extend(fallback.iter().map(|(name, value)| (*name, value.as_bytes())));
    told
}

/// Does the request come from where nobody has to prove who they are?
pub(super) fn is_known(request: &Request<'_>, filters: &Filters) -> bool {
    let Some(known) = &filters.known else { return false };
    admits(known, request.subject().peer.ip().to_canonical())
}

/// An answer that the configuration spells out.
pub(super) fn fixed<'r>(answer: &'r FixedResponse, reason: &'static str) -> Reply<'r> {
    let content = (&*answer.content_type, answer.body.as_bytes());
    let location = (!answer.location.is_empty()).then(|| answer.location.as_bytes());
    let retry_after = if matches!(answer.status, 429 | 503) { 1 } else { 0 };
    Reply { content: Some(content), location, retry_after, ..Reply::new(answer.status, reason) }
}

/// Did the client speak TLS, with us or with a trusted peer in front of us?
pub(super) fn came_by_tls(client: &Client, view: &RequestView<'_>) -> bool {
    client.conn.tls().is_some()
        || client.trusted
            && view.known(Known::XForwardedProto).is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
}

fn admits(access: &Access, peer: IpAddr) -> bool {
    let in_any = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&peer));
    !in_any(&access.deny) && (access.allow.is_empty() || in_any(&access.allow))
}

fn takes(limit: &RateLimit, peer: IpAddr, now: MonoTime) -> bool {
    if limit.exempt.iter().any(|range| range.contains(&peer)) {
        return true;
    }
    match limit.key {
        RateKey::All => limit.state.get().take(limit.rate, now),
        RateKey::Source => limit.state.get().take_of(source_hash(peer), limit.rate, now),
    }
}

/// Sources are told apart by a hash that no client can foresee, the same on all workers. Of IPv6 the /64 counts: it is
/// what one client has.
fn source_hash(peer: IpAddr) -> u64 {
    static SEED: LazyLock<foldhash::quality::RandomState> =
        LazyLock::new(foldhash::quality::RandomState::default);
    match peer {
        IpAddr::V4(v4) => SEED.hash_one(v4.to_bits()),
        IpAddr::V6(v6) => SEED.hash_one((v6.to_bits() >> 64) as u64),
    }
}

/// Takes a place in each bound of requests at once; the bound that has none.
fn enter<'r>(
    request: &mut Request<'_>,
    rule: &RuleRef,
    limits: &'r [ConcurrencyLimit],
    peer: IpAddr,
) -> Option<&'r ConcurrencyLimit> {
    if limits.is_empty() {
        return None;
    }
    let entered = request.entered.insert(Entered { rule: rule.clone(), peer, count: 0 });
    for limit in limits {
        let state = limit.state.get();
        let enters = is_exempt(limit, peer)
            || match limit.key {
                RateKey::All => state.enter(limit.max),
                RateKey::Source => state.enter_of(source_hash(peer), limit.max),
            };
        if !enters {
            return Some(limit);
        }
        entered.count += 1;
    }
    None
}

fn is_exempt(limit: &ConcurrencyLimit, peer: IpAddr) -> bool {
    limit.exempt.iter().any(|range| range.contains(&peer))
}

/// A request that is counted as one of those at once, until it ends.
pub(super) struct Entered {
    rule: RuleRef,
    peer: IpAddr,
    /// In how many of the rule's bounds it has a place.
    count: usize,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let filters = self.rule.action().filters.as_ref();
        let limits = filters.map(|filters| &*filters.concurrency).unwrap_or_default();
        for limit in limits.iter().take(self.count).filter(|limit| !is_exempt(limit, self.peer)) {
            match limit.key {
                RateKey::All => limit.state.get().leave(),
                RateKey::Source => limit.state.get().leave_of(source_hash(self.peer)),
            }
        }
    }
}
