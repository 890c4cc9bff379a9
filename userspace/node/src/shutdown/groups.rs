//! PURE. Which pods end together when the node is shut down, and how long they have.
//!
//! In: the settings and the pods. Out: groups in the order in which they end.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

/// The lowest priority of pods that are critical for the cluster or the node (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Pods of at least this priority, and less than that of the next group, have this time to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSettings {
    pub priority: i32,
    pub grace: Duration,
}

/// How long pods have when the node is shut down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// In the order of their priorities.
    pub(super) groups: Vec<GroupSettings>,
    /// The address of the D-Bus that logind is on; `None`: the system's.
    pub bus: Option<String>,
}

/// Periods that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the grace period of critical pods, {critical:?}, is longer than that of all pods, {total:?}")]
pub struct PeriodsError {
    total: Duration,
    critical: Duration,
}

impl ShutdownSettings {
    /// `total`: for all pods; `critical`: the part of it that critical pods have, after the others. `None`: a shutdown does not wait.
    ///
    /// # Errors
    /// `critical` is longer than `total`.
    pub fn new(total: Duration, critical: Duration) -> Result<Option<ShutdownSettings>, PeriodsError> {
        let others = total.checked_sub(critical).ok_or(PeriodsError { total, critical })?;
        let groups = vec![
            GroupSettings { priority: 0, grace: others },
            GroupSettings { priority: CRITICAL_PRIORITY, grace: critical },
        ];
        Ok((!total.is_zero()).then_some(ShutdownSettings { groups, bus: None }))
    }

    /// How long a shutdown waits at most.
    pub(super) fn total(&self) -> Duration {
        self.groups.iter().map(|group| group.grace).sum()
    }

    /// The pods of each group that has some.
    pub(super) fn group<P: AsRef<Pod>>(&self, pods: impl IntoIterator<Item = P>) -> Vec<(Duration, Vec<P>)> {
        let mut grouped: Vec<(Duration, Vec<P>)> =
            self.groups.iter().map(|group| (group.grace, Vec::new())).collect();
        for pod in pods {
            let priority = pod.as_ref().spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
            // A pod below all groups is in the first.
            let at = self.groups.iter().rposition(|group| group.priority <= priority).unwrap_or(0);
            if let Some((_, pods)) = grouped.get_mut(at) {
                pods.push(pod);
            }
        }
        grouped.retain(|(_, pods)| !pods.is_empty());
        grouped
    }
}

/// A pod's own grace period, if it is shorter than its group's.
pub(super) fn grace(pod: &Pod, of_group: Duration) -> SignedDuration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let of_group = SignedDuration::try_from(of_group).unwrap_or(SignedDuration::MAX);
    own.map_or(of_group, |seconds| SignedDuration::from_secs(seconds.max(0)).min(of_group))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn pod(priority: Option<i32>, grace: i64) -> Box<Pod> {
        let spec = PodSpec { priority, termination_grace_period_seconds: Some(grace), ..PodSpec::default() };
        Box::new(Pod { spec: Some(spec), ..Pod::default() })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn critical_pods_end_last_and_pods_below_all_groups_end_first() {
        let settings = ShutdownSettings::new(seconds(30), seconds(10)).unwrap().unwrap();
        assert_eq!(settings.total(), seconds(30));
        let priorities = [Some(2_000_001_000), None, Some(-5), Some(1_999_999_999), Some(2_000_000_000)];
        let groups = settings.group(priorities.map(|priority| pod(priority, 30)));
        let shown: Vec<(u64, Vec<Option<i32>>)> = groups
            .iter()
            .map(|(grace, pods)| {
                (grace.as_secs(), pods.iter().map(|p| p.spec.as_ref().unwrap().priority).collect())
            })
            .collect();
        let first = vec![None, Some(-5), Some(1_999_999_999)];
        let last = vec![Some(2_000_001_000), Some(2_000_000_000)];
        assert_eq!(shown, [(20, first), (10, last)]);
        assert_eq!(
            settings.group([pod(Some(2_000_000_000), 1)]).len(),
            1,
            "a group without pods takes no time"
        );
    }

    #[test]
    fn periods_that_contradict_each_other_are_refused_and_no_period_is_no_wait() {
        assert!(ShutdownSettings::new(seconds(5), seconds(6)).is_err());
        assert_eq!(ShutdownSettings::new(Duration::ZERO, Duration::ZERO), Ok(None));
    }

    #[test]
    fn a_pod_has_its_own_grace_period_or_its_group_s_whichever_is_shorter() {
        assert_eq!(grace(&pod(None, 5), seconds(20)), SignedDuration::from_secs(5));
        assert_eq!(grace(&pod(None, 60), seconds(20)), SignedDuration::from_secs(20));
        assert_eq!(grace(&Pod::default(), seconds(20)), SignedDuration::from_secs(20));
    }
}
