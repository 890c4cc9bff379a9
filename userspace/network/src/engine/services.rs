//! What the expiry of flows asks of the engine while it runs: the datagram services in the kernel at that time.
//!
//! In: questions from another thread. Out: answers between two plans, so that no write is under way.

use std::sync::Arc;

use skep_datapath::ServicesInForce;
use skep_netplan::DatagramServices;
use tokio::sync::{mpsc, oneshot};

pub(super) type Question = oneshot::Sender<DatagramServices>;

/// How to ask, and what receives the questions. Once it is dropped, the answer is no services.
pub(super) fn questions() -> (ServicesInForce, mpsc::Receiver<Question>) {
    let (to, questions) = mpsc::channel(2);
    let ask = move || {
        let (answer, answered) = oneshot::channel();
        let _ = to.blocking_send(answer);
        answered.blocking_recv().unwrap_or_default()
    };
    (Arc::new(ask), questions)
}
