//! Service translation at the socket.
//!
//! `connect` and `sendmsg`: the address of a frontend becomes that of a backend, so the packets need no translation.
//! `recvmsg` and `getpeername`: the application gets the address that it used.
//! `sock_release`: what is known of the socket ends with it.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use skep_abi::{
    Addr, AffinityKey, Backend, Be16, DropReason, Omission, Proto, Scope, ServiceKey, ServiceValue,
    SocketAddr, SocketKey,
};

use crate::maps::{self, SOCKETS};
use crate::omission::omits;
use crate::{connected, report, service};

/// Results of the programs: the system call goes on, or fails.
const ALLOW: i32 = 1;
const DENY: i32 = 0;
const EPERM: i32 = 1;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub(crate) fn cgroup_connect4(ctx: SockAddrContext) -> i32 {
    translate(&Family::V4(&ctx), random_chance)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn cgroup_connect6(ctx: SockAddrContext) -> i32 {
    translate(&Family::V6(&ctx), random_chance)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn cgroup_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&Family::V4(&ctx), socket_chance)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn cgroup_sendmsg6(ctx: SockAddrContext) -> i32 {
    translate(&Family::V6(&ctx), socket_chance)
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

/// A socket is closed. Those that no `connect` translated have no entry.
#[cgroup_sock(sock_release)]
pub(crate) fn cgroup_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is the kernel's; the field is readable at this hook.
    let proto = Proto(unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).protocol) } as u8);
    if proto == Proto::TCP {
        connected::forget(cookie(&ctx));
    }
    ALLOW
}

/// The kernel's number of the socket, which no other socket gets.
#[inline(always)]
fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Which fields of the context hold the peer. The verifier accepts only accesses of one word.
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
        let cookie = cookie(self.context());
        SocketKey {
            cookie,
            backend: backend.addr,
            port: backend.port,
            proto: self.proto(),
            reserved: 0,
            reserved2: 0,
        }
    }
}

#[inline(always)]
fn translate(socket: &Family, chance: impl Fn(&Family) -> u32) -> i32 {
    if omits(Omission::SOCKETS) {
        return ALLOW;
    }
    let addressed = socket.peer();
    let mut copy = MaybeUninit::uninit();
    let copy = service::clear(&mut copy);
    if !find(socket, &addressed, copy) || is_left_to_packets(socket) {
        return ALLOW;
    }
    let service = &*copy;
    if service.affinity_seconds | service.ranges | service.flags & (ServiceValue::DROP | ServiceValue::NODE)
        != 0
    {
        return translate_for(socket, service, &addressed, chance(socket));
    }
    finish(socket, service, service::pick(service, Addr::UNSPECIFIED, chance(socket)), &addressed)
}

/// The frontend that was addressed. Applications also connect a datagram socket to learn their own address (RFC 6724, 5), so
/// a port that a cluster IP does not serve fails only for TCP. At a loopback address the node has its node ports and host ports.
///
/// The copy is this call's own: another task may run a program of this CPU meanwhile.
#[inline(always)]
fn find(socket: &Family, addressed: &SocketAddr, copy: &mut ServiceValue) -> bool {
    let (proto, port) = (socket.proto(), addressed.port);
    if let Some(addr) = addressed.addr.loopback() {
        let key = ServiceKey { addr, port, proto, scope: Scope::LOOPBACK };
        return is_of_node(socket) && service::copy_of(&key, copy);
    }
    let key = ServiceKey { addr: addressed.addr, port, proto, scope: Scope::INTERNAL };
    service::copy_of(&key, copy)
        || service::copy_of_others(addressed, proto, Scope::INTERNAL, copy)
            && (proto == Proto::TCP || copy.flags & ServiceValue::SAME_PORT != 0)
}

/// Whether it is a socket of the node's own network namespace.
#[inline(always)]
fn is_of_node(socket: &Family) -> bool {
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_netns_cookie(socket.context().as_ptr()) };
    maps::config().is_some_and(|config| config.netns_cookie == cookie)
}

/// 1: only the node's own sockets are translated, and those of pods by packet: another proxy in the pod sees what its application
/// addressed. It is set before the programs are loaded.
#[unsafe(no_mangle)]
static HOST_ONLY: u32 = 0;

#[inline(always)]
fn is_left_to_packets(socket: &Family) -> bool {
    // SAFETY: a global that is set before the program is loaded and never written.
    if unsafe { core::ptr::read_volatile(&raw const HOST_ONLY) } == 0 {
        return false;
    }
    !is_of_node(socket)
}

/// Translation for a service whose backend depends on the client, or is the node itself.
#[inline(always)]
fn translate_for(socket: &Family, service: &ServiceValue, addressed: &SocketAddr, chance: u32) -> i32 {
    // The address is on a link of the node.
    if service.flags & ServiceValue::NODE != 0 {
        return ALLOW;
    }
    let Some(config) = maps::config() else { return ALLOW };
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_netns_cookie(socket.context().as_ptr()) };
    let is_node = cookie == config.netns_cookie;
    if service.ranges != 0 {
        let node = if addressed.addr.is_v4() { &config.node_v4 } else { &config.node_v6 };
        // A pod's source address is not known yet: its packets are checked at the pod's hook.
        if !is_node {
            return ALLOW;
        }
        if !service::admits(service, node) {
            report::refused(DropReason::SourceRange, addressed, socket.proto(), service.service);
            return fail(EPERM);
        }
    }
    // The frontend drops. A pod's connect succeeds and its packets are dropped at its hook; the node's own call fails with
    // EPERM, as under netfilter.
    if service.count == 0 && service.flags & ServiceValue::DROP != 0 {
        if !is_node {
            return ALLOW;
        }
        report::refused(DropReason::NoBackend, addressed, socket.proto(), service.service);
        return fail(EPERM);
    }
    let client = AffinityKey::namespace(cookie, addressed.addr.is_v4());
    finish(socket, service, service::pick(service, client, chance), addressed)
}

#[inline(always)]
fn finish(socket: &Family, service: &ServiceValue, backend: Option<&Backend>, addressed: &SocketAddr) -> i32 {
    let Some(backend) = backend else {
        report::refused(DropReason::NoBackend, addressed, socket.proto(), service.service);
        return fail(ECONNREFUSED);
    };
    let to = service::end(backend, addressed.port);
    store_frontend(socket, &to, addressed);
    socket.set_peer(&to);
    ALLOW
}

/// Stores what the application addressed. If the maps are full, `getpeername` shows the backend; the connection works.
#[inline(always)]
fn store_frontend(socket: &Family, backend: &SocketAddr, frontend: &SocketAddr) {
    if omits(Omission::FRONTEND) {
        return;
    }
    if socket.proto() != Proto::TCP {
        let _ = SOCKETS.insert(socket.socket(backend), *frontend, BPF_ANY as u64);
        return;
    }
    connected::store(cookie(socket.context()), backend, frontend);
}

/// What the application addressed when the socket got `peer`.
#[inline(always)]
fn frontend<'a>(socket: &Family, peer: &SocketAddr) -> Option<&'a SocketAddr> {
    if socket.proto() != Proto::TCP {
        // SAFETY: the value is read at once; the entry belongs to this socket.
        return unsafe { SOCKETS.get(socket.socket(peer)) };
    }
    connected::find(cookie(socket.context()), peer)
}

/// 1: the kernel has `bpf_set_retval`. It is set before the programs are loaded: Linux before 5.18 rejects a program that
/// calls the helper, and 0 makes that code dead. The system call then fails with EPERM.
#[unsafe(no_mangle)]
static SET_RETVAL: u32 = 0;

/// Lets the system call fail with the error.
#[inline(always)]
fn fail(error: i32) -> i32 {
    // SAFETY: a global that is set before the program is loaded and never written.
    if unsafe { core::ptr::read_volatile(&raw const SET_RETVAL) } != 0 {
        // SAFETY: sets what the system call returns; no preconditions.
        unsafe { bpf_set_retval(-error) };
    }
    DENY
}

/// A new connection may go to any backend.
#[inline(always)]
fn random_chance(_: &Family) -> u32 {
    service::random()
}

/// Datagrams of one socket go to one backend while the set is the same, as under a connection-tracking proxy.
#[inline(always)]
fn socket_chance(socket: &Family) -> u32 {
    (cookie(socket.context()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[inline(always)]
fn restore(socket: &Family) -> i32 {
    if omits(Omission::SOCKETS) {
        return ALLOW;
    }
    if let Some(frontend) = frontend(socket, &socket.peer()) {
        socket.set_peer(frontend);
    }
    ALLOW
}
