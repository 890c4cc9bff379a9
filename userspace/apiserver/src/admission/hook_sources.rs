//! The webhooks and policies that are registered, each parsed once for each version of its object.
//!
//! In: the cached objects. Out: parsed hooks in the order of their names. Without registrations a request costs an empty list.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use skep_api::find;
use skep_store::Revision;

use super::policy::{AdmissionPolicy, Mutating, PolicyBinding, Validating};
use super::webhook::Hook;
use crate::cache::{Caches, Resource};
use crate::lock::RwLock;
use crate::object::prefix;

const GROUP: &str = "admissionregistration.k8s.io";

/// A parsed object and its revision.
type Parsed<T> = (Revision, Arc<T>);

/// The objects of one kind and their parsed form.
pub(super) struct HookSource<T> {
    prefix: String,
    objects: Option<Arc<Resource>>,
    parse: fn(&Value) -> T,
    known: RwLock<HashMap<Arc<str>, Parsed<T>>>,
}

impl<T> HookSource<T> {
    fn new(caches: &Caches, plural: &str, parse: fn(&Value) -> T) -> HookSource<T> {
        let kind = find(GROUP, "v1", plural);
        HookSource {
            prefix: kind.map(prefix).unwrap_or_default(),
            objects: kind.and_then(|kind| caches.of(kind)),
            parse,
            known: RwLock::default(),
        }
    }

    /// In the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let objects = self.objects.as_ref().map(|objects| objects.list(&self.prefix)).unwrap_or_default();
        if objects.is_empty() {
            return Vec::new();
        }
        let known = self.known.read();
        let found: Vec<Option<Arc<T>>> = objects
            .iter()
            .map(|object| {
                known
                    .get(&object.key)
                    .filter(|(at, _)| *at == object.revision)
                    .map(|(_, parsed)| parsed.clone())
            })
            .collect();
        drop(known);
        let stale = found.iter().any(Option::is_none);
        let all: Vec<Arc<T>> = objects
            .iter()
            .zip(found)
            .map(|(object, found)| found.unwrap_or_else(|| Arc::new((self.parse)(&object.value()))))
            .collect();
        if stale {
            let versions = objects.iter().zip(&all);
            let now = versions
                .map(|(object, parsed)| (object.key.clone(), (object.revision, parsed.clone())))
                .collect();
            *self.known.write() = now;
        }
        all
    }
}

pub(crate) struct HookSources {
    pub(super) mutating: HookSource<Vec<Hook>>,
    pub(super) validating: HookSource<Vec<Hook>>,
    pub(super) mutating_policies: HookSource<AdmissionPolicy<Mutating>>,
    pub(super) mutating_bindings: HookSource<PolicyBinding>,
    pub(super) validating_policies: HookSource<AdmissionPolicy<Validating>>,
    pub(super) validating_bindings: HookSource<PolicyBinding>,
}

impl HookSources {
    pub(crate) fn new(caches: &Caches) -> HookSources {
        HookSources {
            mutating: HookSource::new(caches, "mutatingwebhookconfigurations", Hook::all_of),
            validating: HookSource::new(caches, "validatingwebhookconfigurations", Hook::all_of),
            mutating_policies: HookSource::new(caches, "mutatingadmissionpolicies", Mutating::policy),
            mutating_bindings: HookSource::new(caches, "mutatingadmissionpolicybindings", PolicyBinding::of),
            validating_policies: HookSource::new(caches, "validatingadmissionpolicies", Validating::policy),
            validating_bindings: HookSource::new(
                caches,
                "validatingadmissionpolicybindings",
                PolicyBinding::of,
            ),
        }
    }
}
