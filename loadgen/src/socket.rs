//! The socket of a connection, plain or TLS: nonblocking reads and writes of plaintext.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustls::ClientConnection;

/// A socket, and the TLS session on it where there is one.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, tls: Option<ClientConnection>) -> Self {
        Self { tcp, tls: tls.map(Box::new) }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Writes as much as is taken now.
    ///
    /// # Errors
    /// `WouldBlock` while the handshake or the socket's room is waited for; as `write(2)`; a failed handshake.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.write(bytes) };
        drive(tls, &mut self.tcp)?;
        if tls.is_handshaking() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        flush(tls, &mut self.tcp)?;
        Ok(taken)
    }

    /// Sends what was written before and did not fit into the socket.
    ///
    /// # Errors
    /// As `write(2)`, but for `WouldBlock`.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.tcp),
            None => Ok(()),
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; as `read(2)`; what breaks TLS.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            take(tls, &mut self.tcp)?;
            flush(tls, &mut self.tcp)?;
        }
    }
}

/// Goes on with the handshake as far as possible now.
fn drive(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.is_handshaking() {
        flush(tls, tcp)?;
        if tls.is_handshaking() {
            take(tls, tcp)?;
        }
    }
    Ok(())
}

/// Takes what the peer sent.
fn take(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    if tls.read_tls(tcp)? == 0 && tls.is_handshaking() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if let Err(why) = tls.process_new_packets() {
        // The alert that says why.
        let _ = flush(tls, tcp);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

/// Sends what waits, as far as the socket has room: the rest goes when it is ready again.
fn flush(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(tcp) {
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
