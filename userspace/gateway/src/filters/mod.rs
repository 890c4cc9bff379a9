//! What a route changes of its requests and responses. PURE.

mod cors;
mod header_changes;
mod rewrite;

pub use cors::{Cors, Origin};
pub use header_changes::HeaderChanges;
pub use rewrite::{PathRewrite, Redirect, Rewrite};

/// Changes on the way to a backend and back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub request: HeaderChanges,
    pub response: HeaderChanges,
    pub rewrite: Rewrite,
}
