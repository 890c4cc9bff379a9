//! The datagram services that the kernel has at the time of the call.
//!
//! A flow or socket is stale only if the services do not have its backend, neither before it was read nor after: one made
//! during a walk may lead to a backend that was added since.

use std::sync::Arc;

use skep_netplan::DatagramServices;

/// May wait until writes to the maps have ended. Without services nothing is stale.
pub type ServicesInForce = Arc<dyn Fn() -> DatagramServices + Send + Sync>;
