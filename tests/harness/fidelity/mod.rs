//! Compares what two API servers answer to the same objects: codes, Status, warnings, stored fields, managers.
//!
//! The reference is a real Kubernetes API server, or what was recorded of one. The other side is Skep.

pub mod answer;
pub mod cases;
pub mod compare;
pub mod manifests;
pub mod normal;
pub mod report;
pub mod run;
pub mod target;
