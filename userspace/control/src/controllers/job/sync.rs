//! One reconcile of one Job: its pods, their outcomes, and the writes decided so far. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use crate::action::{Action, Context};

pub(super) struct JobSync<'a> {
    pub(super) job: &'a Arc<Job>,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: Vec<&'a Arc<Pod>>,
    pub(super) context: Context<'a>,
    pub(super) actions: Vec<Action>,
}

/// The number of completions of an indexed Job; 0 for others.
pub(super) fn index_count(spec: &JobSpec) -> u32 {
    let completions = spec.completions.filter(|_| indexed(spec)).unwrap_or(0);
    u32::try_from(completions).unwrap_or(0)
}

/// The limit of failures per index, for an indexed Job that has one.
pub(super) fn limit_per_index(spec: &JobSpec) -> Option<i32> {
    spec.backoff_limit_per_index.filter(|_| indexed(spec))
}

pub(super) fn indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// The outcomes of the Job's pods, counted or listed.
pub(super) struct Outcomes {
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Uids that are listed and not counted.
    pub(super) pending: BTreeSet<String>,
    /// Completed indexes.
    pub(super) done: Indexes,
    /// Indexes that are not tried again; empty without a backoff limit per index.
    pub(super) lost: Indexes,
    /// With a backoff limit per index: the last failed pod of each index that waits for its next pod. It carries the
    /// index's failure count, so it keeps its finalizer until that pod exists.
    pub(super) replaced: BTreeMap<u32, Arc<Pod>>,
}
