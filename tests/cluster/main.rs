//! The three-node cluster with the real binaries, containers, kubectl and etcd: the same code as `cargo xtask up`.
//!
//! The cluster is started by the first test that needs it and stays for the next; `cargo xtask test` takes it away, and
//! fails if anything of it is left. Tests take turns, each in a namespace of its own.

mod agent_kills;
mod etcd;
mod examples;
mod failures;
mod fixture;
mod idle;
mod input;
mod kubectl_commands;
mod machine;
mod policy;
mod published;
mod running;
mod scaling;
mod services;
mod tunnels;
mod workloads;
