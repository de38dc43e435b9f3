//! The admin thread's sockets: accepts, bounds, and hands requests to the API. The operators' socket has connections
//! of its own: a crowd that reads cannot keep them out.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections (more wait in the backlog), heads of [`HEAD_BYTES_MAX`] bytes within
//! [`HEAD_TIMEOUT`], no bodies, [`REQUEST_TIMEOUT`] for an answer, [`CONNECTION_LIFE`] for a connection, whatever
//! its client does.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::guard::Refusal;
use super::operate::{self, Operator};
use super::room::{self, Desk, Room};
use super::socket::Socket;
use super::tables::{self, Asker};
use super::{Sources, guard, pages};

/// Connections served at once.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Operators' connections served at once.
const OPERATORS_MAX: usize = 16;
/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of a request.
const HEADERS_MAX: usize = 64;
/// How long a request head may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to be made.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After this a connection is closed when its current answer has been sent …
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// … which may take so long.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// The pause after a failed accept: descriptors are short, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped`.
pub(super) async fn run(
    sources: Sources,
    (listener, socket): (std::net::TcpListener, Option<Socket>),
    bell: OwnedFd,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let listen = listener.local_addr()?;
    tracing::info!(%listen, dashboard = %format_args!("http://{}/", guard::reachable(listen)), "admin API");
    let (desk, questions) = room::desk();
    let (pages, asker) = (pages::router(desk.clone()), Asker::new(desk.clone()));
    let operators = match &socket {
        Some(socket) => {
            let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
            let api = pages.clone().merge(operate::router(desk.clone()));
            let api = api.merge(tables::operators(asker.clone()));
            Some(tokio::spawn(accept_operators(listener, api, desk.clone())))
        }
        None => None,
    };
    let accepting = tokio::spawn(accept(listener, pages.merge(tables::router(asker)), desk));
    let ended = Box::pin(Room::new(sources).serve(bell, questions, stopped)).await;
    accepting.abort();
    if let Some(operators) = operators {
        operators.abort();
    }
    // Its file goes with it.
    drop(socket);
    ended
}

async fn accept(listener: TcpListener, api: Router, desk: Desk) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The desk is closed only when the room has ended, and this task with it.
    let _room = desk;
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(at) = stream.local_addr() else { continue };
                let api = api.clone().layer(middleware::from_fn_with_state(at, guarded));
                tokio::spawn(async move {
                    converse(stream, api).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_operators(listener: UnixListener, api: Router, desk: Desk) {
    let permits = Arc::new(Semaphore::new(OPERATORS_MAX));
    let _room = desk;
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                let api = api.clone().layer(Extension(Operator { uid }));
                let api = api.layer(middleware::from_fn(guarded_operator));
                tokio::spawn(async move {
                    converse(stream, api).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, api: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(api));
    let mut connection = pin!(connection);
    tokio::select! {
        // A peer's fault or its leaving: nobody needs to know.
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_LIFE) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST_ANSWER, connection).await;
}

async fn guarded(State(at): State<SocketAddr>, request: Request, next: Next) -> Response {
    let checked = guard::check(&request, at);
    answer(checked, "GET, HEAD", request, next).await
}

async fn guarded_operator(request: Request, next: Next) -> Response {
    let checked = guard::check_operator(&request);
    answer(checked, "GET, HEAD, POST", request, next).await
}

async fn answer(
    checked: Result<(), Refusal>,
    methods: &'static str,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match checked {
        Ok(()) => match timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long"),
        },
        Err(refusal) => {
            let mut response = problem(refusal.status(), refusal.reason());
            let headers = response.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
            // What follows on this connection may be a body.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    let headers = response.headers_mut();
    let harden = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in harden {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// An error as JSON.
pub(super) fn problem(status: StatusCode, reason: &str) -> Response {
    (status, Json(serde_json::json!({ "error": reason }))).into_response()
}
