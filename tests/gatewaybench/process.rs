//! What the kernel knows of a process and its children: memory and processor time (proc(5)).

use anyhow::{Context, Result};

/// USER_HZ, which is the same everywhere (time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident bytes that are not shared with files: of the process, and of those that it started.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let mut all = 0;
    for pid in with_children(pid) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the memory")?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no memory in status")?;
        all += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
    }
    Ok(all)
}

/// Seconds of processor time.
pub(crate) fn processor_time(pid: u32) -> Result<f64> {
    let ticks = TICKS_PER_SECOND;
    let mut all = 0.0;
    for pid in with_children(pid) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read the time")?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
        for at in [11, 12] {
            all += fields.get(at).context("no time in stat")?.parse::<f64>()? / ticks;
        }
    }
    Ok(all)
}

fn with_children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}
