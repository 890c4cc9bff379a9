//! `cargo xtask`: build, run and test Skep; one file a command.

fn main() {}
