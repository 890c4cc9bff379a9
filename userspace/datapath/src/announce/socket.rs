//! AF_PACKET sockets: one interface, one kind of request, filtered in the kernel.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::frame::Mac;
use crate::error::DatapathError;

/// The frames that the socket receives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter {
    ArpRequest,
    NeighbourSolicitation,
}

/// Classic BPF: load, compare or drop, accept, drop.
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

impl Filter {
    fn protocol(self) -> u16 {
        match self {
            Filter::ArpRequest => libc::ETH_P_ARP as u16,
            Filter::NeighbourSolicitation => libc::ETH_P_IPV6 as u16,
        }
    }

    fn program(self) -> Vec<libc::sock_filter> {
        let op = |code: u16, jf: u8, k: u32| libc::sock_filter { code, jt: 0, jf, k };
        match self {
            // ARP's operation.
            Filter::ArpRequest => {
                vec![op(LOAD_HALF, 0, 20), op(EQUAL, 1, 1), op(RETURN, 0, u32::MAX), op(RETURN, 0, 0)]
            }
            // IPv6's next header, ICMPv6's type.
            Filter::NeighbourSolicitation => vec![
                op(LOAD_BYTE, 0, 20),
                op(EQUAL, 3, 58),
                op(LOAD_BYTE, 0, 54),
                op(EQUAL, 1, 135),
                op(RETURN, 0, u32::MAX),
                op(RETURN, 0, 0),
            ],
        }
    }
}

/// A packet socket on one interface.
pub(super) struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
}

impl PacketSocket {
    /// Opens a socket; also returns the interface's MAC. Call it within a tokio runtime.
    pub(super) fn open(ifindex: u32, filter: Filter) -> Result<(PacketSocket, Mac), DatapathError> {
        let opened = raw(ifindex, filter).and_then(|(fd, mac)| {
            // SAFETY: the descriptor is this value's own and is closed with it, not before.
            let fd = unsafe { AsyncFd::register(fd) }?;
            Ok((fd, mac))
        });
        let (fd, mac) = opened.map_err(DatapathError::file("open", "a packet socket"))?;
        Ok((PacketSocket { fd }, mac))
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> Result<usize, DatapathError> {
        let received = self.fd.async_io(tokio::io::Interest::READABLE, |fd| {
            rustix::net::recv(fd, &mut *buffer, rustix::net::RecvFlags::empty())
                .map(|(length, _)| length)
                .map_err(io::Error::from)
        });
        received.await.map_err(DatapathError::file("receive from", "a packet socket"))
    }

    /// Sends a frame. If the interface's queue is full, the frame is lost, as any frame may be.
    pub(super) fn send(&self, frame: &[u8]) -> Result<(), DatapathError> {
        match rustix::net::send(self.fd.get_ref(), frame, rustix::net::SendFlags::empty()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(DatapathError::file("send to", "a packet socket")(error.into())),
        }
    }
}

fn raw(ifindex: u32, filter: Filter) -> io::Result<(OwnedFd, Mac)> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; protocol 0 receives nothing before the filter is attached and the socket is bound.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor is new and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut program = filter.program();
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
    let mac = bind(&fd, ifindex, filter.protocol())?;
    Ok((fd, mac))
}

/// Sets a socket option; `value` must have the type that the option takes.
fn set_option<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` is readable for its own size over the call; what it points to (the filter) outlives the call too.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
    })?;
    Ok(())
}

/// Binds to the interface; returns its MAC.
fn bind(fd: &OwnedFd, ifindex: u32, protocol: u16) -> io::Result<Mac> {
    // SAFETY: all zeros is a value of this plain struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(ifindex).unwrap_or(0);
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    let pointer = std::ptr::from_mut(&mut address).cast::<libc::sockaddr>();
    // SAFETY: `pointer` points to a sockaddr_ll of `length` bytes that lives over both calls; the second writes no more.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer, length) })?;
    // SAFETY: as above.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), pointer, &mut length) })?;
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    Ok([a, b, c, d, e, f])
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
