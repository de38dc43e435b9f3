//! Idle keep-alive connections: open, ask once, stay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use loadgen::{Secured, Tls};

use super::case::{Case, Speech, Transport};
use super::machine::Stop;
use super::{BenchError, Result};

/// How long one connect and one response may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that has been asked once and stays open.
pub(crate) enum Held {
    /// In clear.
    Plain(#[expect(dead_code, reason = "held open, no more")] TcpStream),
    /// Over TLS.
    Secured(#[expect(dead_code, reason = "held open, no more")] Box<Secured>),
}

/// Opens `count` connections one after the other, asks once on each, and returns them all, open and idle.
///
/// # Errors
/// A connection cannot be opened (descriptors: `ulimit -n` must allow `count` and some more), or is not answered.
pub(crate) fn open(case: Case, target: SocketAddr, count: u32, stop: &Stop) -> Result<Vec<Held>> {
    let tls = match case.transport {
        Transport::Plain => None,
        Transport::Tls => {
            let tls = Tls::to(&case.host()).map_err(|why| BenchError::failed("idle", why.to_string()))?;
            Some(if case.speech == Speech::Http1 { tls } else { tls.speaking_http2() })
        }
    };
    let mut connections = Vec::new();
    for number in 0..count {
        stop.check()?;
        let held = one(target, tls.as_ref(), case);
        let doing = || format!("connection {number} of {count} to {target}");
        connections.push(held.map_err(BenchError::io(doing()))?);
    }
    Ok(connections)
}

fn one(target: SocketAddr, tls: Option<&Tls>, case: Case) -> std::io::Result<Held> {
    let mut connection = TcpStream::connect_timeout(&target, STEP_TIMEOUT)?;
    let Some(tls) = tls else {
        ask(&mut connection)?;
        return Ok(Held::Plain(connection));
    };
    connection.set_read_timeout(Some(STEP_TIMEOUT))?;
    let mut secured = tls.connect(connection)?;
    match case.speech {
        Speech::Http1 => {
            ask_of(&mut secured, &case.host())?;
        }
        Speech::Http2 | Speech::Grpc => ask_http2(&mut secured, &case.host())?,
    }
    Ok(Held::Secured(Box::new(secured)))
}

/// One request and its whole response; the length of the body.
///
/// # Errors
/// Sending or receiving fails, or what comes is not a 200 with a Content-Length.
pub(crate) fn ask(connection: &mut TcpStream) -> std::io::Result<usize> {
    connection.set_read_timeout(Some(STEP_TIMEOUT))?;
    ask_of(connection, "bench.example")
}

fn ask_of(connection: &mut (impl Read + Write), host: &str) -> std::io::Result<usize> {
    connection.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Err(std::io::Error::other("closed before the response was complete"));
        }
        received.extend_from_slice(&buffer[..length]);
        if let Some((head, body)) = lengths(&received)?
            && received.len() >= head + body
        {
            return Ok(body);
        }
    }
}

/// The same in HTTP/2, by hand: preface, settings, one request, and its frames until the stream ends (RFC 9113 §3.4).
fn ask_http2(connection: &mut (impl Read + Write), host: &str) -> std::io::Result<()> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>([&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat())
    };
    // GET, https and / are of the static table, the authority is a literal (RFC 7541 §6).
    let length = u8::try_from(host.len()).map_err(std::io::Error::other)?;
    let head = [&[0x82, 0x87, 0x84, 0x01, length], host.as_bytes()].concat();
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[])?);
    out.extend(frame(HEADERS, 4 | END_STREAM, 1, &head)?);
    connection.write_all(&out)?;
    let mut payload = Vec::new();
    loop {
        let mut header = [0; 9];
        connection.read_exact(&mut header)?;
        let [a, b, c, kind, flags, ..] = header;
        payload.resize(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), 0);
        connection.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => connection.write_all(&frame(SETTINGS, ACK, 0, &[])?)?,
            // Index 8 of the static table: 200.
            HEADERS if payload.first() != Some(&0x88) => {
                return Err(std::io::Error::other("not answered with 200"));
            }
            DATA | HEADERS if flags & END_STREAM != 0 => return connection.flush(),
            _ => {}
        }
    }
}

/// Bytes of head and body, once the head is complete.
fn lengths(received: &[u8]) -> std::io::Result<Option<(usize, usize)>> {
    let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&received[..end]);
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("answered {status:?}")));
    }
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    length.map(|length| Some((end + 4, length))).ok_or_else(|| std::io::Error::other("no Content-Length"))
}
