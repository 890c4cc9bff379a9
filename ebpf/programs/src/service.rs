//! Frontend to backend.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use skep_abi::{Backend, BackendKey, End, Proto, Scope, ServiceKey, ServiceValue};

use crate::maps::{BACKENDS, SERVICES};

#[inline(always)]
pub(crate) fn find(to: &End, proto: Proto, scope: Scope) -> Option<&'static ServiceValue> {
    let key = ServiceKey { addr: to.addr, port: to.port, proto, scope };
    // SAFETY: read-only use within the program's run; the agent replaces values whole.
    unsafe { SERVICES.get(key) }
}

/// A backend of the service, each with the same chance; `None` if there is none.
#[inline(always)]
pub(crate) fn pick(service: &ServiceValue) -> Option<&'static Backend> {
    let (set, count) = (service.set, service.count);
    if count == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    // SAFETY: as in `find`.
    unsafe { BACKENDS.get(BackendKey { set, slot: random % count }) }
}
