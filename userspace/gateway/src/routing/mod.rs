//! Rules to routes. PURE. In: rules, ordered by age. Out: a [`RouteTable`], which finds the route of a request.

mod host;
mod path;
mod path_table;
mod rule;
mod table;
mod target;
#[cfg(test)]
mod tests;

pub use host::{HostError, HostPattern, HostTable, host_of};
pub use path::{PathError, RequestPath, normalise};
pub use rule::{Conditions, PathMatch, Rule};
pub use table::{RequestHead, RouteTable, Unroutable};
pub use target::{Target, TargetError};
