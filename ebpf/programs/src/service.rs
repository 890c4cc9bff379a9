//! Frontend to backend.
//!
//! In: what a client addressed. Out: the frontend, whether the client may use it, and the client's backend.

use core::hint::black_box;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use skep_abi::logic::flow_key::comes_after;
use skep_abi::{
    Addr, Affinity, AffinityKey, BACKEND_SLOTS, Backend, BackendKey, Be16, DropReason, OtherPorts, Proto,
    RangeKey, Scope, ServiceKey, ServiceValue, SocketAddr,
};

use crate::clock;
use crate::maps::{self, AFFINITY, BACKEND_PAGES, OTHER_PORTS, RANGES, SERVICES};
use crate::packet::Packet;

const SECOND_NS: u64 = 1_000_000_000;
/// Rounds of a binary search in a set: no set has more than 2^20 slots.
const MAX_SEARCH_ROUNDS: u32 = 20;
const _: () = assert!(skep_abi::BACKEND_PAGES_MAX * BACKEND_SLOTS <= 1 << MAX_SEARCH_ROUNDS);

/// The frontend that was addressed, copied for this CPU; valid until the next call. For programs on packets, which do not nest on
/// one CPU.
#[inline(always)]
pub(crate) fn find(to: &SocketAddr, proto: Proto, scope: Scope) -> Option<&'static ServiceValue> {
    let key = ServiceKey { addr: to.addr, port: to.port, proto, scope };
    let copy = maps::found()?;
    copy_of(&key, copy).then_some(&*copy)
}

/// As [`find`] from inside, where ports without a frontend of their own may have that of [`copy_of_others`].
#[inline(always)]
pub(crate) fn find_any(to: &SocketAddr, proto: Proto) -> Option<&'static ServiceValue> {
    find(to, proto, Scope::INTERNAL).or_else(|| find_others(to, proto, Scope::INTERNAL))
}

/// The frontend that a packet from outside addresses. Cluster IPs are for inside, but a network may route them here; kube-proxy
/// serves them too.
#[inline(always)]
pub(crate) fn find_from_outside(to: &SocketAddr, proto: Proto) -> Option<&'static ServiceValue> {
    find(to, proto, Scope::EXTERNAL)
        .or_else(|| find(to, proto, Scope::INTERNAL))
        .or_else(|| find_others(to, proto, Scope::EXTERNAL))
}

#[inline(always)]
fn find_others(to: &SocketAddr, proto: Proto, scope: Scope) -> Option<&'static ServiceValue> {
    let copy = maps::found()?;
    copy_of_others(to, proto, scope, copy).then_some(&*copy)
}

/// Copies the value of the frontend that the port shares with others: of the smallest block of ports that it is in, or of all
/// ports that a cluster IP does not serve, which refuses; that one is for inside alone. False: there is none.
///
/// A function of its own with one key, to spare the stack.
#[inline(never)]
pub(crate) fn copy_of_others(to: &SocketAddr, proto: Proto, scope: Scope, copy: &mut ServiceValue) -> bool {
    let others = other_ports(&to.addr);
    let is_inside = scope == Scope::INTERNAL;
    let mut level = if others & OtherPorts::BLOCKS == 0 { Scope::LEVELS + 1 } else { 1 };
    let mut key = ServiceKey { addr: to.addr, port: to.port, proto, scope };
    while level <= Scope::LEVELS {
        key.port = ServiceKey::first_of_block(to.port, level);
        key.scope = scope.at(level);
        if copy_of(&key, copy) {
            return true;
        }
        // A network may route cluster IPs here.
        key.scope = Scope::INTERNAL.at(level);
        if !is_inside && copy_of(&key, copy) {
            return true;
        }
        level += 1;
    }
    if !is_inside || others & OtherPorts::REFUSED == 0 {
        return false;
    }
    zero(copy);
    copy.flags = ServiceValue::REJECT;
    true
}

/// Flags of [`OtherPorts`] of the address. They are read again, as in [`copy_of`].
#[inline(always)]
fn other_ports(addr: &Addr) -> u32 {
    let key = OtherPorts::block(*addr);
    let read = || {
        // SAFETY: read-only use within the program's run; the agent replaces values whole.
        let block = unsafe { OTHER_PORTS.get(&key).or_else(|| OTHER_PORTS.get(&key)) };
        block.map(|block| block.of(addr))
    };
    // Most addresses are pods' own, in no block.
    let Some(first) = read() else { return 0 };
    let again = read();
    (if again == Some(first) { again } else { read() }).unwrap_or_default()
}

/// Copies the frontend's value. False: there is none.
///
/// The value is looked up again, and the copy counts if it is still the frontend's: the kernel reuses the memory of a replaced
/// element at once, and it may be another service's by the time that it is read. A frontend counts as absent after two look-ups: the
/// kernel inserts the new element at the front of its bucket and then removes the old one, and a reader between the two finds
/// neither.
#[inline(always)]
pub(crate) fn copy_of(key: &ServiceKey, copy: &mut ServiceValue) -> bool {
    let Some(found) = get(key) else { return false };
    assign(copy, found);
    let Some(again) = get(key) else { return false };
    if is_same(copy, again) {
        return true;
    }
    // It changed meanwhile, which does not happen twice within nanoseconds.
    assign(copy, again);
    true
}

/// Whether the node itself serves at the address.
#[inline(always)]
pub(crate) fn is_of_node(addr: &SocketAddr, proto: Proto) -> bool {
    find(addr, proto, Scope::INTERNAL).is_some_and(|service| service.flags & ServiceValue::NODE != 0)
}

#[inline(always)]
fn get(key: &ServiceKey) -> Option<&'static ServiceValue> {
    // SAFETY: read-only use within the program's run; the agent replaces values whole.
    unsafe { SERVICES.get(key).or_else(|| SERVICES.get(key)) }
}

/// A value as words of memory.
const WORDS: usize = size_of::<ServiceValue>() / 4;

/// Zeros, to be copied over.
#[inline(always)]
pub(crate) fn clear(value: &mut MaybeUninit<ServiceValue>) -> &mut ServiceValue {
    zero(value.as_mut_ptr());
    // SAFETY: every word is written.
    unsafe { value.assume_init_mut() }
}

/// Word by word: for a whole structure it would be a call of memset, byte by byte.
#[inline(always)]
fn zero(value: *mut ServiceValue) {
    for i in 0..WORDS {
        // SAFETY: callers give memory of a value, which is that many words; volatile keeps them apart.
        unsafe { core::ptr::write_volatile(value.cast::<u32>().add(i), 0) };
    }
}

/// Word by word: for a whole structure the compiler may emit a call.
#[inline(always)]
fn assign(to: &mut ServiceValue, from: &ServiceValue) {
    let (to, from) = ((&raw mut *to).cast::<u32>(), (&raw const *from).cast::<u32>());
    for i in 0..WORDS {
        // SAFETY: a value is that many words; volatile keeps them apart, and has them read once.
        unsafe { core::ptr::write_volatile(to.add(i), core::ptr::read_volatile(from.add(i))) };
    }
}

#[inline(always)]
fn is_same(a: &ServiceValue, b: &ServiceValue) -> bool {
    let (a, b) = ((&raw const *a).cast::<u32>(), (&raw const *b).cast::<u32>());
    let mut difference = 0;
    for i in 0..WORDS {
        // SAFETY: as in `assign`.
        difference |= unsafe { core::ptr::read_volatile(a.add(i)) ^ core::ptr::read_volatile(b.add(i)) };
    }
    difference == 0
}

/// The backend for the client that sent the packet, `chance` as in [`pick`]; `None`: there is none, and the packet is to
/// be rejected.
#[inline(always)]
pub(crate) fn resolve(
    packet: &mut Packet,
    service: &ServiceValue,
    chance: u32,
) -> Result<Option<SocketAddr>, DropReason> {
    packet.service = service.service;
    let client = packet.source.addr;
    let addressed = packet.destination.port;
    if !admits(service, &client) {
        return Err(DropReason::SourceRange);
    }
    if let Some(backend) = pick(service, client, chance) {
        return Ok(Some(end(backend, addressed)));
    }
    if service.flags & ServiceValue::DROP != 0 {
        return Err(DropReason::NoBackend);
    }
    Ok(None)
}

/// Where the backend serves a client that addressed the port.
#[inline(always)]
pub(crate) fn end(backend: &Backend, addressed: Be16) -> SocketAddr {
    SocketAddr::new(backend.addr, if backend.port.0 == 0 { addressed } else { backend.port })
}

/// The backend with that end, as the sets of the service have it.
#[inline(always)]
pub(crate) fn backend_of(service: &ServiceValue, end: &SocketAddr) -> Backend {
    let port = if service.flags & ServiceValue::SAME_PORT != 0 { Be16(0) } else { end.port };
    Backend { addr: end.addr, port, reserved: 0 }
}

/// Whether the client is in the frontend's source ranges.
#[inline(always)]
pub(crate) fn admits(service: &ServiceValue, client: &Addr) -> bool {
    if service.ranges == 0 {
        return true;
    }
    RANGES.get(&Key::new(RangeKey::BITS, RangeKey::new(service.ranges, *client))).is_some()
}

/// A backend of the service: with session affinity the client's previous one, or else each with the same probability over
/// the values of `chance`; `None`: there is none.
#[inline(always)]
pub(crate) fn pick(service: &ServiceValue, client: Addr, chance: u32) -> Option<&'static Backend> {
    let any = chance.checked_rem(service.count)?;
    if service.affinity_seconds != 0 { affine(service, client, any) } else { slot(service, any) }
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_prandom_u32() }
}

/// The backend in a slot of the service's set.
#[inline(always)]
pub(crate) fn slot(service: &ServiceValue, slot: u32) -> Option<&'static Backend> {
    // SAFETY: read-only use within the program's run; the agent never changes a set that is in use.
    let page = unsafe { BACKEND_PAGES.get(BackendKey { set: service.set, page: slot / BACKEND_SLOTS }) }?;
    // The verifier does not see the bound that the compiler sees, and needs the comparison.
    page.backends.get(black_box(slot % BACKEND_SLOTS) as usize)
}

/// The client's previous backend, or `any`. The timeout starts with the client's last new connection, as in kube-proxy.
#[inline(never)]
fn affine(service: &ServiceValue, client: Addr, any: u32) -> Option<&'static Backend> {
    let key = AffinityKey { client, service: service.service };
    let now = clock::now_ns();
    if let Some(entry) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: the kernel keeps the element valid until the program ends; two new connections of one client at
        // the same time may both write the time, or both pick.
        let entry = unsafe { &mut *entry };
        if now.wrapping_sub(entry.last_used) < service.affinity_seconds as u64 * SECOND_NS
            && let Some(backend) = member(service, &entry.backend)
        {
            entry.last_used = now;
            return Some(backend);
        }
    }
    let backend = slot(service, any)?;
    // Without an entry the client loses its affinity, not its connection.
    let _ = AFFINITY.insert(key, Affinity { last_used: now, backend: *backend, reserved: 0 }, BPF_ANY as u64);
    Some(backend)
}

/// The backend, if it is still in the service's set. The set's slots are in order.
#[inline(always)]
pub(crate) fn member(service: &ServiceValue, wanted: &Backend) -> Option<&'static Backend> {
    let (mut base, mut size) = (0, service.count);
    for _ in 0..MAX_SEARCH_ROUNDS {
        if size <= 1 {
            break;
        }
        let half = size / 2;
        let middle = base + half;
        if !comes_after(slot(service, middle)?, wanted) {
            base = middle;
        }
        size -= half;
    }
    let found = slot(service, base)?;
    (found.addr == wanted.addr && found.port == wanted.port).then_some(found)
}
