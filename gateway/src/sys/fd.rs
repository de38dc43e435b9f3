//! Raw descriptors of sockets that the runtime owns.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes ownership of a descriptor that the runtime has just given up.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass the result of `into_raw_fd`, so nobody else owns or closes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Shuts a socket down in one or both directions. A peer that is gone already is no news.
///
/// `owner` stands for whatever keeps the descriptor open during the call.
pub(crate) fn shutdown<T>(_owner: &T, fd: RawFd, how: rustix::net::Shutdown) {
    // SAFETY: `_owner` is borrowed for the call and owns the open descriptor `fd`.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::net::shutdown(fd, how);
}

/// Sets an option on a socket that the runtime owns.
pub(crate) fn with_fd<T, R>(_owner: &T, fd: RawFd, use_it: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    // SAFETY: `_owner` is borrowed for the call and owns the open descriptor `fd`.
    use_it(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Lets the kernel cut datagrams that are larger than the path (RFC 8200 §4.5), which is its default.
pub(crate) fn allow_ipv6_fragments(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&off)).unwrap_or_default();
    // SAFETY: `fd` is borrowed for the call, so it is open. `off` lives across the call and its length is passed as its
    // size. The kernel reads it and keeps no pointer.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DONTFRAG,
            (&raw const off).cast(),
            len,
        )
    };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
