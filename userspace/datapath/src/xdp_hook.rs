//! Where on the uplink `xdp_node` can run, and its program, flag and pin there.

use aya::programs::xdp::XdpMode as Flag;

/// Where `xdp_node` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpHook {
    /// In the driver.
    Driver,
    /// Generic XDP, after the driver.
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

    /// Name of the link's pin. It is the only record of the mode, which the kernel does not report.
    pub(crate) fn pin(self, ifindex: u32) -> String {
        format!("uplink-{ifindex}-xdp-{}", self.name())
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            XdpHook::Driver => "driver",
            XdpHook::Generic => "generic",
        }
    }
}
