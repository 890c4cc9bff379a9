//! PURE. A pod's requests and limits: quantities, QoS class, cgroup settings, OOM score.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths; `None` when it is not a quantity or too large.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            (1000_i128.checked_mul(10_i128.checked_pow(digits.parse().ok()?)?)?, 1)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction: String = fraction.chars().take(9).collect();
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(multiplier)?;
    let divisor = divisor.checked_mul(scale)?;
    // Rounded up: a small request must not become zero.
    Some(scaled.checked_add(divisor - 1)?.div_euclid(divisor))
}

/// A quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    i64::try_from(milli(quantity)?.checked_add(999)?.div_euclid(1000)).ok()
}

type List = BTreeMap<String, Quantity>;

fn positive(list: Option<&List>, name: &str) -> Option<i128> {
    list?.get(name).and_then(milli).filter(|value| *value > 0)
}

/// Guaranteed, Burstable or BestEffort, from every container's cpu and memory.
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    if let Some(own) = spec.resources.as_ref().filter(|own| has_amounts(own)) {
        return class_of([Some(own)].into_iter());
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    class_of(containers.map(|container| container.resources.as_ref()))
}

fn has_amounts(resources: &ResourceRequirements) -> bool {
    let lists = [&resources.requests, &resources.limits].into_iter().flatten();
    lists.flatten().any(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
}

fn class_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in ["cpu", "memory"] {
            let request = positive(resources.and_then(|r| r.requests.as_ref()), name);
            let limit = positive(resources.and_then(|r| r.limits.as_ref()), name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A container's resources as cgroup settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup {
    pub cpu_shares: i64,
    /// Zero is unlimited.
    pub cpu_quota: i64,
    pub cpu_period: i64,
    /// Zero is unlimited.
    pub memory_limit: i64,
}

const PERIOD_MICROSECONDS: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MIN_QUOTA_MICROSECONDS: i64 = 1000;

impl Cgroup {
    /// What a runtime reports, in the form of [`cgroup`]: unlimited is zero, and a quota is that of our period.
    pub fn normal(cpu_shares: i64, cpu_quota: i64, cpu_period: i64, memory_limit: i64) -> Cgroup {
        let period = if cpu_period > 0 { cpu_period } else { PERIOD_MICROSECONDS };
        let quota = i128::from(cpu_quota.max(0)) * i128::from(PERIOD_MICROSECONDS) / i128::from(period);
        Cgroup {
            cpu_shares: cpu_shares.max(MIN_SHARES),
            cpu_quota: i64::try_from(quota).unwrap_or(i64::MAX),
            cpu_period: PERIOD_MICROSECONDS,
            memory_limit: memory_limit.max(0),
        }
    }
}

/// Puts what a container has in the place of what it was granted, where they differ. A memory request is in no cgroup.
pub fn show(has: Cgroup, granted: &Cgroup, shown: &mut ResourceRequirements) {
    let millis = |millis: i128| {
        Quantity(if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") })
    };
    if let Some(limits) = &mut shown.limits {
        if has.cpu_quota > 0 && has.cpu_quota != granted.cpu_quota {
            let quota = i128::from(has.cpu_quota) * 1000 / i128::from(has.cpu_period);
            limits.insert("cpu".to_owned(), millis(quota));
        }
        if has.memory_limit > 0 && has.memory_limit != granted.memory_limit {
            limits.insert("memory".to_owned(), bytes(has.memory_limit));
        }
    }
    if let Some(requests) = &mut shown.requests
        && has.cpu_shares != granted.cpu_shares
    {
        // Rounded up, as the shares were rounded down.
        let request = (i128::from(has.cpu_shares) * 1000 + 1023) / 1024;
        requests.insert("cpu".to_owned(), millis(request));
    }
}

/// An amount of bytes in the largest binary unit that divides it.
pub fn bytes(bytes: i64) -> Quantity {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(size, _)| bytes != 0 && bytes % size == 0);
    Quantity(unit.map_or_else(|| bytes.to_string(), |(size, name)| format!("{}{name}", bytes / size)))
}

/// The settings of the pod's own cgroup, if the pod has resources of its own (KEP-2837).
pub fn pod_cgroup(pod: &Pod) -> Option<Cgroup> {
    let own = pod.spec.as_ref()?.resources.as_ref().filter(|own| has_amounts(own))?;
    Some(settings(Some(own)))
}

/// Shares, quota and memory limit of a container.
pub fn cgroup(container: &Container) -> Cgroup {
    settings(container.resources.as_ref())
}

/// A missing request equals the limit.
fn settings(resources: Option<&ResourceRequirements>) -> Cgroup {
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limit = positive(limits, "cpu");
    let request = requests.and_then(|r| r.get("cpu")).and_then(milli).or(limit).unwrap_or(0);
    let quota = limit.map_or(0, |milli| {
        (milli.saturating_mul(PERIOD_MICROSECONDS.into()) / 1000).max(MIN_QUOTA_MICROSECONDS.into())
    });
    let memory = limits.and_then(|l| l.get("memory")).and_then(units).unwrap_or(0);
    Cgroup {
        cpu_shares: i64::try_from((request.saturating_mul(1024) / 1000).clamp(MIN_SHARES.into(), 262_144))
            .unwrap_or(MIN_SHARES),
        cpu_quota: i64::try_from(quota).unwrap_or(i64::MAX),
        cpu_period: PERIOD_MICROSECONDS,
        memory_limit: memory,
    }
}

/// The kernel's preference for killing the container when memory runs out: BestEffort first, Guaranteed last.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = requests.and_then(|r| r.get("memory")).and_then(units).unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
            i64::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_what_a_container_has() {
        let resources = |cpu: &str, memory: &str| -> ResourceRequirements {
            let list = || {
                Some(BTreeMap::from([
                    ("cpu".into(), Quantity(cpu.into())),
                    ("memory".into(), Quantity(memory.into())),
                ]))
            };
            ResourceRequirements { requests: list(), limits: list(), claims: None }
        };
        let of = |resources: &ResourceRequirements| {
            cgroup(&Container { resources: Some(resources.clone()), ..Default::default() })
        };
        for (had, granted) in
            [(("100m", "64Mi"), ("20m", "100k")), (("1", "1Gi"), ("1500m", "3Ki")), (("1", "1"), ("1", "1"))]
        {
            let (old, new) = (resources(had.0, had.1), resources(granted.0, granted.1));
            let mut shown = new.clone();
            show(of(&old), &of(&new), &mut shown);
            assert_eq!(shown.limits, old.limits, "{had:?} {granted:?}");
            let requests = shown.requests.expect("requests");
            let memory = &new.requests.expect("requests")["memory"];
            assert_eq!((&requests["cpu"].0, &requests["memory"]), (&had.0.to_owned(), memory));
        }
        let none = Cgroup::normal(0, -1, 0, -1);
        assert_eq!(none, cgroup(&Container::default()));
        assert_eq!(
            Cgroup::normal(1024, 50_000, 50_000, 5),
            Cgroup { cpu_shares: 1024, cpu_quota: 100_000, cpu_period: 100_000, memory_limit: 5 }
        );
    }

    #[test]
    fn quantities_keep_their_size() {
        let cases = [("100m", 100), ("1", 1000), ("1.5", 1500), ("2Ki", 2_048_000), ("1e3", 1_000_000)];
        for (text, expected) in cases {
            assert_eq!(milli(&Quantity(text.into())), Some(expected), "{text}");
        }
        assert_eq!(milli(&Quantity("1u".into())), Some(1));
        assert_eq!(milli(&Quantity("zebra".into())), None);
        assert_eq!(units(&Quantity("64Mi".into())), Some(64 << 20));
    }
}
