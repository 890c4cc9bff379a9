//! The three-node cluster with the real binaries, containers, kubectl and etcd: the same code as `cargo xtask up`.

mod machine;
