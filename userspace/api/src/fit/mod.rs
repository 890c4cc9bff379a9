//! What a pod demands of a node, and whether the node has it: the scheduler and the node itself decide by the same
//! functions. PURE.

mod amounts;
mod host_ports;
mod nodes;

pub use amounts::{Amounts, allocatable, requested, weight};
pub use host_ports::{HostPort, conflicts, host_ports};
pub use nodes::{admits, selects, term_admits, tolerated, tolerates};
