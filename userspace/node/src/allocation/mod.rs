//! What the node has given to its pods: resources and host ports.
//!
//! In: pods to admit, to resize and to forget. Out: verdicts of the pure [`ledger`], and a signal when something was given
//! back, for resizes that wait.

pub mod grant;
pub mod ledger;

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;

use crate::rejection::Rejection;
pub use grant::Grant;
pub use ledger::{Deferral, Ledger, Resize, Room};

/// The ledger of one node, shared by the workers of its pods.
pub(crate) struct Allocations {
    ledger: Mutex<Ledger>,
    /// Counts what was given back.
    returned: watch::Sender<u64>,
}

impl Allocations {
    pub(crate) fn new(room: Room) -> Allocations {
        Allocations { ledger: Mutex::new(Ledger::new(room)), returned: watch::Sender::new(0) }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Ledger::admit`].
    pub(crate) fn admit(&self, uid: &str, pod: &Pod, node: Option<&Node>) -> Result<(), Rejection> {
        self.ledger().admit(uid, pod, node)
    }

    /// As [`Ledger::adopt`].
    pub(crate) fn adopt(&self, uid: &str, pod: &Pod, grant: Option<Grant>) {
        self.ledger().adopt(uid, pod, grant);
    }

    /// As [`Ledger::resize`].
    pub(crate) fn resize(&self, uid: &str, pod: &Pod, node: Option<&Node>) -> Resize {
        let resize = self.ledger().resize(uid, pod, node);
        // A smaller pod leaves room for others.
        if resize == Resize::Granted {
            self.notify();
        }
        resize
    }

    /// What the pod has; `None` for a pod that was not admitted.
    pub(crate) fn grant(&self, uid: &str) -> Option<Grant> {
        self.ledger().grant(uid).cloned()
    }

    /// Forgets a pod that ended.
    pub(crate) fn release(&self, uid: &str) {
        if self.ledger().release(uid) {
            self.notify();
        }
    }

    fn notify(&self) {
        self.returned.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A receiver that changes when something was given back.
    pub(crate) fn returns(&self) -> watch::Receiver<u64> {
        self.returned.subscribe()
    }
}
