//! The Secrets and ConfigMaps that objects of the group name and may name. PURE.

use std::collections::BTreeSet;

use super::authority_refs::AuthoritySource;
use super::client_validation::validations;
use super::grants::{Referrer, namespace_of};
use super::kinds::ListenerSpec;
use super::listeners::Owner;
use super::objects::{Key, Objects};

/// Objects that are looked for.
#[derive(Default)]
pub(crate) struct Named {
    pub(crate) secrets: BTreeSet<Key>,
    pub(crate) config_maps: BTreeSet<Key>,
}

impl Objects {
    /// What Gateways and ListenerSets of our classes name, and BackendTLSPolicies if there is such a class.
    pub(crate) fn named(&self) -> Named {
        let mut named = Named::default();
        for (key, gateway) in &self.gateways {
            if !self.is_ours(&gateway.spec.gateway_class_name) {
                continue;
            }
            let owner = Owner::Gateway(key.clone());
            named.secrets.extend(self.certificate_keys(&owner, &gateway.spec.listeners));
            let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
            let identity = backend.and_then(|backend| backend.client_certificate_ref.as_ref());
            named.secrets.extend(identity.and_then(|reference| self.secret_key(&owner, reference).ok()));
            let from = Referrer { kind: "Gateway", namespace: namespace_of(key) };
            let refs = validations(gateway).flat_map(|validation| &validation.ca_certificate_refs);
            named.add(refs.filter_map(|reference| self.authority_source(from, reference, "").ok()));
        }
        for (key, set) in &self.listener_sets {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace.as_deref().unwrap_or(namespace_of(key));
            let gateway = self.gateways.get(format!("{namespace}/{}", parent.name).as_str());
            if gateway.is_some_and(|gateway| self.is_ours(&gateway.spec.gateway_class_name)) {
                let owner = Owner::ListenerSet(key.clone());
                named.secrets.extend(self.certificate_keys(&owner, &set.spec.listeners));
            }
        }
        if self.classes.keys().any(|class| self.is_ours(class)) {
            for (key, policy) in &self.policies {
                let from = Referrer { kind: "BackendTLSPolicy", namespace: namespace_of(key) };
                let refs = policy.spec.validation.ca_certificate_refs.iter();
                named.add(refs.filter_map(|reference| self.authority_source(from, reference, "").ok()));
            }
        }
        named
    }

    /// What listeners present.
    fn certificate_keys(&self, owner: &Owner, listeners: &[ListenerSpec]) -> Vec<Key> {
        let refs = listeners.iter().flat_map(|spec| spec.tls.iter().flat_map(|tls| &tls.certificate_refs));
        refs.filter_map(|reference| self.secret_key(owner, reference).ok()).collect()
    }
}

impl Named {
    fn add(&mut self, sources: impl Iterator<Item = AuthoritySource>) {
        for source in sources {
            match source {
                AuthoritySource::ConfigMap(key) => self.config_maps.insert(key),
                AuthoritySource::Secret(key) => self.secrets.insert(key),
            };
        }
    }
}
