//! The pod agent against a real containerd and the real API server, both in or below this process.

mod pods;
mod stats;
mod volumes;
