//! The control side: services from a full index into the kernel, and the memory of the maps.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::MapData;
use skep_netplan::Observed;
use xtask::progress::Step;

use crate::placement::come_first;
use crate::samples::Samples;
use crate::skep::{Machine, clear, maps, planner, write};
use crate::world::Subject;

/// `program_all`: from a full index to all services in the kernel; `plan_all`: the deciding part of it.
pub(crate) fn program_all(sizes: &[u32], rounds: u32, samples: &mut Samples) -> Result<()> {
    let mut machine = Machine::new("nb-all")?;
    for &services in sizes {
        let step = Step::new(format!("program {services} services"));
        let subject = Subject { name: "skep", services: Some(services), policy: None };
        for _ in 0..rounds {
            let mut planner = planner(services, Observed::default());
            let (planned, written) = machine.work(|datapath| {
                come_first()?;
                let took = write(&mut planner, datapath)?;
                clear(&mut planner, datapath)?;
                Ok(took)
            })?;
            samples.put("program_all", "ms", subject, written.as_secs_f64() * 1e3);
            samples.put("plan_all", "ms", subject, planned.as_secs_f64() * 1e3);
        }
        step.done("measured");
    }
    Ok(())
}

/// What the kernel says that all pinned maps of the node take.
pub(crate) fn map_memory(machine: &Machine, services: u32, samples: &mut Samples) -> Result<()> {
    let subject = Subject { name: "skep", services: Some(services), policy: None };
    samples.put("map_memory", "MB", subject, map_bytes(machine)? as f64 / 1e6);
    Ok(())
}

/// Bytes of all pinned maps.
pub(crate) fn map_bytes(machine: &Machine) -> Result<u64> {
    folder_bytes(&maps(&machine.pins()?))
}

/// Bytes of the maps that are pinned in the folder.
pub(crate) fn folder_bytes(path: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sum += folder_bytes(&path)?;
        } else {
            sum += memory(&MapData::from_pin(&path)?)?;
        }
    }
    Ok(sum)
}

/// `memlock` of the map's fdinfo, in bytes.
fn memory(map: &MapData) -> Result<u64> {
    let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|text| text.trim().parse().ok()).with_context(|| format!("{file} has no memlock"))
}
