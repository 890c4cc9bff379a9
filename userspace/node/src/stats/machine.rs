//! What the whole machine uses, from /proc.

use std::fs;

use jiff::Timestamp;

use super::cgroup::{self, Memory, Pressure, Pressures, Usage};
use super::hierarchy::Folders;

/// Clock ticks of /proc/stat in nanoseconds: USER_HZ is 100 on every Linux.
const TICK_NANOSECONDS: u64 = 10_000_000;

/// Bytes of the machine's memory and swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) memory: u64,
    pub(crate) swap: u64,
    pub(crate) swap_free: u64,
}

/// Usage of the machine; `roots` are the cgroups of all processes.
pub(crate) fn usage(roots: &Folders, at: Timestamp) -> (Usage, Totals) {
    let (meminfo, vmstat) = (read("/proc/meminfo"), read("/proc/vmstat"));
    let (memory, totals) = memory(&meminfo, &vmstat);
    let cpu = cgroup::cpu(roots).unwrap_or_else(|| busy(&read("/proc/stat")));
    (Usage { at, cpu, memory }, totals)
}

pub(crate) fn pressures() -> Pressures {
    let one = |name: &str| -> Option<Pressure> {
        Some(cgroup::pressure(&fs::read_to_string(format!("/proc/pressure/{name}")).ok()?))
    };
    Pressures { cpu: one("cpu"), memory: one("memory"), io: one("io") }
}

/// When the machine was booted.
pub(crate) fn boot_time() -> Option<Timestamp> {
    let seconds = cgroup::field(&read("/proc/stat"), "btime")?;
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// The greatest process id, and the number of tasks.
pub(crate) fn processes() -> Option<(i64, i64)> {
    let greatest = read("/proc/sys/kernel/pid_max").trim().parse().ok()?;
    let tasks = read("/proc/loadavg").split(['/', ' ']).nth(4)?.parse().ok()?;
    Some((greatest, tasks))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory(meminfo: &str, vmstat: &str) -> (Memory, Totals) {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    let totals = Totals { memory: bytes("MemTotal"), swap: bytes("SwapTotal"), swap_free: bytes("SwapFree") };
    let usage = totals.memory.saturating_sub(bytes("MemFree"));
    let inactive_file = bytes("Inactive(file)");
    let memory = Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss: bytes("AnonPages"),
        cache: bytes("Cached"),
        mapped_file: bytes("Mapped"),
        active_file: bytes("Active(file)"),
        inactive_file,
        swap: totals.swap.saturating_sub(totals.swap_free),
        page_faults: cgroup::field(vmstat, "pgfault").unwrap_or(0),
        major_page_faults: cgroup::field(vmstat, "pgmajfault").unwrap_or(0),
    };
    (memory, totals)
}

/// Nanoseconds of all CPUs that were not idle. Time of guests is part of the users' time (proc(5)).
fn busy(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    // user nice system idle iowait irq softirq steal
    let sum: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    sum.saturating_mul(TICK_NANOSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_set_leaves_out_files_that_can_be_dropped() {
        let text =
            "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nSwapTotal: 8 kB\nSwapFree: 5 kB\n";
        let (memory, totals) = memory(text, "pgfault 7\npgmajfault 2\n");
        assert_eq!((memory.usage, memory.working_set, memory.swap), (600 * 1024, 500 * 1024, 3 * 1024));
        assert_eq!((memory.page_faults, memory.major_page_faults), (7, 2));
        assert_eq!(totals.memory, 1000 * 1024);
    }

    #[test]
    fn idle_time_is_no_usage() {
        assert_eq!(busy("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 1\n"), 27 * TICK_NANOSECONDS);
    }
}
