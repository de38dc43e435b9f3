//! The bytes of a backend's answers.

use std::time::{Duration, Instant};

use crate::behaviour::{Behaviour, Bulk};

/// Whether the connection is closed after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Yes,
    No,
}

/// One answer that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// When its next piece is sent.
    pub(crate) due: Instant,
    pub(crate) last: Last,
    pub(crate) status: u16,
    /// The body that it has, and how many of its pieces are sent.
    bulk: Option<(Bulk, Framing)>,
    sent: u32,
}

/// How the end of a large body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
}

impl Answer {
    /// An answer of the service to the request with that number.
    pub(crate) fn service(behaviour: &Behaviour, number: Option<u64>, due: Instant, last: Last) -> Self {
        let framing =
            if number.is_some_and(|number| number % 2 == 1) { Framing::Chunked } else { Framing::Length };
        let bulk = behaviour.body.map(|bulk| (bulk, framing));
        Self { due, last, status: behaviour.status, bulk, sent: 0 }
    }

    /// An answer of the health path.
    pub(crate) fn health(status: u16, due: Instant, last: Last) -> Self {
        Self { due, last, status, bulk: None, sent: 0 }
    }

    /// Appends the next piece to `out`; whether more follow, and then after how long.
    pub(crate) fn next_piece(&mut self, name: &Name, out: &mut Vec<u8>) -> Option<Duration> {
        let close = if self.last == Last::Yes { "Connection: close\r\n" } else { "" };
        let Some((bulk, framing)) = self.bulk else {
            let length = name.body.len();
            let head = name.head(self.status, &format!("Content-Length: {length}\r\n{close}"));
            out.extend([head.as_bytes(), name.body.as_bytes()].concat());
            return None;
        };
        let pieces = bulk.pieces.max(1);
        if self.sent == 0 {
            let framed = match framing {
                Framing::Length => format!("Content-Length: {}\r\n{close}", bulk.bytes),
                Framing::Chunked => format!("Transfer-Encoding: chunked\r\n{close}"),
            };
            out.extend_from_slice(name.head(self.status, &framed).as_bytes());
        }
        let up_to = |piece: u32| bulk.bytes / pieces as usize * piece as usize;
        self.sent += 1;
        let end = if self.sent == pieces { bulk.bytes } else { up_to(self.sent) };
        let length = end - up_to(self.sent - 1);
        if framing == Framing::Chunked && length > 0 {
            out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        }
        out.resize(out.len() + length, b'x');
        if framing == Framing::Chunked && length > 0 {
            out.extend_from_slice(b"\r\n");
        }
        if self.sent < pieces {
            return Some(bulk.pause);
        }
        if framing == Framing::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        None
    }
}

/// What every answer of a backend says about it.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    headers: String,
    body: String,
}

impl Name {
    pub(crate) fn new(cluster: &str, endpoint: &str) -> Self {
        let body = format!("{{\"cluster\":{},\"endpoint\":{}}}\n", quoted(cluster), quoted(endpoint));
        let (cluster, endpoint) = (clean(cluster), clean(endpoint));
        Self { headers: format!("x-cluster: {cluster}\r\nx-endpoint: {endpoint}\r\n"), body }
    }

    fn head(&self, status: u16, framing: &str) -> String {
        let reason = if status == 200 { "OK" } else { "Status" };
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n{framing}{}\r\n",
            self.headers
        )
    }
}

/// A JSON string; control characters are left out, names have none.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in clean(text).chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::Latency;
    use crate::message::{Kind, Progress, Reader};

    #[test]
    fn a_large_body_comes_in_pieces_and_is_whole_in_both_framings() {
        let bulk = Bulk { bytes: 1_003, pieces: 4, pause: Duration::from_millis(7) };
        let behaviour = Behaviour { body: Some(bulk), ..Behaviour::steady(Latency::default()) };
        for (number, word) in [(2, "Content-Length: 1003"), (3, "Transfer-Encoding: chunked")] {
            let mut answer = Answer::service(&behaviour, Some(number), Instant::now(), Last::No);
            let (mut out, mut pauses) = (Vec::new(), 0);
            while let Some(pause) = answer.next_piece(&Name::new("a", "one"), &mut out) {
                assert_eq!(pause, bulk.pause);
                pauses += 1;
            }
            assert_eq!(pauses, 3);
            assert!(String::from_utf8_lossy(&out).contains(word));
            let mut reader = Reader::new(Kind::Response, None);
            assert_eq!(reader.feed(&out), Ok(Progress::Done(out.len())));
            assert_eq!((reader.info.status, reader.info.body), (200, 1_003));
        }
    }
}
