//! The connection to one API server: how long anything may take, and when it last answered.
//!
//! A partitioned server keeps its TCP connections seemingly alive: keep-alive probes, the kernel's user timeout and a
//! bound on every read end them. Nothing that serves traffic ever waits for this.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::util::ServiceExt;
use tower::{BoxError, ServiceBuilder};

use crate::clock;

/// Connecting and writing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No byte from the server for this long: more than a watch is quiet for ([`WATCH_SECONDS`]).
const READ_TIMEOUT: Duration = Duration::from_secs(40);
/// A connection is probed after this time without a byte, …
const KEEPALIVE: Duration = Duration::from_secs(10);
/// … this often, …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// … and ended after so many probes without an answer.
const KEEPALIVE_RETRIES: u32 = 3;
/// Sent bytes that are not acknowledged for so long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one watch request lasts before it is renewed, in seconds: a server that vanished behind a proxy is noticed.
pub const WATCH_SECONDS: u32 = 28;

/// When a server last answered, and last failed to. Shared by all requests to it.
#[derive(Debug, Default)]
pub struct Contact {
    answered_ns: AtomicU64,
    failed_ns: AtomicU64,
    reason: Mutex<String>,
}

impl Contact {
    /// When it last answered anything, `CLOCK_MONOTONIC` nanoseconds; 0 = never.
    #[must_use]
    pub fn answered_ns(&self) -> u64 {
        self.answered_ns.load(Ordering::Relaxed)
    }

    /// Why the last request had no answer, if it had none.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let failed = self.failed_ns.load(Ordering::Relaxed);
        (failed > self.answered_ns())
            .then(|| self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn note<T>(&self, result: &Result<T, BoxError>) {
        match result {
            Ok(_) => self.answered_ns.store(clock::monotonic_ns(), Ordering::Relaxed),
            Err(error) => {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = chain(error.as_ref());
                self.failed_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
            }
        }
    }
}

/// An error with what caused it: "client error (Connect): tcp connect error: Connection refused".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What the server says of a resource that it does not know, or of an object that is not there.
///
/// A resource of a CRD that is not installed is answered with a plain text, not with a `Status`: only the code tells.
pub(super) fn is_absent(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error { status.code == 404 } else { false }
}

/// A client of the server that `config` names. Connects when it is first used.
///
/// # Errors
/// What is wrong with the certificates or the credentials.
pub fn client(config: &Config, contact: &Arc<Contact>) -> Result<Client, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let https = config.rustls_https_connector_with_connector(http).map_err(|error| chain(&error))?;
    let mut timed = TimeoutConnector::new(https);
    timed.set_connect_timeout(Some(CONNECT_TIMEOUT));
    timed.set_write_timeout(Some(CONNECT_TIMEOUT));
    timed.set_read_timeout(Some(READ_TIMEOUT));
    let auth = config.auth_layer().map_err(|error| chain(&error))?;
    let extra = config.extra_headers_layer().map_err(|error| chain(&error))?;
    let hyper = HyperClient::builder(TokioExecutor::new()).build::<_, Body>(timed);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .layer(extra)
        .map_err(BoxError::from)
        .service(hyper);
    let contact = contact.clone();
    let noted = service.map_result(move |result| {
        contact.note(&result);
        result
    });
    Ok(Client::new(noted, config.default_namespace.clone()))
}
