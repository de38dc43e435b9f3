//! The little of HTTP/1.1 that a generator and a test backend need: where a message ends, its status, one header.
//!
//! Sans-io. Not strict: who wants to know whether a peer's framing is safe asks `wire`, not this.

/// Bytes of a head at most; beyond it the message is malformed.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a chunk-size or trailer line at most.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// What the peer sent is not HTTP/1.1, or is larger than anything we asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Which kind of message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All bytes were taken, and the message goes on.
    More,
    /// The message ended after so many of the bytes.
    Done(usize),
}

/// Reads one message after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    kind: Kind,
    /// Name of the header whose value is kept, lower case.
    wanted: Option<String>,
    head: Vec<u8>,
    state: State,
    /// What the last complete head said.
    pub(crate) info: Info,
}

/// What a head said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// The status of a response; 0 for a request.
    pub(crate) status: u16,
    /// The value of the wanted header.
    pub(crate) value: Option<String>,
    /// The peer closes after this message.
    pub(crate) last: bool,
    /// The target of a request; empty for a response.
    pub(crate) target: String,
    /// Bytes of the body so far, chunk framing apart.
    pub(crate) body: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
}

impl Reader {
    pub(crate) fn new(kind: Kind, wanted: Option<&str>) -> Self {
        let wanted = wanted.map(str::to_ascii_lowercase);
        Self { kind, wanted, head: Vec::new(), state: State::Head, info: Info::default() }
    }

    /// Takes bytes; after `Done` it is ready for the next message.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self.state {
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let Some(taken) = self.take_until_end(rest)? else { return Ok(Progress::More) };
                    at += taken;
                    if self.line_complete()? {
                        return Ok(Progress::Done(at));
                    }
                }
                State::Length(left) | State::ChunkData(left) => {
                    let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    at += taken;
                    self.info.body += taken as u64;
                    let left = left - taken as u64;
                    match (self.state, left) {
                        (State::Length(_), 0) => return Ok(self.done(at)),
                        (State::Length(_), _) => self.state = State::Length(left),
                        (_, 0) => self.state = State::ChunkEnd,
                        (_, _) => self.state = State::ChunkData(left),
                    }
                    if left > 0 {
                        return Ok(Progress::More);
                    }
                }
                State::UntilClose => {
                    self.info.body += rest.len() as u64;
                    return Ok(Progress::More);
                }
            }
        }
    }

    /// Whether the head of the message that is being read was complete.
    pub(crate) fn has_head(&self) -> bool {
        self.state != State::Head
    }

    /// The peer closed: whether that is how this message ends.
    pub(crate) fn ends_on_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Gathers a head or a line in `self.head`; how many bytes were taken, once it is complete.
    fn take_until_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let (end, max): (&[u8], _) = match self.state {
            State::Head => (b"\r\n\r\n", HEAD_BYTES_MAX),
            State::Length(_)
            | State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers
            | State::UntilClose => (b"\r\n", LINE_BYTES_MAX),
        };
        // The end may have begun in the bytes before.
        let from = self.head.len().saturating_sub(end.len() - 1);
        let before = self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(max)]);
        match memchr::memmem::find(&self.head[from..], end) {
            Some(found) => {
                let length = from + found + end.len();
                self.head.truncate(length);
                Ok(Some(length - before))
            }
            None if self.head.len() >= max => Err(Malformed),
            None => Ok(None),
        }
    }

    /// Acts on the complete head or line; whether the message ended with it.
    fn line_complete(&mut self) -> Result<bool, Malformed> {
        let line = std::mem::take(&mut self.head);
        let text = std::str::from_utf8(&line).map_err(|_| Malformed)?.trim_end_matches("\r\n");
        self.state = match self.state {
            State::Head => {
                let state = self.read_head(text)?;
                if state == State::Length(0) {
                    self.state = State::Head;
                    // An interim response is followed by the real one.
                    return Ok(self.kind == Kind::Request || self.info.status >= 200);
                }
                state
            }
            State::ChunkSize => {
                let digits = text.split(';').next().unwrap_or_default().trim();
                match u64::from_str_radix(digits, 16).map_err(|_| Malformed)? {
                    0 => State::Trailers,
                    size => State::ChunkData(size),
                }
            }
            State::ChunkEnd if text.is_empty() => State::ChunkSize,
            State::Trailers if text.is_empty() => {
                self.state = State::Head;
                return Ok(true);
            }
            State::Trailers => State::Trailers,
            State::ChunkEnd | State::Length(_) | State::ChunkData(_) | State::UntilClose => {
                return Err(Malformed);
            }
        };
        Ok(false)
    }

    fn done(&mut self, at: usize) -> Progress {
        self.state = State::Head;
        Progress::Done(at)
    }

    fn read_head(&mut self, head: &str) -> Result<State, Malformed> {
        let mut lines = head.split("\r\n");
        let start = lines.next().ok_or(Malformed)?;
        self.info = Info::default();
        match self.kind {
            Kind::Response => {
                let status =
                    start.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).ok_or(Malformed)?;
                self.info.status = status.parse().map_err(|_| Malformed)?;
                self.info.last = start.starts_with("HTTP/1.0");
            }
            Kind::Request => {
                let rest = start.strip_suffix(" HTTP/1.1").ok_or(Malformed)?;
                let (_, target) = rest.split_once(' ').ok_or(Malformed)?;
                target.clone_into(&mut self.info.target);
            }
        }
        let (mut length, mut chunked) = (None, false);
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(Malformed)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse().map_err(|_| Malformed)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                self.info.last |= value.eq_ignore_ascii_case("close");
            }
            if self.wanted.as_ref().is_some_and(|wanted| name.eq_ignore_ascii_case(wanted)) {
                self.info.value = Some(value.to_owned());
            }
        }
        let no_body = self.kind == Kind::Request && length.is_none() && !chunked;
        Ok(match (self.info.status, length) {
            (100..200 | 204 | 304, _) => State::Length(0),
            (_, _) if chunked => State::ChunkSize,
            (_, Some(length)) => State::Length(length),
            (_, None) if no_body => State::Length(0),
            (_, None) => State::UntilClose,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSES: &str = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Cluster: alpha\r\n\r\nhello\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-cluster: beta\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: r\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    #[test]
    fn responses_end_at_the_same_bytes_however_they_are_cut() {
        let expected = [
            (200, Some("alpha"), false, 5),
            (200, Some("beta"), false, 6),
            (204, None, false, 0),
            (503, None, true, 0),
        ];
        for size in 1..RESPONSES.len() {
            let mut reader = Reader::new(Kind::Response, Some("X-CLUSTER"));
            let mut seen = Vec::new();
            for piece in RESPONSES.as_bytes().chunks(size) {
                let mut at = 0;
                while at < piece.len() {
                    match reader.feed(&piece[at..]).unwrap() {
                        Progress::More => at = piece.len(),
                        Progress::Done(length) => {
                            at += length;
                            let Info { status, value, last, target: _, body } = reader.info.clone();
                            seen.push((status, value, last, body));
                        }
                    }
                }
            }
            let seen: Vec<_> = seen.iter().map(|(s, v, l, b)| (*s, v.as_deref(), *l, *b)).collect();
            assert_eq!(seen, expected, "pieces of {size} bytes");
            assert_eq!(reader.state, State::Head);
            assert!(reader.head.is_empty());
        }
    }

    #[test]
    fn a_response_without_length_ends_with_its_connection() {
        let mut reader = Reader::new(Kind::Response, None);
        assert_eq!(reader.feed(b"HTTP/1.0 200 OK\r\n\r\nsome"), Ok(Progress::More));
        assert!(reader.ends_on_close() && reader.info.last);
    }

    #[test]
    fn requests_without_a_length_have_no_body() {
        let mut reader = Reader::new(Kind::Request, None);
        assert_eq!(reader.feed(b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nrest"), Ok(Progress::Done(30)));
        assert_eq!(reader.info.target, "/a?b");
        assert_eq!(reader.feed(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"), Ok(Progress::Done(40)));
    }

    #[test]
    fn what_is_not_http_is_malformed_and_never_kept_without_bound() {
        for bytes in [
            "SSH-2.0\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(Reader::new(Kind::Response, None).feed(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
        let mut reader = Reader::new(Kind::Response, None);
        let endless = vec![b'x'; HEAD_BYTES_MAX];
        assert_eq!(reader.feed(&endless), Err(Malformed));
        let mut chunked = Reader::new(Kind::Response, None);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(chunked.feed(head), Err(Malformed));
    }
}
