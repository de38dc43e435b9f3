//! Idle keep-alive connections: open, ask once, stay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::machine::Stop;
use super::{BenchError, Result};

/// How long one connect and one response may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens `count` connections one after the other, asks once on each, and returns them all, open and idle.
///
/// # Errors
/// A connection cannot be opened (descriptors: `ulimit -n` must allow `count` and some more), or is not answered.
pub(crate) fn open(target: SocketAddr, count: u32, stop: &Stop) -> Result<Vec<TcpStream>> {
    let mut connections = Vec::new();
    for number in 0..count {
        stop.check()?;
        let doing = || format!("connection {number} of {count} to {target}");
        let mut connection =
            TcpStream::connect_timeout(&target, STEP_TIMEOUT).map_err(BenchError::io(doing()))?;
        ask(&mut connection).map_err(BenchError::io(doing()))?;
        connections.push(connection);
    }
    Ok(connections)
}

/// One request and its whole response; the length of the body.
///
/// # Errors
/// Sending or receiving fails, or what comes is not a 200 with a Content-Length.
pub(crate) fn ask(connection: &mut TcpStream) -> std::io::Result<usize> {
    connection.set_read_timeout(Some(STEP_TIMEOUT))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n")?;
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
