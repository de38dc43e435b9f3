//! Load without pause, and what its clients met.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;
use super::until;

/// GETs from several clients, and what they met.
#[derive(Default)]
pub struct Load {
    pub over: AtomicBool,
    pub done: AtomicU64,
    pub wrong: AtomicU64,
    slowest_ns: AtomicU64,
}

impl Load {
    pub fn run(&self, gateway: SocketAddr) {
        let mut client = Client::connect(gateway);
        while !self.over.load(Ordering::SeqCst) {
            let began = Instant::now();
            let response = client.try_get("/");
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap();
            self.slowest_ns.fetch_max(took, Ordering::SeqCst);
            if response.is_ok_and(|response| response.status == 200) {
                self.done.fetch_add(1, Ordering::SeqCst);
            } else {
                self.wrong.fetch_add(1, Ordering::SeqCst);
                client = Client::connect(gateway);
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Waits for so many more answers.
    pub fn more(&self, count: u64) {
        let enough = self.done.load(Ordering::SeqCst) + count;
        until("more answers", || self.done.load(Ordering::SeqCst) >= enough);
    }

    pub fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest_ns.load(Ordering::SeqCst))
    }
}

/// Ends the load, and lets go of what hangs, however the test ends.
pub struct Stop<'a>(pub &'a Load, pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.1.store(false, Ordering::SeqCst);
    }
}
