//! `cargo xtask build-ebpf`: builds `ebpf/programs` for the BPF target and puts the object where the loader embeds it.
//!
//! Either of two toolchains will do: a rustup nightly with rust-src, or Debian's rustc, which has the target's core prebuilt.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "skep-programs";
/// The package's objects: Skep's programs and the benchmark's.
const OBJECTS: [&str; 2] = [PACKAGE, "skep-bench-programs"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

pub fn run() -> Result<()> {
    let root = crate::workspace();
    let linker = find_in_path("bpf-linker").or_else(|| in_cargo_home("bpf-linker")).context(
        "bpf-linker is missing; install it with `cargo install bpf-linker --version 0.13.0` \
         (on Debian: `LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22`)",
    )?;
    let mut command = toolchain()?;
    command
        .current_dir(&root)
        .args(["build", "--package", PACKAGE, "--profile", "ebpf", "--target", TARGET])
        .env("CARGO_TARGET_DIR", root.join("target"))
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker))
        .env_remove("RUSTFLAGS");
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("building {PACKAGE} for {TARGET} failed: {status}");
    }
    let built = root.join("target").join(TARGET).join("ebpf");
    OBJECTS.iter().try_for_each(|name| install(&built.join(name), &object(name)))
}

/// Where the object is put; `userspace/datapath/build.rs` looks there too.
fn object(name: &str) -> PathBuf {
    crate::workspace().join("target/bpf").join(name).with_extension("o")
}

/// The benchmark's own programs.
pub fn bench_object() -> PathBuf {
    object(OBJECTS[1])
}

/// The cargo call that can build for the BPF target on this machine.
fn toolchain() -> Result<Command> {
    if nightly_has_sources() {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
        return Ok(cargo);
    }
    let core = Path::new("/usr/lib/rustlib").join(TARGET);
    if Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CARGO).exists() && core.exists() {
        let mut cargo = Command::new(DEBIAN_CARGO);
        // aya-ebpf's core intrinsics for BPF are unstable; Debian ships the stable channel.
        cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
        return Ok(cargo);
    }
    bail!(
        "no Rust toolchain for {TARGET}; install one with `rustup toolchain install nightly --component rust-src` \
         or, on Debian, `apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22-dev`"
    )
}

pub(crate) fn nightly_has_sources() -> bool {
    let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot else { return false };
    let path = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    sysroot.status.success() && Path::new(&path).join("lib/rustlib/src/rust/library/core").exists()
}

/// BTF comes from full debug information; the map definitions need it.
fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    flags.push("\u{1f}-Clink-arg=--btf\u{1f}-Cdebuginfo=2");
    flags
}

/// Copies only what changed, so that an unchanged object rebuilds nothing.
fn install(built: &Path, object: &Path) -> Result<()> {
    let new = std::fs::read(built).with_context(|| format!("read {}", built.display()))?;
    if std::fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = object.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    std::fs::write(object, new).with_context(|| format!("write {}", object.display()))
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn in_cargo_home(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin").join(name)).filter(|file| file.is_file())
}
