use std::io::{Read, Write};

use super::*;
use crate::net::runtime::{self, RingFlags};
use crate::net::{Class, acquire};
use crate::tls::Stream;

/// A connection as the worker has it, and its peer.
fn pair() -> (Conn, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, addr) = listener.accept().unwrap();
    (Conn::adopt(ours.into(), addr, Cancel::Never).unwrap(), peer)
}

fn run<F: Future>(test: F) -> F::Output {
    runtime::build(RingFlags::Coop, 64, 256).unwrap().run(test, || std::future::ready(()))
}

#[test]
fn what_is_there_is_read_without_waiting_and_the_end_is_told_apart() {
    run(async {
        let (mut conn, mut peer) = pair();
        let mut buf = acquire(Class::Head, 8).unwrap();
        assert_eq!(conn.read_now(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(buf.is_empty());
        for (bytes, whole) in [("one", "one"), (" two", "one two")] {
            peer.write_all(bytes.as_bytes()).unwrap();
            assert_eq!(conn.read_now(&mut buf).unwrap(), bytes.len());
            assert_eq!(buf.bytes(), whole.as_bytes(), "appended");
        }
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(conn.read_now(&mut buf).unwrap(), 0, "the peer's end");

        let (mut conn, peer) = pair();
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let reset = conn.read_now(&mut buf).unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset, "never a clean end");
    });
}

#[test]
fn a_read_fills_no_more_than_it_may() {
    run(async {
        let (mut conn, mut peer) = pair();
        let mut buf = acquire(Class::Head, 0).unwrap();
        let room = buf.readroom();
        peer.write_all(&vec![b'x'; Class::Head.bytes() + 1]).unwrap();
        assert_eq!(conn.read_now(&mut buf).unwrap(), room);
        assert_eq!(buf.readroom(), 0);
    });
}

/// A write that the socket takes in part goes on by itself, and nothing of it is sent twice.
#[test]
fn what_the_socket_does_not_take_at_once_is_written_later() {
    const PIECE: usize = 40_000;
    run(async {
        let (conn, mut peer) = pair();
        let mut stream = Stream::plain(conn);
        let (mut sent, mut buffers) = (Vec::new(), 0_u8);
        // Until a write is in flight: the sockets are full. No part of a buffer is like another, and the kernel's own pieces
        // are no multiple of it, so that the last one is taken in part.
        while !stream.is_writing() {
            let mut buf = acquire(Class::Bulk, 0).unwrap();
            for (at, byte) in buf.tail_mut()[..PIECE].iter_mut().enumerate() {
                *byte = u8::try_from(at % 251).unwrap() ^ buffers;
            }
            buf.grow(PIECE);
            sent.extend_from_slice(buf.bytes());
            stream.write_now(buf);
            buffers = buffers.wrapping_add(1);
        }
        let length = sent.len();
        let reader = std::thread::spawn(move || {
            let mut came = vec![0; length];
            peer.read_exact(&mut came).unwrap();
            came
        });
        stream.flush().await.unwrap();
        assert!(!stream.is_writing());
        assert!(reader.join().unwrap() == sent, "byte for byte");
    });
}
