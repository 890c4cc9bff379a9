//! Where a packet goes once it may pass.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer};
use skep_abi::{DropReason, NodeConfig};

use crate::report;

/// Straight into the pod behind the host-side interface, past the node's stack.
#[inline(always)]
pub(crate) fn to_pod(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the index; a wrong one drops the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of the uplink, next hop by the node's routes, past the node's stack.
#[inline(always)]
pub(crate) fn to_uplink(config: &NodeConfig) -> i32 {
    // SAFETY: no parameters are given, so the kernel looks the neighbour up itself.
    unsafe { bpf_redirect_neigh(config.uplink, core::ptr::null_mut(), 0, 0) as i32 }
}

#[inline(always)]
pub(crate) fn verdict(result: Result<i32, DropReason>) -> i32 {
    match result {
        Ok(action) => action,
        Err(reason) => {
            report::dropped(reason);
            TC_ACT_SHOT as i32
        }
    }
}

pub(crate) const PASS: i32 = TC_ACT_OK as i32;
