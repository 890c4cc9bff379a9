//! A pod's interface.
//!
//! In: the pod's namespace, addresses and MTU. Out: a veth pair. The pod sends everything to a link-local gateway whose
//! permanent neighbour entry is the host side, so there is no bridge and no address resolution; the programs on the host
//! side decide where packets go.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use skep_abi::{POD_GATEWAY_V4, POD_GATEWAY_V6};

use crate::big_tcp;
use crate::error::DatapathError;
use crate::netlink::{get_link, remove_link, run};

/// What the interface is to be.
#[derive(Clone, Debug)]
pub struct PodLink {
    /// The pod's network namespace, as a path.
    pub netns: PathBuf,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The host side's name, at most 15 bytes.
    pub host_ifname: String,
    /// The pod's addresses.
    pub addrs: Vec<IpAddr>,
    /// MTU of both sides, in bytes.
    pub mtu: u32,
}

/// What the interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Index of the host side.
    pub ifindex: u32,
    /// MAC of the pod's side.
    pub mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
}

/// See [`crate::Datapath::add_pod`]. `big_tcp`: both sides take packets of more than 64 KB.
pub(crate) fn add(link: &PodLink, big_tcp: bool) -> Result<PodInterface, DatapathError> {
    let netns = fs::File::open(&link.netns)
        .map_err(|source| DatapathError::Namespace { path: link.netns.clone(), source })?;
    let spec = link.clone();
    let host = run(None, move |handle| async move { set_host_side(&handle, &spec, &netns).await })?;
    let spec = link.clone();
    let mac =
        run(Some(&link.netns), move |handle| async move { set_pod_side(&handle, &spec, host.mac).await })?;
    if big_tcp {
        big_tcp::raise(None, &link.host_ifname)?;
        big_tcp::raise(Some(&link.netns), &link.ifname)?;
    }
    let spec = link.clone();
    run(None, move |handle| async move { add_host_routes(&handle, &spec, host.index, mac).await })?;
    Ok(PodInterface { ifindex: host.index, mac, host_mac: host.mac })
}

/// One side of the pair.
#[derive(Clone, Copy)]
struct Side {
    index: u32,
    mac: [u8; 6],
}

async fn set_host_side(handle: &Handle, link: &PodLink, netns: &fs::File) -> Result<Side, DatapathError> {
    let name = &link.host_ifname;
    let host = match find(handle, name).await? {
        Some(found) => found,
        None => {
            add_pair(handle, link, netns).await?;
            require(handle, name).await?
        }
    };
    host_sysctls(link)?;
    let up = LinkUnspec::new_with_index(host.index).mtu(link.mtu).up().build();
    handle.link().set(up).execute().await.map_err(DatapathError::netlink(format!("bring {name} up")))?;
    Ok(host)
}

/// Creates the pair with the pod's side in its namespace: a move into it would take the kernel 20 ms.
async fn add_pair(handle: &Handle, link: &PodLink, netns: &fs::File) -> Result<(), DatapathError> {
    let name = &link.host_ifname;
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(&link.ifname).mtu(link.mtu);
    let peer = InfoData::Veth(InfoVeth::Peer(peer.setns_by_fd(netns.as_raw_fd()).build()));
    let pair = LinkVeth::new(name, &link.ifname).set_info_data(peer).mtu(link.mtu).build();
    handle.link().add(pair).execute().await.map_err(DatapathError::netlink(format!("add {name}")))
}

async fn set_pod_side(handle: &Handle, link: &PodLink, host_mac: [u8; 6]) -> Result<[u8; 6], DatapathError> {
    let side = require(handle, &link.ifname).await?;
    let up = LinkUnspec::new_with_index(side.index).mtu(link.mtu).up().build();
    handle.link().set(up).execute().await.map_err(DatapathError::netlink("bring the pod's interface up"))?;
    if let Some(lo) = get_link(handle, "lo").await? {
        let up = LinkUnspec::new_with_index(lo.header.index).up().build();
        handle.link().set(up).execute().await.map_err(DatapathError::netlink("bring lo up"))?;
    }
    for addr in &link.addrs {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let mut add = handle.address().add(side.index, *addr, bits).replace();
        if addr.is_ipv6() {
            // No other interface can have the address, so duplicate address detection would only delay the pod.
            add.message_mut().header.flags |= netlink_packet_route::address::AddressHeaderFlags::Nodad;
        }
        add.execute().await.map_err(DatapathError::netlink(format!("add address {addr}")))?;
    }
    for gateway in gateways(&link.addrs) {
        set_gateway(handle, side.index, gateway, host_mac).await?;
    }
    Ok(side.mac)
}

/// The gateway of each family of which the pod has an address.
fn gateways(addrs: &[IpAddr]) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    if addrs.iter().any(IpAddr::is_ipv4) {
        gateways.push(IpAddr::V4(POD_GATEWAY_V4));
    }
    if addrs.iter().any(IpAddr::is_ipv6) {
        gateways.push(IpAddr::V6(POD_GATEWAY_V6));
    }
    gateways
}

async fn set_gateway(
    handle: &Handle,
    index: u32,
    gateway: IpAddr,
    mac: [u8; 6],
) -> Result<(), DatapathError> {
    add_neighbour(handle, index, gateway, mac).await?;
    let failed = || DatapathError::netlink(format!("route via {gateway}"));
    match gateway {
        IpAddr::V4(via) => {
            let direct = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(via, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build();
            handle.route().add(direct).replace().execute().await.map_err(failed())?;
            let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).output_interface(index).build();
            handle.route().add(default).replace().execute().await.map_err(failed())
        }
        IpAddr::V6(via) => {
            let default = RouteMessageBuilder::<Ipv6Addr>::new().gateway(via).output_interface(index).build();
            handle.route().add(default).replace().execute().await.map_err(failed())
        }
    }
}

async fn add_neighbour(handle: &Handle, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), DatapathError> {
    let add = handle
        .neighbours()
        .add(index, ip)
        .link_layer_address(&mac)
        .state(NeighbourState::Permanent)
        .replace();
    add.execute().await.map_err(DatapathError::netlink(format!("neighbour {ip}")))
}

/// Routes and neighbours by which the node itself reaches the pod.
async fn add_host_routes(
    handle: &Handle,
    link: &PodLink,
    index: u32,
    mac: [u8; 6],
) -> Result<(), DatapathError> {
    for addr in &link.addrs {
        add_neighbour(handle, index, *addr, mac).await?;
        let route = match addr {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(*v4, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(*v6, 128)
                .output_interface(index)
                .build(),
        };
        handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(DatapathError::netlink(format!("route to {addr}")))?;
    }
    Ok(())
}

/// See [`crate::Datapath::check_pod`].
pub(crate) fn check(link: &PodLink) -> Result<PodInterface, DatapathError> {
    let name = link.host_ifname.clone();
    let host = run(None, move |handle| async move { require(&handle, &name).await })?;
    let spec = link.clone();
    let mac = run(Some(&link.netns), move |handle| async move {
        let side = require(&handle, &spec.ifname).await?;
        let mut found = Vec::new();
        let mut addresses = handle.address().get().set_link_index_filter(side.index).execute();
        while let Some(address) =
            addresses.try_next().await.map_err(DatapathError::netlink("list addresses"))?
        {
            found.extend(address.attributes.iter().filter_map(|attribute| match attribute {
                netlink_packet_route::address::AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            }));
        }
        match spec.addrs.iter().find(|addr| !found.contains(addr)) {
            Some(addr) => Err(DatapathError::Changed {
                name: spec.ifname.clone(),
                what: format!("address {addr} is gone"),
            }),
            None => Ok(side.mac),
        }
    })?;
    Ok(PodInterface { ifindex: host.index, mac, host_mac: host.mac })
}

/// Deletes the pair; returns the host side's index, or `None` if there was no pair.
pub(crate) fn delete(host_ifname: &str) -> Result<Option<u32>, DatapathError> {
    let name = host_ifname.to_owned();
    run(None, move |handle| async move { remove_link(&handle, &name).await })
}

/// The link with that name, if it has a MAC.
async fn find(handle: &Handle, name: &str) -> Result<Option<Side>, DatapathError> {
    let Some(message) = get_link(handle, name).await? else { return Ok(None) };
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Ok(mac.map(|mac| Side { index: message.header.index, mac }))
}

/// As [`find`]; an error if there is none.
async fn require(handle: &Handle, name: &str) -> Result<Side, DatapathError> {
    find(handle, name).await?.ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })
}

/// Packets that the programs let pass are forwarded by the node's routes.
pub(crate) fn enable_forwarding(addr: &IpAddr) -> Result<(), DatapathError> {
    if addr.is_ipv4() {
        sysctl(Path::new("net/ipv4/ip_forward"), "1")
    } else {
        sysctl(Path::new("net/ipv6/conf/all/forwarding"), "1")
    }
}

/// Packets that the programs redirect to the node's processes may have the node's own address as source: answers of its node
/// ports do.
pub(crate) fn accept_own_addresses() -> Result<(), DatapathError> {
    sysctl(Path::new("net/ipv4/conf/lo/accept_local"), "1")
}

/// The programs check sources. The kernel's own check would drop packets of flows whose answers bypass the stack. A pod is no
/// router of its node, and without an IPv6 address it has no use for the family.
fn host_sysctls(link: &PodLink) -> Result<(), DatapathError> {
    let name = &link.host_ifname;
    let v4 = Path::new("net/ipv4/conf").join(name);
    sysctl(&v4.join("rp_filter"), "0")?;
    sysctl(&v4.join("accept_redirects"), "0")?;
    let v6 = Path::new("net/ipv6/conf").join(name);
    if !Path::new("/proc/sys").join(&v6).exists() {
        // The kernel runs without IPv6.
        return Ok(());
    }
    sysctl(&v6.join("accept_ra"), "0")?;
    sysctl(&v6.join("accept_redirects"), "0")?;
    if link.addrs.iter().any(IpAddr::is_ipv6) { Ok(()) } else { sysctl(&v6.join("disable_ipv6"), "1") }
}

/// Writes a sysctl, unless it has the value; `name` is a path below /proc/sys.
pub(crate) fn sysctl(name: &Path, value: &str) -> Result<(), DatapathError> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(DatapathError::file("write", path))
}
