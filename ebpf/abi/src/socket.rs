//! Sockets whose destination was translated: `SOCKETS`, so that answers and `getpeername` show what was addressed.

use crate::{Addr, Be16, Proto};

/// `SOCKETS`: LRU hash of [`SocketKey`] to [`crate::End`], the frontend.
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

crate::plain!(SocketKey: 32);
