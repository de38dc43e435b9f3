//! One request on a connection of its own, for readiness and for the admin API. What is measured goes another way.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// An answer, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    head: String,
    /// Its body; chunk framing is still in it.
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// GET with `Connection: close`.
pub(crate) fn ask(connection: &mut TcpStream, host: &str, path: &str) -> io::Result<Answer> {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("not an HTTP answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_headers_and_a_body() {
        let answer = parse("HTTP/1.1 503 No\r\nX-Cluster: b\r\nA: c\r\n\r\nbody").unwrap();
        assert_eq!(
            (answer.status, answer.header("x-cluster"), answer.body.as_str()),
            (503, Some("b"), "body")
        );
        assert_eq!(answer.header("x"), None);
        assert!(parse("HTTP/1.1 200 OK\r\n").is_none() && parse("SSH-2.0\r\n\r\n").is_none());
    }
}
