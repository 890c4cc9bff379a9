//! The overlay: VXLAN (RFC 7348) between nodes, for networks that do not carry pods' addresses.
//!
//! In: the node's addresses and its peers' addresses. Out: one device for each family of the node's addresses. A device's
//! MAC is derived from the node's IP address, so a peer's IP address gives everything: the route to its pods has it as
//! gateway, a permanent neighbour entry has its MAC, and a forwarding entry maps the MAC to the outer address. Nothing is
//! learnt or flooded.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};
use skep_abi::OVERLAY_PORT;

use crate::error::DatapathError;
use crate::netlink::{get_link, is_errno, remove_link, run};

/// VXLAN network identifier, the same on all of a cluster's nodes.
const VNI: u32 = 83;

/// Bytes added to a pod's packet: inner Ethernet, VXLAN, UDP and the outer IP header.
const fn overhead(v4: bool) -> u32 {
    14 + 8 + 8 + if v4 { 20 } else { 40 }
}

const fn name(v4: bool) -> &'static str {
    if v4 { "skep-vxlan4" } else { "skep-vxlan6" }
}

/// A device of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    /// This node's address: the outer source, and the source of the node's own packets to other nodes' pods.
    pub(crate) local: IpAddr,
}

/// The devices of this node; none without an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    v4: Option<Device>,
    v6: Option<Device>,
}

impl Overlay {
    pub(crate) fn device(&self, v4: bool) -> Option<Device> {
        if v4 { self.v4 } else { self.v6 }
    }

    pub(crate) fn index(&self, v4: bool) -> u32 {
        self.device(v4).map_or(0, |device| device.index)
    }

    /// Bytes that the devices add to a packet, the larger number if they differ.
    pub(crate) fn overhead(&self) -> u32 {
        [self.v4, self.v6].iter().flatten().map(|device| overhead(device.local.is_ipv4())).max().unwrap_or(0)
    }

    /// Name and pin of each device.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let v4 = self.v4.map(|_| (name(true), "overlay-v4-ingress"));
        v4.into_iter().chain(self.v6.map(|_| (name(false), "overlay-v6-ingress")))
    }
}

/// Makes the devices if the overlay is enabled, or removes them. Idempotent.
pub(crate) fn set_up(enabled: bool, addrs: &[IpAddr], uplink_mtu: u32) -> Result<Overlay, DatapathError> {
    let mut overlay = Overlay::default();
    for v4 in [true, false] {
        let local = addrs.iter().copied().find(|addr| addr.is_ipv4() == v4).filter(|_| enabled);
        let device = run(None, move |handle| async move {
            match local {
                Some(local) => add(&handle, local, uplink_mtu.saturating_sub(overhead(v4))).await.map(Some),
                None => remove_link(&handle, name(v4)).await.map(|_| None),
            }
        })?;
        *if v4 { &mut overlay.v4 } else { &mut overlay.v6 } = device;
    }
    Ok(overlay)
}

async fn add(handle: &Handle, local: IpAddr, mtu: u32) -> Result<Device, DatapathError> {
    let name = name(local.is_ipv4());
    if let Some(found) = get_link(handle, name).await? {
        if is_ours(&found, local) {
            let up = LinkUnspec::new_with_index(found.header.index).mtu(mtu).up().build();
            let set = handle.link().set(up).execute().await;
            set.map_err(DatapathError::netlink(format!("bring {name} up")))?;
            return Ok(Device { index: found.header.index, local });
        }
        remove_link(handle, name).await?;
    }
    let device = LinkVxlan::new(name, VNI)
        .port(OVERLAY_PORT)
        .learning(false)
        .mtu(mtu)
        .address(mac(local).to_vec())
        .up();
    let device = match local {
        IpAddr::V4(addr) => device.local(addr),
        IpAddr::V6(addr) => device.local6(addr),
    };
    let added = handle.link().add(device.build()).execute().await;
    added.map_err(DatapathError::netlink(format!("add {name}")))?;
    let found = get_link(handle, name).await?;
    let found = found.ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })?;
    Ok(Device { index: found.header.index, local })
}

/// Whether the device has this network and address, neither of which can be changed.
fn is_ours(link: &LinkMessage, local: IpAddr) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let data = infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    data.is_some_and(|data| {
        let of = |addr: &InfoVxlan| match addr {
            InfoVxlan::Local(addr) => *addr == local,
            InfoVxlan::Local6(addr) => *addr == local,
            _ => false,
        };
        data.contains(&InfoVxlan::Id(VNI))
            && data.contains(&InfoVxlan::Port(OVERLAY_PORT))
            && data.iter().any(of)
    })
}

/// Makes the node at `peer` reachable over the device: its MAC and its outer address.
pub(crate) async fn add_peer(handle: &Handle, index: u32, peer: IpAddr) -> Result<(), DatapathError> {
    let failed = || DatapathError::netlink(format!("overlay's way to node {peer}"));
    let forwarding = handle.neighbours().add_bridge(index, &mac(peer)).flags(NeighbourFlags::Own);
    forwarding.destination(peer).replace().execute().await.map_err(failed())?;
    let neighbour = handle.neighbours().add(index, peer).link_layer_address(&mac(peer));
    neighbour.state(NeighbourState::Permanent).replace().execute().await.map_err(failed())
}

/// Removes what [`add_peer`] added; idempotent.
pub(crate) async fn delete_peer(handle: &Handle, index: u32, peer: IpAddr) -> Result<(), DatapathError> {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.ifindex = index;
    let mut forwarding = neighbour.clone();
    let (family, address) = match peer {
        IpAddr::V4(addr) => (AddressFamily::Inet, NeighbourAddress::Inet(addr)),
        IpAddr::V6(addr) => (AddressFamily::Inet6, NeighbourAddress::Inet6(addr)),
    };
    neighbour.header.family = family;
    neighbour.attributes = vec![NeighbourAttribute::Destination(address.clone())];
    forwarding.header.family = AddressFamily::Bridge;
    forwarding.header.flags = NeighbourFlags::Own;
    forwarding.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac(peer).to_vec()),
        NeighbourAttribute::Destination(address),
    ];
    for message in [neighbour, forwarding] {
        match handle.neighbours().del(message).execute().await {
            Err(error) if !is_errno(&error, libc::ENOENT) => {
                return Err(DatapathError::netlink(format!("remove node {peer} from the overlay"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A node's MAC: locally administered, unicast, derived from its IP address.
fn mac(node: IpAddr) -> [u8; 6] {
    match node {
        IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            [0x02, 0x53, a, b, c, d]
        }
        IpAddr::V6(addr) => {
            // FNV-1a over all of it: nodes may differ in any part.
            let hash = addr.octets().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
                (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
            });
            let [.., a, b, c, d, e] = hash.to_be_bytes();
            [0x02, a, b, c, d, e]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_unicast_and_differ() {
        let addrs = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00:0:0:1::1", "fd00::1:0:1"];
        let macs: std::collections::BTreeSet<_> = addrs.iter().map(|a| mac(a.parse().unwrap())).collect();
        assert_eq!(macs.len(), addrs.len());
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2));
    }
}
