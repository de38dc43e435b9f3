//! gRPC-Web ("gRPC Web" of gRPC's documentation): trailers as the last frame of the body, and bodies in base64.
//!
//! Messages are framed as they are in gRPC, so that everything but trailers passes as it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::WireError;
use crate::h1::chunked::CRLF;
use crate::h2::trailer_fields;

/// How a body of gRPC-Web is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Binary,
    /// In base64, of which each piece may have a padding of its own.
    Text,
}

/// The first byte of a frame that holds trailers; those of messages have this bit clear.
const TRAILERS: u8 = 0x80;

/// Appends the last frame: trailer lines of HTTP/1.1 as fields, names in lower case.
pub fn trailers(lines: &[u8], form: Form, out: &mut Vec<u8>) {
    let mut frame = vec![TRAILERS, 0, 0, 0, 0];
    for (name, value) in trailer_fields(lines) {
        frame.extend(name.iter().map(u8::to_ascii_lowercase));
        frame.push(b':');
        frame.extend_from_slice(value);
        frame.extend_from_slice(CRLF);
    }
    // A trailer section is far smaller than 4 GiB.
    let len = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
    frame[1..5].copy_from_slice(&len.to_be_bytes());
    match form {
        Form::Binary => out.extend_from_slice(&frame),
        Form::Text => encode(&frame, out),
    }
}

/// Appends `bytes` in base64 (RFC 4648 §4), with padding.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + bytes.len().div_ceil(3) * 4, 0);
    // There is room for all of it.
    let written = STANDARD.encode_slice(bytes, &mut out[at..]).unwrap_or(0);
    out.truncate(at + written);
}

/// Where a body of gRPC stands among its messages, each of which has a prefix of a flag and its length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages {
    /// Bytes of the present prefix that came.
    prefix: u8,
    /// The length that it says, as far as it came.
    len: u32,
    /// Bytes of the present message that are still to come.
    left: u32,
}

impl Messages {
    /// These bytes came.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, behind)) = bytes.split_first() {
            if self.left > 0 {
                let n = bytes.len().min(self.left as usize);
                // No more than is left.
                self.left -= u32::try_from(n).unwrap_or(self.left);
                bytes = &bytes[n..];
                continue;
            }
            // The flag is shifted out by the four bytes of the length.
            self.len = self.len << 8 | u32::from(*first);
            self.prefix += 1;
            if self.prefix == 5 {
                *self = Self { left: self.len, ..Self::default() };
            }
            bytes = behind;
        }
    }

    /// Is every message that began complete?
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.prefix == 0 && self.left == 0
    }
}

/// Takes base64 off a body as it comes. Padding may stand at the end of any group, not only of the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    /// Bits that are not a whole byte yet, in the low end.
    bits: u32,
    /// Letters of the group that came, padding included.
    letters: u8,
    is_padded: bool,
}

impl Decoder {
    /// Decodes in place: afterwards the bytes up to the returned length are what `buf` held.
    ///
    /// # Errors
    /// [`WireError::Base64`]: a letter that is none, or padding where it cannot be.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<usize, WireError> {
        let mut len = 0;
        for at in 0..buf.len() {
            match buf[at] {
                b'=' if self.letters >= 2 => self.is_padded = true,
                letter => {
                    let value = value(letter).filter(|_| !self.is_padded).ok_or(WireError::Base64)?;
                    self.bits = self.bits << 6 | u32::from(value);
                    // The second letter of a group completes a byte, and so do the third and the fourth.
                    if self.letters > 0 {
                        let left = 6 - 2 * u32::from(self.letters);
                        buf[len] = (self.bits >> left & 0xff) as u8;
                        len += 1;
                    }
                }
            }
            self.letters += 1;
            if self.letters == 4 {
                *self = Self::default();
            }
        }
        Ok(len)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// [`WireError::Base64`]: in the middle of a group.
    pub fn finish(&self) -> Result<(), WireError> {
        if self.letters == 0 { Ok(()) } else { Err(WireError::Base64) }
    }
}

fn value(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, WireError> {
        let (mut decoder, mut all) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let len = decoder.decode(&mut piece)?;
            all.extend_from_slice(&piece[..len]);
        }
        decoder.finish().map(|()| all)
    }

    #[test]
    fn where_a_body_stands_among_its_messages_does_not_depend_on_its_pieces() {
        let body = [&b"\x01\0\0\0\x03abc\0\0\0\0\0\0\0\0\x01\0"[..], &[b'x'; 256]].concat();
        let between = [0, 8, 13, 18 + 256];
        for piece in [1, 2, 3, 5, 7, 1_000] {
            let mut messages = Messages::default();
            let mut at = 0;
            assert!(messages.is_between());
            for piece in body.chunks(piece) {
                messages.pass(piece);
                at += piece.len();
                assert_eq!(messages.is_between(), between.contains(&at), "{at}");
            }
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, text.as_bytes());
            assert_eq!(decoded(&[text.as_bytes()]), Ok(plain.into()));
        }
    }

    #[test]
    fn a_text_may_be_cut_anywhere_and_padded_anywhere() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = Vec::new();
        // Pieces of their own, each padded.
        bytes.chunks(7).for_each(|piece| encode(piece, &mut text));
        for size in 1..=9 {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(decoded(&pieces).as_deref(), Ok(&bytes[..]), "{size}");
        }
    }

    #[test]
    fn what_is_no_base64_is_an_error() {
        for text in ["Zg", "Z", "Zg=", "=", "Z===", "Zg=v", "Zm9v\n", "Zm-_", "Zm9v Zm9v", "Zg==="] {
            assert_eq!(decoded(&[text.as_bytes()]), Err(WireError::Base64), "{text:?}");
        }
    }

    #[test]
    fn trailers_are_a_frame_of_fields_in_lower_case() {
        let mut out = b"message".to_vec();
        trailers(b"Grpc-Status: 0\r\ngrpc-message:  so be it\r\n", Form::Binary, &mut out);
        assert_eq!(out, b"message\x80\0\0\0\x26grpc-status:0\r\ngrpc-message:so be it\r\n");
        let mut text = Vec::new();
        trailers(b"grpc-status: 0\r\n", Form::Text, &mut text);
        assert_eq!(decoded(&[&text]).unwrap(), b"\x80\0\0\0\x0fgrpc-status:0\r\n");
    }
}
