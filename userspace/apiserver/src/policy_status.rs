//! The status of ValidatingAdmissionPolicies: what is wrong with their expressions for the kinds that they are for.
//!
//! Found once for every generation; a policy is in force with or without it.

use std::sync::{Arc, Weak};

use serde_json::json;
use skep_api::kinds::type_warnings;
use skep_api::{find, meta};

use crate::object::prefix;
use crate::{Inner, follow, write};

pub(crate) async fn run(server: Weak<Inner>) {
    let Some(kind) = find("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies") else {
        return;
    };
    follow::all(server, kind, |server| Box::pin(round(server, kind))).await;
}

async fn round(server: &Arc<Inner>, kind: &'static skep_api::Kind) -> bool {
    let Some(resource) = server.caches.of(kind) else { return true };
    let mut done = true;
    for old in resource.list(&prefix(kind)) {
        let mut policy = old.value();
        let generation = policy["metadata"]["generation"].as_i64().unwrap_or(0);
        if policy["status"]["observedGeneration"].as_i64().is_some_and(|seen| seen >= generation) {
            continue;
        }
        let warnings = write::aside(|| type_warnings(&policy, &server.caches.registry()));
        policy["status"]["observedGeneration"] = generation.into();
        policy["status"]["typeChecking"] = match warnings.as_slice() {
            [] => json!({}),
            warnings => json!({"expressionWarnings": warnings}),
        };
        match write::replace(server, kind, &old, &policy).await {
            // Whoever was faster wakes us again.
            Ok(_) => {}
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => {
                tracing::warn!(policy = meta::name(&policy), %status, "the status was not written");
                done = false;
            }
        }
    }
    done
}
