//! The `skep` binary: commands and wiring only.

fn main() {}
