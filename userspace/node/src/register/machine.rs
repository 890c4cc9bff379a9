//! The machine: its size, its pressure and its identity, read from /proc, /sys and /etc.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// The machine's size: CPUs, and bytes of memory and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub cpus: i64,
    pub memory: i64,
    pub disk: i64,
}

/// Reserved for the node itself, not allocatable to pods.
const MEMORY_RESERVE_BYTES: i64 = 100 << 20;
const DISK_RESERVE_PERCENT: i64 = 10;

impl Capacity {
    pub fn read(root: &Path) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        Capacity {
            cpus,
            memory: meminfo("MemTotal").unwrap_or(0),
            disk: disk(root).map_or(0, |(total, _)| total),
        }
    }

    pub fn allocatable_memory(&self) -> i64 {
        (self.memory - MEMORY_RESERVE_BYTES).max(0)
    }

    pub fn allocatable_disk(&self) -> i64 {
        self.disk / 100 * (100 - DISK_RESERVE_PERCENT)
    }
}

/// Whether the kernel confines processes with AppArmor.
pub fn app_armor() -> bool {
    read("/sys/module/apparmor/parameters/enabled").trim() == "Y"
}

/// All and available bytes of memory.
pub fn memory() -> Option<(i64, i64)> {
    Some((meminfo("MemTotal")?, meminfo("MemAvailable")?))
}

/// All and free numbers of processes and threads.
pub fn process_numbers() -> Option<(i64, i64)> {
    let limit: i64 = read("/proc/sys/kernel/pid_max").trim().parse().ok()?;
    let used: i64 = read("/proc/loadavg").split(['/', ' ']).nth(4)?.parse().ok()?;
    Some((limit, limit.saturating_sub(used)))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn meminfo(name: &str) -> Option<i64> {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<i64>().ok()?.checked_mul(1024)
}

/// Total and free bytes of the file system at `path`.
pub fn disk(path: &Path) -> Option<(i64, i64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).ok();
    Some((bytes(stat.f_blocks)?, bytes(stat.f_bavail)?))
}

/// All and free inodes of the file system at `path`; `None` for one that does not count them.
pub fn inodes(path: &Path) -> Option<(i64, i64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let (all, free) = (i64::try_from(stat.f_files).ok()?, i64::try_from(stat.f_favail).ok()?);
    (all > 0).then_some((all, free))
}

/// The nodeInfo of the Node's status.
pub fn system_info(runtime: &str) -> NodeSystemInfo {
    let os = read("/etc/os-release");
    let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let line = |path: &str| read(path).trim().to_owned();
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: concat!("v1.36.0+skep.", env!("CARGO_PKG_VERSION")).to_owned(),
        machine_id: line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty.trim_matches('"').to_owned(),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
        swap: None,
    }
}

/// The machine's architecture by Go's name.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
