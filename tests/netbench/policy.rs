//! A policy with a long list of networks, as clouds publish theirs: from the API object into the kernel.

use anyhow::Result;
use skep_netplan::Observed;
use xtask::progress::Step;

use crate::cluster::{GUARDED, networks_policy};
use crate::control::map_bytes;
use crate::placement::come_first;
use crate::samples::Samples;
use crate::skep::{Machine, attach_value, planner, write};
use crate::world::Subject;

/// `policy_networks`: from the changed object to its verdicts in the kernel; `policy_networks_memory`: what the maps then take
/// more than before.
pub(crate) fn measure(networks: u32, rounds: u32, samples: &mut Samples) -> Result<()> {
    let step = Step::new(format!("a policy of {networks} networks"));
    let subject = Subject { name: "skep", services: None, policy: Some(true) };
    for _ in 0..rounds {
        let mut machine = Machine::new("nb-pol")?;
        let mut planner = planner(1, Observed::default());
        let (name, addr) = GUARDED.client;
        attach_value(&mut planner, name, addr)?;
        machine.work(|datapath| write(&mut planner, datapath))?;
        let before = map_bytes(&machine)?;
        planner.index.apply_policy(&networks_policy(networks));
        let (_, written) = machine.work(|datapath| {
            come_first()?;
            write(&mut planner, datapath)
        })?;
        samples.put("policy_networks", "ms", subject, written.as_secs_f64() * 1e3);
        let more = map_bytes(&machine)?.saturating_sub(before);
        samples.put("policy_networks_memory", "MB", subject, more as f64 / 1e6);
    }
    step.done("measured");
    Ok(())
}
