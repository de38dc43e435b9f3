//! Session tickets (RFC 8446 §4.6.1, RFC 5077): one pair of keys for all workers of the process, without a lock.
//!
//! A key serves for [`PERIOD`] and is accepted for another; then it is overwritten. Whichever worker first notices that a
//! period has begun draws the new key; the others copy it. Keys are of the process, not of a certificate, so that a
//! session outlives a change of its certificate; that a session of one server name is not resumed for another is seen
//! to by the TLS library, which keeps the name in the ticket.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use routing::time::MonoTime;
use rustls::server::ProducesTickets;

/// How long a key makes tickets; it is accepted for as long again, so that no ticket is older than 12 h.
pub const PERIOD: Duration = Duration::from_secs(6 * 3600);
/// What clients are told: seconds after which they need not try a ticket.
const LIFETIME_SECONDS: u32 = 12 * 3600;
/// A key and its name, in words.
const WORDS: usize = 5;
const NAME_BYTES: usize = 8;

/// The number of a period since the machine started; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// The period that `now` lies in.
    #[must_use]
    pub fn of(now: MonoTime) -> Self {
        let period = u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX);
        Self(now.0 / period + 1)
    }
}

/// The keys that the workers share. One writer at a time by a claim, readers check that nothing changed meanwhile.
#[derive(Default)]
pub struct Keyring {
    claimed: AtomicU64,
    published: AtomicU64,
    slots: [Slot; 2],
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
    /// The tickets of the period that `epoch` is, or of the one before while another worker draws the new key. `None`:
    /// there is no key yet.
    fn tickets(&self, epoch: Epoch, random: impl FnOnce(&mut [u8])) -> Option<(Epoch, Tickets)> {
        self.advance(epoch, random);
        let newest = self.published.load(Ordering::Acquire);
        let current = self.key(newest)?;
        let previous = self.key(newest.wrapping_sub(1));
        Some((Epoch(newest), Tickets { current, previous }))
    }

    fn advance(&self, Epoch(epoch): Epoch, random: impl FnOnce(&mut [u8])) {
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
        let (name, key) = bytes.split_first_chunk::<NAME_BYTES>()?;
        Some(Key { name: *name, aead: RandomizedNonceKey::new(&AES_256_GCM, key).ok()? })
    }
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: RandomizedNonceKey,
}

/// One worker's copy of the keys of a period.
pub struct Tickets {
    current: Key,
    previous: Option<Key>,
}

impl Tickets {
    /// Those of the period that `now` lies in.
    #[must_use]
    pub fn of(ring: &Keyring, now: MonoTime, random: impl FnOnce(&mut [u8])) -> Option<(Epoch, Self)> {
        ring.tickets(Epoch::of(now), random)
    }
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
        let key = [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.name == *name)?;
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
        ring.tickets(Epoch(epoch), |bytes| bytes.fill(seed)).unwrap().1
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
