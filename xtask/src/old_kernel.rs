//! Debian's Linux 6.1, for tests that boot it under qemu: its image and the modules that they need, below `target/tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tar::Archive;

use crate::deps::{self, Need};

/// The part of its version that tests depend on.
pub const VERSION: &str = "6.1";

/// The modules, in an order in which dependencies come first.
const MODULES: [&str; 18] = [
    "crc32c_generic",
    "libcrc32c",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
    "veth",
    "llc",
    "stp",
    "bridge",
    "vxlan",
    "sch_fq",
    "sch_ingress",
    "cls_bpf",
    "mrp",
    "garp",
    "8021q",
    "tls",
    "bonding",
];
const IMAGE: &str = "vmlinuz";

pub struct OldKernel {
    /// The bootable image.
    pub image: PathBuf,
    /// In load order.
    pub modules: Vec<PathBuf>,
}

/// Fetches the kernel and qemu, unless they are there already.
pub fn fetch() -> Result<OldKernel> {
    if !cfg!(target_arch = "x86_64") {
        bail!("Linux {VERSION} is booted on x86_64 only: there the guest runs the programs of this machine");
    }
    deps::ensure(&[Need::Guest])?;
    let folder = crate::workspace().join("target/tools").join(format!("linux-{VERSION}"));
    let kernel = OldKernel::below(&folder);
    if kernel.is_whole() {
        return Ok(kernel);
    }
    println!("Fetching Linux {VERSION} into {}", folder.display());
    let making = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&making).with_context(|| format!("create {}", making.display()))?;
    let moved = unpack(&making).and_then(|()| {
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&making, &folder).with_context(|| format!("move {} into place", making.display()))
    });
    let _ = fs::remove_dir_all(&making);
    // Another process may have installed it first: its copy is as good.
    if !kernel.is_whole() {
        moved?;
        bail!("the package of Linux {VERSION} has not all of {IMAGE}, {}", MODULES.join(", "));
    }
    Ok(kernel)
}

impl OldKernel {
    fn below(folder: &Path) -> OldKernel {
        OldKernel { image: folder.join(IMAGE), modules: MODULES.map(|name| folder.join(module(name))).into() }
    }

    fn is_whole(&self) -> bool {
        self.modules.iter().chain([&self.image]).all(|file| file.exists())
    }
}

fn module(name: &str) -> String {
    format!("{name}.ko")
}

/// Downloads the package into the folder and extracts image and modules.
fn unpack(folder: &Path) -> Result<()> {
    if deps::is_root() {
        deps::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    }
    let package = package()?;
    deps::run(Command::new("apt-get").args(["download", "--quiet", &package]).current_dir(folder))?;
    let downloaded = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let archive = downloaded.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let archive = archive.with_context(|| format!("apt-get brought no package {package}"))?;
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("run dpkg-deb")?;
    let mut files = Archive::new(reader.stdout.take().context("dpkg-deb has no output")?);
    for file in files.entries()? {
        let mut file = file?;
        let path = file.path()?.into_owned();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(wanted) {
            file.unpack(folder.join(name)).with_context(|| format!("unpack {}", path.display()))?;
        }
    }
    let status = reader.wait()?;
    if !status.success() {
        bail!("dpkg-deb cannot read {}: {status}", archive.display());
    }
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

/// The name under which a file of the package is kept.
fn wanted(name: &str) -> Option<String> {
    if name.starts_with("vmlinuz-") {
        return Some(IMAGE.to_owned());
    }
    MODULES.into_iter().map(module).find(|module| module == name)
}

/// The newest that apt knows, such as `linux-image-6.1.0-56-amd64`.
fn package() -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", &format!("linux-image-{VERSION}.")])
        .output()
        .context("run apt-cache: the kernel for tests is a package of Debian")?;
    let names = String::from_utf8(output.stdout).context("apt-cache's answer")?;
    newest(names.lines()).with_context(|| {
        format!(
            "apt knows no package linux-image-{VERSION}.*-amd64, on which the datapath is tested; it is Debian 12's \
             kernel: add its sources, as `deb http://deb.debian.org/debian bookworm main` in /etc/apt/sources.list.d"
        )
    })
}

/// Leaves out other flavours and debug symbols.
fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let prefix = format!("linux-image-{VERSION}.");
    let numbered = names.filter_map(|name| {
        let release = name.strip_prefix(&prefix)?.strip_suffix("-amd64")?;
        let numbers: Option<Vec<u32>> = release.split(['.', '-']).map(|part| part.parse().ok()).collect();
        Some((numbers?, name))
    });
    numbered.max().map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let names = [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-57-cloud-amd64",
            "linux-image-6.1.0-58-amd64-dbg",
            "linux-image-6.12.90+deb12-amd64",
        ];
        assert_eq!(newest(names.into_iter()).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest(names[2..].iter().copied()), None);
    }
}
