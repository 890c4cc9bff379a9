//! Metrics of this process from /proc, under Prometheus's usual names.

use std::fs::read_to_string;

use super::family::family;

/// USER_HZ, which is the same on all supported machines.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes.
const PAGE_SIZE: f64 = 4096.0;

pub(super) fn write(out: &mut String) {
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    let (memory, stat, limits) =
        (read("/proc/self/statm"), read("/proc/self/stat"), read("/proc/self/limits"));
    let number = |text: &str, at: usize| -> f64 {
        text.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0.0)
    };
    // The fields of stat after the name, which may contain spaces: state is the first.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let booted = read("/proc/stat");
    let booted =
        booted.lines().find_map(|line| line.strip_prefix("btime ")).map_or(0.0, |line| number(line, 0));
    let max_open = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .map_or(0.0, |line| number(line, 0));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        ("process_resident_memory_bytes", "gauge", "Memory in use", number(&memory, 1) * PAGE_SIZE),
        ("process_virtual_memory_bytes", "gauge", "Addresses in use", number(&memory, 0) * PAGE_SIZE),
        (
            "process_cpu_seconds_total",
            "counter",
            "Time on processors",
            (number(fields, 11) + number(fields, 12)) / TICKS_PER_SECOND,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When it started",
            booted + number(fields, 19) / TICKS_PER_SECOND,
        ),
        ("process_open_fds", "gauge", "Open files", open as f64),
        ("process_max_fds", "gauge", "Limit of open files", max_open),
        ("process_threads", "gauge", "Threads", number(fields, 17)),
    ] {
        family(out, name, kind, help, [(String::new(), value)].into_iter());
    }
}
