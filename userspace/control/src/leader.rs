//! Leader election with a Lease. The decision is a pure function of the last observed Lease and of the time since its last
//! change by our own clock; clocks of other machines are not compared with ours. The loop around it only reads, writes and
//! sleeps.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::config::LeaderElection;

/// The Lease, and when its spec was observed to change.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    lease: Lease,
    since: Instant,
}

#[derive(Clone, Debug, PartialEq)]
enum LeaseAction {
    Create(Lease),
    Replace(Lease),
    /// Another candidate holds it.
    Wait,
}

/// What a candidate does next.
fn next_action(
    config: &LeaderElection,
    observed: Option<&Observed>,
    now: Timestamp,
    instant: Instant,
) -> LeaseAction {
    let mut spec = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..Default::default()
    };
    let Some(observed) = observed else {
        let metadata = ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(config.namespace.clone()),
            ..Default::default()
        };
        return LeaseAction::Create(Lease { metadata, spec: Some(spec) });
    };
    let old = observed.lease.spec.clone().unwrap_or_default();
    let holder = old.holder_identity.as_deref().unwrap_or_default();
    if holder == config.identity {
        spec.acquire_time = old.acquire_time;
        spec.lease_transitions = old.lease_transitions;
    } else {
        if !holder.is_empty() && instant.duration_since(observed.since) < config.lease_duration {
            return LeaseAction::Wait;
        }
        spec.lease_transitions = Some(old.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    LeaseAction::Replace(Lease { spec: Some(spec), ..observed.lease.clone() })
}

/// A candidate for the leadership.
pub(crate) struct Candidate {
    api: Api<Lease>,
    config: LeaderElection,
    observed: Option<Observed>,
    /// When the attempt began that last acquired or renewed the lease. Others count from its write, which came later.
    renewed: Option<Instant>,
}

/// Gives the lease up if this candidate holds it, so that another need not wait until it expires.
pub async fn release(client: &Client, config: &LeaderElection) -> kube::Result<()> {
    let api: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let Some(mut lease) = api.get_opt(&config.name).await? else { return Ok(()) };
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(&config.identity) {
        return Ok(());
    }
    spec.holder_identity = Some(String::new());
    api.replace(&config.name, &PostParams::default(), &lease).await.map(drop)
}

impl Candidate {
    pub(crate) fn new(client: Client, config: LeaderElection) -> Self {
        Candidate { api: Api::namespaced(client, &config.namespace), config, observed: None, renewed: None }
    }

    /// Waits until this process leads.
    pub(crate) async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return tracing::info!(lease = self.config.name, "leading"),
                Ok(false) => {}
                Err(error) => tracing::info!(lease = self.config.name, %error, "acquire lease failed"),
            }
            tokio::time::sleep(self.config.retry_period).await;
        }
    }

    /// Renews until the leadership is lost: taken by another, or not renewed within the deadline.
    pub(crate) async fn hold(&mut self) {
        let mut renewed = self.renewed.unwrap_or_else(Instant::now);
        loop {
            let deadline = self.config.renew_deadline;
            tokio::time::sleep(self.config.retry_period.min(deadline.saturating_sub(renewed.elapsed())))
                .await;
            let left = deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left.max(Duration::from_millis(1)), self.attempt()).await {
                Ok(Ok(true)) => renewed = self.renewed.unwrap_or(renewed),
                Ok(Ok(false)) => {
                    return tracing::warn!(lease = self.config.name, "lease taken by another candidate");
                }
                Ok(Err(error)) => tracing::info!(lease = self.config.name, %error, "renew lease failed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.config.renew_deadline {
                return tracing::warn!(
                    lease = self.config.name,
                    "renew lease failed within the deadline; leadership lost"
                );
            }
        }
    }

    /// One attempt to acquire or renew the lease; false if another candidate holds it.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let began = Instant::now();
        let current = self.api.get_opt(&self.config.name).await?;
        self.observe(current);
        let sent = match next_action(&self.config, self.observed.as_ref(), Timestamp::now(), Instant::now()) {
            LeaseAction::Wait => return Ok(false),
            LeaseAction::Create(lease) => self.api.create(&PostParams::default(), &lease).await,
            LeaseAction::Replace(lease) => {
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await
            }
        };
        match sent {
            Ok(lease) => {
                self.observe(Some(lease));
                self.renewed = Some(began);
                Ok(true)
            }
            // Another candidate wrote first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn observe(&mut self, current: Option<Lease>) {
        let same = match (&self.observed, &current) {
            (Some(observed), Some(lease)) => observed.lease.spec == lease.spec,
            _ => false,
        };
        if same {
            if let (Some(observed), Some(lease)) = (&mut self.observed, current) {
                observed.lease = lease;
            }
        } else {
            self.observed = current.map(|lease| Observed { lease, since: Instant::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str, since: Instant) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(identity.into()),
            lease_transitions: Some(3),
            ..Default::default()
        };
        let lease = Lease { spec: Some(spec), ..Default::default() };
        Observed { lease, since }
    }

    fn holder(step: LeaseAction) -> (Option<String>, Option<i32>) {
        match step {
            LeaseAction::Create(lease) | LeaseAction::Replace(lease) => {
                let spec = lease.spec.unwrap();
                (spec.holder_identity, spec.lease_transitions)
            }
            LeaseAction::Wait => (None, None),
        }
    }

    #[test]
    fn a_lease_recently_renewed_by_another_candidate_is_not_taken() {
        let (config, start) = (LeaderElection::new("me"), Instant::now());
        let observed = held_by("other", start);
        let at =
            |s| next_action(&config, Some(&observed), Timestamp::UNIX_EPOCH, start + Duration::from_secs(s));
        assert_eq!(at(14), LeaseAction::Wait);
        assert_eq!(holder(at(15)), (Some("me".into()), Some(4)), "taken over, and counted");
    }

    #[test]
    fn the_holder_renews_without_a_transition_and_a_released_lease_is_free() {
        let (config, start) = (LeaderElection::new("me"), Instant::now());
        let mine = held_by("me", start);
        assert_eq!(
            holder(next_action(&config, Some(&mine), Timestamp::UNIX_EPOCH, start)),
            (Some("me".into()), Some(3))
        );
        let free = held_by("", start);
        assert_eq!(
            holder(next_action(&config, Some(&free), Timestamp::UNIX_EPOCH, start)),
            (Some("me".into()), Some(4))
        );
        assert_eq!(
            holder(next_action(&config, None, Timestamp::UNIX_EPOCH, start)),
            (Some("me".into()), Some(0))
        );
    }
}
