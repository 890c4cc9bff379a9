//! Aborting UDP sockets that a socket hook connected to a backend which is gone: all their datagrams would be lost.
//!
//! In: the datagram services in force before and after the walk, the pods' namespaces. Out: such sockets fail with
//! ECONNABORTED at the owner's next call, and the owner connects again. The hook recorded each socket's cookie, so a socket that the application connected to the
//! same address, or through another service, is not touched (sock_diag(7)).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, IterableMap as _, Map, MapData};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use skep_abi::{Addr, Backend, Proto, SocketAddr, SocketKey};
use skep_netplan::DatagramServices;

use crate::error::DatapathError;
use crate::in_force::ServicesInForce;
use crate::netlink::enter;
use crate::{Datapath, batch, blocking, pins};

const SOCKETS: &str = "SOCKETS";
// include/uapi/linux/sock_diag.h, inet_diag.h, netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// Set of states: a connected UDP socket is in TCP_ESTABLISHED.
const ESTABLISHED_STATE: u32 = 1 << 1;
/// Bytes of `struct nlmsghdr`.
const HEADER_SIZE: usize = 16;
/// Offset in `struct inet_diag_msg`, and size, of `struct inet_diag_sockid`.
const SOCKET_ID_AT: usize = 4;
const SOCKET_ID_SIZE: usize = 48;
/// Bytes of the buffer for answers: a dump comes in parts of at most 32 KiB.
const BUFFER_SIZE: usize = 64 << 10;

/// A socket's cookie, and its backend's address and port.
type Target = (u64, Addr, u16);

impl Datapath {
    /// Aborts the stale sockets of this namespace and those given; returns their number. The future needs nothing of this
    /// value.
    pub fn abort_stale_sockets(
        &self,
        in_force: ServicesInForce,
        namespaces: Vec<PathBuf>,
    ) -> impl Future<Output = Result<usize, DatapathError>> + Send + 'static {
        let path = pins::maps(&self.bpffs).join(SOCKETS);
        blocking(move || abort_stale(&path, &in_force, &namespaces))
    }
}

fn abort_stale(
    path: &Path,
    in_force: &ServicesInForce,
    namespaces: &[PathBuf],
) -> Result<usize, DatapathError> {
    let opened = || HashMap::try_from(Map::from_map_data(MapData::from_pin(path)?)?);
    let mut sockets: HashMap<MapData, SocketKey, SocketAddr> =
        opened().map_err(DatapathError::map(SOCKETS, "open"))?;
    let mut stale: Vec<(SocketKey, SocketAddr)> = Vec::new();
    let before = in_force();
    let walk = |key: &SocketKey, frontend: &SocketAddr| {
        if is_stale(key, frontend, &before) {
            stale.push((*key, *frontend));
        }
    };
    batch::read(sockets.map(), walk).map_err(DatapathError::map(SOCKETS, "walk"))?;
    if !stale.is_empty() {
        let after = in_force();
        stale.retain(|(key, frontend)| is_stale(key, frontend, &after));
    }
    if stale.is_empty() {
        return Ok(0);
    }
    let targets = stale.iter().map(|(key, _)| (key.cookie, key.backend, key.port.get())).collect();
    let aborted = abort_everywhere(namespaces, &targets)?;
    for (key, _) in &stale {
        // LRU may have removed it meanwhile.
        let _ = sockets.remove(key);
    }
    Ok(aborted)
}

/// Whether the service has the socket's backend no longer.
fn is_stale(key: &SocketKey, frontend: &SocketAddr, services: &DatagramServices) -> bool {
    let backend = Backend { addr: key.backend, port: key.port, reserved: 0 };
    key.proto == Proto::UDP && services.serves(frontend, key.proto, &backend) == Some(false)
}

fn abort_everywhere(namespaces: &[PathBuf], targets: &BTreeSet<Target>) -> Result<usize, DatapathError> {
    let mut aborted = on_thread(None, targets)?;
    for namespace in namespaces {
        // The sockets of a pod that just ended are gone with its namespace.
        match on_thread(Some(namespace), targets) {
            Err(DatapathError::Namespace { .. }) => {}
            result => aborted += result?,
        }
    }
    Ok(aborted)
}

/// Aborts the sockets of one namespace. A thread enters a namespace for good, so this is a new one.
fn on_thread(namespace: Option<&Path>, targets: &BTreeSet<Target>) -> Result<usize, DatapathError> {
    let work = || {
        namespace.map_or(Ok(()), enter)?;
        let mut aborted = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            aborted += abort(family as u8, targets).map_err(DatapathError::file("abort", "UDP sockets"))?;
        }
        Ok(aborted)
    };
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| DatapathError::Aborted)?
}

/// Aborts the sockets of one family in this thread's namespace.
fn abort(family: u8, targets: &BTreeSet<Target>) -> io::Result<usize> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(SOCK_DIAG))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    request(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; SOCKET_ID_SIZE])?;
    let mut found = Vec::new();
    replies(&socket, |message| {
        if let Some(id) = message
            .get(SOCKET_ID_AT..SOCKET_ID_AT + SOCKET_ID_SIZE)
            .filter(|id| is_among(family, id, targets))
        {
            found.push(id.to_vec());
        }
    })?;
    let mut aborted = 0;
    for id in found {
        request(&socket, SOCK_DESTROY, NLM_F_ACK, family, &id)?;
        match replies(&socket, |_| ()) {
            // The socket was closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                result?;
                aborted += 1;
            }
        }
    }
    Ok(aborted)
}

/// Whether the socket is a target. `id` is a `struct inet_diag_sockid`: ports in network order, two addresses of 16 bytes,
/// interface, cookie.
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

/// Sends a `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &[u8]) -> io::Result<()> {
    let length = (HEADER_SIZE + 8 + SOCKET_ID_SIZE) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, Proto::UDP.0, 0, 0]);
    message.extend(ESTABLISHED_STATE.to_ne_bytes());
    message.extend(id);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Calls `handle` with each message of the answer, until its end or the acknowledgement.
fn replies(socket: &OwnedFd, mut handle: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((length, kind)) = header(rest) {
            let body = &rest[HEADER_SIZE..length];
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code =
                        body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => handle(body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length of the first message, header included, and its type; `None`: there are no more messages.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (HEADER_SIZE..=bytes.len()).contains(&length).then_some((length, kind))
}
