//! Events about claims and volumes. PURE.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::action::Action;
use crate::cache::Object;

pub(super) fn claim_event(
    claim: &Arc<PersistentVolumeClaim>,
    warning: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> Action {
    Action::record(&Object::PersistentVolumeClaim(claim.clone()), warning, reason, message.into())
}

pub(super) fn volume_event(
    volume: &Arc<PersistentVolume>,
    warning: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> Action {
    Action::record(&Object::PersistentVolume(volume.clone()), warning, reason, message.into())
}
