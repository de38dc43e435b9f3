//! Requests that no endpoint answers: by a rule's own word, or because none can.

use routing::model::{GrpcCode, HttpsRedirect, Redirect};
use routing::table::{NoEndpoint, OverloadBound};
use wire::head::Persistence;

use super::reply::{self, Reply};
use super::{After, Request, filter, rewrite};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;

impl Request<'_> {
    pub(super) async fn redirect(&mut self, redirect: &Redirect) -> After {
        let own = match self.client.conn.tls() {
            None => ("http", 80),
            Some(_) => ("https", 443),
        };
        let port = self.client.conn.local_addr().map_or(own.1, |addr| addr.port());
        let mut location = std::mem::take(&mut self.worker.scratch.borrow_mut().path);
        rewrite::location(redirect, &self.view, (own.0, port), &mut location);
        let reply = Reply { location: Some(&location), ..Reply::new(redirect.status, "redirect") };
        let after = self.reply(reply).await;
        self.worker.scratch.borrow_mut().path = location;
        after
    }

    /// A filter decided.
    pub(super) async fn stopped(&mut self, stop: filter::Stop<'_>) -> After {
        match stop {
            filter::Stop::Reply(reply) => self.reply(reply).await,
            filter::Stop::ToSignIn(location) => {
                self.reply(Reply { location: Some(&location), ..Reply::new(302, "auth_signin") }).await
            }
            filter::Stop::ToHttps(HttpsRedirect { status, port }) => {
                let scheme = Some("https".into());
                let port = Some(port);
                self.redirect(&Redirect { scheme, hostname: None, path: None, port, status }).await
            }
        }
    }

    pub(super) fn no_endpoint(&self, none: NoEndpoint) -> Reply<'static> {
        self.worker.recorder.note(self.work.seen, Whom::default(), What::Shed { why: none });
        if let NoEndpoint::Overloaded { bound } = none {
            self.worker.stats.hit(match bound {
                OverloadBound::EndpointInFlight => Limit::EndpointInFlight,
                OverloadBound::BackendInFlight | OverloadBound::ClusterCapacity => Limit::BackendInFlight,
            });
        }
        if none.status() == 503 { Reply::shed(none.name()) } else { Reply::new(none.status(), none.name()) }
    }

    /// Answers by ourselves.
    pub(super) async fn reply(&mut self, mut reply: Reply<'_>) -> After {
        self.entry.status = reply.status;
        self.entry.reason = reply.reason;
        if self.work.call.is_call() && reply.status >= 400 {
            let code = reply.grpc.unwrap_or_else(|| GrpcCode::of_http(reply.status));
            reply.grpc = Some(code);
            reply.web = self.work.call.content.filter(|content| content.form().is_some());
            self.work.call.ended = Some((code, reply.reason));
        }
        let head = self.view.head;
        // A body that was not read to its end would be taken for the next request.
        let unread = self.work.upload.wants_more() || head.upgrade.is_some();
        if unread || head.persistence == Persistence::Close || self.worker.is_draining() {
            reply.persistence = Persistence::Close;
        }
        let cors = self.entry.rule.clone().filter(|rule| rule.action().filters.is_some());
        let filters = cors.as_ref().and_then(|rule| rule.action().filters.as_deref());
        let more = filters.and_then(|filters| filters.cors.as_ref());
        let mut more = more.map(|cors| filter::cors_fields(cors, &self.view)).unwrap_or_default();
        if let Some(granted) = &self.work.granted {
            more.extend(granted.of_reply(reply.status));
        }
        let sent = reply::send(self.client, &self.view, &reply, &more).await;
        drop(more);
        match sent {
            Ok(bytes) => self.work.sent += bytes,
            Err(_gone) => return After::Abort,
        }
        self.leave(reply.persistence)
    }

    /// What becomes of the client's connection once the response is out.
    pub(super) fn leave(&mut self, persistence: Persistence) -> After {
        match persistence {
            Persistence::KeepAlive => {
                After::KeepAlive { next: self.work.next_request.take(), ended: self.began }
            }
            Persistence::Close => After::Close,
        }
    }
}
