//! The access log: one JSON line for each request, put together by the worker and written by another thread.
//!
//! A worker never waits for the disk: full batches travel through a bounded channel, empty ones come back, and what
//! finds no room is dropped and counted. Every value that a peer chose is escaped (SECURITY S44).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use routing::model::GrpcCode;
use routing::retry::GiveUp;
use routing::table::{Pick, RuleRef, Table};
use routing::time::MonoTime;
use wire::h1::forwarded::IpText;
use wire::head::{RequestView, Version};

use super::layer4::Ended;
use super::stats::{Limit, WorkerStats};
use crate::downstream::h1::Client;
use crate::worker::clock;

/// What is known of a request when it ends.
#[derive(Default)]
pub struct Entry {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// The status of gRPC that the client got; `None` = it was no call, or got none.
    pub grpc: Option<GrpcCode>,
    /// The rule that matched.
    pub rule: Option<RuleRef>,
    /// The last endpoint tried.
    pub pick: Option<Pick>,
    /// Attempts made.
    pub attempts: u8,
    /// Why it went as it did; empty when nothing special happened.
    pub reason: &'static str,
    /// Why no other attempt was made.
    pub gave_up: Option<GiveUp>,
    /// Head complete to response complete.
    pub took: Duration,
    /// First request byte sent to response head received, of the last attempt.
    pub first_byte: Duration,
    /// The request id that was made here; `None` = the client's own was kept, or nothing was forwarded.
    pub request_id: Option<[u8; 32]>,
    /// Bytes sent to the client.
    pub sent: u64,
    /// Bytes of the request's body.
    pub received: u64,
}

/// What is known of a layer-4 connection or a flow when it ends.
pub struct Passed<'a> {
    /// The client, as far as it is known.
    pub source: SocketAddr,
    /// Who was at the other end.
    pub peer: SocketAddr,
    /// `tcp`, `tls`, `udp`, `quic`.
    pub protocol: &'static str,
    /// The server name that the client asked for.
    pub sni: Option<&'a [u8]>,
    /// The first protocol that the client offered.
    pub alpn: Option<&'a [u8]>,
    /// The rule that it went by.
    pub rule: Option<&'a RuleRef>,
    /// The endpoint that had it, or the last that was tried.
    pub pick: Option<Pick>,
    /// Endpoints that were tried.
    pub attempts: u8,
    /// Why it ended.
    pub ended: Ended,
    /// More of that; empty where there is no more.
    pub detail: &'static str,
    /// Bytes of the client.
    pub received: u64,
    /// Bytes of the endpoint.
    pub sent: u64,
    /// From accepted to connected, in microseconds; of a connection.
    pub connect_us: Option<u64>,
    /// When it began.
    pub began: MonoTime,
}

/// Bytes after which a batch is sent to the writing thread.
const BATCH_BYTES: usize = 16 * 1024;

/// One worker's end of the access log.
pub struct LogWriter {
    lines: Option<Lines>,
    stats: Arc<WorkerStats>,
}

struct Lines {
    batch: Vec<u8>,
    full: Sender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// Where batches go and come back from. The bounds of the two channels bound the log's memory.
pub struct LogChannel {
    /// Full batches, to the writing thread.
    pub full: Sender<Vec<u8>>,
    /// Written ones, back.
    pub empty: Receiver<Vec<u8>>,
}

impl LogWriter {
    /// Writes into `channel`; without one the log is off.
    #[must_use]
    pub fn new(channel: Option<LogChannel>, stats: Arc<WorkerStats>) -> Self {
        let lines = channel.map(|LogChannel { full, empty }| Lines {
            batch: Vec::with_capacity(2 * BATCH_BYTES),
            full,
            empty,
        });
        Self { lines, stats }
    }

    /// Is anything written at all?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Writes a request's line.
    pub fn write(&mut self, entry: &Entry, view: &RequestView<'_>, client: &Client, table: &Table) {
        let Some(lines) = &mut self.lines else { return };
        let mut line = Line::begin(&mut lines.batch, client.peer_text.as_bytes());
        line.tls(client);
        line.text("protocol", version(view.head.version));
        line.text("method", view.method_name());
        line.text("host", view.host());
        line.text("path", view.path());
        line.number("status", u64::from(entry.status));
        if let Some(code) = entry.grpc {
            line.number("grpc_status", u64::from(code.number()));
        }
        if let Some(rule) = &entry.rule {
            line.text("route", rule.action().route.as_bytes());
            line.number("rule", u64::from(rule.action().rule_index));
        }
        if let Some(pick) = &entry.pick {
            line.text("backend", table.backend_name(pick.backend).as_bytes());
            line.text("cluster", table.cluster_name(pick.cluster).as_bytes());
            line.address("endpoint", pick.addr);
            line.number("attempts", u64::from(entry.attempts));
        }
        if !entry.reason.is_empty() {
            line.text("reason", entry.reason.as_bytes());
        }
        if let Some(gave_up) = entry.gave_up {
            line.text("gave_up", gave_up.name().as_bytes());
        }
        line.number("received_bytes", entry.received);
        line.number("sent_bytes", entry.sent);
        line.number("first_byte_us", micros(entry.first_byte));
        line.number("took_us", micros(entry.took));
        // What the backend was told: ours, or else the one that came.
        let came = || view.known(wire::head::Known::XRequestId);
        if let Some(id) = entry.request_id.as_ref().map(<[u8; 32]>::as_slice).or_else(came) {
            line.text("request_id", id);
        }
        line.end();
        self.send_if(BATCH_BYTES);
    }

    /// Writes the line of bytes that were no request.
    pub fn refused(&mut self, client: &Client, status: u16, reason: &'static str) {
        let Some(lines) = &mut self.lines else { return };
        let mut line = Line::begin(&mut lines.batch, client.peer_text.as_bytes());
        line.number("status", u64::from(status));
        line.text("reason", reason.as_bytes());
        line.end();
        self.send_if(BATCH_BYTES);
    }

    /// Writes the line of a layer-4 connection or a flow that has ended.
    pub fn layer4(&mut self, passed: &Passed<'_>, table: &Table) {
        let Some(lines) = &mut self.lines else { return };
        let mut line = Line::begin(&mut lines.batch, IpText::new(passed.source.ip()).as_bytes());
        if passed.peer != passed.source {
            line.address("peer", passed.peer);
        }
        line.text("protocol", passed.protocol.as_bytes());
        for (name, value) in [("sni", passed.sni), ("alpn", passed.alpn)] {
            if let Some(value) = value {
                line.text(name, value);
            }
        }
        if let Some(rule) = passed.rule {
            line.text("route", rule.action().route.as_bytes());
        }
        if let Some(pick) = &passed.pick {
            line.text("backend", table.backend_name(pick.backend).as_bytes());
            line.text("cluster", table.cluster_name(pick.cluster).as_bytes());
            line.address("endpoint", pick.addr);
            line.number("attempts", u64::from(passed.attempts));
        }
        line.text("ended", passed.ended.name().as_bytes());
        if !passed.detail.is_empty() {
            line.text("reason", passed.detail.as_bytes());
        }
        line.number("received_bytes", passed.received);
        line.number("sent_bytes", passed.sent);
        if let Some(connect_us) = passed.connect_us {
            line.number("connect_us", connect_us);
        }
        line.number("took_us", micros(clock::now().since(passed.began)));
        line.end();
        self.send_if(BATCH_BYTES);
    }

    /// Sends what is there. Called a few times a second, so that a quiet log is fresh, too.
    pub fn flush(&mut self) {
        self.send_if(1);
    }

    fn send_if(&mut self, bytes: usize) {
        let Some(lines) = &mut self.lines else { return };
        if lines.batch.len() < bytes {
            return;
        }
        let next = lines.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut lines.batch, next);
        lines.batch.clear();
        if let Err(lost) = lines.full.try_send(batch) {
            let lost = lost.into_inner();
            self.stats.hit(Limit::AccessLogBytes);
            self.stats.log_lines_lost_total.add(memchr::memchr_iter(b'\n', &lost).count() as u64);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// As `SERVER_PROTOCOL` of RFC 3875 §4.1.16 spells it.
fn version(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
        Version::H2 => b"HTTP/2.0",
        Version::H3 => b"HTTP/3.0",
    }
}

/// One line under construction.
struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>, client: &[u8]) -> Self {
        out.extend_from_slice(b"{\"time_ms\":");
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        out.extend_from_slice(itoa::Buffer::new().format(ms).as_bytes());
        let mut line = Self { out };
        line.text("client", client);
        line
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        escape(value, self.out);
    }

    fn tls(&mut self, client: &Client) {
        if let Some(tls) = client.conn.tls() {
            self.text("tls", tls.version().as_bytes());
            self.text("cipher", tls.cipher().as_bytes());
            self.text("sni", tls.server_name.as_bytes());
        }
    }

    fn address(&mut self, name: &str, addr: std::net::SocketAddr) {
        use std::io::Write as _;
        self.name(name);
        // Writing into a vector cannot fail.
        let _ = write!(self.out, "\"{addr}\"");
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Writes `value` as a JSON string. Control bytes, quotes, and what is not UTF-8 are escaped.
fn escape(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                0x00..=0x1f | 0x7f => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_stay_inside_their_json_string() {
        for value in [&b"a\"b\\c"[..], b"\r\n{\"status\":200}", b"\x1b[31mred", b"\xff\xfe", b"\x00\x7f"] {
            let mut out = Vec::new();
            escape(value, &mut out);
            let parsed: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(parsed, String::from_utf8_lossy(value));
            assert!(!out.contains(&b'\n') && !out.contains(&0x1b));
        }
    }
}
