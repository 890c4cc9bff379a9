//! One reconcile of one Job: its pods, their outcomes, and the writes decided so far. PURE.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use crate::action::{Action, Context};

pub(super) struct JobSync<'a> {
    pub(super) job: &'a Arc<Job>,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: Vec<&'a Arc<Pod>>,
    pub(super) context: Context<'a>,
    pub(super) actions: Vec<Action>,
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
    pub(super) done: BTreeSet<u32>,
}
