//! The flow log's values: lines as agents answer them, and queries as clients ask them. PURE.
//!
//! An answer is a line of JSON for each [`Line`], in the order of time; new fields may come, and none changes its meaning.

mod query;
mod record;

pub use query::{DEFAULT_LAST, FlowQuery, MAX_LAST, QueryError};
pub use record::{End, FlowRecord, Line, Pod, Rule, ServicePort, Verdict};

/// The API group whose only resource is [`RESOURCE`]. It is in no discovery document.
pub const GROUP: &str = "flows.skep.io";
pub const VERSION: &str = "v1";
/// The flow log of a node has the node's name. In a namespace it has the flows of pods of that namespace.
pub const RESOURCE: &str = "flows";

/// The path of a node's flow log, of all namespaces or of one.
pub fn path(node: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{RESOURCE}/{node}"),
        None => format!("/apis/{GROUP}/{VERSION}/{RESOURCE}/{node}"),
    }
}
