//! Session tickets (RFC 8446 §4.6.1, RFC 5077): one pair of keys for all workers of the process, without a lock.
//!
//! A key serves for [`PERIOD`] and is accepted for another; then it is overwritten. Whichever worker first notices that a
//! period has begun draws the new key; the others copy it. Keys are of the process, not of a certificate, so that a
//! session outlives a change of its certificate; that a session of one server name is not resumed for another is seen
//! to by the TLS library, which keeps the name in the ticket.
//!
//! Nodes that are given the same secrets (`tls.ticket_secrets`) make keys of those and of the time of day in place of drawn
//! ones: a session of one is resumed by all, nobody asks anybody, and keys change at the same moment everywhere. Of several
//! secrets the first makes tickets and all of them are accepted, so that a new one can be brought to every node before
//! it is used.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use routing::time::MonoTime;
use rustls::server::ProducesTickets;

/// How long a key makes tickets; it is accepted for as long again, so that no ticket is older than 12 h.
pub const PERIOD: Duration = Duration::from_secs(6 * 3600);
/// What clients are told: seconds after which they need not try a ticket.
const LIFETIME_SECONDS: u32 = 12 * 3600;
/// A key and its name, in words.
const WORDS: usize = 5;
const NAME_BYTES: usize = 8;
/// Shared secrets at once: one that makes tickets, the next, and those that are on their way out.
pub const SECRETS_MAX: usize = 4;
/// Characters of one of them.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 32..=1_024;
/// Words of one, digested.
const SECRET_WORDS: usize = 4;

/// The number of a period; never 0. Of drawn keys since the machine started, of shared secrets since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    number: u64,
    /// Which secrets were in force: [`Shared::version`].
    shared: u64,
}

/// What time it is, by both clocks that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the machine started.
    pub monotonic: MonoTime,
    /// Since 1970, seconds.
    pub wall: u64,
}

/// The secrets that nodes share, digested; the first makes tickets.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<[u8; SECRET_WORDS * 8]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// None: every node draws keys of its own.
    pub const NONE: Self = Self(Vec::new());

    /// Reads a file with one secret on each line; lines that are empty or begin with `#` say nothing. An empty path is
    /// [`Secrets::NONE`].
    ///
    /// # Errors
    /// What is wrong with it, by line; never what it holds.
    pub fn read(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Ok(Self::NONE);
        }
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|why| format!("tls.ticket_secrets: {shown}: {why}"))?;
        Self::parse(&text).map_err(|why| format!("tls.ticket_secrets: {shown}: {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !SECRET_CHARS.contains(&line.len()) {
                let (min, max) = (SECRET_CHARS.start(), SECRET_CHARS.end());
                let number = index + 1;
                return Err(format!("line {number}: {} characters; allowed: {min} to {max}", line.len()));
            }
            let mut secret = [0; SECRET_WORDS * 8];
            secret.copy_from_slice(digest::digest(&SHA256, line.as_bytes()).as_ref());
            all.push(secret);
        }
        if all.is_empty() || all.len() > SECRETS_MAX {
            return Err(format!("{} secrets; allowed: 1 to {SECRETS_MAX}, one on each line", all.len()));
        }
        Ok(Self(all))
    }
}

/// The keys that the workers share. One writer at a time by a claim, readers check that nothing changed meanwhile.
#[derive(Default)]
pub struct Keyring {
    claimed: AtomicU64,
    published: AtomicU64,
    slots: [Slot; 2],
    shared: Shared,
}

/// The secrets in force. Written by the thread that reads the configuration, and by no other.
#[derive(Default)]
struct Shared {
    /// Changes with every change; odd while it is made, 0 = there were never any.
    version: AtomicU64,
    /// How many there are; 0 = keys are drawn.
    count: AtomicU64,
    words: [[AtomicU64; SECRET_WORDS]; SECRETS_MAX],
}

impl Shared {
    fn put(&self, secrets: &Secrets) {
        let before = self.version.load(Ordering::Relaxed);
        self.version.store(before | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.count.store(secrets.0.len() as u64, Ordering::Relaxed);
        for (words, secret) in self.words.iter().zip(&secrets.0) {
            for (word, bytes) in words.iter().zip(secret.as_chunks::<8>().0) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        self.version.store((before | 1) + 1, Ordering::Release);
    }

    /// The secrets with their version; `None` while they change.
    fn get(&self) -> Option<(u64, Secrets)> {
        let version = self.version.load(Ordering::Acquire);
        let count = usize::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(0).min(SECRETS_MAX);
        let mut secrets = Secrets::NONE;
        for words in &self.words[..count] {
            let mut secret = [0; SECRET_WORDS * 8];
            for (word, bytes) in words.iter().zip(secret.as_chunks_mut::<8>().0) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            secrets.0.push(secret);
        }
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        is_whole.then_some((version, secrets))
    }
}

#[derive(Default)]
struct Slot {
    /// Whose key it holds; 0 while it is being written.
    epoch: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    /// Puts these secrets in force on all workers; with none, keys are drawn.
    pub fn share(&self, secrets: &Secrets) {
        if self.shared.get().is_none_or(|(_, before)| before != *secrets) {
            self.shared.put(secrets);
        }
    }

    /// The period that `now` lies in.
    #[must_use]
    pub fn epoch(&self, now: Now) -> Epoch {
        let shared = self.shared.version.load(Ordering::Acquire);
        let number = match self.shared.count.load(Ordering::Relaxed) {
            0 => now.monotonic.0 / u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX) + 1,
            _ => now.wall / PERIOD.as_secs() + 1,
        };
        Epoch { number, shared }
    }

    /// The tickets of a period. Of drawn keys, those of the one before while another worker draws the new one: which it
    /// is comes with them. `None`: there is no key at this moment.
    pub fn tickets(&self, epoch: Epoch, random: impl FnOnce(&mut [u8])) -> Option<(Epoch, Tickets)> {
        let (version, secrets) = self.shared.get()?;
        if version != epoch.shared {
            return None;
        }
        if let Some((first, _)) = secrets.0.split_first() {
            let current = Key::derived(first, epoch.number)?;
            // The clock of another node may be ahead.
            let periods = [epoch.number, epoch.number.wrapping_sub(1), epoch.number + 1];
            let all = secrets.0.iter().flat_map(|secret| periods.map(|number| Key::derived(secret, number)));
            return Some((epoch, Tickets { current, others: all.flatten().collect() }));
        }
        self.advance(epoch.number, random);
        let newest = self.published.load(Ordering::Acquire);
        let current = self.key(newest)?;
        let others = self.key(newest.wrapping_sub(1)).into_iter().collect();
        Some((Epoch { number: newest, ..epoch }, Tickets { current, others }))
    }

    fn advance(&self, epoch: u64, random: impl FnOnce(&mut [u8])) {
        let before = self.claimed.load(Ordering::Acquire);
        if before >= epoch
            || self.claimed.compare_exchange(before, epoch, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return;
        }
        let mut bytes = [0; WORDS * 8];
        random(&mut bytes);
        let slot = &self.slots[usize::from(epoch % 2 == 1)];
        slot.epoch.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, bytes) in slot.words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        slot.epoch.store(epoch, Ordering::Release);
        self.published.store(epoch, Ordering::Release);
    }

    fn key(&self, epoch: u64) -> Option<Key> {
        let slot = &self.slots[usize::from(epoch % 2 == 1)];
        if epoch == 0 || slot.epoch.load(Ordering::Acquire) != epoch {
            return None;
        }
        let mut bytes = [0; WORDS * 8];
        for (word, bytes) in slot.words.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        fence(Ordering::Acquire);
        if slot.epoch.load(Ordering::Relaxed) != epoch {
            return None;
        }
        Key::of(&bytes)
    }
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: RandomizedNonceKey,
}

/// A key's name and bytes, as HKDF is asked for them.
struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        WORDS * 8
    }
}

impl Key {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (name, key) = bytes.split_first_chunk::<NAME_BYTES>()?;
        Some(Self { name: *name, aead: RandomizedNonceKey::new(&AES_256_GCM, key).ok()? })
    }

    /// The key of a period (RFC 5869).
    fn derived(secret: &[u8], number: u64) -> Option<Self> {
        let number = number.to_be_bytes();
        let info: [&[u8]; 1] = [&number];
        let secret = Salt::new(HKDF_SHA256, b"ringway session tickets").extract(secret);
        let mut bytes = [0; WORDS * 8];
        secret.expand(&info, KeyBytes).ok()?.fill(&mut bytes).ok()?;
        Self::of(&bytes)
    }
}

/// One worker's copy of the keys of a period.
pub struct Tickets {
    current: Key,
    /// Whose tickets are accepted, too.
    others: Vec<Key>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    /// Name, nonce, sealed session.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let name = &self.current.name;
        let nonce = self.current.aead.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = std::iter::once(&self.current).chain(&self.others).find(|key| key.name == *name)?;
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = key.aead.open_in_place(nonce, Aad::from(name), &mut session).ok()?.len();
        session.truncate(len);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ring: &Keyring, epoch: u64) -> Tickets {
        let seed = u8::try_from(epoch).unwrap();
        ring.tickets(Epoch { number: epoch, shared: 0 }, |bytes| bytes.fill(seed)).unwrap().1
    }

    /// What a node with these secrets has at this time of day.
    fn sharing(ring: &Keyring, secrets: &str, wall: u64) -> Tickets {
        ring.share(&Secrets::parse(secrets).unwrap());
        let epoch = ring.epoch(Now { monotonic: MonoTime(wall), wall });
        ring.tickets(epoch, |_| panic!("no key is drawn")).unwrap().1
    }

    const FIRST: &str = "first-secret-of-at-least-32-characters";
    const SECOND: &str = "second-secret-of-at-least-32-characters";
    const PERIOD_SECONDS: u64 = PERIOD.as_secs();

    #[test]
    fn nodes_with_one_secret_take_each_other_s_tickets_for_two_periods() {
        let (one, other) = (Keyring::default(), Keyring::default());
        let start = 1_000 * PERIOD_SECONDS;
        let ticket = sharing(&one, FIRST, start).encrypt(b"session").unwrap();
        let at = |wall: u64| sharing(&other, FIRST, wall).decrypt(&ticket);
        for wall in [start, start + PERIOD_SECONDS - 1, start + 2 * PERIOD_SECONDS - 1, start - 1] {
            assert_eq!(at(wall).as_deref(), Some(&b"session"[..]), "{wall}");
        }
        assert_eq!(at(start + 2 * PERIOD_SECONDS), None, "no older than two periods");
        assert_eq!(at(start - PERIOD_SECONDS - 1), None, "no further ahead than one");
        assert_eq!(sharing(&other, SECOND, start).decrypt(&ticket), None, "another secret");
    }

    #[test]
    fn a_new_secret_is_accepted_before_it_is_used_and_the_old_one_until_it_is_gone() {
        let wall = 1_000 * PERIOD_SECONDS;
        let ring = Keyring::default();
        let old = sharing(&ring, FIRST, wall).encrypt(b"old").unwrap();
        let both = format!("# the next one below\n{FIRST}\n\n  {SECOND}\n");
        let with = sharing(&ring, &both, wall);
        assert_eq!(with.decrypt(&old).unwrap(), b"old");
        let new = sharing(&Keyring::default(), SECOND, wall).encrypt(b"new").unwrap();
        assert_eq!(with.decrypt(&new).unwrap(), b"new", "accepted before it is first");
        assert_eq!(sharing(&ring, FIRST, wall).decrypt(&with.encrypt(b"x").unwrap()).unwrap(), b"x");
        assert_eq!(sharing(&ring, SECOND, wall).decrypt(&old), None);
        // Without any: keys are drawn, and nothing of before is accepted.
        ring.share(&Secrets::NONE);
        let epoch = ring.epoch(Now { monotonic: MonoTime(0), wall });
        assert_eq!(ring.tickets(epoch, |bytes| bytes.fill(1)).unwrap().1.decrypt(&new), None);
    }

    #[test]
    fn a_file_of_secrets_is_refused_by_line_and_never_quoted() {
        for (text, reason) in [
            ("", "0 secrets; allowed: 1 to 4"),
            ("# nothing\n\n", "0 secrets; allowed: 1 to 4"),
            (&format!("{FIRST}\nshort-one"), "line 2: 9 characters; allowed: 32 to 1024"),
            (&"x".repeat(1_025), "line 1: 1025 characters; allowed: 32 to 1024"),
            (&format!("{FIRST}\n").repeat(5), "5 secrets; allowed: 1 to 4"),
        ] {
            let refused = Secrets::parse(text).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
            assert!(!refused.contains("short-one") && !refused.contains(FIRST), "{refused}");
        }
        let missing = Secrets::read(Path::new("/nowhere/tickets")).unwrap_err();
        assert!(missing.starts_with("tls.ticket_secrets: /nowhere/tickets: "), "{missing}");
        assert_eq!(Secrets::read(Path::new("")), Ok(Secrets::NONE));
    }

    #[test]
    fn a_ticket_is_good_for_its_own_period_and_the_next_on_every_worker() {
        let ring = Keyring::default();
        let (first, second) = (at(&ring, 7), at(&ring, 7));
        let ticket = first.encrypt(b"session").unwrap();
        assert_eq!(second.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(at(&ring, 8).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(at(&ring, 9).decrypt(&ticket), None);
        // A pause of two periods: the key before is not the one of the period before.
        let late = at(&ring, 11).encrypt(b"late").unwrap();
        assert_eq!(at(&ring, 13).decrypt(&late), None);
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_is_none() {
        let tickets = at(&Keyring::default(), 1);
        let ticket = tickets.encrypt(b"session").unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
            assert_eq!(tickets.decrypt(&ticket[..index]), None, "{index} bytes");
        }
        assert!(!ticket.windows(7).any(|bytes| bytes == b"session"));
        assert_ne!(ticket, tickets.encrypt(b"session").unwrap(), "a nonce of its own");
    }
}
