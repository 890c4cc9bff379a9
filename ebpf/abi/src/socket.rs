//! Sockets whose destination was translated, so that answers and `getpeername` show what the application addressed:
//! `CONNECTED` for TCP, whose entry is stored with the socket and ends with it, `SOCKETS` for the other protocols.

use crate::{Addr, Be16, Proto, SocketAddr};

/// Value of `CONNECTED`, the socket-local storage of TCP sockets.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Connected {
    /// The backend that the connection goes to.
    pub backend: SocketAddr,
    /// What the application addressed.
    pub frontend: SocketAddr,
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
    pub reserved: [u8; 5],
}

crate::layout::plain!(Connected: 40, SocketKey: 32);
