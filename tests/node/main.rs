//! The pod agent against a real containerd and the real API server, both in or below this process.

mod admission;
mod eviction;
mod images;
mod node_api;
mod objects;
mod pods;
mod resize;
mod shutdown;
mod static_pods;
mod stats;
mod volumes;
