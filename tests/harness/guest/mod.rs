//! Another kernel under qemu, which runs one program of this machine and ends.
//!
//! It is emulated, since not every machine that tests run on may use its processor's virtualisation: some ten times
//! slower than the machine itself, and the same everywhere.

mod initramfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::deps;
use xtask::old_kernel::OldKernel;

use crate::netns::Process;
use initramfs::Initramfs;

/// What the guest can call by name, beside busybox.
const PROGRAMS: [&str; 2] = ["ip", "tc"];
const PAYLOAD: &str = "payload";
/// The last line of what the guest says, and before its number what the payload ended with.
const ENDED: &str = "payload ended with ";

/// Runs `payload` as root of the old kernel and gives what it printed; fails if it fails, or takes longer than `timeout`.
pub fn run(kernel: &OldKernel, payload: &Path, args: &[&str], timeout: Duration) -> Result<String> {
    let folder = tempfile::Builder::new().prefix("skep-guest-").tempdir()?;
    let (initrd, console, output) =
        (folder.path().join("initrd"), folder.path().join("console"), folder.path().join("output"));
    root(kernel, payload, args)?.write(&initrd)?;
    let mut machine = Process(
        Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"])
            .args(["-smp", "2", "-m", "2048", "-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("file:{}", output.display())])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initrd)
            // What mitigates flaws of a processor costs an emulated one most of its time.
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .stdin(Stdio::null())
            .spawn()
            .context("run qemu-system-x86_64 (Debian: qemu-system-x86)")?,
    );
    let deadline = Instant::now() + timeout;
    let ended = loop {
        match machine.0.try_wait()? {
            Some(status) => break status.to_string(),
            None if Instant::now() > deadline => break format!("nothing for {} s", timeout.as_secs()),
            None => thread::sleep(Duration::from_millis(100)),
        }
    };
    let said = text(&output)?;
    match said.lines().last().and_then(|line| line.strip_prefix(ENDED)) {
        Some("0") => Ok(said),
        Some(code) => {
            bail!("in the guest {} {} ended with {code}:\n{said}", payload.display(), args.join(" "))
        }
        None => bail!("the guest did not come to its end ({ended}):\n{}\n{said}", text(&console)?),
    }
}

fn text(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

fn root(kernel: &OldKernel, payload: &Path, args: &[&str]) -> Result<Initramfs> {
    let mut root = Initramfs::default();
    let busybox = deps::program("busybox").context("no busybox (Debian: busybox-static)")?;
    root.file("bin/busybox", &busybox)?;
    root.program(PAYLOAD, payload)?;
    for name in PROGRAMS {
        let found = deps::program(name).with_context(|| format!("no {name} (Debian: iproute2)"))?;
        root.program(format!("usr/sbin/{name}"), &found)?;
    }
    let mut loads = String::new();
    for file in &kernel.modules {
        let inside = PathBuf::from("modules").join(file.file_name().context("a module's name")?);
        loads += &format!("insmod /{}\n", inside.display());
        root.file(inside, file)?;
    }
    for folder in ["proc", "sys", "dev", "run", "tmp"] {
        root.folder(folder);
    }
    root.script("init", &init(&loads, args));
    Ok(root)
}

/// As the first process: whatever fails ends it, and with it the kernel.
fn init(loads: &str, args: &[&str]) -> String {
    format!(
        "#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
{loads}ip link set lo up
exec >/dev/ttyS1 2>&1
set +e
/{PAYLOAD} {}
echo \"{ENDED}$?\"
poweroff -f
",
        args.join(" ")
    )
}
