//! Comparing passwords (RFC 7617) without holding a worker up.
//!
//! The hashes of htpasswd files are slow on purpose: tens of milliseconds, in which a worker would serve nobody. So one
//! thread compares them for all workers, in the order in which they come. Workers put a [`Job`] into its bounded queue
//! (`limits.password_checks_max`) and are woken by their doorbell; each remembers what was proven ([`Desk`]), so that a
//! client costs one comparison for each worker and password, not one for each request. Nothing that was refused is
//! remembered. Called by `exchange::filter`.

pub mod hash;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use aws_lc_rs::hmac;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use routing::model::PasswordHash;

use crate::worker::peers::{Peers, Postbox};

/// Proven credentials that one worker remembers; the oldest is forgotten first, and costs one more comparison.
pub const PROVEN_CAP: usize = 4_096;

/// One comparison.
struct Job {
    worker: u16,
    ticket: u64,
    password: Secret,
    hash: PasswordHash,
}

/// A password that is wiped when it is let go of.
struct Secret(Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler must not take the wiping for useless.
        std::hint::black_box(&self.0);
    }
}

/// What one comparison said.
struct Verdict {
    ticket: u64,
    holds: bool,
}

/// What workers and the thread that compares share.
pub struct Passwords {
    jobs: (Sender<Job>, Receiver<Job>),
    verdicts: Box<[(Sender<Verdict>, Receiver<Verdict>)]>,
    /// Never used twice in a process: a worker that was restarted takes no verdict for another request's.
    tickets: AtomicU64,
}

impl Passwords {
    /// For so many workers; at most `queue` comparisons wait.
    #[must_use]
    pub fn new(workers: usize, queue: usize) -> Self {
        Self {
            jobs: bounded(queue),
            // Each job that is out has room for its verdict, and one is under way.
            verdicts: (0..workers).map(|_| bounded(queue + 1)).collect(),
            tickets: AtomicU64::new(0),
        }
    }

    /// Compares until `ended` is closed.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(peers: &Arc<Peers>, ended: Receiver<()>) -> io::Result<JoinHandle<()>> {
        let peers = Arc::clone(peers);
        std::thread::Builder::new().name("passwords".into()).spawn(move || {
            loop {
                select! {
                    recv(peers.passwords.jobs.1) -> job => match job {
                        Ok(job) => peers.passwords.serve(&job, &peers.boxes),
                        Err(_) => return,
                    },
                    recv(ended) -> _ => return,
                }
            }
        })
    }

    fn serve(&self, job: &Job, boxes: &[Postbox]) {
        let holds = hash::verify(&job.password.0, &job.hash);
        let worker = usize::from(job.worker);
        if let (Some((sender, _)), Some(bell)) = (self.verdicts.get(worker), boxes.get(worker)) {
            // Full only when nobody has collected what restarted workers asked for.
            let _ = sender.try_send(Verdict { ticket: job.ticket, holds });
            bell.ring();
        }
    }
}

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoVerdict {
    /// `limits.password_checks_max` wait already.
    Busy,
    /// Whoever asked has no more time.
    Late,
}

/// One worker's part: what it has proven, and who waits.
pub struct Desk {
    key: hmac::Key,
    proven: RefCell<Proven>,
    waiting: RefCell<HashMap<u64, Waiting>>,
}

#[derive(Default)]
struct Proven {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

enum Waiting {
    For(Option<Waker>),
    Done(bool),
}

impl Default for Desk {
    fn default() -> Self {
        let mut key = [0; 32];
        // Without randomness there is no TLS either; the key only keeps digests of passwords from being foreseen.
        let _ = aws_lc_rs::rand::fill(&mut key);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            proven: RefCell::default(),
            waiting: RefCell::default(),
        }
    }
}

impl Desk {
    /// Is `password` the one of `hash`? At once where the comparison is quick or was made before; else it waits, until
    /// `late` says that there is no more time.
    ///
    /// # Errors
    /// [`NoVerdict`].
    pub async fn verify(
        &self,
        worker: u16,
        peers: &Peers,
        (password, hash): (&[u8], &PasswordHash),
        mut late: impl FnMut(&mut std::task::Context<'_>) -> bool,
    ) -> Result<bool, NoVerdict> {
        if !hash.is_slow() {
            return Ok(hash::verify(password, hash));
        }
        let digest = self.digest(password, hash);
        if self.proven.borrow().known.contains(&digest) {
            return Ok(true);
        }
        let ticket = peers.passwords.tickets.fetch_add(1, Ordering::Relaxed);
        let job = Job { worker, ticket, password: Secret(password.to_vec()), hash: hash.clone() };
        peers.passwords.jobs.0.try_send(job).map_err(|_| NoVerdict::Busy)?;
        let _guard = Guard { desk: self, ticket };
        self.waiting.borrow_mut().insert(ticket, Waiting::For(None));
        let holds = poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.get_mut(&ticket) {
                Some(Waiting::Done(holds)) => return Poll::Ready(Ok(*holds)),
                Some(Waiting::For(waker)) => *waker = Some(cx.waker().clone()),
                None => return Poll::Ready(Err(NoVerdict::Late)),
            }
            drop(waiting);
            if late(cx) { Poll::Ready(Err(NoVerdict::Late)) } else { Poll::Pending }
        })
        .await?;
        if holds {
            self.proven.borrow_mut().add(digest);
        }
        Ok(holds)
    }

    /// Takes in the verdicts that have come: when the worker's bell rang.
    pub fn collect(&self, worker: u16, peers: &Peers) {
        let Some((_, verdicts)) = peers.passwords.verdicts.get(usize::from(worker)) else { return };
        for Verdict { ticket, holds } in verdicts.try_iter() {
            // Nobody waits any more for what an earlier life of the worker asked, or for whom the client left.
            let Some(waiting) = self
                .waiting
                .borrow_mut()
                .get_mut(&ticket)
                .map(|place| std::mem::replace(place, Waiting::Done(holds)))
            else {
                continue;
            };
            if let Waiting::For(Some(waker)) = waiting {
                waker.wake();
            }
        }
    }

    /// What stands for a password that was proven by a hash: worthless without the key, which never leaves the worker.
    fn digest(&self, password: &[u8], hash: &PasswordHash) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        let mut part = |bytes: &[u8]| {
            context.update(&bytes.len().to_le_bytes());
            context.update(bytes);
        };
        part(password);
        match hash {
            PasswordHash::Bcrypt(hash) | PasswordHash::Plain(hash) => part(hash.as_bytes()),
            PasswordHash::Md5Crypt { magic, salt, digest } => {
                [magic.as_bytes(), salt.as_bytes(), digest.as_bytes()].into_iter().for_each(part);
            }
            PasswordHash::ShaCrypt { kind: _, rounds, salt, digest } => {
                [&rounds.to_le_bytes(), salt.as_bytes(), digest.as_bytes()].into_iter().for_each(part);
            }
            PasswordHash::Sha1 { digest, salt } => [&digest[..], salt].into_iter().for_each(part),
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

impl Proven {
    fn add(&mut self, digest: [u8; 32]) {
        if !self.known.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > PROVEN_CAP
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// A place among those who wait, given back whatever ends the wait.
struct Guard<'a> {
    desk: &'a Desk,
    ticket: u64,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.desk.waiting.borrow_mut().remove(&self.ticket);
    }
}
