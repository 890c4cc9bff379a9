//! The status of ValidatingAdmissionPolicies: type errors of their expressions for the kinds that they match.
//!
//! Checked once for every generation. A policy is in force with or without its status.

use serde_json::json;
use skep_api::kinds::type_warnings;
use skep_api::{Kind, find, meta};

use super::reconcile_loop;
use crate::blocking::run_blocking;
use crate::object::prefix;
use crate::stored::Storage;

pub(super) async fn run(storage: Storage) {
    let Some(kind) = find("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies") else {
        return;
    };
    reconcile_loop::run(&storage.caches, kind, || round(&storage, kind)).await;
}

async fn round(storage: &Storage, kind: &'static Kind) -> bool {
    let Some(resource) = storage.caches.of(kind) else { return true };
    let mut done = true;
    for old in resource.list(&prefix(kind)) {
        let mut policy = old.value();
        let generation = policy["metadata"]["generation"].as_i64().unwrap_or(0);
        let observed = policy["status"]["observedGeneration"].as_i64();
        if observed.is_some_and(|observed| observed >= generation) {
            continue;
        }
        let warnings = run_blocking(|| type_warnings(&policy, &storage.caches.registry()));
        policy["status"]["observedGeneration"] = generation.into();
        policy["status"]["typeChecking"] = match warnings.as_slice() {
            [] => json!({}),
            warnings => json!({"expressionWarnings": warnings}),
        };
        match storage.replace(kind, &old, &policy).await {
            Ok(_) => {}
            // Another writer won; its event triggers the next round.
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => {
                tracing::warn!(policy = meta::name(&policy), error = %status, "write policy status failed");
                done = false;
            }
        }
    }
    done
}
