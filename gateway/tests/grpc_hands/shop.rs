//! The service of `peer.py`, on tonic's server and in its client's calls. Messages are bytes.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use http::uri::PathAndQuery;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::client::Grpc as Calls;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::server::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a status may say: everything else is escaped on its way.
const SAID: &str = "not on a Sunday, 100 % \u{e9}";

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

// ---------------------------------------------------------------- server

type Said = BoxStream<'static, Result<Bytes, Status>>;

/// What a server was told and what became of it.
#[derive(Default)]
pub(super) struct Seen {
    /// Calls of `Slow` that are over.
    pub(super) given_up: AtomicU32,
    /// Calls that said how long they may take.
    pub(super) bounded: AtomicU32,
}

/// One method, as tonic calls it.
#[derive(Clone)]
struct Method<F>(F);

impl<F, In, Out, T> Service<Request<In>> for Method<F>
where
    F: Fn(Request<In>) -> T,
    T: Future<Output = Result<Response<Out>, Status>> + Send + 'static,
{
    type Response = Response<Out>;
    type Error = Status;
    type Future = T;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> T {
        (self.0)(request)
    }
}

#[derive(Clone)]
struct Shop(Arc<Seen>);

impl Service<http::Request<Body>> for Shop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = Arc::clone(&self.0);
        if request.headers().contains_key("grpc-timeout") {
            seen.bounded.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(async move {
            let mut grpc = Grpc::new(Plain);
            Ok(match request.uri().path() {
                "/shop.Shop/Unary" => grpc.unary(Method(unary), request).await,
                "/shop.Shop/Total" => grpc.client_streaming(Method(total), request).await,
                "/shop.Shop/List" => grpc.server_streaming(Method(list), request).await,
                "/shop.Shop/Chat" => grpc.streaming(Method(chat), request).await,
                "/shop.Shop/Refuse" => grpc.unary(Method(refuse), request).await,
                "/shop.Shop/Late" => grpc.server_streaming(Method(late), request).await,
                "/shop.Shop/Slow" => grpc.unary(Method(move |_| slow(Arc::clone(&seen))), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

async fn unary(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let given = request.metadata().get("x-of-client").cloned();
    let mut response = Response::new([b"hello ", &request.into_inner()[..]].concat().into());
    response.metadata_mut().insert("x-of-server", given.unwrap_or(MetadataValue::from_static("nothing")));
    Ok(response)
}

async fn total(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let (mut all, mut total) = (request.into_inner(), 0_u64);
    while let Some(number) = all.message().await? {
        total += std::str::from_utf8(&number).unwrap().parse::<u64>().unwrap();
    }
    Ok(Response::new(total.to_string().into()))
}

fn listed(n: usize) -> Bytes {
    format!("{n} {}", "x".repeat(1000)).into()
}

async fn list(request: Request<Bytes>) -> Result<Response<Said>, Status> {
    let count: usize = std::str::from_utf8(request.get_ref()).unwrap().parse().unwrap();
    Ok(Response::new(stream::iter((0..count).map(|n| Ok(listed(n)))).boxed()))
}

async fn chat(request: Request<Streaming<Bytes>>) -> Result<Response<Said>, Status> {
    let answers = request
        .into_inner()
        .map(|message| message.map(|message| Bytes::from([b"you said ", &message[..]].concat())));
    // Its client has closed its half: there is more to say.
    Ok(Response::new(answers.chain(stream::iter([Ok(Bytes::from_static(b"bye"))])).boxed()))
}

async fn refuse(_: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let mut status = Status::failed_precondition(SAID);
    status.metadata_mut().insert("x-why", MetadataValue::from_static("closed"));
    Err(status)
}

async fn late(_: Request<Bytes>) -> Result<Response<Said>, Status> {
    let said = ["one", "two"].map(|text| Ok(Bytes::from_static(text.as_bytes())));
    Ok(Response::new(stream::iter(said).chain(stream::iter([Err(Status::aborted("enough"))])).boxed()))
}

async fn slow(seen: Arc<Seen>) -> Result<Response<Bytes>, Status> {
    struct Until(Arc<Seen>);
    impl Drop for Until {
        fn drop(&mut self) {
            self.0.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _until = Until(seen);
    std::future::pending().await
}

/// tonic's server on a thread of its own.
pub(super) struct Serving {
    pub(super) addr: SocketAddr,
    pub(super) seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Seen> = Arc::default();
        let shop = Shop(Arc::clone(&seen));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                let serving = Server::builder().serve_with_incoming(shop, incoming);
                tokio::select! {
                    ended = serving => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { addr, seen, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// ---------------------------------------------------------------- client

fn path(method: &str) -> PathAndQuery {
    format!("/shop.Shop/{method}").parse().unwrap()
}

async fn collected(mut all: Streaming<Bytes>) -> (Vec<Bytes>, Option<Status>) {
    let mut came = Vec::new();
    loop {
        match all.message().await {
            Ok(Some(message)) => came.push(message),
            Ok(None) => return (came, None),
            Err(status) => return (came, Some(status)),
        }
    }
}

/// Makes every call with tonic's client.
pub(super) async fn call(addr: SocketAddr) {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let channel = tokio::time::timeout(PATIENCE, endpoint.connect()).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, converse(Calls::new(channel))).await.expect("within the deadline");
}

async fn converse(mut calls: Calls<Channel>) {
    calls.ready().await.unwrap();
    let mut request = Request::new(Bytes::from_static(b"world"));
    request.metadata_mut().insert("x-of-client", MetadataValue::from_static("mine"));
    let response = calls.unary(request, path("Unary"), Plain).await.unwrap();
    assert_eq!(response.metadata().get("x-of-server").unwrap(), "mine");
    assert_eq!(&response.get_ref()[..], b"hello world");

    calls.ready().await.unwrap();
    let large = Bytes::from(vec![b'y'; 1_000_000]);
    let response = calls.unary(Request::new(large.clone()), path("Unary"), Plain).await.unwrap();
    assert!(response.get_ref()[..] == [b"hello ", &large[..]].concat(), "a large message");

    calls.ready().await.unwrap();
    let numbers = stream::iter((0..500_u32).map(|n| Bytes::from(n.to_string())));
    let response = calls.client_streaming(Request::new(numbers), path("Total"), Plain).await.unwrap();
    assert_eq!(&response.get_ref()[..], b"124750");

    calls.ready().await.unwrap();
    let asked = Request::new(Bytes::from_static(b"500"));
    let response = calls.server_streaming(asked, path("List"), Plain).await.unwrap();
    let (came, status) = collected(response.into_inner()).await;
    assert!(came == (0..500).map(listed).collect::<Vec<_>>(), "{} messages", came.len());
    assert!(status.is_none(), "{status:?}");

    chats(&mut calls).await;

    calls.ready().await.unwrap();
    let status = calls.unary(Request::new(Bytes::new()), path("Refuse"), Plain).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, SAID));
    assert_eq!(status.metadata().get("x-why").unwrap(), "closed");

    calls.ready().await.unwrap();
    let response = calls.server_streaming(Request::new(Bytes::new()), path("Late"), Plain).await.unwrap();
    let (came, status) = collected(response.into_inner()).await;
    assert_eq!(came, ["one", "two"]);
    let status = status.unwrap();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "enough"));

    calls.ready().await.unwrap();
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(300));
    let status = calls.unary(request, path("Slow"), Plain).await.unwrap_err();
    // The client has a clock of its own, which calls it so; whoever is first.
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()), "{status:?}");

    calls.ready().await.unwrap();
    let status = calls.unary(Request::new(Bytes::new()), path("Unknown"), Plain).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Each message is said when the one before it was answered; then this half is closed.
async fn chats(calls: &mut Calls<Channel>) {
    calls.ready().await.unwrap();
    let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
    // A server may say nothing, not even that it takes the call, before there is something to answer.
    say.send("0".into()).await.unwrap();
    let response = calls.streaming(Request::new(received(said)), path("Chat"), Plain).await.unwrap();
    let mut answers = response.into_inner();
    for n in 0..50 {
        if n > 0 {
            say.send(n.to_string().into()).await.unwrap();
        }
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer, format!("you said {n}"));
    }
    drop(say);
    assert_eq!(answers.message().await.unwrap().unwrap(), "bye");
    assert!(answers.message().await.unwrap().is_none());
}

fn received(from: tokio::sync::mpsc::Receiver<Bytes>) -> impl Stream<Item = Bytes> {
    stream::unfold(from, |mut from| async move { from.recv().await.map(|message| (message, from)) })
}
