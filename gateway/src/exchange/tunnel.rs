//! An upgraded connection (WebSocket): after the 101, bytes both ways until both sides have ended.
//!
//! Nothing of the client is passed on before the backend has agreed (SECURITY S13). Each side may close its half.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use wire::h1::encode::{self, ResponseEdit};
use wire::head::{BodyLength, ResponseView};

use super::attempt::{End, Flow};
use super::relay::{Pump, copy_of};
use super::turn;
use crate::net::Buf;
use crate::net::conn::{Conn, Done};
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
        Self { pump, shut: false }
    }

    /// Moves what waits, asks for more, and passes the end on when everything before it is out.
    fn advance(&mut self, from: &mut Stream, to: &mut Stream) -> Option<u64> {
        let mut moved = 0;
        if !to.is_writing()
            && let Some(buf) = self.pump.hand_out()
        {
            moved = buf.len() as u64;
            to.start_write(buf);
        }
        if self.pump.wants_read() && !from.is_reading() {
            from.start_read(self.pump.read_buffer()?);
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

enum Event {
    Read(Done<usize>, From),
    Written(io::Result<()>),
    Deadline,
}

enum From {
    Upstream,
    Client,
}

/// Passes the 101 on and then everything.
pub(super) async fn run(flow: &mut Flow<'_>, up: Conn, mut buf: Buf) -> End {
    let mut up = Stream::plain(up);
    if begin(flow, &mut buf).await.is_err() {
        return End::ClientGone;
    }
    flow.work.response_begun = true;
    flow.worker.stats.tunnels_open.add(1);
    let mut down = Half::new(std::mem::take(&mut flow.work.download));
    let mut to_up = Half::new(std::mem::take(&mut flow.work.upload));
    let early = flow.work.next_request.take().is_none_or(|bytes| to_up.pump.take(bytes, |_| {}).is_ok());
    let behind = buf.is_empty() || down.pump.take(buf, |_| {}).is_ok();
    if early && behind {
        relay(flow, &mut up, &mut down, &mut to_up).await;
    }
    flow.worker.stats.tunnels_open.sub(1);
    flow.work.download = down.pump;
    flow.work.upload = to_up.pump;
    flow.work.download.reset(BodyLength::None, BodyLength::None);
    End::TunnelEnded
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

async fn relay(flow: &mut Flow<'_>, up: &mut Stream, down: &mut Half, to_up: &mut Half) {
    loop {
        let Some(sent) = down.advance(up, &mut flow.client.conn) else { return };
        flow.work.sent += sent;
        if to_up.advance(&mut flow.client.conn, up).is_none() || (down.shut && to_up.shut) {
            return;
        }
        let due = turn::deadline(clock::now(), flow.settings.tunnel_idle);
        turn::set(flow.client, due);
        let client = &mut *flow.client;
        let event = poll_fn(|cx| {
            if let Poll::Ready(done) = up.poll_read(cx) {
                return Poll::Ready(Event::Read(done, From::Upstream));
            }
            if let Poll::Ready(done) = client.conn.poll_read(cx) {
                return Poll::Ready(Event::Read(done, From::Client));
            }
            for conn in [&mut *up, &mut client.conn] {
                if let Poll::Ready((result, _)) = conn.poll_write(cx) {
                    return Poll::Ready(Event::Written(result));
                }
            }
            client.deadline.poll(cx).map(|()| Event::Deadline)
        })
        .await;
        let goes_on = match event {
            Event::Read(done, From::Upstream) => down.take(done).is_some(),
            Event::Read(done, From::Client) => to_up.take(done).is_some(),
            Event::Written(result) => result.is_ok(),
            Event::Deadline => !turn::has_passed(due) && !flow.worker.is_stopping(),
        };
        if !goes_on {
            return;
        }
    }
}
