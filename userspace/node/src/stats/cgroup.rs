//! Reads what a cgroup uses, of version 1 or 2 (kernel documents `cgroup-v1/` and `cgroup-v2.rst`).
//!
//! In: the folders of a cgroup. Out: numbers; a file that is missing gives none.

use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::hierarchy::Folders;

/// What a cgroup, or the machine, uses. CPU is cumulative, memory is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) at: Timestamp,
    /// CPU time in nanoseconds.
    pub(crate) cpu: u64,
    pub(crate) memory: Memory,
}

/// Bytes, and counts of page faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) usage: u64,
    /// Usage without file pages that the kernel can drop at once.
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) cache: u64,
    pub(crate) mapped_file: u64,
    pub(crate) active_file: u64,
    pub(crate) inactive_file: u64,
    pub(crate) swap: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
}

impl Usage {
    /// `None`: the cgroup is gone, or its files are not where they should be.
    pub(crate) fn read(folders: &Folders, at: Timestamp) -> Option<Usage> {
        Some(Usage { at, cpu: cpu(folders)?, memory: memory(folders)? })
    }
}

/// CPU time in nanoseconds.
pub(super) fn cpu(folders: &Folders) -> Option<u64> {
    if let Some(folder) = folders.legacy("cpuacct") {
        return number(folder, "cpuacct.usage");
    }
    let stat = text(folders.unified()?, "cpu.stat")?;
    Some(field(&stat, "usage_usec")?.saturating_mul(1_000))
}

fn memory(folders: &Folders) -> Option<Memory> {
    let (usage, stat, names, swap) = match folders.legacy("memory") {
        Some(folder) => {
            let stat = text(folder, "memory.stat")?;
            let swap = field(&stat, "total_swap").unwrap_or(0);
            (number(folder, "memory.usage_in_bytes")?, stat, &LEGACY_NAMES, swap)
        }
        None => {
            let folder = folders.unified()?;
            let swap = number(folder, "memory.swap.current").unwrap_or(0);
            (number(folder, "memory.current")?, text(folder, "memory.stat")?, &UNIFIED_NAMES, swap)
        }
    };
    let [rss, cache, mapped_file, active_file, inactive_file, page_faults, major_page_faults] =
        names.map(|name| field(&stat, name).unwrap_or(0));
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss,
        cache,
        mapped_file,
        active_file,
        inactive_file,
        swap,
        page_faults,
        major_page_faults,
    })
}

/// Fields of `memory.stat`.
const LEGACY_NAMES: [&str; 7] = [
    "total_rss",
    "total_cache",
    "total_mapped_file",
    "total_active_file",
    "total_inactive_file",
    "total_pgfault",
    "total_pgmajfault",
];
const UNIFIED_NAMES: [&str; 7] =
    ["anon", "file", "file_mapped", "active_file", "inactive_file", "pgfault", "pgmajfault"];

/// Everything else that is known of a container's cgroup. Times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Details {
    pub(crate) user: Option<u64>,
    pub(crate) system: Option<u64>,
    /// Periods of the quota, those in which it was used up, and the time that was waited for the next.
    pub(crate) quota: Option<[u64; 3]>,
    /// Microseconds of the quota and of its period.
    pub(crate) quota_limit: Option<(u64, u64)>,
    pub(crate) shares: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) memory_peak: Option<u64>,
    pub(crate) memory_failures: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    pub(crate) swap_limit: Option<u64>,
    pub(crate) tasks: Option<u64>,
    pub(crate) tasks_limit: Option<u64>,
    /// Processes, not threads.
    pub(crate) processes: Option<u64>,
    /// Bytes and operations, read and written.
    pub(crate) io: Option<[u64; 4]>,
    pub(crate) pressure: Pressures,
}

/// How long tasks waited (kernel document `accounting/psi.rst`).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressures {
    pub(crate) cpu: Option<Pressure>,
    pub(crate) memory: Option<Pressure>,
    pub(crate) io: Option<Pressure>,
}

/// Some tasks waited, or all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) some: Stall,
    pub(crate) full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Stall {
    /// Per cent of the last 10, 60 and 300 seconds.
    pub(crate) averages: [f64; 3],
    /// Nanoseconds.
    pub(crate) total: u64,
}

impl Details {
    pub(crate) fn read(folders: &Folders) -> Details {
        let mut details = Details::default();
        details.read_cpu(folders);
        details.read_memory(folders);
        let tasks = folders.legacy("pids").or(folders.unified());
        details.tasks = tasks.and_then(|folder| number(folder, "pids.current"));
        details.tasks_limit = tasks.and_then(|folder| number(folder, "pids.max"));
        let any = folders.legacy("memory").or(folders.unified());
        details.processes = any.and_then(|folder| text(folder, "cgroup.procs")).map(|all| lines(&all));
        details.io = io(folders);
        if let Some(folder) = folders.unified() {
            let read = |name| text(folder, name).map(|text| pressure(&text));
            details.pressure = Pressures {
                cpu: read("cpu.pressure"),
                memory: read("memory.pressure"),
                io: read("io.pressure"),
            };
        }
        details
    }

    fn read_cpu(&mut self, folders: &Folders) {
        if let Some(folder) = folders.legacy("cpuacct") {
            self.user = number(folder, "cpuacct.usage_user");
            self.system = number(folder, "cpuacct.usage_sys");
        }
        if let Some(folder) = folders.legacy("cpu") {
            let stat = text(folder, "cpu.stat").unwrap_or_default();
            self.quota = all(["nr_periods", "nr_throttled", "throttled_time"].map(|n| field(&stat, n)));
            self.quota_limit = number(folder, "cpu.cfs_quota_us").zip(number(folder, "cpu.cfs_period_us"));
            self.shares = number(folder, "cpu.shares");
            return;
        }
        let Some(folder) = folders.unified() else { return };
        let stat = text(folder, "cpu.stat").unwrap_or_default();
        let nanoseconds = |name| field(&stat, name).map(|micros| micros.saturating_mul(1_000));
        (self.user, self.system) = (nanoseconds("user_usec"), nanoseconds("system_usec"));
        let counts = (field(&stat, "nr_periods"), field(&stat, "nr_throttled"));
        self.quota = all([counts.0, counts.1, nanoseconds("throttled_usec")]);
        let limit = text(folder, "cpu.max").unwrap_or_default();
        let mut words = limit.split_whitespace().map(str::parse::<u64>);
        self.quota_limit = words.next().and_then(Result::ok).zip(words.next().and_then(Result::ok));
        // The inverse of the runtimes' conversion to weights (OCI runtime specification, "CPU shares").
        let weight = number(folder, "cpu.weight").filter(|weight| *weight > 0);
        self.shares = weight.map(|weight| 2 + (weight - 1).saturating_mul(262_142) / 9_999);
    }

    fn read_memory(&mut self, folders: &Folders) {
        if let Some(folder) = folders.legacy("memory") {
            // Version 1 writes the largest multiple of a page for "no limit".
            self.memory_limit = number(folder, "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
            self.memory_peak = number(folder, "memory.max_usage_in_bytes");
            self.memory_failures = number(folder, "memory.failcnt");
            let control = text(folder, "memory.oom_control").unwrap_or_default();
            self.oom_kills = field(&control, "oom_kill");
            return;
        }
        let Some(folder) = folders.unified() else { return };
        self.memory_limit = number(folder, "memory.max");
        self.memory_peak = number(folder, "memory.peak");
        self.swap_limit = number(folder, "memory.swap.max");
        let events = text(folder, "memory.events").unwrap_or_default();
        (self.memory_failures, self.oom_kills) = (field(&events, "max"), field(&events, "oom_kill"));
    }
}

fn all(values: [Option<u64>; 3]) -> Option<[u64; 3]> {
    let [Some(a), Some(b), Some(c)] = values else { return None };
    Some([a, b, c])
}

/// Bytes read and written, and operations, of all devices.
fn io(folders: &Folders) -> Option<[u64; 4]> {
    let mut sums = [0u64; 4];
    if let Some(folder) = folders.legacy("blkio") {
        for (file, first) in
            [("blkio.throttle.io_service_bytes_recursive", 0), ("blkio.throttle.io_serviced_recursive", 2)]
        {
            // `8:0 Read 4096`
            for line in text(folder, file)?.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, kind, value] = words.as_slice() else { continue };
                let at = first + usize::from(*kind == "Write");
                if matches!(*kind, "Read" | "Write") {
                    sums[at] = sums[at].saturating_add(value.parse().unwrap_or(0));
                }
            }
        }
        return Some(sums);
    }
    // `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
    for pair in text(folders.unified()?, "io.stat")?.split_whitespace() {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let at = ["rbytes", "wbytes", "rios", "wios"].iter().position(|known| *known == name);
        if let Some(at) = at {
            sums[at] = sums[at].saturating_add(value.parse().unwrap_or(0));
        }
    }
    Some(sums)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
pub(super) fn pressure(text: &str) -> Pressure {
    let stall = |which: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(which)).unwrap_or_default();
        let value = |name: &str| {
            let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let average = |name| value(name).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let total: u64 = value("total").and_then(|value| value.parse().ok()).unwrap_or(0);
        Stall {
            averages: [average("avg10"), average("avg60"), average("avg300")],
            total: total.saturating_mul(1_000),
        }
    };
    Pressure { some: stall("some "), full: stall("full ") }
}

fn text(folder: &Path, name: &str) -> Option<String> {
    fs::read_to_string(folder.join(name)).ok()
}

/// `None` also for `max`, which is no limit, and for -1.
fn number(folder: &Path, name: &str) -> Option<u64> {
    text(folder, name)?.trim().parse().ok()
}

fn lines(text: &str) -> u64 {
    u64::try_from(text.lines().count()).unwrap_or(u64::MAX)
}

/// The value of a line `name value`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Hierarchies;
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("folder")).expect("made");
            fs::write(path, text).expect("written");
        }
    }

    fn folders(root: &Path, legacy: bool) -> Folders {
        let root = root.display();
        let mounts = if legacy {
            ["cpu", "cpuacct", "memory", "pids", "blkio"]
                .map(|name| format!("1 1 0:1 / {root}/{name} rw - cgroup cgroup rw,{name}\n"))
                .concat()
        } else {
            format!("1 1 0:1 / {root} rw - cgroup2 cgroup2 rw\n")
        };
        Hierarchies::parse(&mounts).roots()
    }

    #[test]
    fn both_versions_say_the_same() {
        let (one, two) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        write(
            one.path(),
            &[
                ("cpuacct/cpuacct.usage", "5000000\n"),
                ("cpuacct/cpuacct.usage_user", "3000000\n"),
                ("cpuacct/cpuacct.usage_sys", "2000000\n"),
                ("cpu/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 7000\n"),
                ("cpu/cpu.cfs_quota_us", "50000\n"),
                ("cpu/cpu.cfs_period_us", "100000\n"),
                ("memory/memory.usage_in_bytes", "1000\n"),
                ("memory/memory.stat", "cache 1\ntotal_cache 600\ntotal_rss 300\ntotal_inactive_file 200\n"),
                ("memory/memory.limit_in_bytes", "4096\n"),
                ("memory/memory.failcnt", "2\n"),
                ("memory/cgroup.procs", "7\n8\n"),
                ("pids/pids.current", "3\n"),
                ("pids/pids.max", "max\n"),
                (
                    "blkio/blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 10\n8:0 Write 20\n8:16 Read 5\n",
                ),
                ("blkio/blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"),
            ],
        );
        write(
            two.path(),
            &[
                (
                    "cpu.stat",
                    "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
                ),
                ("cpu.max", "50000 100000\n"),
                ("memory.current", "1000\n"),
                ("memory.stat", "anon 300\nfile 600\ninactive_file 200\n"),
                ("memory.max", "4096\n"),
                ("memory.events", "low 0\nmax 2\noom 0\n"),
                ("cgroup.procs", "7\n8\n"),
                ("pids.current", "3\n"),
                ("pids.max", "max\n"),
                ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=5 wbytes=0 rios=0 wios=0\n"),
            ],
        );
        let at = Timestamp::UNIX_EPOCH;
        let (legacy, unified) = (folders(one.path(), true), folders(two.path(), false));
        let usage = Usage::read(&legacy, at).expect("usage");
        assert_eq!(Some(usage), Usage::read(&unified, at));
        assert_eq!((usage.cpu, usage.memory.working_set), (5_000_000, 800));
        assert_eq!((usage.memory.rss, usage.memory.cache), (300, 600));
        let details = Details::read(&legacy);
        assert_eq!(details, Details::read(&unified));
        assert_eq!(details.io, Some([15, 20, 1, 2]));
        assert_eq!((details.quota, details.quota_limit), (Some([9, 4, 7000]), Some((50_000, 100_000))));
        assert_eq!((details.processes, details.tasks, details.tasks_limit), (Some(2), Some(3), None));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_usage() {
        let root = tempfile::tempdir().expect("folder");
        assert_eq!(Usage::read(&folders(root.path(), false), Timestamp::UNIX_EPOCH), None);
        assert_eq!(Details::read(&folders(root.path(), true)), Details::default());
    }

    #[test]
    fn pressure_is_read_from_its_text() {
        let read = pressure("some avg10=1.50 avg60=0.20 avg300=0.00 total=12\nfull avg10=0.00 total=3\n");
        assert_eq!(read.some, Stall { averages: [1.5, 0.2, 0.0], total: 12_000 });
        assert_eq!(read.full.total, 3_000);
    }
}
