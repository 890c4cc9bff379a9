//! What users registered for admission, read once a version: webhooks and policies, from the cache as it is now.
//!
//! A request on a server where nobody registered anything finds empty lists, and no more.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use skep_api::find;
use skep_store::Revision;

use super::policy::{Binding, Mutating, Policy, Validating};
use super::webhook::Hook;
use crate::cache::{Caches, Resource};
use crate::object::prefix;

const GROUP: &str = "admissionregistration.k8s.io";

/// What was read, and of which version.
type Read<T> = (Revision, Arc<T>);

/// The objects of a kind, each with what was read from its present version.
pub(super) struct Registered<T> {
    prefix: String,
    objects: Option<Arc<Resource>>,
    read: fn(&Value) -> T,
    known: RwLock<HashMap<Arc<str>, Read<T>>>,
}

impl<T> Registered<T> {
    fn new(caches: &Caches, plural: &str, read: fn(&Value) -> T) -> Registered<T> {
        let kind = find(GROUP, "v1", plural);
        Registered {
            prefix: kind.map(prefix).unwrap_or_default(),
            objects: kind.and_then(|kind| caches.of(kind)),
            read,
            known: RwLock::default(),
        }
    }

    /// In the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let objects = self.objects.as_ref().map(|objects| objects.list(&self.prefix)).unwrap_or_default();
        if objects.is_empty() {
            return Vec::new();
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<Option<Arc<T>>> = objects
            .iter()
            .map(|object| {
                known.get(&object.key).filter(|(at, _)| *at == object.revision).map(|(_, read)| read.clone())
            })
            .collect();
        drop(known);
        let stale = found.iter().any(Option::is_none);
        let all: Vec<Arc<T>> = objects
            .iter()
            .zip(found)
            .map(|(object, found)| found.unwrap_or_else(|| Arc::new((self.read)(&object.value()))))
            .collect();
        if stale {
            let versions = objects.iter().zip(&all);
            let now = versions
                .map(|(object, read)| (object.key.clone(), (object.revision, read.clone())))
                .collect();
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = now;
        }
        all
    }
}

pub(crate) struct Hooks {
    pub(super) mutating: Registered<Vec<Hook>>,
    pub(super) validating: Registered<Vec<Hook>>,
    pub(super) mutating_policies: Registered<Policy<Mutating>>,
    pub(super) mutating_bindings: Registered<Binding>,
    pub(super) validating_policies: Registered<Policy<Validating>>,
    pub(super) validating_bindings: Registered<Binding>,
}

impl Hooks {
    pub(crate) fn new(caches: &Caches) -> Hooks {
        Hooks {
            mutating: Registered::new(caches, "mutatingwebhookconfigurations", Hook::all_of),
            validating: Registered::new(caches, "validatingwebhookconfigurations", Hook::all_of),
            mutating_policies: Registered::new(caches, "mutatingadmissionpolicies", Mutating::policy),
            mutating_bindings: Registered::new(caches, "mutatingadmissionpolicybindings", Binding::of),
            validating_policies: Registered::new(caches, "validatingadmissionpolicies", Validating::policy),
            validating_bindings: Registered::new(caches, "validatingadmissionpolicybindings", Binding::of),
        }
    }
}
