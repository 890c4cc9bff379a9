//! The overlay's port. The kernel takes tunnelled packets there from anyone, and they may claim any source. So only other
//! nodes reach it.

use skep_abi::{DropReason, NodeConfig, OVERLAY_PORT, Proto, SocketAddr};

use crate::cluster;
use crate::packet::Packet;

/// Whether the datagram is for the port, and there is an overlay.
#[inline(always)]
pub(crate) fn is_port(config: &NodeConfig, proto: Proto, to: &SocketAddr) -> bool {
    to.port.get() == OVERLAY_PORT && proto == Proto::UDP && config.overlay_v4 | config.overlay_v6 != 0
}

/// An error if the packet of a pod, as it is after translation, or one to a service's backend may reach the port of a node.
/// Nodes are outside of an overlay's [`cluster::contains`], and a pod would be seen as this node there.
#[inline(always)]
pub(crate) fn refuse(config: &NodeConfig, proto: Proto, to: &SocketAddr) -> Result<(), DropReason> {
    if is_port(config, proto, to) && !cluster::contains(&to.addr) { Err(DropReason::Overlay) } else { Ok(()) }
}

/// An error if the packet, which goes to the node's stack, is for the port and not another node's.
#[inline(always)]
pub(crate) fn admit(config: &NodeConfig, packet: &Packet) -> Result<(), DropReason> {
    let for_port = is_port(config, packet.proto, &packet.destination);
    if for_port && !cluster::is_other_node(&packet.source.addr) { Err(DropReason::Overlay) } else { Ok(()) }
}
