//! ARP and neighbour discovery on the uplink for addresses that no interface has.
//!
//! In: the addresses. Out: answers to requests for them, and a gratuitous announcement of a new one. The packet sockets'
//! filters pass only ARP requests and neighbour solicitations, so other traffic does not wake the process.

mod frame;
mod socket;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use frame::{Mac, answer_arp, answer_ndp, gratuitous, solicited_node};
use socket::{Filter, PacketSocket};

use crate::error::DatapathError;
use crate::interface::interface_index;

/// Bytes of the longest Ethernet frame; requests are shorter.
const MAX_FRAME: usize = 1518;

/// Announces addresses on one interface.
pub struct Announcer {
    ifindex: u32,
    mac: Mac,
    arp: PacketSocket,
    ndp: PacketSocket,
    /// Member of our addresses' solicited-node groups, so that the interface accepts, and switches forward, solicitations.
    groups: Option<UdpSocket>,
    addrs: BTreeSet<IpAddr>,
}

impl Announcer {
    /// Opens the sockets on the interface. It answers for no address yet.
    pub fn open(uplink: &str) -> Result<Announcer, DatapathError> {
        let ifindex = interface_index(uplink)?;
        let (arp, mac) = PacketSocket::open(ifindex, Filter::ArpRequest)?;
        let (ndp, _) = PacketSocket::open(ifindex, Filter::NeighbourSolicitation)?;
        // Without IPv6 in the kernel there is nothing to answer.
        let groups = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok();
        Ok(Announcer { ifindex, mac, arp, ndp, groups, addrs: BTreeSet::new() })
    }

    /// Sets the addresses to answer for; returns the new ones.
    pub fn answer_for(&mut self, addrs: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let groups = |addrs: &BTreeSet<IpAddr>| -> BTreeSet<Ipv6Addr> {
            let v6 = addrs.iter().filter_map(|addr| match addr {
                IpAddr::V6(ip) => Some(solicited_node(*ip)),
                IpAddr::V4(_) => None,
            });
            v6.collect()
        };
        let (before, now) = (groups(&self.addrs), groups(addrs));
        for group in before.difference(&now) {
            self.change_membership(|socket| socket.leave_multicast_v6(group, self.ifindex), group);
        }
        for group in now.difference(&before) {
            self.change_membership(|socket| socket.join_multicast_v6(group, self.ifindex), group);
        }
        let new = addrs.difference(&self.addrs).copied().collect();
        self.addrs = addrs.clone();
        new
    }

    /// Joins or leaves a group. A failure is only logged: the interface may accept all groups anyway.
    fn change_membership(&self, change: impl Fn(&UdpSocket) -> std::io::Result<()>, group: &Ipv6Addr) {
        if let Some(Err(error)) = self.groups.as_ref().map(change) {
            tracing::warn!(%group, %error, "change membership of solicited-node group failed");
        }
    }

    /// Announces to the whole link that the address is here.
    pub fn announce(&self, addr: IpAddr) -> Result<(), DatapathError> {
        let socket = if addr.is_ipv4() { &self.arp } else { &self.ndp };
        gratuitous(addr, self.mac).iter().try_for_each(|frame| socket.send(frame))
    }

    /// Answers until no socket can receive any more, for example because the interface is gone. An answer that cannot be
    /// sent is lost like a frame on the link: its sender asks again.
    pub async fn serve(&self) -> DatapathError {
        let ours = |ip: IpAddr| self.addrs.contains(&ip);
        let arp = self.answer(&self.arp, |frame| answer_arp(frame, self.mac, ours));
        let ndp = self.answer(&self.ndp, |frame| answer_ndp(frame, self.mac, ours));
        tokio::select! {
            error = arp => error,
            error = ndp => error,
        }
    }

    async fn answer(
        &self,
        socket: &PacketSocket,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> DatapathError {
        let mut buffer = [0; MAX_FRAME];
        loop {
            let length = match socket.receive(&mut buffer).await {
                Ok(length) => length,
                Err(error) => return error,
            };
            let answered = buffer.get(..length).and_then(&answer);
            if let Some(Err(error)) = answered.map(|frame| socket.send(&frame)) {
                tracing::debug!(%error, source = ?std::error::Error::source(&error), "answer for an address failed");
            }
        }
    }
}
