//! A backend of HTTP/2 on a library's server side, that records its requests and does with each what the test says.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::tls::{Leaf, certified, provider};

/// One request as the backend sees it, before its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Do {
    /// 200 with this body, of no known length, and these trailers.
    Answer(&'static str, Vec<(&'static str, &'static str)>),
    /// 200 with a known length.
    Sized(&'static str),
    /// Fields alone.
    Only(Vec<(&'static str, &'static str)>),
    /// This status, and fields alone.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The body comes back as it comes, with its trailers.
    Echo,
    /// The same as a server of gRPC, with these trailers.
    Call(Vec<(&'static str, &'static str)>),
    /// 100 and 103 with a link, and then as `Sized`.
    Early(&'static str),
    /// Reset with this code.
    Reset(Reason),
    /// The response begins, and is reset.
    Cut,
    /// Nothing, until the stream is reset.
    Hang,
    /// 200 with these fields to an extended CONNECT, and a server of WebSocket behind it that sends messages back.
    WebSocket(Vec<(&'static str, &'static str)>),
    /// 200, and no more requests on this connection (GOAWAY).
    Last(&'static str),
}

#[derive(Default)]
pub struct Seen {
    pub asked: Mutex<Vec<Asked>>,
    pub connections: AtomicU64,
    /// Streams that the gateway has reset.
    pub cancelled: AtomicU64,
}

/// Are they announced?
#[derive(Clone, Copy)]
enum Tunnels {
    Announced,
    Unannounced,
}

type Decide = dyn Fn(&Asked) -> Do + Send + Sync;

pub struct H2Backend {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl H2Backend {
    /// In clear.
    pub fn start(decide: impl Fn(&Asked) -> Do + Send + Sync + 'static) -> Self {
        Self::with(None, Tunnels::Unannounced, decide)
    }

    /// In clear, and announces that it takes tunnels (RFC 8441 §3).
    pub fn tunnels(decide: impl Fn(&Asked) -> Do + Send + Sync + 'static) -> Self {
        Self::with(None, Tunnels::Announced, decide)
    }

    /// Over TLS with this certificate, for clients that offer `h2` (ALPN).
    pub fn secure(leaf: &Leaf, decide: impl Fn(&Asked) -> Do + Send + Sync + 'static) -> Self {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let key = Arc::new(SingleCertAndKey::from(certified(leaf)));
        let mut config = builder.unwrap().with_no_client_auth().with_cert_resolver(key);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::with(Some(TlsAcceptor::from(Arc::new(config))), Tunnels::Announced, decide)
    }

    fn with(
        tls: Option<TlsAcceptor>,
        tunnels: Tunnels,
        decide: impl Fn(&Asked) -> Do + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Seen> = Arc::default();
        let decide: Arc<Decide> = Arc::new(decide);
        let (stop, stopped) = oneshot::channel();
        let own = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accepting = tokio::task::spawn_local(async move {
                    loop {
                        let Ok((stream, _)) = listener.accept().await else { return };
                        stream.set_nodelay(true).unwrap();
                        own.connections.fetch_add(1, Ordering::SeqCst);
                        let (seen, decide, tls) = (Arc::clone(&own), Arc::clone(&decide), tls.clone());
                        tokio::task::spawn_local(async move {
                            let Some(tls) = tls else {
                                return connection(stream, tunnels, seen, decide).await;
                            };
                            let Ok(stream) = tls.accept(stream).await else { return };
                            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                                connection(stream, tunnels, seen, decide).await;
                            }
                        });
                    }
                });
                let _ = stopped.await;
                accepting.abort();
            });
        });
        Self { addr, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Requests that came, in their order.
    pub fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Ends all connections and accepts no more.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    tunnels: Tunnels,
    seen: Arc<Seen>,
    decide: Arc<Decide>,
) {
    let mut builder = h2::server::Builder::new();
    if let Tunnels::Announced = tunnels {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let last = Rc::new(std::cell::Cell::new(false));
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        let asked = Asked {
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers.clone(),
            protocol: parts.extensions.get::<h2::ext::Protocol>().map(|name| name.as_str().to_owned()),
        };
        seen.asked.lock().unwrap().push(asked.clone());
        let does = decide(&asked);
        if let Do::Last(_) = does {
            last.set(true);
            connection.graceful_shutdown();
        }
        let seen = Arc::clone(&seen);
        tokio::task::spawn_local(async move {
            serve(Request::from_parts(parts, body), respond, does, &seen).await;
        });
    }
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, does: Do, seen: &Seen) {
    let is_connect = request.method() == http::Method::CONNECT;
    let mut body = request.into_body();
    match does {
        Do::Answer(text, trailers) => {
            drain(&mut body, is_connect).await;
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(text.as_bytes()), trailers.is_empty()).unwrap();
            if !trailers.is_empty() {
                stream.send_trailers(map(&trailers)).unwrap();
            }
        }
        Do::Sized(text) | Do::Last(text) | Do::Early(text) => {
            drain(&mut body, is_connect).await;
            if let Do::Early(_) = does {
                for status in [100, 103] {
                    let early = Response::builder().status(status).header("link", "</a.css>");
                    respond.send_informational(early.body(()).unwrap()).unwrap();
                }
            }
            let response = Response::builder().header("content-length", text.len()).body(()).unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
        }
        Do::Only(fields) => {
            drain(&mut body, is_connect).await;
            let mut response = Response::new(());
            *response.headers_mut() = map(&fields);
            respond.send_response(response, true).unwrap();
        }
        Do::Status(status, fields) => {
            drain(&mut body, is_connect).await;
            let mut response = Response::builder().status(status).body(()).unwrap();
            *response.headers_mut() = map(&fields);
            respond.send_response(response, true).unwrap();
        }
        Do::Echo => echo(body, respond, Response::new(()), None).await,
        Do::Call(trailers) => {
            let response =
                Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap();
            echo(body, respond, response, Some(map(&trailers))).await;
        }
        Do::WebSocket(fields) => {
            let mut response = Response::new(());
            *response.headers_mut() = map(&fields);
            let Ok(stream) = respond.send_response(response, false) else { return };
            super::websocket::serve(body, stream).await;
        }
        Do::Reset(reason) => respond.send_reset(reason),
        Do::Cut => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
            tokio::task::yield_now().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        Do::Hang => {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            if reset.is_ok_and(|reason| reason == Reason::CANCEL) {
                seen.cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// Reads a body to its end. Of a CONNECT there is none before the answer.
async fn drain(body: &mut RecvStream, is_connect: bool) {
    if is_connect {
        return;
    }
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let _ = body.trailers().await;
}

async fn echo(
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    response: Response<()>,
    own: Option<HeaderMap>,
) {
    // The gateway may have reset it meanwhile.
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    while let Some(Ok(mut data)) = body.data().await {
        let len = data.len();
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let Some(Ok(n)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            if n > 0 {
                let _ = stream.send_data(data.split_to(n.min(data.len())), false);
            }
        }
        let _ = body.flow_control().release_capacity(len);
    }
    match body.trailers().await.map(|trailers| own.or(trailers)) {
        Ok(Some(trailers)) => drop(stream.send_trailers(trailers)),
        Ok(None) | Err(_) => drop(stream.send_data(Bytes::new(), true)),
    }
}
