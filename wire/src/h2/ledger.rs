//! What a peer of HTTP/2 asks for in frames that carry nothing, against what is carried.
//!
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and frames of unknown types are owed for, with what they make us
//! answer. Fields and data that the peer sends pay for them, and so does everything that it is sent: a client that measures
//! its path with a PING for every message, or opens its window for every piece of a download, stays where it is. Only frame heads
//! are looked at (RFC 9113 §4.1); what is wrong with a frame is for others to say.

/// The length of a frame's head.
const HEAD_BYTES: usize = 9;
/// What a client says before its first frame (RFC 9113 §3.4).
const PREFACE_BYTES: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;

/// The account of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    head: [u8; HEAD_BYTES],
    /// Bytes of the present head that came.
    have: u8,
    /// Bytes of the present frame that are still to come.
    left: u32,
    /// Bytes.
    owed: u32,
}

impl Ledger {
    /// That of a connection whose client is about to send its preface.
    #[must_use]
    pub fn new() -> Self {
        Self { head: [0; HEAD_BYTES], have: 0, left: PREFACE_BYTES, owed: 0 }
    }

    /// These bytes came.
    pub fn received(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = bytes.len().min(self.left as usize);
                // No more than is left.
                self.left -= u32::try_from(n).unwrap_or(self.left);
                bytes = &bytes[n..];
                continue;
            }
            let have = usize::from(self.have);
            let n = bytes.len().min(HEAD_BYTES - have);
            self.head[have..have + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.have += u8::try_from(n).unwrap_or(0);
            if have + n == HEAD_BYTES {
                self.have = 0;
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]);
        let bytes = self.left + 9;
        match (kind, flags & ACK) {
            (DATA | HEADERS | CONTINUATION, _) => self.pay(self.left),
            // An answer of the same length, and one without content.
            (PING, 0) => self.owe(bytes * 2),
            (SETTINGS, 0) => self.owe(bytes + 9),
            _ => self.owe(bytes),
        }
    }

    fn owe(&mut self, bytes: u32) {
        self.owed = self.owed.saturating_add(bytes);
    }

    /// So many bytes went to the peer, or are forgiven.
    pub fn pay(&mut self, bytes: u32) {
        self.owed = self.owed.saturating_sub(bytes);
    }

    /// Bytes that nothing was carried for.
    #[must_use]
    pub fn owed(&self) -> u32 {
        self.owed
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn owed(frames: &[u8], piece: usize) -> u32 {
        let mut ledger = Ledger::new();
        ledger.received(&[b'P'; PREFACE_BYTES as usize]);
        frames.chunks(piece).for_each(|piece| ledger.received(piece));
        ledger.owed()
    }

    #[test]
    fn what_is_owed_does_not_depend_on_how_the_bytes_come() {
        let settings = frame(SETTINGS, 0, &[0; 12]);
        let ping = frame(PING, 0, b"12345678");
        let all = [&settings[..], &frame(SETTINGS, ACK, &[]), &ping, &frame(PING, ACK, b"12345678")].concat();
        for piece in 1..=all.len() {
            assert_eq!(owed(&all, piece), (21 + 9) + 9 + 34 + 17, "pieces of {piece}");
        }
        assert_eq!(owed(&frame(2, 0, &[0; 5]), 100), 14, "PRIORITY");
    }

    #[test]
    fn what_is_carried_pays_and_nothing_is_saved_up() {
        let ping = frame(PING, 0, b"12345678");
        assert_eq!(owed(&[&frame(HEADERS, 4, &[0; 500])[..], &ping].concat(), 100), 34);
        assert_eq!(owed(&[&ping[..], &ping, &frame(DATA, 0, &[0; 50])].concat(), 100), 18);
        assert_eq!(
            owed(&[&ping[..], &frame(DATA, 0, &[])].concat(), 100),
            34,
            "an empty frame carries nothing"
        );
    }

    /// gRPC's clients send a PING whenever data comes and none is under way: one for each message at worst.
    #[test]
    fn a_ping_for_every_message_is_paid_by_the_message() {
        let mut ledger = Ledger::new();
        ledger.received(&[b'P'; PREFACE_BYTES as usize]);
        for _ in 0..10_000 {
            ledger.received(&frame(PING, 0, b"12345678"));
            // Its answer, and a message of ten bytes with its two prefixes.
            ledger.pay(17 + 24);
        }
        assert!(ledger.owed() <= 34, "{}", ledger.owed());
    }
}
