//! What workers see of each other: one padded line each, written by its owner, read by all.
//!
//! Relaxed stores only, at most a few hundred a second: a hint for handing connections over, never a lock.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use routing::delta::Mail;
use routing::health::board::{Board, BoardLimits};

use crate::passwords::Passwords;
use crate::tls::tickets::Keyring;

/// One worker's line. Padded so that writing one never slows the reading of another.
#[repr(align(128))]
#[derive(Default)]
pub struct Line {
    /// Requests begun in the last measuring window, scaled to a second.
    rate: AtomicU32,
    /// Exchanges in flight.
    in_flight: AtomicU32,
    /// When the worker last came round its loop, in nanoseconds of the monotonic clock: feeds the watchdog.
    alive_ns: AtomicU64,
}

impl Line {
    /// Requests per second in the last window.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Exchanges in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// When the worker last came round, nanoseconds of the monotonic clock.
    #[must_use]
    pub fn alive_ns(&self) -> u64 {
        self.alive_ns.load(Ordering::Relaxed)
    }

    pub(super) fn publish(&self, rate: u32, in_flight: u32, now_ns: u64) {
        self.rate.store(rate, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.alive_ns.store(now_ns, Ordering::Relaxed);
    }
}

/// Where mail for a worker is put: a bounded channel and the eventfd that wakes its reader.
pub struct Postbox {
    sender: Sender<Mail>,
    bell: OwnedFd,
}

impl Postbox {
    /// Joins the two.
    #[must_use]
    pub fn new(sender: Sender<Mail>, bell: OwnedFd) -> Self {
        Self { sender, bell }
    }

    /// Puts mail in and rings. Never waits.
    ///
    /// # Errors
    /// Gives the mail back when the box is full or the worker is gone.
    pub fn send(&self, mail: Mail) -> Result<(), Mail> {
        match self.sender.try_send(mail) {
            Ok(()) => {
                self.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => Err(mail),
        }
    }

    /// Wakes the worker.
    pub fn ring(&self) {
        // A full counter means that the bell is ringing already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// What all workers of the process share.
pub struct Peers {
    /// A line for each worker.
    pub lines: Box<[Line]>,
    /// A box for each worker.
    pub boxes: Box<[Postbox]>,
    /// The verdicts of the failure detector, and the evidence for them.
    pub board: Arc<Board>,
    /// The keys of TLS session tickets.
    pub tickets: Keyring,
    /// Comparisons of passwords that wait.
    pub passwords: Passwords,
    draining: AtomicBool,
    stopping: AtomicBool,
}

impl Peers {
    /// One line for each box; at most so many comparisons of passwords wait.
    #[must_use]
    pub fn new(boxes: Vec<Postbox>, password_checks_max: usize) -> Arc<Self> {
        Arc::new(Self {
            passwords: Passwords::new(boxes.len(), password_checks_max),
            lines: boxes.iter().map(|_| Line::default()).collect(),
            board: Arc::new(Board::new(BoardLimits {
                workers: u16::try_from(boxes.len()).unwrap_or(u16::MAX),
                ..BoardLimits::default()
            })),
            boxes: boxes.into_boxed_slice(),
            tickets: Keyring::default(),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// Tells every worker to stop accepting and to finish what it has.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.boxes.iter().for_each(Postbox::ring);
    }

    /// Tells every worker to end now, whatever is in flight.
    pub fn stop(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.stopping.store(true, Ordering::Relaxed);
        self.boxes.iter().for_each(Postbox::ring);
    }

    /// Is the process draining?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Is the process past its drain deadline?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
