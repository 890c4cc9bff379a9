//! Service translation at the socket: a connection to a service is one to a backend from its first packet on,
//! and its packets need nothing. `recvmsg` and `getpeername` show the application what it addressed.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use skep_abi::{
    Addr, AffinityKey, Backend, Be16, Connected, Proto, Scope, ServiceValue, SocketAddr, SocketKey,
};

use crate::maps::{self, CONNECTED, SOCKETS};
use crate::service;

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const EPERM: i32 = 1;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub(crate) fn cgroup_connect4(ctx: SockAddrContext) -> i32 {
    translate(&Family::V4(&ctx), any)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn cgroup_connect6(ctx: SockAddrContext) -> i32 {
    translate(&Family::V6(&ctx), any)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn cgroup_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&Family::V4(&ctx), own)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn cgroup_sendmsg6(ctx: SockAddrContext) -> i32 {
    translate(&Family::V6(&ctx), own)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn cgroup_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&Family::V4(&ctx))
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn cgroup_recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(&Family::V6(&ctx))
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn cgroup_getpeer4(ctx: SockAddrContext) -> i32 {
    restore(&Family::V4(&ctx))
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn cgroup_getpeer6(ctx: SockAddrContext) -> i32 {
    restore(&Family::V6(&ctx))
}

/// Which fields of the context hold the peer. The verifier wants each read and written by itself, in words.
enum Family<'a> {
    V4(&'a SockAddrContext),
    V6(&'a SockAddrContext),
}

impl Family<'_> {
    #[inline(always)]
    fn context(&self) -> &SockAddrContext {
        match self {
            Family::V4(ctx) | Family::V6(ctx) => ctx,
        }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.context().sock_addr
    }

    #[inline(always)]
    fn peer(&self) -> SocketAddr {
        let raw = self.raw();
        // SAFETY: the context is the kernel's and these fields are readable at every hook used here.
        unsafe {
            let addr = match self {
                Family::V4(_) => Addr::from_v4_word(core::ptr::read_volatile(&raw const (*raw).user_ip4)),
                Family::V6(_) => Addr([
                    core::ptr::read_volatile(&raw const (*raw).user_ip6[0]),
                    core::ptr::read_volatile(&raw const (*raw).user_ip6[1]),
                    core::ptr::read_volatile(&raw const (*raw).user_ip6[2]),
                    core::ptr::read_volatile(&raw const (*raw).user_ip6[3]),
                ]),
            };
            let port = core::ptr::read_volatile(&raw const (*raw).user_port) as u16;
            SocketAddr { addr, port: Be16(port), reserved: 0 }
        }
    }

    #[inline(always)]
    fn set_peer(&self, to: &SocketAddr) {
        let raw = self.raw();
        // SAFETY: as in `peer`; these fields are writable at every hook used here, a word at a time.
        unsafe {
            match self {
                Family::V4(_) => core::ptr::write_volatile(&raw mut (*raw).user_ip4, to.addr.v4_word()),
                Family::V6(_) => {
                    core::ptr::write_volatile(&raw mut (*raw).user_ip6[0], to.addr.0[0]);
                    core::ptr::write_volatile(&raw mut (*raw).user_ip6[1], to.addr.0[1]);
                    core::ptr::write_volatile(&raw mut (*raw).user_ip6[2], to.addr.0[2]);
                    core::ptr::write_volatile(&raw mut (*raw).user_ip6[3], to.addr.0[3]);
                }
            }
            core::ptr::write_volatile(&raw mut (*raw).user_port, to.port.0 as u32);
        }
    }

    #[inline(always)]
    fn proto(&self) -> Proto {
        let raw = self.raw();
        // SAFETY: as in `peer`.
        Proto(unsafe { core::ptr::read_volatile(&raw const (*raw).protocol) } as u8)
    }

    #[inline(always)]
    fn socket(&self, backend: &SocketAddr) -> SocketKey {
        // SAFETY: the context is the kernel's.
        let cookie = unsafe { bpf_get_socket_cookie(self.context().as_ptr()) };
        SocketKey { cookie, backend: backend.addr, port: backend.port, proto: self.proto(), reserved: [0; 5] }
    }
}

#[inline(always)]
fn translate(socket: &Family, chance: impl Fn(&Family) -> u32) -> i32 {
    let addressed = socket.peer();
    let Some(service) = find(socket, &addressed) else { return ALLOW };
    if service.affinity_seconds | service.ranges | service.flags & ServiceValue::DROP != 0 {
        return translate_for(socket, service, &addressed, chance(socket));
    }
    finish(socket, service::pick(service, Addr::UNSPECIFIED, chance(socket)), &addressed)
}

/// A datagram socket is connected to find out its own address, too (RFC 6724, 5): that must not fail where only a packet
/// would be refused.
#[inline(always)]
fn find(socket: &Family, addressed: &SocketAddr) -> Option<&'static ServiceValue> {
    match socket.proto() {
        Proto::TCP => service::find_any(addressed, Proto::TCP),
        proto => service::find(addressed, proto, Scope::INTERNAL),
    }
}

/// A service whose answer depends on who asks.
#[inline(always)]
fn translate_for(socket: &Family, service: &ServiceValue, addressed: &SocketAddr, chance: u32) -> i32 {
    let Some(config) = maps::config() else { return ALLOW };
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_netns_cookie(socket.context().as_ptr()) };
    let of_node = cookie == config.netns_cookie;
    if service.ranges != 0 {
        let node = if addressed.addr.is_v4() { &config.node_v4 } else { &config.node_v6 };
        // Which address a pod's socket will have is not known here: its packets are judged.
        if !of_node {
            return ALLOW;
        }
        if !service::admits(service, node) {
            return refuse(EPERM);
        }
    }
    // What is to be dropped is not to be refused: the pod's packets are, and the node's never start, as under netfilter.
    if service.count == 0 && service.flags & ServiceValue::DROP != 0 {
        return if of_node { refuse(EPERM) } else { ALLOW };
    }
    let client = AffinityKey::namespace(cookie, addressed.addr.is_v4());
    finish(socket, service::pick(service, client, chance), addressed)
}

#[inline(always)]
fn finish(socket: &Family, backend: Option<&Backend>, addressed: &SocketAddr) -> i32 {
    let Some(backend) = backend else { return refuse(ECONNREFUSED) };
    let to = SocketAddr::new(backend.addr, backend.port);
    remember(socket, &to, addressed);
    socket.set_peer(&to);
    ALLOW
}

/// Where there is no room, the application loses the addressed name of its peer, not the connection.
#[inline(always)]
fn remember(socket: &Family, backend: &SocketAddr, frontend: &SocketAddr) {
    if socket.proto() != Proto::TCP {
        let _ = SOCKETS.insert(socket.socket(backend), *frontend, BPF_ANY as u64);
        return;
    }
    let mut connected = Connected { backend: *backend, frontend: *frontend };
    // SAFETY: the context is the kernel's, and so is its socket.
    let kept = unsafe { CONNECTED.get_or_insert_ptr_mut(socket.context(), Some(&mut connected)) };
    if !kept.is_null() {
        // SAFETY: the kernel keeps the value valid until the program ends; only this socket's owner works with it.
        unsafe { *kept = connected };
    }
}

/// What the application addressed when the socket came to have `peer`.
#[inline(always)]
fn frontend<'a>(socket: &Family, peer: &SocketAddr) -> Option<&'a SocketAddr> {
    if socket.proto() != Proto::TCP {
        // SAFETY: the value is read at once; the entry belongs to this socket.
        return unsafe { SOCKETS.get(socket.socket(peer)) };
    }
    // SAFETY: as in `remember`.
    let connected = unsafe { CONNECTED.get_ptr_mut(socket.context()).as_ref() }?;
    (connected.backend == *peer).then_some(&connected.frontend)
}

#[inline(always)]
fn refuse(error: i32) -> i32 {
    // SAFETY: sets what the system call returns; no preconditions.
    unsafe { bpf_set_retval(-error) };
    REFUSE
}

/// A new connection may go to any backend.
#[inline(always)]
fn any(_: &Family) -> u32 {
    service::random()
}

/// Datagrams of one socket go to one backend for as long as the set is the same, as under a connection-tracking proxy.
#[inline(always)]
fn own(socket: &Family) -> u32 {
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(socket.context().as_ptr()) };
    (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[inline(always)]
fn restore(socket: &Family) -> i32 {
    if let Some(frontend) = frontend(socket, &socket.peer()) {
        socket.set_peer(frontend);
    }
    ALLOW
}
