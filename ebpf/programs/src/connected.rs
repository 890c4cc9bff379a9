//! What TCP sockets are connected to, by the kernel's cookie of each.
//!
//! A socket has an element of an array to itself until [`CONNECTED_MAX`] newer ones were opened. If it is open for longer, the next
//! one with its element moves its value to a hash. So a short connection, the usual one, touches no hash.
//!
//! [`CONNECTED_MAX`]: skep_abi::CONNECTED_MAX

use aya_ebpf::bindings::BPF_ANY;
use skep_abi::logic::lifetime::copy;
use skep_abi::{Connected, SocketAddr, connected_index};

use crate::maps::{CONNECTED, DISPLACED};

/// The socket's element, which may be another's.
#[inline(always)]
fn element(cookie: u64) -> Option<&'static mut Connected> {
    // SAFETY: elements of an array live as long as the map, and any bytes are a value. Two sockets with one element that connect at
    // the same moment may lose a name.
    CONNECTED.get_ptr_mut(connected_index(cookie)).map(|element| unsafe { &mut *element })
}

/// Stores what the socket's application addressed, and where the connection goes.
#[inline(always)]
pub(crate) fn store(cookie: u64, backend: &SocketAddr, frontend: &SocketAddr) {
    let Some(element) = element(cookie) else { return };
    if element.cookie != 0 && element.cookie != cookie {
        element.has_displaced = 1;
        let _ = DISPLACED.insert(element.cookie, &*element, BPF_ANY as u64);
    }
    element.cookie = cookie;
    copy(&mut element.backend, &backend.addr, backend.port);
    copy(&mut element.frontend, &frontend.addr, frontend.port);
}

/// What the socket's application addressed when the socket was connected to the backend.
#[inline(always)]
pub(crate) fn find(cookie: u64, backend: &SocketAddr) -> Option<&'static SocketAddr> {
    let mut found = &*element(cookie)?;
    if found.cookie != cookie {
        if found.has_displaced == 0 {
            return None;
        }
        // SAFETY: the value is read at once, and removed when this socket is closed.
        found = unsafe { DISPLACED.get(cookie) }?;
    }
    (found.backend == *backend).then_some(&found.frontend)
}

/// The socket is closed.
#[inline(always)]
pub(crate) fn forget(cookie: u64) {
    let Some(element) = element(cookie) else { return };
    if element.cookie == cookie {
        element.cookie = 0;
    }
    if element.has_displaced != 0 {
        let _ = DISPLACED.remove(cookie);
    }
}
