//! PURE. Signals of a node that runs short, and the thresholds at which pods are evicted; the kubelet's names and defaults
//! (Kubernetes: "Node-pressure Eviction").

use std::time::Duration;

use skep_api::quantity::Quantity;

/// What may run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    Memory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pids,
}

/// A condition of the Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    Memory,
    Disk,
    Pids,
}

impl Signal {
    const ALL: [(Signal, &'static str); 6] = [
        (Signal::Memory, "memory.available"),
        (Signal::NodeFs, "nodefs.available"),
        (Signal::NodeFsInodes, "nodefs.inodesFree"),
        (Signal::ImageFs, "imagefs.available"),
        (Signal::ImageFsInodes, "imagefs.inodesFree"),
        (Signal::Pids, "pid.available"),
    ];

    pub fn shortage(self) -> Shortage {
        match self {
            Signal::Memory => Shortage::Memory,
            Signal::Pids => Shortage::Pids,
            _ => Shortage::Disk,
        }
    }

    /// The resource that messages name.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pids => "pids",
        }
    }
}

/// An amount, or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    Amount(i64),
    /// Between 0 and 1.
    Share(f64),
}

impl Level {
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Level::Amount(amount) => amount,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                reason = "a share of an amount"
            )]
            Level::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

/// Pods are evicted when less than this is available, for longer than `grace` if there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub level: Level,
    /// Of a soft threshold.
    pub grace: Option<Duration>,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    pub available: i64,
    pub capacity: i64,
}

impl Threshold {
    pub fn is_met(&self, observed: &Observation) -> bool {
        observed.available < self.level.of(observed.capacity)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("eviction threshold {0:?} is not of the form SIGNAL<QUANTITY or SIGNAL<PERCENT%")]
    Form(String),
    #[error(
        "eviction signal {0:?} is unknown: use one of memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, pid.available"
    )]
    Signal(String),
    #[error("eviction threshold {0:?} needs a grace period of its own")]
    NoGrace(String),
}

/// The kubelet's hard thresholds.
pub fn defaults() -> Vec<Threshold> {
    [
        (Signal::Memory, Level::Amount(100 << 20)),
        (Signal::NodeFs, Level::Share(0.10)),
        (Signal::NodeFsInodes, Level::Share(0.05)),
        (Signal::ImageFs, Level::Share(0.15)),
        (Signal::ImageFsInodes, Level::Share(0.05)),
    ]
    .map(|(signal, level)| Threshold { signal, level, grace: None })
    .to_vec()
}

/// Parses `memory.available<100Mi` or `nodefs.available<10%`. 0 and 100% switch a signal off.
pub fn parse(text: &str) -> Result<Threshold, ThresholdError> {
    let form = || ThresholdError::Form(text.to_owned());
    let (name, level) = text.split_once('<').ok_or_else(form)?;
    let level = match level.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().map_err(|_| form())?;
            let is_off = percent >= 100.0;
            Level::Share(if is_off { 0.0 } else { percent.max(0.0) / 100.0 })
        }
        None => {
            let amount: Quantity = level.parse().map_err(|_| form())?;
            Level::Amount(i64::try_from(amount.value()).map_err(|_| form())?)
        }
    };
    Ok(Threshold { signal: signal(name)?, level, grace: None })
}

/// Parses a soft threshold with its grace period in seconds, as `memory.available<300Mi` and `memory.available=90`.
pub fn soft(thresholds: &[String], graces: &[String]) -> Result<Vec<Threshold>, ThresholdError> {
    let mut known = Vec::new();
    for text in graces {
        let form = || ThresholdError::Form(text.clone());
        let (name, seconds) = text.split_once('=').ok_or_else(form)?;
        let seconds: u64 = seconds.trim_end_matches('s').parse().map_err(|_| form())?;
        known.push((signal(name)?, Duration::from_secs(seconds)));
    }
    let parsed = |text: &String| {
        let threshold = parse(text)?;
        let grace = known.iter().find(|(signal, _)| *signal == threshold.signal).map(|(_, grace)| *grace);
        Ok(Threshold {
            grace: Some(grace.ok_or_else(|| ThresholdError::NoGrace(text.clone()))?),
            ..threshold
        })
    };
    thresholds.iter().map(parsed).collect()
}

fn signal(name: &str) -> Result<Signal, ThresholdError> {
    let found = Signal::ALL.into_iter().find(|(_, known)| *known == name);
    found.map(|(signal, _)| signal).ok_or_else(|| ThresholdError::Signal(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_the_kubelets_form() {
        let observed = |available, capacity| Observation { available, capacity };
        for (text, met, unmet) in [
            ("memory.available<1Ki", observed(1023, 0), observed(1024, 0)),
            ("nodefs.available<10%", observed(9, 100), observed(10, 100)),
            ("imagefs.inodesFree<5.5%", observed(54, 1000), observed(55, 1000)),
        ] {
            let threshold = parse(text).expect(text);
            assert!(threshold.is_met(&met) && !threshold.is_met(&unmet), "{text}");
        }
        let off = parse("pid.available<100%").expect("a threshold");
        assert!(!off.is_met(&observed(0, 100)));
        for bad in ["memory.available", "memory.available<x", "memory<1", "memory.available<1x%"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
        let found = soft(&texts(&["memory.available<1Gi"]), &texts(&["memory.available=90s"])).expect("soft");
        assert_eq!(found[0].grace, Some(Duration::from_secs(90)));
        assert!(soft(&texts(&["memory.available<1Gi"]), &texts(&["pid.available=1"])).is_err());
    }
}
