//! WebSocket of a real library over streams of HTTP/2: it reads and writes one end of a pair of sockets, and bytes are
//! moved between the other end and the stream.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

use super::PATIENCE;

/// An opening handshake of HTTP/1.1.
pub const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Sends every message back until the closing handshake, or the end.
pub fn echo<S: std::io::Read + std::io::Write>(mut socket: WebSocket<S>) {
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if socket.send(message).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Messages to all of them at once, which [`echo`] sends back.
pub fn converse<S: std::io::Read + std::io::Write>(sockets: &mut [WebSocket<S>]) {
    for round in 0..20 {
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{n} in round {round}"))).unwrap();
        }
        for (n, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.read().unwrap().to_text().unwrap(), format!("{n} in round {round}"));
        }
    }
}

/// Serves a stream whose CONNECT was agreed to, as [`echo`].
pub async fn serve(body: RecvStream, send: SendStream<Bytes>) {
    let (library, ours) = pair();
    let thread = std::thread::spawn(move || echo(WebSocket::from_raw_socket(library, Role::Server, None)));
    pump(body, send, ours).await;
    // Its socket has ended, and so has it.
    thread.join().unwrap();
}

/// The library's end, with a deadline, and ours.
pub fn pair() -> (UnixStream, tokio::net::UnixStream) {
    let (library, ours) = UnixStream::pair().unwrap();
    library.set_read_timeout(Some(PATIENCE)).unwrap();
    library.set_write_timeout(Some(PATIENCE)).unwrap();
    ours.set_nonblocking(true).unwrap();
    (library, tokio::net::UnixStream::from_std(ours).unwrap())
}

/// An extended CONNECT (RFC 8441 §4) to this path.
pub fn connect(path: &str) -> Request<()> {
    let target = format!("http://shop.example{path}");
    let mut request = Request::connect(target).header("sec-websocket-version", "13").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

/// Moves bytes between a stream and a socket until both directions have ended.
pub async fn pump(mut body: RecvStream, mut send: SendStream<Bytes>, socket: tokio::net::UnixStream) {
    let (mut from, mut to) = socket.into_split();
    let down = async {
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            if to.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let up = async {
        let mut piece = vec![0; 16 << 10];
        loop {
            match from.read(&mut piece).await {
                Ok(n) if n > 0 => {
                    if push(&mut send, &piece[..n]).await.is_none() {
                        return;
                    }
                }
                Ok(_) | Err(_) => break,
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    };
    tokio::join!(down, up);
}

/// Sends all of it as the other side gives window; `None` when the stream is gone.
pub async fn push(send: &mut SendStream<Bytes>, bytes: &[u8]) -> Option<()> {
    let mut bytes = Bytes::copy_from_slice(bytes);
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        send.send_data(bytes.split_to(n.min(bytes.len())), false).ok()?;
    }
    Some(())
}

/// Waits until the other side says that it takes extended CONNECT; `None` where it does not.
pub async fn announced(send: &h2::client::SendRequest<Bytes>) -> Option<()> {
    let announced = super::h2::until(|| send.is_extended_connect_protocol_enabled());
    tokio::time::timeout(Duration::from_secs(5), announced).await.ok()
}
