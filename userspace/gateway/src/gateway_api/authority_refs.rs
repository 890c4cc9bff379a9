//! References to certificates of authorities: ConfigMaps and Secrets with `ca.crt`. PURE.

use std::sync::Arc;

use super::conditions::Fault;
use super::grants::Referrer;
use super::kinds::ObjectRef;
use super::objects::{Key, Objects};
use crate::authorities::Authorities;
use crate::ingress::states::{ConfigMapState, ConfigMapStates, Parsed, SecretState, SecretStates};

/// What is known of the objects that references lead to.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) secrets: &'a SecretStates,
    pub(crate) config_maps: &'a ConfigMapStates,
}

/// An object that may have certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AuthoritySource {
    ConfigMap(Key),
    Secret(Key),
}

/// What references to authorities lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundAuthorities {
    /// All of them. `None`: not one is valid.
    pub(super) authorities: Option<Arc<Authorities>>,
    /// What is wrong with the first reference that is not valid.
    pub(super) resolved: Result<(), Fault>,
}

impl Objects {
    /// `kind_reason`: what a condition says of a kind that has no authorities.
    pub(super) fn authorities(
        &self,
        from: Referrer<'_>,
        refs: &[ObjectRef],
        kind_reason: &'static str,
        inputs: Inputs<'_>,
    ) -> FoundAuthorities {
        let (mut found, mut resolved) = (Vec::new(), Ok(()));
        for reference in refs {
            let one = self.authority_source(from, reference, kind_reason);
            let (authorities, verdict) = match one.map(|source| source.look(inputs)) {
                Ok(looked) => looked,
                Err(fault) => (None, Err(fault)),
            };
            found.extend(authorities);
            resolved = resolved.and(verdict);
        }
        FoundAuthorities { authorities: Authorities::union(found), resolved }
    }

    /// The object that a reference names and may name.
    pub(super) fn authority_source(
        &self,
        from: Referrer<'_>,
        reference: &ObjectRef,
        kind_reason: &'static str,
    ) -> Result<AuthoritySource, Fault> {
        let kind = reference.kind.as_deref().unwrap_or("ConfigMap");
        let group = reference.group.as_deref().unwrap_or_default();
        let source: fn(Key) -> AuthoritySource = match (group, kind) {
            ("", "ConfigMap") => AuthoritySource::ConfigMap,
            ("", "Secret") => AuthoritySource::Secret,
            _ => return Err(Fault::new(kind_reason, format!("{kind} is not a kind of certificates"))),
        };
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let key = format!("{namespace}/{}", reference.name);
        match self.may_refer(from, "", kind, namespace, &reference.name) {
            true => Ok(source(key.into())),
            false => Err(Fault::new("RefNotPermitted", format!("no ReferenceGrant allows {kind} {key}"))),
        }
    }
}

impl AuthoritySource {
    fn look(&self, inputs: Inputs<'_>) -> (Option<Arc<Authorities>>, Result<(), Fault>) {
        let (kind, key, state) = match self {
            AuthoritySource::ConfigMap(key) => {
                let Some(state) = inputs.config_maps.get(key) else { return self.awaited() };
                let facts = match state {
                    ConfigMapState::Missing => None,
                    ConfigMapState::Found(facts) => Some(&facts.authorities),
                };
                ("ConfigMap", key, facts)
            }
            AuthoritySource::Secret(key) => {
                let Some(state) = inputs.secrets.get(key) else { return self.awaited() };
                let facts = match state {
                    SecretState::Missing => None,
                    SecretState::Found(facts) => Some(&facts.authorities),
                };
                ("Secret", key, facts)
            }
        };
        let invalid = |why: String| Err(Fault::new("InvalidCACertificateRef", format!("{kind} {key}{why}")));
        match state {
            None => (None, invalid(" does not exist".to_owned())),
            Some(None) => (None, invalid(" has no ca.crt".to_owned())),
            Some(Some(Parsed::Good(authorities))) => (Some(authorities.clone()), Ok(())),
            // The API wants connections to fail, so that the last valid ones do not count.
            Some(Some(Parsed::Bad(error, _))) => (None, invalid(format!(": {error}"))),
        }
    }

    /// The object is looked for.
    fn awaited(&self) -> (Option<Arc<Authorities>>, Result<(), Fault>) {
        let (AuthoritySource::ConfigMap(key) | AuthoritySource::Secret(key)) = self;
        let message = format!("{key} has not been read yet");
        (None, Err(Fault::new("InvalidCACertificateRef", message)))
    }
}
