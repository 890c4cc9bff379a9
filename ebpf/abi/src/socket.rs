//! Sockets whose destination was translated, so that answers and `getpeername` show what the application addressed:
//! `CONNECTED` and `DISPLACED` for TCP, whose entries end with their sockets, `SOCKETS` for the other protocols.

use crate::{Addr, Be16, Proto, SocketAddr};

/// Entries of `CONNECTED`, an array of [`Connected`] by [`connected_index`]. The kernel counts cookies up, so sockets that are
/// opened one after the other have neighbouring elements, and a short connection finds its own in the processor's cache.
pub const CONNECTED_MAX: u32 = 65_536;

/// Entries of `DISPLACED`, a hash of a TCP socket's cookie to [`Connected`]: sockets whose elements newer ones have taken. If it is
/// full, `getpeername` on such a socket shows the backend.
pub const DISPLACED_MAX: u32 = 65_536;

/// The element of `CONNECTED` for a socket.
#[inline(always)]
pub const fn connected_index(cookie: u64) -> u32 {
    cookie as u32 % CONNECTED_MAX
}

/// Value of `CONNECTED` and of `DISPLACED`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Connected {
    /// The kernel's socket cookie; 0: none.
    pub cookie: u64,
    /// The backend that the connection goes to.
    pub backend: SocketAddr,
    /// What the application addressed.
    pub frontend: SocketAddr,
    /// In `CONNECTED`, 1: another socket's value is in `DISPLACED`, or was.
    pub has_displaced: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Entries of `SOCKETS`, an LRU hash of [`SocketKey`] to [`SocketAddr`], the frontend.
pub const SOCKETS_MAX: u32 = 131_072;

/// A socket and the backend that it sends to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketKey {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The backend's address.
    pub backend: Addr,
    /// The backend's port.
    pub port: Be16,
    /// The socket's protocol.
    pub proto: Proto,
    /// Always 0.
    pub reserved: u8,
    /// Always 0.
    pub reserved2: u32,
}

crate::layout::plain!(Connected: 56, SocketKey: 32);
