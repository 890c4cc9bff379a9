//! One symmetric entry a flow: `CONNTRACK`.

use crate::{Addr, Be16, Proto};

pub const CONNTRACK_MAX: u32 = 524_288;

/// The two ends of a flow in a fixed order (the lower end first), so that both directions find the same entry.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    pub low: Addr,
    pub high: Addr,
    pub low_port: Be16,
    pub high_port: Be16,
    pub proto: Proto,
    pub reserved: [u8; 3],
}

crate::plain!(FlowKey: 40);
