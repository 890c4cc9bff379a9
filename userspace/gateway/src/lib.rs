//! The way into the cluster for HTTP: one data plane for the APIs that describe routes.
//!
//! [`routing`] is PURE: rules compile to a table that finds a request's route at a cost that does not depend on how many
//! rules there are.

pub mod routing;
