//! The served kinds and what each adds to the generic path.

mod address;
pub mod api_service;
mod autoscaler;
mod batch;
mod certificates;
mod classes;
pub(crate) mod client_config;
mod containers;
mod cron;
mod disruption;
mod expressions;
mod flow;
mod hooks;
mod ingress;
mod kind;
mod limits;
mod names;
mod network;
mod numbers;
mod policies;
mod rbac;
pub(crate) mod registry;
pub mod service;
mod small;
mod storage;
mod strategies;
mod table;
#[cfg(test)]
mod tests;
mod type_check;
mod workload;

pub(crate) use containers::qos_class;
pub(crate) use kind::{ALL, WITH_GENERATION};
pub use kind::{Kind, KindRef, Part, Scope};
pub(crate) use names::{intern, intern_all};
pub use registry::{Registry, find, find_kind, kinds};
pub use type_check::type_warnings;
