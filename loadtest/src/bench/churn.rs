//! Changes of Ringway's manifests while it is measured.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::case::{Case, Churn};
use crate::manifests::{Condition, replace, service, slice};

/// A thread that writes; stopped and joined when dropped.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Begins what the case says, in the manifests below `home`; nothing for a case in which nothing changes.
    pub(crate) fn start(case: Case, home: PathBuf) -> Option<Self> {
        let rate = match case.churn {
            Churn::None => return None,
            Churn::Endpoints(rate) => rate,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let work = move || {
            let path = home.join("manifests/clusters/alpha/other.yaml");
            let interval = Duration::from_secs(1) / rate.max(1);
            let mut next = Instant::now();
            for nth in 0_u32.. {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                // A manifest that cannot be written shows: the table stands still.
                let _ = replace(&path, &other_service(nth));
                next += interval;
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
        };
        let thread = std::thread::Builder::new().name("churn".into()).spawn(work).ok();
        Some(Self { stop, thread })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been printed by its hook.
            let _ = thread.join();
        }
    }
}

/// A Service with ten endpoints, one of which takes turns to be absent. No route leads to it.
fn other_service(nth: u32) -> String {
    let there = (1..=10_u8).filter(|host| u32::from(*host) != nth % 10 + 1);
    let endpoints: Vec<_> = there.map(|host| SocketAddr::from(([192, 0, 2, host], 8080))).collect();
    service("bench", "other", 8080) + &slice("bench", "other", 1, &endpoints, Condition::Ready)
}
