//! Where on the uplink `xdp_node` can run, and its program, flag and pin there.

use aya::programs::xdp::XdpMode as Flag;

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpHook {
    Driver,
    Generic,
}

impl XdpHook {
    pub(crate) const ALL: [XdpHook; 2] = [XdpHook::Driver, XdpHook::Generic];

    pub(crate) const fn program(self) -> &'static str {
        match self {
            XdpHook::Driver => "xdp_node",
            XdpHook::Generic => "xdp_node_generic",
        }
    }

    pub(crate) const fn flag(self) -> Flag {
        match self {
            XdpHook::Driver => Flag::Driver,
            XdpHook::Generic => Flag::Skb,
        }
    }

    /// The kernel does not tell a link's mode; the pin's name does.
    pub(crate) const fn pin(self) -> &'static str {
        match self {
            XdpHook::Driver => "uplink-xdp-driver",
            XdpHook::Generic => "uplink-xdp-generic",
        }
    }
}
