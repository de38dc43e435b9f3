//! A client of HTTP/2: the library's, driven by a small runtime of the test.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::PATIENCE;

/// Runs a test's client, with a deadline.
#[track_caller]
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("within the deadline") })
}

/// Waits until `holds` while the client goes on; the deadline is the test's.
pub async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One connection.
pub struct Client {
    pub send: SendRequest<Bytes>,
    /// How the connection ended.
    pub ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// Did END_STREAM come with its head?
    pub ended_with_head: bool,
}

impl Answer {
    #[track_caller]
    pub fn one(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next().map(|value| value.to_str().unwrap());
        assert!(all.next().is_none(), "{name} is given more than once: {:?}", self.headers);
        first
    }
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, &Builder::new()).await
    }

    pub async fn connect_with(addr: SocketAddr, builder: &Builder) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, builder).await.unwrap()
    }

    /// Over TLS, as `name`; `config` says what is offered.
    pub async fn connect_tls(addr: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream, &Builder::new()).await.unwrap()
    }

    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: &Builder,
    ) -> Result<Self, h2::Error> {
        let (send, connection) = builder.handshake(stream).await?;
        Ok(Self { send, ended: tokio::spawn(connection) })
    }

    /// Sends a request's head.
    pub async fn start(&mut self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request, ends).unwrap()
    }

    pub async fn ask(&mut self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (response, _) = self.start(request, true).await;
        answer(response.await?).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(get(path)).await.unwrap()
    }
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop.example{path}")).body(()).unwrap()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://shop.example{path}")).body(()).unwrap()
}

/// Reads a response to its end, giving window back as it comes.
pub async fn answer(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut body) = response.into_parts();
    let ended_with_head = body.is_end_stream();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?;
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: bytes.freeze(),
        trailers,
        ended_with_head,
    })
}

/// Sends all of `body` as the gateway gives window, and then the end or trailers.
pub async fn upload(send: &mut SendStream<Bytes>, mut body: Bytes, trailers: Option<HeaderMap>) {
    while !body.is_empty() {
        send.reserve_capacity(body.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        send.send_data(body.split_to(n.min(body.len())), false).unwrap();
    }
    match trailers {
        None => send.send_data(Bytes::new(), true).unwrap(),
        Some(trailers) => send.send_trailers(trailers).unwrap(),
    }
}

/// Why a stream was reset by the gateway.
#[track_caller]
pub fn reset_of<T: std::fmt::Debug>(result: Result<T, h2::Error>) -> Reason {
    let error = result.unwrap_err();
    assert!(error.is_reset() && error.is_remote(), "{error:?}");
    error.reason().unwrap()
}
