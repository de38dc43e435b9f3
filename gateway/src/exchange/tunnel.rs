//! An upgraded connection (WebSocket): after the 101, bytes both ways until both sides have ended.
//!
//! Nothing of the client is passed on before the backend has agreed (SECURITY S13). Each side may close its half. A cluster
//! that is drained over a time loses its tunnels over that time; one that is drained at once keeps them until they end.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use rand::Rng;
use routing::time::MonoTime;
use wire::h1::encode::{self, ResponseEdit};
use wire::head::{BodyLength, ResponseView};

use super::After;
use super::attempt::{End, Flow};
use super::relay::{Pump, copy_of};
use super::turn;
use crate::downstream::h1::Client;
use crate::net::Buf;
use crate::net::conn::Done;
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::worker::clock;

/// One direction: where its bytes come from, and whether that side has ended.
struct Half {
    pump: Pump,
    shut: bool,
}

impl Half {
    fn new(mut pump: Pump) -> Self {
        pump.reset(BodyLength::UntilClose, BodyLength::UntilClose);
        pump.expect_little();
        Self { pump, shut: false }
    }

    /// Moves what waits, asks for more, and passes the end on when everything before it is out. The bytes that were moved;
    /// `None` when the bound on buffer memory is reached.
    fn advance(&mut self, from: &mut Stream, to: &mut Stream) -> Option<u64> {
        let mut moved = 0;
        if !to.is_writing()
            && let Some(buf) = self.pump.hand_out()
        {
            moved = buf.len() as u64;
            to.start_write(buf);
        }
        if self.pump.wants_read() && !from.is_reading() {
            from.start_read(self.pump.read_buffer(to.largest(), || to.send_room())?);
        }
        if self.pump.is_finished() && !self.shut && !to.is_writing() {
            self.shut = true;
            to.shutdown_write();
        }
        Some(moved)
    }

    /// Takes what was read; `None` when the connection broke.
    fn take(&mut self, (result, buf): Done<usize>) -> Option<()> {
        match result {
            Ok(0) => self.pump.source_closed().ok(),
            Ok(_) => self.pump.take(buf, |_| {}).ok().map(|_| ()),
            Err(_) => None,
        }
    }
}

/// How often a tunnel looks whether its cluster is being drained.
const LOOK: Duration = Duration::from_secs(1);

/// When a tunnel leaves a cluster that is drained little by little: each has drawn a percentage beyond which it goes, so
/// that they leave at the pace of the drain and not all at once.
struct Evacuation {
    /// 0 to 99.
    lot: u8,
    /// What was drained when it looked last.
    percent: u8,
    /// Has it seen the drain grow? One that was complete at once says nothing of tunnels.
    is_gradual: bool,
}

impl Evacuation {
    fn new(percent: u8, rng: &mut impl Rng) -> Self {
        Self { lot: rng.random_range(percent.min(99)..100), percent, is_gradual: false }
    }

    /// Must the tunnel leave now that so much is drained?
    fn is_due(&mut self, percent: u8) -> bool {
        if percent < self.percent {
            self.is_gradual = false;
        } else if percent > self.percent {
            self.is_gradual |= percent < 100;
        }
        self.percent = percent;
        self.is_gradual && percent > self.lot
    }
}

enum Event {
    Read(Done<usize>, Side),
    Written(io::Result<()>, Side),
    Deadline,
}

#[derive(Clone, Copy)]
enum Side {
    Upstream,
    Client,
}

/// Until when what is being written to each side must be taken (`timeouts.write_stall`).
#[derive(Default)]
struct Stall {
    upstream: Option<MonoTime>,
    client: Option<MonoTime>,
}

impl Stall {
    fn of(&mut self, side: Side) -> &mut Option<MonoTime> {
        match side {
            Side::Upstream => &mut self.upstream,
            Side::Client => &mut self.client,
        }
    }

    /// `side` is being written to, or is not: the time counts from when it began.
    fn note(&mut self, side: Side, writing: bool, due: impl FnOnce() -> MonoTime) {
        let stall = self.of(side);
        match (writing, &stall) {
            (false, _) => *stall = None,
            (true, None) => *stall = Some(due()),
            (true, Some(_)) => {}
        }
    }

    fn due(&self) -> Option<MonoTime> {
        turn::earlier(self.upstream, self.client)
    }
}

/// Passes the 101 on and then everything.
pub(super) async fn run(flow: &mut Flow<'_>, mut up: Stream, mut buf: Buf) -> End {
    if begin(flow, &mut buf).await.is_err() {
        return End::ClientGone;
    }
    flow.work.response_begun = true;
    flow.worker.stats.tunnels_open.add(1);
    let mut down = Half::new(std::mem::take(&mut flow.work.download));
    let mut to_up = Half::new(std::mem::take(&mut flow.work.upload));
    let early = flow.work.next_request.take().is_none_or(|bytes| to_up.pump.take(bytes, |_| {}).is_ok());
    let behind = buf.is_empty() || down.pump.take(buf, |_| {}).is_ok();
    let ended = match early && behind {
        true => relay(flow, &mut up, &mut down, &mut to_up).await,
        false => After::Close,
    };
    flow.worker.stats.tunnels_open.sub(1);
    flow.work.download = down.pump;
    flow.work.upload = to_up.pump;
    flow.work.download.reset(BodyLength::None, BodyLength::None);
    End::TunnelEnded(ended)
}

async fn begin(flow: &mut Flow<'_>, buf: &mut Buf) -> io::Result<()> {
    let out = {
        let mut scratch = flow.worker.scratch.borrow_mut();
        let (limits, method) = (&flow.settings.head, flow.view.head.method);
        let (head, head_out, _) = scratch.fields(&flow.work.answer, buf.bytes(), limits, method);
        let upgrade = head.upgrade.map(|span| span.of(buf.bytes()));
        let edit = ResponseEdit::<&str> { upgrade, ..ResponseEdit::default() };
        encode::response(head_out, &ResponseView { head, bytes: buf.bytes() }, &edit);
        copy_of(head_out).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?
    };
    buf.consume(flow.work.answer.head_len);
    flow.client.flush().await?;
    turn::send(flow, out);
    Ok(())
}

/// What is to become of the client's side: one whose backend broke off must not look as if it had ended.
async fn relay(flow: &mut Flow<'_>, up: &mut Stream, down: &mut Half, to_up: &mut Half) -> After {
    let cluster = flow.held.pick.cluster;
    let drained = flow.worker.table.borrow().drain_percent(cluster);
    let mut evacuation = Evacuation::new(drained, &mut *flow.worker.rng.borrow_mut());
    let mut look = clock::now() + LOOK;
    let mut idle = turn::deadline(clock::now(), flow.settings.tunnel_idle);
    let mut stall = Stall::default();
    loop {
        let advanced = down.advance(up, &mut flow.client.conn);
        let (Some(sent), Some(_)) = (advanced, to_up.advance(&mut flow.client.conn, up)) else {
            flow.worker.stats.hit(Limit::BuffersBytes);
            return After::Close;
        };
        flow.work.sent += sent;
        if down.shut && to_up.shut {
            return After::Close;
        }
        let taken_by = || clock::now() + flow.settings.write_stall;
        stall.note(Side::Upstream, up.is_writing(), taken_by);
        stall.note(Side::Client, flow.client.conn.is_writing(), taken_by);
        turn::set(flow.client, turn::earlier(turn::earlier(idle, stall.due()), Some(look)));
        let event = next(flow.client, up).await;
        // A byte moved. A look at the cluster is none.
        if !matches!(event, Event::Deadline) {
            idle = turn::deadline(clock::now(), flow.settings.tunnel_idle);
        }
        let goes_on = match event {
            Event::Read((Err(_), _), Side::Upstream) => return After::Abort,
            Event::Read(done, Side::Upstream) => down.take(done).is_some(),
            Event::Read(done, Side::Client) => to_up.take(done).is_some(),
            Event::Written(result, side) => {
                *stall.of(side) = None;
                result.is_ok()
            }
            Event::Deadline if turn::has_passed(stall.due()) => {
                flow.worker.stats.hit(Limit::WriteStall);
                false
            }
            Event::Deadline => !turn::has_passed(idle) && !flow.worker.is_stopping(),
        };
        if !goes_on {
            return After::Close;
        }
        if turn::has_passed(Some(look)) {
            look = clock::now() + LOOK;
            if evacuation.is_due(flow.worker.table.borrow().drain_percent(cluster)) {
                flow.worker.stats.tunnels_evacuated_total.inc();
                return After::Close;
            }
        }
    }
}

/// What happens first on either side.
async fn next(client: &mut Client, up: &mut Stream) -> Event {
    poll_fn(|cx| {
        if let Poll::Ready(done) = up.poll_read(cx) {
            return Poll::Ready(Event::Read(done, Side::Upstream));
        }
        if let Poll::Ready(done) = client.conn.poll_read(cx) {
            return Poll::Ready(Event::Read(done, Side::Client));
        }
        for (conn, side) in [(&mut *up, Side::Upstream), (&mut client.conn, Side::Client)] {
            if let Poll::Ready((result, _)) = conn.poll_write(cx) {
                return Poll::Ready(Event::Written(result, side));
            }
        }
        client.deadline.poll(cx).map(|()| Event::Deadline)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn tunnels(percent: u8) -> Vec<Evacuation> {
        let mut rng = SmallRng::seed_from_u64(7);
        (0..1_000).map(|_| Evacuation::new(percent, &mut rng)).collect()
    }

    #[test]
    fn tunnels_leave_at_the_pace_of_the_drain() {
        let mut open = tunnels(0);
        for percent in (10..=100).step_by(10) {
            open.retain_mut(|tunnel| !tunnel.is_due(percent));
            let expected = 1_000 - usize::from(percent) * 10;
            assert!(open.len().abs_diff(expected) < 50, "{} of {expected} at {percent} %", open.len());
        }
        assert!(open.is_empty());
    }

    #[test]
    fn a_drain_at_once_and_one_that_is_taken_back_cut_nobody() {
        let mut open = tunnels(0);
        for percent in [0, 100, 100, 60, 20, 0] {
            assert!(open.iter_mut().all(|tunnel| !tunnel.is_due(percent)), "{percent}");
        }
        // Where else nothing serves, new ones begin in a drained cluster, and stay.
        assert!(tunnels(100).iter_mut().all(|tunnel| !tunnel.is_due(100)));
    }
}
