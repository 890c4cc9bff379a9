//! Ending UDP sockets that a socket hook connected to a backend which is gone: they would send into nothing for good.
//!
//! In: what the maps hold now, the pods' namespaces. Out: such sockets are disconnected with ECONNABORTED, which their
//! owners meet at the next call and connect anew. Which sockets is told by the cookie that the hook noted, so one that
//! connected to the same address by itself, or through another service, is left alone (sock_diag(7)).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use skep_abi::{Addr, Backend, Proto, SocketKey};
use skep_netplan::Observed;

use crate::error::DatapathError;
use crate::netlink::enter;
use crate::{Datapath, blocking};

// include/uapi/linux/sock_diag.h, inet_diag.h, netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// A connected socket of UDP is in TCP_ESTABLISHED.
const CONNECTED: u32 = 1 << 1;
const HEADER: usize = 16;
/// `struct inet_diag_sockid`, behind four bytes of `struct inet_diag_msg`.
const ID_AT: usize = 4;
const ID: usize = 48;

/// Cookie, and the backend's address and port.
type Target = (u64, Addr, u16);

impl Datapath {
    /// Ends them in this namespace and in those given; gives how many there were.
    pub async fn end_sockets(
        &mut self,
        maps: &Observed,
        namespaces: &[PathBuf],
    ) -> Result<usize, DatapathError> {
        let mut stale: Vec<SocketKey> = Vec::new();
        for entry in self.maps.sockets.iter() {
            let (key, frontend) = entry.map_err(DatapathError::map("SOCKETS", "walk"))?;
            let backend = Backend { addr: key.backend, port: key.port, reserved: 0 };
            let served = maps.serves(frontend.addr, frontend.port, key.proto, &backend);
            if key.proto == Proto::UDP && served == Some(false) {
                stale.push(key);
            }
        }
        if stale.is_empty() {
            return Ok(0);
        }
        let targets = stale.iter().map(|key| (key.cookie, key.backend, key.port.get())).collect();
        let namespaces: Vec<PathBuf> = namespaces.to_vec();
        let ended = blocking(move || end_everywhere(&namespaces, &targets)).await?;
        for key in &stale {
            // What LRU took meanwhile is gone as well.
            let _ = self.maps.sockets.remove(key);
        }
        Ok(ended)
    }
}

fn end_everywhere(namespaces: &[PathBuf], targets: &BTreeSet<Target>) -> Result<usize, DatapathError> {
    let mut ended = on_thread(None, targets)?;
    for namespace in namespaces {
        // A pod that just ended took its sockets along.
        match on_thread(Some(namespace), targets) {
            Err(DatapathError::Namespace { .. }) => {}
            result => ended += result?,
        }
    }
    Ok(ended)
}

/// A namespace belongs to a thread.
fn on_thread(namespace: Option<&Path>, targets: &BTreeSet<Target>) -> Result<usize, DatapathError> {
    let work = || {
        namespace.map_or(Ok(()), enter)?;
        let mut ended = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            ended += end(family as u8, targets).map_err(DatapathError::file("end", "UDP sockets"))?;
        }
        Ok(ended)
    };
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| DatapathError::Aborted)?
}

fn end(family: u8, targets: &BTreeSet<Target>) -> io::Result<usize> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(SOCK_DIAG))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    request(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; ID])?;
    let mut found = Vec::new();
    replies(&socket, |message| {
        if let Some(id) = message.get(ID_AT..ID_AT + ID).filter(|id| is_among(family, id, targets)) {
            found.push(id.to_vec());
        }
    })?;
    let mut ended = 0;
    for id in found {
        request(&socket, SOCK_DESTROY, NLM_F_ACK, family, &id)?;
        match replies(&socket, |_| ()) {
            // It was closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                result?;
                ended += 1;
            }
        }
    }
    Ok(ended)
}

/// Ports in network order, two addresses of 16 bytes, interface, cookie.
fn is_among(family: u8, id: &[u8], targets: &BTreeSet<Target>) -> bool {
    let target = || -> Option<Target> {
        let port = u16::from_be_bytes(id.get(2..4)?.try_into().ok()?);
        let addr: [u8; 16] = id.get(20..36)?.try_into().ok()?;
        let cookie = u64::from_ne_bytes(id.get(40..48)?.try_into().ok()?);
        let ip: IpAddr = match i32::from(family) {
            libc::AF_INET => Ipv4Addr::new(addr[0], addr[1], addr[2], addr[3]).into(),
            _ => Ipv6Addr::from(addr).to_canonical(),
        };
        Some((cookie, Addr::from(ip), port))
    };
    target().is_some_and(|target| targets.contains(&target))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &[u8]) -> io::Result<()> {
    let length = (HEADER + 8 + ID) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, Proto::UDP.0, 0, 0]);
    message.extend(CONNECTED.to_ne_bytes());
    message.extend(id);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Gives each message of the answer to `see`, until its end or the acknowledgement.
fn replies(socket: &OwnedFd, mut see: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((length, kind)) = header(rest) {
            let body = &rest[HEADER..length];
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code =
                        body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => see(body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length with the header, and kind; `None` at the end.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (HEADER..=bytes.len()).contains(&length).then_some((length, kind))
}
