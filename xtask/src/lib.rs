//! The parts of the `cargo xtask` commands. Tests that need a cluster use [`cluster`] too.
//!
//! It compiles with a Rust toolchain alone, because it installs everything else.

pub mod architecture;
pub mod bench;
pub mod binaries;
pub mod build_ebpf;
pub mod cluster;
pub mod commands;
pub mod deps;
pub mod example;
pub mod gen_api;
pub mod image;
pub mod old_kernel;
pub mod progress;

use std::path::{Path, PathBuf};

/// The top of the source tree.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
