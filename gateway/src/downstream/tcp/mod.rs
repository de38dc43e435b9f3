//! A layer-4 connection of a client, from accept to close: bytes of any kind, TLS that is passed on as it is, or TLS that
//! ends here and whose content is passed on.
//!
//! In order: the door (access lists, bounds), what must come first (PROXY header, ClientHello or handshake), a rule, an endpoint, the
//! relay. The source is the client's address as far as it is trusted: the peer's own, or what a peer that may speak for
//! its clients says. Nothing of an application is understood here, so nothing is ever answered: a connection that cannot
//! be served is reset, and its reason is counted and logged.
//!
//! ```text
//! spawn --door--> prelude --route--> race --connected--> relay --> finish
//!                                      ^                  |
//!                                      +--- its endpoint answers nothing, and has got nothing
//! ```

mod delivered;
mod door;
mod owed;
mod prelude;
mod race;
mod relay;

use std::net::SocketAddr;
use std::rc::Rc;

use routing::id::BindId;
use routing::model::{Layer4, SendProxy, Target};
use routing::subject::{Subject, SubjectKind};
use routing::table::{Pick, RuleRef};
use routing::time::MonoTime;
use wire::proxy_protocol::{self, Version, tlv};

use self::delivered::Delivered;
pub use self::door::{Admitted, Door};
pub use self::owed::Usual;
use self::prelude::Prelude;
use self::relay::Relay;
use crate::downstream::h1::Counted;
use crate::net::conn::Conn;
use crate::net::{Buf, Class, acquire};
use crate::observe::access_log::Passed;
use crate::observe::layer4::Ended;
use crate::tls::accept::{self, Incoming};
use crate::tls::{self, Offer, Stream};
use crate::worker::established::Established;
use crate::worker::{Deadline, Worker, clock, supervise};

/// What is asked of a connection before it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: any bytes.
    Any,
    /// A TLS ClientHello, whose server name chooses the rule.
    Tls,
    /// A TLS handshake, whose server name chooses certificate and rule.
    Secured,
}

/// Everything about one connection.
pub struct Session {
    /// Who accepted it.
    pub(super) worker: Rc<Worker>,
    /// Where.
    pub(super) bind: BindId,
    /// What its listener asks of it.
    pub content: Content,
    /// The client's side.
    pub(super) down: Stream,
    /// Its deadline on the worker's wheel.
    pub(super) deadline: Deadline,
    /// Who is at the other end of the connection.
    pub peer: SocketAddr,
    /// Who is said to be behind it, by a peer that may say so; otherwise the peer.
    pub source: SocketAddr,
    /// When it was accepted.
    pub began: MonoTime,
    /// The server name that its client asks for.
    pub sni: Option<Box<[u8]>>,
    /// The first protocol that its client offers.
    pub alpn: Option<Box<[u8]>>,
    /// The rule that it goes by.
    pub rule: Option<RuleRef>,
    /// The endpoint that has it, or the last that was tried.
    pub pick: Option<Pick>,
    /// Endpoints that were tried.
    pub attempts: u8,
    /// From accepted to connected.
    pub connect_us: u64,
    /// Bytes of the client that the endpoint was sent.
    pub received: u64,
    /// Bytes of the endpoint that the client was sent.
    pub sent: u64,
    admitted: [Option<Admitted>; 2],
    _counted: Counted,
}

/// Why a connection never came to be relayed.
pub(super) struct Failure {
    ended: Ended,
    detail: &'static str,
}

impl Failure {
    pub(super) fn of(ended: Ended, detail: &'static str) -> Self {
        Self { ended, detail }
    }

    fn ended(self) -> Ended {
        self.ended
    }
}

/// Serves a connection in a task of its own.
pub fn spawn(worker: &Rc<Worker>, conn: Conn, bind: BindId, content: Content) {
    let Some(counted) = Counted::enter(worker, conn.peer().ip()) else { return conn.reset() };
    let stats = &worker.stats.layer4;
    stats.connections_total.inc();
    stats.connections_open.add(1);
    let session = Box::new(Session {
        worker: Rc::clone(worker),
        bind,
        content,
        deadline: worker.deadline(),
        peer: conn.peer(),
        source: conn.peer(),
        down: Stream::plain(conn),
        began: clock::now(),
        sni: None,
        alpn: None,
        rule: None,
        pick: None,
        attempts: 0,
        connect_us: 0,
        received: 0,
        sent: 0,
        admitted: [None, None],
        _counted: counted,
    });
    supervise::spawn_guarded(worker, serve(session));
}

async fn serve(session: Box<Session>) {
    // Boxed and gone before the relay begins: what is awaited only at first must not be part of what idles.
    let begun = Box::pin(begin(session)).await;
    if let Some(relay) = begun {
        let (session, ended) = relay.run().await;
        session.finish(ended, "");
    }
}

/// Brings a connection to where it is relayed; `None` = it has ended before.
async fn begin(mut session: Box<Session>) -> Option<Box<Relay>> {
    let failure = match session.open().await {
        Ok(opened) => return Some(Relay::new(session, opened)),
        Err(failure) => failure,
    };
    // A client that is told by an alert why its handshake failed must be able to read it.
    if failure.ended != Ended::Handshake {
        session.down.reset();
    }
    session.finish(failure.ended, failure.detail);
    None
}

/// What the relay starts with.
struct Opened {
    up: Stream,
    held: crate::exchange::Held,
    first: Option<Buf>,
    established: Option<Established>,
    delivered: Delivered,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.worker.stats.layer4.connections_open.sub(1);
    }
}

impl Session {
    async fn open(&mut self) -> Result<Opened, Failure> {
        let denied = |ended| Failure::of(ended, "");
        let worker = Rc::clone(&self.worker);
        let is_spoken_for = self.rules(|rules| {
            let Some(rules) = rules else { return Ok((None, false)) };
            let admitted = Door::enter_listener(&worker, self.bind, rules).map_err(denied)?;
            if rules.proxy_from.is_empty() {
                return Ok((admitted, false));
            }
            let peer = self.peer.ip();
            match rules.proxy_from.iter().any(|range| range.contains(&peer)) {
                true => Ok((admitted, true)),
                false => Err(Failure::of(Ended::Denied, "proxy_untrusted")),
            }
        });
        let (admitted, is_spoken_for) = is_spoken_for?;
        self.admitted[0] = admitted;
        let mut prelude = Prelude::new(self);
        if is_spoken_for {
            prelude.proxy_header(self).await?;
        }
        self.admitted[1] = self.rules(|rules| match rules {
            None => Ok(None),
            Some(rules) => {
                Door::enter_source(&worker, self.bind, rules, self.source.ip(), clock::now()).map_err(denied)
            }
        })?;
        match self.content {
            Content::Any => {}
            Content::Tls => prelude.client_hello(self).await?,
            Content::Secured => Box::pin(self.secure(prelude.take())).await?,
        }
        let rule = self.route()?;
        self.rule = Some(rule.clone());
        let opened = self.connect(&rule, None, prelude.rest()).await?;
        let connect = clock::now().since(self.began);
        self.connect_us = u64::try_from(connect.as_micros()).unwrap_or(u64::MAX);
        worker.stats.layer4.connect.record(connect);
        Ok(opened)
    }

    /// Connects to an endpoint, another one than `from`, which is to be sent `first` before anything else.
    async fn connect(
        &mut self,
        rule: &RuleRef,
        from: Option<Pick>,
        first: Option<Buf>,
    ) -> Result<Opened, Failure> {
        let (up, held) = Box::pin(race::run(self, rule, from)).await?;
        let worker = &self.worker;
        let established = match rule.policy().established {
            routing::model::Established::Reset => Some(Established::new(worker, &held.pick, &self.deadline)),
            routing::model::Established::Keep => None,
        };
        let mut delivered = Delivered::Nothing;
        if let Some(first) = &first {
            delivered.add(worker, first.bytes(), &rule.policy().retry);
        }
        let mut opened = Opened { up: Stream::plain(up), held, first, established, delivered };
        self.introduce(&mut opened)?;
        Ok(opened)
    }

    /// Ends TLS here: from now on the client's side is what is inside. `first` was read behind a PROXY header.
    async fn secure(&mut self, first: Option<Buf>) -> Result<(), Failure> {
        let Self { worker, down, bind, deadline, .. } = self;
        let incoming = Incoming { conn: down, bind: *bind, deadline, first, offer: Offer::Nothing };
        let ended = accept::secure(worker, incoming).await;
        if !ended.is_established() {
            return Err(Failure::of(Ended::Handshake, tls::Ended::ALL[ended as usize].1));
        }
        let name = self.down.tls().map(|facts| facts.server_name.as_bytes()).filter(|name| !name.is_empty());
        self.sni = name.map(Box::from);
        Ok(())
    }

    /// What the listener asks of connections. Looked up, not kept: it may change while a connection waits.
    fn rules<T>(&self, ask: impl FnOnce(Option<&Layer4>) -> T) -> T {
        let table = self.worker.table.borrow();
        ask(table.layer4(self.bind).map(|rules| &**rules))
    }

    fn subject(&self) -> Subject<'_> {
        let kind = match self.content {
            Content::Any => SubjectKind::Tcp,
            Content::Tls | Content::Secured => {
                SubjectKind::Tls { sni: self.sni.as_deref(), alpn: self.alpn.as_deref().unwrap_or_default() }
            }
        };
        Subject { bind: self.bind, peer: self.source, kind }
    }

    fn route(&self) -> Result<RuleRef, Failure> {
        let routed = self.worker.table.borrow().route(&self.subject());
        let rule = routed.map_err(|_no_route| {
            self.worker.stats.unmatched_total.inc();
            Failure::of(Ended::NoRoute, "")
        })?;
        match &rule.action().target {
            Target::Forward(_) => Ok(rule),
            Target::Redirect(_) | Target::Fixed(_) | Target::Reply { .. } => {
                Err(Failure::of(Ended::NoEndpoint, "rule"))
            }
        }
    }

    /// Puts a PROXY header in front of the client's bytes, where the endpoint is to get one.
    fn introduce(&self, opened: &mut Opened) -> Result<(), Failure> {
        let version = match self.rules(|rules| rules.map(|rules| rules.send_proxy).unwrap_or_default()) {
            SendProxy::Disabled => return Ok(()),
            SendProxy::V1 => Version::V1,
            SendProxy::V2 => Version::V2,
        };
        let known = [(tlv::AUTHORITY, self.sni.as_deref()), (tlv::ALPN, self.alpn.as_deref())];
        let tlvs: Vec<(u8, &[u8])> =
            known.into_iter().filter_map(|(kind, value)| Some((kind, value?))).collect();
        // The address that the client connected to, as far as we know it.
        let destination = self.down.local_addr().unwrap_or(self.peer);
        let mut header = Vec::new();
        proxy_protocol::encode(&mut header, version, self.source, destination, &tlvs);
        let first = opened.first.take();
        let len = header.len() + first.as_ref().map_or(0, Buf::len);
        let class = if len < Class::Head.bytes() { Class::Head } else { Class::Bulk };
        let mut buf = acquire(class, 0).ok_or(Failure::of(Ended::Buffers, ""))?;
        buf.append(&header);
        if let Some(first) = &first {
            buf.append(first.bytes());
        }
        opened.first = Some(buf);
        Ok(())
    }

    /// Counts and logs.
    fn finish(&self, ended: Ended, detail: &'static str) {
        let stats = &self.worker.stats.layer4;
        stats.end(ended);
        let mut log = self.worker.log.borrow_mut();
        if log.is_on() {
            let protocol = match self.content {
                Content::Any => "tcp",
                Content::Tls | Content::Secured => "tls",
            };
            let passed = Passed {
                source: self.source,
                peer: self.peer,
                protocol,
                sni: self.sni.as_deref(),
                alpn: self.alpn.as_deref(),
                rule: self.rule.as_ref(),
                pick: self.pick,
                attempts: self.attempts,
                ended,
                detail,
                received: self.received,
                sent: self.sent,
                connect_us: Some(self.connect_us),
                began: self.began,
            };
            log.layer4(&passed, &self.worker.table.borrow());
        }
    }
}
