//! Asks the admin API of a running node: plain HTTP, one request a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the node may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where a node's admin API is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminUrl(SocketAddr);

impl Default for AdminUrl {
    fn default() -> Self {
        Self(config::Admin::default().listen)
    }
}

impl FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if let Some(port) = rest.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(Self((Ipv4Addr::LOCALHOST, port).into()));
        }
        rest.parse()
            .map(Self)
            .map_err(|_| "expected http://ADDRESS:PORT, with an IP address or localhost".to_owned())
    }
}

impl std::fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// The answer to `GET path`, read as JSON.
///
/// # Errors
/// When nobody answers, or with an error: its reason.
pub fn get<T: DeserializeOwned>(admin: AdminUrl, path: &str) -> Result<T, String> {
    let asked = || {
        let stream = TcpStream::connect_timeout(&admin.0, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        exchange(stream, "GET", path, &admin.0.to_string())
    };
    let answer = asked().map_err(|error| {
        format!("no answer from {admin}: {error} (is `ringway run` running? its address is --admin)")
    })?;
    read(&answer, &admin.to_string(), path)
}

/// Where a node's operators' socket is.
#[derive(Args, Clone, Debug)]
pub struct SocketArgs {
    /// The node's operators' socket (`admin.socket` in gateway.toml).
    #[arg(long, value_name = "PATH", default_value_os_t = config::Admin::default().socket)]
    pub socket: PathBuf,
}

impl SocketArgs {
    /// The answer to `GET path` on the socket, read as JSON.
    ///
    /// # Errors
    /// When nobody answers, or with an error: its reason.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        self.ask("GET", path)
    }

    /// The answer to `POST path` on the socket, read as JSON.
    ///
    /// # Errors
    /// When nobody answers, or with an error: its reason.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        self.ask("POST", path)
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T, String> {
        let socket = self.socket.display();
        let asked = || {
            let stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            stream.set_write_timeout(Some(READ_TIMEOUT))?;
            exchange(stream, method, path, "localhost")
        };
        let answer = asked().map_err(|error| {
            let hints = [
                (
                    ErrorKind::NotFound,
                    "is `ringway run` running, with this admin.socket? --socket names another",
                ),
                (
                    ErrorKind::PermissionDenied,
                    "it belongs to the user that runs ringway, and to nobody else: try sudo",
                ),
                (ErrorKind::ConnectionRefused, "the process that made it has ended"),
            ];
            let hint = hints.iter().find(|(kind, _)| *kind == error.kind());
            let hint = hint.map_or("--socket names another", |(_, hint)| hint);
            format!("{socket}: {error} ({hint})")
        })?;
        read(&answer, &socket.to_string(), path)
    }
}

/// Where a node is asked: by its admin API, or by its operators' socket, which tells more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAt {
    /// `http://ADDRESS:PORT`
    Url(AdminUrl),
    /// A path.
    Socket(PathBuf),
}

impl FromStr for NodeAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(['/', '.']) {
            return Ok(Self::Socket(text.into()));
        }
        text.parse().map(Self::Url).map_err(|reason: String| format!("{reason}; or a socket's path"))
    }
}

impl NodeAt {
    /// The answer to `GET path`, read as JSON.
    ///
    /// # Errors
    /// When nobody answers, or with an error: its reason.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        match self {
            Self::Url(admin) => get(*admin, path),
            Self::Socket(socket) => SocketArgs { socket: socket.clone() }.get(path),
        }
    }
}

fn read<T: DeserializeOwned>(answer: &[u8], who: &str, path: &str) -> Result<T, String> {
    let (status, body) = split(answer).ok_or_else(|| format!("{who} does not speak HTTP"))?;
    if !(200..300).contains(&status) {
        let reason = serde_json::from_slice::<serde_json::Value>(body).ok();
        let reason = reason.as_ref().and_then(|body| body.get("error")?.as_str());
        return Err(reason.map_or_else(|| format!("{who}{path} answers {status}"), str::to_owned));
    }
    serde_json::from_slice(body)
        .map_err(|error| format!("{who}{path}: not the answer of a ringway node: {error}"))
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, host: &str) -> std::io::Result<Vec<u8>> {
    // HTTP/1.0: the answer is neither chunked nor followed by another.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let line = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let status = std::str::from_utf8(line).ok()?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_urls_are_addresses_with_or_without_a_scheme() {
        let parsed = |text: &str| text.parse::<AdminUrl>().map(|url| url.to_string());
        assert_eq!(parsed("http://127.0.0.1:9901/"), Ok("http://127.0.0.1:9901".to_owned()));
        assert_eq!(parsed("[::1]:9901"), Ok("http://[::1]:9901".to_owned()));
        assert_eq!(parsed("localhost:1"), Ok("http://127.0.0.1:1".to_owned()));
        for wrong in ["https://127.0.0.1:9901", "127.0.0.1", "node-1:9901", "http://127.0.0.1:9901/x"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_split_into_status_and_body() {
        assert_eq!(split(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!(split(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(split(b""), None);
    }
}
