//! Skep's BPF programs; build with `cargo xtask build-ebpf`.
fn main() {}
