//! Where a connection's time goes: the same way with programs that lack one part after the other. Also the programs of other
//! objects, to compare builds in one run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use skep_abi::Omission;
use skep_datapath::Trial;
use xtask::progress::Step;

use crate::joined::Joined;
use crate::new_flow;
use crate::requests::{self, Effort};
use crate::samples::Samples;
use crate::skep::Skep;
use crate::world::{Loopback, Routed, Subject, Veth};

/// The name, what is left out, and whether the client addresses the service.
const LANES: [(&str, u32, bool); 9] = [
    ("whole", Omission::NOTHING, true),
    ("no frontend", Omission::FRONTEND, true),
    ("no close", Omission::CLOSE, true),
    ("no openers", Omission::OPENERS, true),
    ("no policy", Omission::POLICY, true),
    ("no service look-up", Omission::SERVICES, true),
    ("straight", Omission::NOTHING, false),
    ("no entries", Omission::ENTRIES, true),
    ("no entries, no sockets", Omission::ENTRIES | Omission::SOCKETS, false),
];
const SERVICES: u32 = 1_000;

/// `crr` and `rr` of each lane and object, and `us_over_redirect`: microseconds a connection over a bare redirect.
pub(crate) fn measure(
    effort: Effort,
    wanted: impl Fn(&str) -> bool,
    objects: &[PathBuf],
    samples: &mut Samples,
) -> Result<()> {
    let step = Step::new("namespaces of the ablation");
    let (loopback, veth, joined, routed) =
        (Loopback::new()?, Veth::new()?, Joined::new()?, Routed::new("nb-r")?);
    let mut ways = vec![loopback.way(), veth.way(), joined.way(), routed.direct()];
    let mut trials = Vec::new();
    for (name, omitted, by_service) in LANES.into_iter().filter(|(name, ..)| wanted(name)) {
        trials.push((name, Trial { object: None, omitted }, by_service));
    }
    for path in objects {
        let object = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        // A subject's name lives as long as the program.
        let name =
            path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default().leak();
        trials.push((name, Trial { object: Some(object), omitted: Omission::NOTHING }, true));
    }
    for (name, trial, by_service) in &trials {
        if *by_service {
            new_flow::measure_trial(name, trial.clone(), effort.rounds, samples)?;
        }
    }
    let mut machines = Vec::new();
    for (number, (name, trial, by_service)) in trials.into_iter().enumerate() {
        let skep = Skep::trial(&format!("nb-w{number}"), SERVICES, trial)?;
        ways.push(skep.way_to_guarded(name, by_service).context("no pod under policy")?);
        machines.push(skep);
    }
    step.done("made");
    requests::measure(&ways, |_| false, effort, samples)?;
    for way in &ways {
        let us = microseconds_over(samples, &Subject::plain("redirect"), &way.subject)
            .context("no connections")?;
        us.into_iter().for_each(|us| samples.put("us_over_redirect", "us", way.subject, us));
    }
    Ok(())
}

/// Of each round.
fn microseconds_over(samples: &Samples, least: &Subject, of: &Subject) -> Option<Vec<f64>> {
    let (of, least) = (samples.of("crr", of)?, samples.of("crr", least)?);
    Some(of.iter().zip(least).map(|(of, least)| 1e6 / of - 1e6 / least).collect())
}
