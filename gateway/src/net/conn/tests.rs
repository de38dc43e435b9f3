use std::io::{Read, Write};

use super::*;
use crate::net::runtime::{self, RingFlags};
use crate::net::{Class, acquire};
use crate::tls::Stream;

/// A connection as the worker has it, and its peer.
fn pair() -> (Conn, std::net::TcpStream) {
    let (ours, peer) = sockets();
    (adopt(ours), peer)
}

fn sockets() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

fn adopt(ours: std::net::TcpStream) -> Conn {
    let addr = ours.peer_addr().unwrap();
    Conn::adopt(ours.into(), addr, Cancel::Never).unwrap()
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
    run(async {
        let (ours, mut peer) = sockets();
        // Less than a buffer: it is taken in part. The peer's stays as it is: a tiny window takes minutes to drain.
        socket2::SockRef::from(&ours).set_send_buffer_size(Class::Bulk.bytes() / 4).unwrap();
        let mut stream = Stream::plain(adopt(ours));
        // No piece is like another, so that one that comes twice is seen.
        let (mut sent, mut numbers) = (Vec::new(), (0_u8..251).cycle());
        // Until a write is in flight: the sockets are full.
        while !stream.is_writing() {
            let mut buf = acquire(Class::Bulk, 0).unwrap();
            buf.tail_mut().iter_mut().zip(&mut numbers).for_each(|(byte, number)| *byte = number);
            buf.grow(Class::Bulk.bytes());
            sent.extend_from_slice(buf.bytes());
            stream.write_now(buf);
        }
        let reader = std::thread::spawn(move || {
            let mut came = Vec::new();
            peer.read_to_end(&mut came).unwrap();
            came
        });
        stream.flush().await.unwrap();
        assert!(!stream.is_writing());
        stream.shutdown_write();
        assert!(reader.join().unwrap() == sent, "byte for byte");
    });
}
