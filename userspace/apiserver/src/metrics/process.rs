//! What the kernel says of this process, under the usual names.

use std::fs::read_to_string;

use super::family;

/// Ticks a second and bytes a page, which Linux has not changed for any machine that we run on.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

pub(super) fn tell(out: &mut String) {
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    let (memory, stat, limits) =
        (read("/proc/self/statm"), read("/proc/self/stat"), read("/proc/self/limits"));
    let number = |text: &str, at: usize| -> f64 {
        text.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0.0)
    };
    // The fields of stat behind the name, which may hold spaces: state is the first.
    let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let booted = read("/proc/stat");
    let booted =
        booted.lines().find_map(|line| line.strip_prefix("btime ")).map_or(0.0, |line| number(line, 0));
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .map_or(0.0, |line| number(line, 0));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        ("process_resident_memory_bytes", "gauge", "Memory in use", number(&memory, 1) * PAGE),
        ("process_virtual_memory_bytes", "gauge", "Addresses in use", number(&memory, 0) * PAGE),
        (
            "process_cpu_seconds_total",
            "counter",
            "Time on processors",
            (number(behind, 11) + number(behind, 12)) / TICKS,
        ),
        ("process_start_time_seconds", "gauge", "When it started", booted + number(behind, 19) / TICKS),
        ("process_open_fds", "gauge", "Open files", open as f64),
        ("process_max_fds", "gauge", "Open files at most", most),
        ("process_threads", "gauge", "Threads", number(behind, 17)),
    ] {
        family(out, name, kind, help, [(String::new(), value)].into_iter());
    }
}
