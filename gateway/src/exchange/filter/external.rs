//! External authentication (`auth-url`): a question without a body goes to another service for each request, and what it
//! says decides. 2xx: the request goes on, with the fields of the answer that the rule names. 401 and 403: the client gets
//! them, or is sent to sign in. Anything else, or nothing in time: 500, as ingress-nginx answers; never open.
//!
//! The question goes over the worker's own connections to endpoints of the table, like any attempt; no name is looked up.
//! A host instead of a Service is served by the rule that serves it here: one that asks for more than an address
//! (certificate, password, another question) is not asked, so that no rule is a way around another's.

use std::sync::Arc;

use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::BackendId;
use routing::model::{Authoriser, ExternalAuth, Filters, Target, UrlPart, WeightedBackend};
use routing::retry::{Charge, Decision};
use routing::subject::{Subject, SubjectKind};
use routing::table::RuleRef;
use smallvec::SmallVec;
use wire::h1::decode::{self, Decoded};
use wire::h1::encode::{self, QueryEdit, RequestEdit};
use wire::h1::forwarded::{ForwardedFields, PeerTrust};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, RequestHead, RequestView};

use super::{Stop, admits, came_by_tls, fixed, takes};
use crate::exchange::account::{Asked, Held};
use crate::exchange::attempt::{Blame, Failed, edits};
use crate::exchange::forward::Forwarding;
use crate::exchange::relay::copy_of;
use crate::exchange::reply::Reply;
use crate::exchange::rescue::{Flight, Ready, fly};
use crate::exchange::respond::{Keeping, is_whole};
use crate::exchange::turn::{deadline, earlier};
use crate::exchange::{Request, grpc, rewrite};
use crate::observe::stats::Limit;
use crate::worker::{Worker, clock};

/// What the answer to a question leaves for the request and its response.
pub(in crate::exchange) struct Granted {
    auth: Arc<ExternalAuth>,
    /// Fields that the request goes on with.
    fields: Vec<(Arc<str>, Box<[u8]>)>,
    cookies: Vec<Box<[u8]>>,
    /// Challenges of a 401.
    challenges: Vec<Box<[u8]>>,
}

/// How a question ended: the places of `WorkerStats::auth_requests_total`.
enum Said {
    Yes = 0,
    No = 1,
    Nothing = 2,
}

impl Granted {
    /// What the backend is told.
    pub(in crate::exchange) fn of_request(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The answer's cookies, for a response of this status: nginx adds fields to these only, unless it is told `always`.
    pub(in crate::exchange) fn cookies(&self, status: u16) -> impl Iterator<Item = (&str, &[u8])> {
        let usual = matches!(status, 200 | 201 | 204 | 206 | 301..=304 | 307 | 308);
        let sent = usual || self.auth.always_sets_cookie;
        self.cookies.iter().filter(move |_| sent).map(|value| ("Set-Cookie", &**value))
    }

    /// The same for an answer of our own, with the challenges of a refusal.
    pub(in crate::exchange) fn of_reply(&self, status: u16) -> impl Iterator<Item = (&str, &[u8])> {
        let challenges = self.challenges.iter().filter(move |_| status == 401);
        self.cookies(status).chain(challenges.map(|value| ("WWW-Authenticate", &**value)))
    }
}

/// Asks. `None` = the request may go on.
pub(in crate::exchange) async fn ask<'r>(
    request: &mut Request<'_>,
    rule: &RuleRef,
    auth: &'r Arc<ExternalAuth>,
) -> Option<Stop<'r>> {
    if auth.asked == Authoriser::Unusable {
        return Some(Stop::Reply(Reply::new(503, "auth_service_unusable")));
    }
    let Some(_place) = Place::take(request) else {
        return Some(Stop::Reply(Reply::shed("auth_requests_max")));
    };
    let answered = match Question::new(request, rule, auth) {
        Ok(question) => question.ask(request, rule).await,
        Err(reason) => Err(reason),
    };
    request.work.seen = clock::now();
    let (said, stop) = match answered {
        Err(grpc::EXPIRED) => (Said::Nothing, Some(Stop::Reply(grpc::expired()))),
        Err(reason) => (Said::Nothing, Some(Stop::Reply(Reply::new(500, reason)))),
        Ok(status) => judged(request, auth, status),
    };
    if matches!(said, Said::No) {
        request.worker.stats.hit(Limit::External);
    }
    request.worker.stats.auth_requests_total[said as usize].inc();
    stop
}

/// What becomes of the request after an answer with this status.
fn judged<'r>(request: &Request<'_>, auth: &'r ExternalAuth, status: u16) -> (Said, Option<Stop<'r>>) {
    match (status, &auth.signin) {
        (200..=299, _) => (Said::Yes, None),
        (401, Some(page)) => {
            let tls = came_by_tls(request.client, &request.view);
            (Said::No, Some(Stop::ToSignIn(rendered(page, &request.view, tls))))
        }
        (401 | 403, _) => (Said::No, Some(Stop::Reply(Reply::new(status, "not_authorised")))),
        (_, _) => (Said::Nothing, Some(Stop::Reply(Reply::new(500, "auth_failed")))),
    }
}

/// One of the questions that a worker may have in flight (`limits.auth_requests_max`).
struct Place(std::rc::Rc<Worker>);

impl Place {
    fn take(request: &Request<'_>) -> Option<Self> {
        let asked = &request.worker.auth_requests;
        if asked.get() >= request.settings.auth_requests_max {
            request.worker.stats.hit(Limit::AuthRequests);
            return None;
        }
        asked.set(asked.get() + 1);
        Some(Self(std::rc::Rc::clone(request.worker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.auth_requests.set(self.0.auth_requests.get() - 1);
    }
}

/// A question that is ready to be sent to one of its endpoints.
struct Question<'a> {
    auth: &'a Arc<ExternalAuth>,
    bytes: Vec<u8>,
    head: RequestHead,
    /// The rule that serves the host that is asked; `None` = the Service of the rule that asks.
    by: Option<RuleRef>,
}

impl<'a> Question<'a> {
    /// Puts it together: the request's own fields, a target and a method of the rule's, no body.
    fn new(request: &Request<'_>, rule: &RuleRef, auth: &'a Arc<ExternalAuth>) -> Result<Self, &'static str> {
        let (view, client, settings) = (&request.view, &*request.client, request.settings);
        let tls = came_by_tls(client, view);
        let target = rendered(&auth.target, view, tls);
        let (path, query) = match memchr::memchr(b'?', &target) {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (&*target, None),
        };
        let host = match &auth.asked {
            Authoriser::Service { host, .. } | Authoriser::Host(Some(host)) => host.as_bytes(),
            Authoriser::Host(None) => view.authority(),
            Authoriser::Unusable => return Err("auth_service_unusable"),
        };
        let scheme: &[u8] = if tls { b"https" } else { b"http" };
        let original = [scheme, b"://", view.authority(), target_of(view)].concat();
        let redirect = rendered(&auth.redirect, view, tls);
        let own = [
            ("X-Original-URL", &*original),
            ("X-Original-Method", view.method_name()),
            ("X-Auth-Request-Redirect", &*redirect),
            ("X-Sent-From", b"ringway".as_slice()),
        ];
        // What the gateway says itself nothing else says.
        let is_own = |name: &str| own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let more = auth.fields.iter().filter(|(name, _)| !is_own(name));
        let more: Vec<_> = more.map(|(name, value)| (&**name, rendered(value, view, tls))).collect();
        let all = own.into_iter().chain(more.iter().map(|(name, value)| (*name, &**value)));
        let own: SmallVec<[(&str, &[u8]); 8]> = all.collect();
        let forwarding = Forwarding::new(request.worker, settings, client, view, &request.work.request_id);
        let edit: RequestEdit<'_, Arc<str>> = RequestEdit {
            authority: Some(host),
            path: Some(path),
            query: query.map_or(QueryEdit::Remove, QueryEdit::Set),
            body: BodyLength::None,
            forwarded: forwarding.fields(settings, client, view),
            own: &own,
            ..RequestEdit::default()
        };
        let mut bytes = auth.method.name().to_vec();
        let mut written = Vec::with_capacity(512);
        encode::request(&mut written, view, &edit);
        bytes.extend_from_slice(&written[view.method_name().len()..]);
        let mut head = RequestHead::default();
        // What a client may send was judged before; this repeats its URL, and has fields of ours.
        match decode::request(&bytes, &HeadLimits::of_own_heads(), &mut head) {
            Ok(Decoded::Complete) => {}
            Ok(Decoded::Partial) | Err(_) => return Err("auth_request_malformed"),
        }
        let mut question = Self { auth, bytes, head, by: None };
        if matches!(auth.asked, Authoriser::Host(_)) {
            question.by = Some(question.route(request, rule)?);
        }
        Ok(question)
    }

    fn view(&self) -> RequestView<'_> {
        RequestView { head: &self.head, bytes: &self.bytes }
    }

    /// The rule that serves the host that is asked.
    fn route(&self, request: &Request<'_>, asking: &RuleRef) -> Result<RuleRef, &'static str> {
        let routed = request.worker.table.borrow().route(&self.subject(request));
        let rule = routed.map_err(|_no_route| "auth_no_route")?;
        let filters = rule.action().filters.as_deref();
        let peer = request.subject().peer.ip().to_canonical();
        let is_guarded = |filters: &Filters| {
            filters.client.is_some()
                || filters.basic.is_some()
                || filters.external.is_some()
                || !filters.concurrency.is_empty()
        };
        if filters.is_some_and(is_guarded) || std::ptr::eq(rule.action(), asking.action()) {
            return Err("auth_rule_guarded");
        }
        let refuses = |filters: &Filters| {
            filters.access.as_ref().is_some_and(|access| !admits(access, peer))
                || filters.rates.iter().any(|limit| !takes(limit, peer, request.began))
        };
        if filters.is_some_and(refuses) {
            return Err("auth_rule_refuses");
        }
        Ok(rule)
    }

    fn subject<'s>(&'s self, request: &Request<'_>) -> Subject<'s> {
        let Subject { bind, peer, .. } = request.subject();
        Subject { bind, peer, kind: SubjectKind::Http(self.view()) }
    }

    /// The status of the answer; its fields are put aside for the request.
    async fn ask(self, request: &mut Request<'_>, asking: &RuleRef) -> Result<u16, &'static str> {
        let rule = self.by.as_ref().unwrap_or(asking);
        let backends: &[WeightedBackend] = match (&self.auth.asked, &rule.action().target) {
            (Authoriser::Service { backends, .. }, _) => backends,
            (_, Target::Forward(backends)) => backends,
            (_, Target::Fixed(answer)) if self.by.is_some() => return Ok(fixed(answer, "rule").status),
            (_, Target::Redirect(_) | Target::Reply { .. } | Target::Fixed(_)) => {
                return Err("auth_no_endpoint");
            }
        };
        let policy = rule.policy();
        let due = earlier(
            Some(clock::now() + request.settings.auth_request),
            deadline(request.began, asking.policy().timeouts.request),
        );
        let due = earlier(due, request.work.call.due);
        let (mut tried, mut attempt) = (Tried::new(), 1);
        loop {
            let now = clock::now();
            let picked = {
                let (table, mut rng) = (request.worker.table.borrow(), request.worker.rng.borrow_mut());
                table.pick_among(backends, rule, &self.subject(request), &tried, now, &mut rng)
            };
            let pick = picked.map_err(|_none| "auth_no_endpoint")?;
            if attempt == 1 {
                request.worker.table.borrow().on_request(pick.backend, &policy.retry, now);
            }
            let mut held =
                Held::new(request.worker, pick, now, Asked::InFull, policy.outlier, &request.client.deadline);
            // The client's deadline is not the question's: it must not wake the exchange.
            held.waits_no_more();
            request.worker.heed();
            let flight = Flight {
                worker: std::rc::Rc::clone(request.worker),
                held,
                request: vec![copy_of(&self.head_for(rule)).map_err(|_| "buffers_bytes_max")?],
                limits: request.settings.head,
                method: self.auth.method,
                is_call: false,
                pending_max: request.settings.pending_connects_max,
                connect: policy.timeouts.connect,
                due,
            };
            let mut landed = fly(flight).await;
            let now = clock::now();
            let failed = match landed.result {
                Ok(ready) => {
                    let status = ready.answer.status;
                    landed.held.answered(status, Outcome::of_status(status, &policy.retry), now);
                    self.take(request, rule, ready, &landed.held);
                    return Ok(status);
                }
                Err(failed) => failed,
            };
            landed.held.failed(&failed, now);
            if due.is_some_and(|due| now >= due) {
                if request.work.call.has_expired() {
                    return Err(grpc::EXPIRED);
                }
                request.worker.stats.hit(Limit::AuthRequestTimeout);
                return Err("auth_request_timeout");
            }
            self.again(request, rule, (pick.backend, attempt), &failed)?;
            if failed.blame != Blame::Nobody {
                tried.note(&pick);
            }
            attempt += 1;
        }
    }

    /// May it be asked again elsewhere? Within the budget of retries, like any request.
    fn again(
        &self,
        request: &Request<'_>,
        rule: &RuleRef,
        (backend, attempt): (BackendId, u8),
        failed: &Failed,
    ) -> Result<(), &'static str> {
        let (policy, method) = (&rule.policy().retry, self.auth.method);
        let table = request.worker.table.borrow();
        match table.retry(backend, attempt, policy, &failed.failure, method, clock::now()) {
            Decision::Again { charge: Charge::Budget } => request.worker.stats.retries_total.inc(),
            Decision::Again { charge: Charge::Free } => request.worker.stats.moves_total.inc(),
            Decision::GiveUp { .. } => return Err("auth_unreachable"),
        }
        Ok(())
    }

    /// The question as the rule that is asked changes requests; a Service gets it as it is.
    fn head_for(&self, rule: &RuleRef) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        let (mut path, action) = (Vec::new(), rule.action());
        let by_rule = self.by.is_some();
        let forwarded = ForwardedFields { trust: PeerTrust::Trusted, ..ForwardedFields::default() };
        let mut edit: RequestEdit<'_, Arc<str>> = RequestEdit { forwarded, ..RequestEdit::default() };
        if by_rule {
            edit.authority = action.rewrite.hostname.as_ref().map(|host| host.as_bytes());
            edit.path = rewrite::path(&action.rewrite, self.view().path(), &mut path);
            edit.headers[0] = edits(&action.request_headers);
        }
        encode::request(&mut out, &self.view(), &edit);
        out
    }

    /// Takes what the rule wants of the answer, and keeps the connection where all of the answer is there.
    fn take(&self, request: &mut Request<'_>, rule: &RuleRef, ready: Ready, held: &Held) {
        let Ready { up, buf, answer, .. } = ready;
        let mut granted = Granted {
            auth: Arc::clone(self.auth),
            fields: Vec::new(),
            cookies: Vec::new(),
            challenges: Vec::new(),
        };
        {
            let mut scratch = request.worker.scratch.borrow_mut();
            let limits = &request.settings.head;
            let (head, _, _) = scratch.fields(&answer, buf.bytes(), limits, self.auth.method);
            for field in head.headers.iter().filter(|field| !field.hop_by_hop) {
                let (name, value) = (field.name.of(buf.bytes()), field.value.of(buf.bytes()));
                if name.eq_ignore_ascii_case(b"set-cookie") {
                    granted.cookies.push(value.into());
                } else if name.eq_ignore_ascii_case(b"www-authenticate") {
                    granted.challenges.push(value.into());
                }
                let wanted =
                    self.auth.passes.iter().find(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()));
                granted.fields.extend(wanted.map(|name| (Arc::clone(name), value.into())));
            }
        }
        request.work.granted = Some(Box::new(granted));
        if !up.write_failed && is_whole(&mut request.work.download, &answer, buf) {
            let keeping = Keeping {
                worker: request.worker,
                requests_max: rule.policy().connections.requests_max,
                idle_max: request.settings.pool_idle_max,
            };
            keeping.keep(held.pick.endpoint, up.conn, clock::now());
        }
    }
}

/// Path and query as sent.
pub(super) fn target_of<'v>(view: &RequestView<'v>) -> &'v [u8] {
    let path = view.head.path_span.of(view.bytes);
    let Some(query) = view.query() else { return path };
    // They stand one behind the other, with `?` between them.
    let start = path.as_ptr() as usize - view.bytes.as_ptr() as usize;
    &view.bytes[start..start + path.len() + 1 + query.len()]
}

/// A URL with the request's facts in it. They are what was decoded: no control characters, no spaces.
pub(super) fn rendered(parts: &[UrlPart], view: &RequestView<'_>, tls: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    parts.iter().for_each(|part| render(part, view, tls, &mut out));
    out
}

/// Writes one part.
pub(super) fn render(part: &UrlPart, view: &RequestView<'_>, tls: bool, out: &mut Vec<u8>) {
    match part {
        UrlPart::Text(text) => out.extend_from_slice(text.as_bytes()),
        UrlPart::Scheme => out.extend_from_slice(if tls { b"https" } else { b"http" }),
        UrlPart::Host => out.extend_from_slice(view.host()),
        UrlPart::Authority => out.extend_from_slice(view.authority()),
        UrlPart::Target => out.extend_from_slice(target_of(view)),
        UrlPart::EscapedTarget => escape(target_of(view), out),
        UrlPart::Path => out.extend_from_slice(view.path()),
        UrlPart::Query => out.extend_from_slice(view.query().unwrap_or_default()),
        UrlPart::Method => out.extend_from_slice(view.method_name()),
    }
}

/// Everything but unreserved characters as `%XX` (RFC 3986 §2.1).
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_holds_no_character_that_means_something_in_a_query() {
        let mut out = Vec::new();
        escape(b"/a b?c=d&e=%20~-._", &mut out);
        assert_eq!(out, b"%2Fa%20b%3Fc%3Dd%26e%3D%2520~-._");
    }
}
