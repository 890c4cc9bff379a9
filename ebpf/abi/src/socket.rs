//! Sockets whose destination was translated, so that answers and `getpeername` show what was addressed: `CONNECTED` for those
//! of TCP, which have one peer and take it along when they end, `SOCKETS` for all others.

use crate::{Addr, Be16, End, Proto};

/// `CONNECTED`: what a socket of TCP bears.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Connected {
    /// Where the connection was led to.
    pub backend: End,
    /// What the application addressed.
    pub frontend: End,
}

/// `SOCKETS`: LRU hash of [`SocketKey`] to [`End`], the frontend.
pub const SOCKETS_MAX: u32 = 131_072;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketKey {
    pub cookie: u64,
    pub backend: Addr,
    pub port: Be16,
    pub proto: Proto,
    pub reserved: [u8; 5],
}

crate::plain!(Connected: 40, SocketKey: 32);
