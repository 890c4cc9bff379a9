//! Hands the built BPF object to the crate, which embeds it.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../..");
    let object = root.join("target/bpf/skep-programs.o");
    println!("cargo::rerun-if-changed={}", object.display());
    let object = object
        .canonicalize()
        .map_err(|_| "the BPF programs are not built: run `cargo xtask build-ebpf` first")?;
    println!("cargo::rustc-env=SKEP_BPF_OBJECT={}", object.display());
    Ok(())
}
