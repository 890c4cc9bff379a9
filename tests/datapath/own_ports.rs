//! The source ports of masquerading, and those of the node's own sockets.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use skep_abi::SNAT_PORT_MIN;

use crate::namespaces::{NODE, OUTSIDE, world};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// The widest range that hosts are given, which has most ports of masquerading.
const WIDE: &str = "1024 65535";
/// The range that Linux has.
const USUAL: &str = "32768 60999";
const SOCKETS: usize = 1_000;
/// Remote ends that sockets are connected to at once.
const ENDS: usize = 32;

#[test]
fn the_kernel_gives_no_socket_of_the_node_a_port_of_masquerading() -> Result<()> {
    let mut world = world("own")?;
    world.node.netns.run(|| std::fs::write(RANGE, WIDE))?.context(RANGE)?;
    // Without the list, sockets meet those ports.
    world.node.netns.run(|| std::fs::write(RESERVED, "\n"))?.context(RESERVED)?;
    let taken = |ports: &[u16]| ports.iter().filter(|port| **port >= SNAT_PORT_MIN).count();
    let before = world.node.netns.run(ports)??;
    ensure!(taken(&before) > 0, "the kernel avoids ports above {SNAT_PORT_MIN} by itself");
    world.node.datapath = None;
    world.node.open()?;
    let after = world.node.netns.run(ports)??;
    ensure!(taken(&after) == 0, "{} of {SOCKETS} sockets have ports of masquerading", taken(&after));
    let reserved = world.node.netns.run(|| std::fs::read_to_string(RESERVED))?.context(RESERVED)?;
    ensure!(reserved.trim() == format!("{SNAT_PORT_MIN}-65535"), "{reserved}");
    Ok(())
}

/// Ports that the kernel gives to many sockets at once.
fn ports() -> Result<Vec<u16>> {
    let sockets: Vec<UdpSocket> =
        (0..SOCKETS).map(|_| UdpSocket::bind((NODE, 0))).collect::<Result<_, _>>().context("bind")?;
    Ok(sockets.iter().map(|socket| socket.local_addr().map(|addr| addr.port())).collect::<Result<_, _>>()?)
}

/// In the range of the kernel most ports are of masquerading, and the kernel passes over them.
#[test]
fn connections_of_the_node_to_different_ends_have_different_ports() -> Result<()> {
    let mut world = world("ownd")?;
    world.node.netns.run(|| std::fs::write(RANGE, USUAL))?.context(RANGE)?;
    world.node.datapath = None;
    world.node.open()?;
    let listeners = world.outside.run(|| -> Result<Vec<TcpListener>> {
        (0..ENDS).map(|_| Ok(TcpListener::bind((OUTSIDE, 0))?)).collect()
    })??;
    let connected: Vec<TcpStream> = world.node.netns.run(|| -> Result<_> {
        listeners.iter().map(|listener| Ok(TcpStream::connect(listener.local_addr()?)?)).collect()
    })??;
    let own = |stream: &TcpStream| Ok(stream.local_addr()?.port());
    let ports: BTreeSet<u16> = connected.iter().map(own).collect::<Result<_>>()?;
    ensure!(ports.len() > ENDS / 2, "{ENDS} connections have the ports {ports:?}");
    Ok(())
}
