//! What objects refer to, and who refers to what. PURE.

use std::collections::{BTreeSet, HashMap};

/// Namespace and name.
pub(super) type Key = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ReferenceKind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

/// Kind, namespace and name.
pub(super) type Reference = (ReferenceKind, String, String);

/// Who refers to an object.
#[derive(Debug)]
pub(super) struct Referrers<O>(HashMap<Reference, BTreeSet<O>>);

impl<O> Default for Referrers<O> {
    fn default() -> Referrers<O> {
        Referrers(HashMap::new())
    }
}

impl<O: Ord + Clone> Referrers<O> {
    pub(super) fn add(&mut self, references: &BTreeSet<Reference>, owner: &O) {
        for reference in references {
            self.0.entry(reference.clone()).or_default().insert(owner.clone());
        }
    }

    pub(super) fn remove(&mut self, references: &BTreeSet<Reference>, owner: &O) {
        for reference in references {
            if let Some(owners) = self.0.get_mut(reference) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.0.remove(reference);
                }
            }
        }
    }

    pub(super) fn of(&self, reference: &Reference) -> impl Iterator<Item = &O> {
        self.0.get(reference).into_iter().flatten()
    }
}
