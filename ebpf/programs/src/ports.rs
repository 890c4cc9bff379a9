//! Claiming a source port.
//!
//! In: a local address and a remote end, and the entry that rewrites the answers. Out: a port of the local address under which
//! no other flow has that remote end; the entry is put under it. Flows to different remote ends share ports.
//!
//! The packet's own port comes first, as in netfilter; then ports in turn from a random distance (RFC 6056, 3.3.5), so that
//! the ports that were given out longest ago come first. A flow whose time is over loses its port when it is met. If
//! some tries find none, flows that are closed lose theirs; if many more find none, those that are silent for a shorter time.

use core::ffi::c_void;
use core::hint::cold_path;
use core::ptr::null_mut;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use skep_abi::logic::lifetime::{Group, Life, Timeout, Timeouts, copy};
use skep_abi::{Be16, DropReason, Flow, FlowKey, Proto, SNAT_PORT_MAX, SNAT_PORT_MIN, SocketAddr};

use crate::buffers::Search;
use crate::clock::{now_ns, tick};
use crate::conntrack::{self, put};
use crate::maps::{self, CONNTRACK, EXHAUSTED, search};
use crate::openers;
use crate::packet::Packet;

/// The first and the last source port, in the upper and the lower half. The agent sets it before it loads the programs: the
/// node's own sockets get no such ports.
#[unsafe(no_mangle)]
static SNAT_PORTS: u32 = (SNAT_PORT_MIN as u32) << 16 | SNAT_PORT_MAX as u32;

/// 1: the kernel has `bpf_loop`. The agent sets it before it loads the programs: Linux before 5.17 rejects a program that calls
/// the helper, and 0 makes that code dead.
#[unsafe(no_mangle)]
static HAS_LOOP: u32 = 0;

/// Ports that are tried before flows which are closed give theirs up.
pub(crate) const PORT_TRIES: u32 = 64;
/// Ports that are tried then, before flows which are silent give theirs up.
const SCARCE_TRIES: u32 = 2_048;
/// Ports that are tried without `bpf_loop`: the verifier follows every round.
const UNROLLED_TRIES: u32 = 32;
/// Flows that are closed give up their ports.
const TAKE_CLOSED: u32 = 1;
/// So do flows that are silent for the time of a takeover.
const TAKE_SILENT: u32 = 2;
/// The search begins at most so many ports after the last one that was tried.
const MAX_DISTANCE: u32 = 64;

/// Claims a port of `local` towards `remote` by putting `reverse`, which is [`conntrack::last_fresh`], under the ends that
/// answers will have. `own` is the packet's port. At most `tries` ports are tried before flows lose theirs, and with fewer
/// than [`PORT_TRIES`] no flow does. Returns `local` with the port, valid until the next search.
///
/// The deepest calls are here, so hooks call it from no function of their own.
#[inline(always)]
pub(crate) fn claim(
    own: Be16,
    local: &SocketAddr,
    remote: &SocketAddr,
    proto: Proto,
    reverse: &mut Flow,
    tries: u32,
) -> Option<&'static SocketAddr> {
    search()?.port = own.get() as u32;
    prepare(local, remote, proto, reverse);
    if find(tries) { search().map(|search| &search.local) } else { None }
}

/// Makes the search one for a port of `local` towards `remote`.
#[inline(never)]
fn prepare(local: &SocketAddr, remote: &SocketAddr, proto: Proto, reverse: &mut Flow) {
    let Some(search) = search() else { return };
    // SAFETY: a read of a static; volatile, since the agent changes it before it loads the programs.
    let ports = unsafe { core::ptr::read_volatile(&raw const SNAT_PORTS) };
    search.first = ports >> 16;
    search.count = (ports & 0xffff).wrapping_sub(search.first).wrapping_add(1);
    (search.scarce, search.claimed) = (0, 0);
    copy(&mut search.local, &local.addr, Be16(0));
    // The addresses differ, so the port does not decide which end is the higher one.
    search.from_high = search.key.locate(remote, local, proto) as u32;
    // Answers come from the remote end: theirs is the rewritten direction, and the other end opened the flow.
    reverse.flags &= !(Flow::REWRITE_HIGH | Flow::FROM_HIGH);
    reverse.flags |= if search.from_high != 0 { Flow::REWRITE_HIGH } else { Flow::FROM_HIGH };
}

/// As [`claim`], for a protocol without ports. False: another pod has such a flow to the remote end.
#[inline(never)]
pub(crate) fn claim_address(
    local: &SocketAddr,
    remote: &SocketAddr,
    proto: Proto,
    reverse: &mut Flow,
) -> bool {
    let mut key = FlowKey::default();
    reverse.flags |= if key.locate(remote, local, proto) { Flow::REWRITE_HIGH } else { Flow::FROM_HIGH };
    if put(&key, reverse, BPF_NOEXIST) {
        return true;
    }
    let same = maps::flow(&key).is_some_and(|taken| taken.destination.addr == reverse.destination.addr);
    same && put(&key, reverse, BPF_ANY)
}

/// Whether a port was claimed.
#[inline(never)]
fn find(tries: u32) -> bool {
    let Ok(reverse) = conntrack::last_fresh() else { return false };
    openers::mark(reverse);
    let is_own_usable = search().is_some_and(|search| {
        let usable = search.port.wrapping_sub(search.first) < search.count;
        search.port = search.port.wrapping_sub(usable as u32);
        usable
    });
    if is_own_usable {
        next_port(0, null_mut());
    }
    if !is_claimed() {
        if !start_elsewhere() {
            return false;
        }
        // SAFETY: a read of a static; volatile, since the agent changes it before it loads the programs.
        if unsafe { core::ptr::read_volatile(&raw const HAS_LOOP) } != 0 {
            try_all(tries);
        } else {
            try_some(tries);
        }
        note_last();
    }
    let Some(search) = search() else { return false };
    if search.claimed == 0 {
        return false;
    }
    openers::note(&search.key);
    true
}

#[inline(always)]
fn note_last() {
    if let Some(search) = search() {
        search.last = search.port;
    }
}

/// The search is taken again after each try: a reference that is held over the tries would promise that they change nothing.
#[inline(always)]
fn is_claimed() -> bool {
    search().is_some_and(|search| search.claimed != 0)
}

/// Goes on near the last port that this CPU tried. False: no port is free.
#[inline(always)]
fn start_elsewhere() -> bool {
    let Some(search) = search() else { return false };
    // SAFETY: the helper has no preconditions.
    let distance = unsafe { bpf_get_prandom_u32() } % MAX_DISTANCE;
    search.port = search.last.wrapping_add(distance);
    !is_exhausted(search)
}

#[inline(always)]
fn try_all(tries: u32) {
    try_ports(0, tries);
    if is_claimed() || tries < PORT_TRIES {
        return;
    }
    try_ports(TAKE_CLOSED, SCARCE_TRIES);
    if !is_claimed() {
        try_ports(TAKE_SILENT, search().map_or(0, |search| search.count));
    }
    if let Some(search) = search() {
        note_exhausted(search);
    }
}

#[inline(always)]
fn try_some(tries: u32) {
    if let Some(search) = search() {
        search.scarce = if tries >= PORT_TRIES { TAKE_SILENT } else { 0 };
    }
    for round in 0..UNROLLED_TRIES {
        if next_port(round, null_mut()) != 0 {
            break;
        }
    }
}

/// Whether no port towards the remote end was free in this tick. Each packet of a new flow would look at all of them.
#[inline(always)]
fn is_exhausted(search: &mut Search) -> bool {
    set_port(search, 0);
    // SAFETY: the value is copied at once.
    unsafe { EXHAUSTED.get(&search.key) }.is_some_and(|then| *then == tick())
}

#[inline(always)]
fn note_exhausted(search: &mut Search) {
    if search.claimed == 0 {
        set_port(search, 0);
        search.now = tick();
        let _ = EXHAUSTED.insert(&search.key, &search.now, BPF_ANY as u64);
    }
}

#[inline(always)]
fn try_ports(scarce: u32, tries: u32) {
    if let Some(search) = search() {
        search.scarce = scarce;
    }
    // SAFETY: the callback has the helper's signature and takes no context.
    unsafe { bpf_loop(tries, next_port as *mut c_void, null_mut(), 0) };
}

/// Tries the next port; 1 ends the loop.
extern "C" fn next_port(_round: u32, _context: *mut c_void) -> i64 {
    let Some(search) = search() else { return 1 };
    search.port = search.port.wrapping_add(1);
    if search.port.wrapping_sub(search.first) >= search.count {
        search.port = search.first;
    }
    attempt(search) as i64
}

/// Puts the entry under the port, unless a flow has it that keeps it.
#[inline(always)]
fn attempt(search: &mut Search) -> bool {
    set_port(search, search.port);
    let Ok(reverse) = conntrack::last_fresh() else { return false };
    let put =
        |search: &Search, reverse: &Flow| CONNTRACK.insert(&search.key, reverse, BPF_NOEXIST as u64).is_ok();
    if !put(search, reverse) && (!take_over(search) || !put(search, reverse)) {
        return false;
    }
    search.local.port = Be16::new(search.port as u16);
    search.claimed = 1;
    true
}

/// Makes the key one with the port. An echo has one identifier in place of two ports.
#[inline(always)]
fn set_port(search: &mut Search, port: u32) {
    let port = Be16::new(port as u16);
    let both = matches!(search.key.proto, Proto::ICMP | Proto::ICMPV6);
    if search.from_high != 0 || both {
        search.key.low_port = port;
    }
    if search.from_high == 0 || both {
        search.key.high_port = port;
    }
}

/// The times of flows. The agent sets them before it loads the programs.
#[unsafe(no_mangle)]
static TIMEOUTS: Timeouts = Timeouts::DEFAULT;

#[inline(always)]
fn times(group: Group) -> Timeout {
    // The compiler would take the initial values for the present ones, and the bound of the index for known.
    let index = core::hint::black_box(group as u32) as usize & (Group::COUNT - 1);
    let all: *const Timeout = (&raw const TIMEOUTS).cast();
    // SAFETY: the index is within the static; volatile, since the agent changes it before it loads the programs.
    unsafe { core::ptr::read_volatile(all.add(index)) }
}

/// An error if the packet would open a connection to the backend itself with the ends that an open translated one has there. The
/// sender's kernel cannot know that they are the same, and tries again later. To be asked before the entry is touched.
#[inline(always)]
pub(crate) fn yields(packet: &Packet, flow: Option<&Flow>) -> Result<(), DropReason> {
    if let Some(flow) = flow
        && conntrack::begins(packet)
        && !packet.is_icmp()
        && conntrack::bypasses_translation(flow, packet)
        && !conntrack::reopens(packet, flow)
        && !gives_up(flow, packet.proto)
    {
        cold_path();
        return Err(DropReason::NoPort);
    }
    Ok(())
}

/// Whether a flow of one entry is silent for so long that another may have its ends.
#[inline(never)]
fn gives_up(flow: &Flow, proto: Proto) -> bool {
    let life = Life::of(flow, None);
    life.is_silent(times(life.group(proto)).takeover, now_ns())
}

/// Removes the entry that has the key, and its partner, if their flow gives up its port.
#[inline(always)]
fn take_over(search: &mut Search) -> bool {
    let Some(flow) = maps::flow(&search.key) else { return true };
    flow.rewrite(&search.key, &mut search.source, &mut search.destination);
    search.partner.locate(&search.source, &search.destination, search.key.proto);
    let partner = maps::flow(&search.partner)
        .map(|partner| &*partner)
        .filter(|partner| flow.is_partner(&search.key, partner));
    let life = Life::of(flow, partner);
    let timeout = times(life.group(search.key.proto));
    let early = search.scarce == TAKE_SILENT || search.scarce == TAKE_CLOSED && timeout.takeover == 0;
    let seconds = if early { timeout.takeover } else { timeout.expiry };
    if !life.is_silent(seconds, now_ns()) {
        return false;
    }
    if partner.is_some() {
        let _ = CONNTRACK.remove(&search.partner);
    }
    CONNTRACK.remove(&search.key).is_ok()
}
