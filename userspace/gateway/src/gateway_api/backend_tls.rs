//! BackendTLSPolicies: how endpoints of Services are spoken to. PURE.
//!
//! A policy that is not valid is in force too: its endpoints get nothing, since requests may not go to them in the clear. Of two
//! policies for the same target the older one is in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::authority_refs::{FoundAuthorities, Inputs};
use super::conditions::Fault;
use super::grants::{Referrer, namespace_of};
use super::kinds::{BackendTlsPolicySpec, PolicyTarget, PolicyValidation, SubjectAltName};
use super::listeners::age;
use super::objects::{Key, Objects};
use crate::authorities::Authorities;
use crate::backend_tls::{BackendTls, BackendTlsSpec, EndpointCheck, SubjectName, TlsVersions};

/// What all policies say.
#[derive(Default)]
pub(crate) struct BackendPolicies {
    by_service: HashMap<Key, ServicePolicies>,
    verdicts: BTreeMap<Key, PolicyVerdict>,
}

/// What policies say of a Service's ports.
#[derive(Default, PartialEq, Eq)]
struct ServicePolicies {
    of_all: Option<PortTls>,
    by_port_name: BTreeMap<String, PortTls>,
}

/// How endpoints of a port are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortTls {
    Over(Arc<BackendTls>),
    /// The policy is not valid.
    Refused,
}

/// What is said of a policy in its status.
pub(super) struct PolicyVerdict {
    pub(super) accepted: Result<(), Fault>,
    pub(super) resolved: Result<(), Fault>,
    tls: PortTls,
}

impl BackendPolicies {
    /// `None`: no policy is for the port.
    pub(crate) fn of(&self, service: &str, port_name: &str) -> Option<&PortTls> {
        let policies = self.by_service.get(service)?;
        policies.by_port_name.get(port_name).or(policies.of_all.as_ref())
    }

    pub(super) fn verdict(&self, policy: &str) -> Option<&PolicyVerdict> {
        self.verdicts.get(policy)
    }

    /// Services whose endpoints are spoken to in another way than before.
    pub(super) fn changed(&self, old: &BackendPolicies) -> BTreeSet<Key> {
        let all = self.by_service.keys().chain(old.by_service.keys());
        all.filter(|key| self.by_service.get(*key) != old.by_service.get(*key)).cloned().collect()
    }
}

impl ServicePolicies {
    /// Whether no other policy is for the target.
    fn take(&mut self, target: &PolicyTarget, tls: &PortTls) -> bool {
        match target.section_name.as_deref().filter(|name| !name.is_empty()) {
            None if self.of_all.is_some() => false,
            None => {
                self.of_all = Some(tls.clone());
                true
            }
            Some(name) if self.by_port_name.contains_key(name) => false,
            Some(name) => {
                self.by_port_name.insert(name.to_owned(), tls.clone());
                true
            }
        }
    }
}

/// The Services that a policy is for, with what names each.
pub(super) fn targets<'s>(
    key: &Key,
    spec: &'s BackendTlsPolicySpec,
) -> impl Iterator<Item = (Key, &'s PolicyTarget)> + use<'s> {
    let namespace = namespace_of(key).to_owned();
    let services = spec.target_refs.iter();
    let services = services.filter(|target| target.group.is_empty() && target.kind == "Service");
    services.map(move |target| (format!("{namespace}/{}", target.name).into(), target))
}

impl Objects {
    /// `old`: what policies said before. What is equal goes on, with its sessions.
    pub(super) fn backend_policies(&self, inputs: Inputs<'_>, old: &BackendPolicies) -> BackendPolicies {
        let mut policies = BackendPolicies::default();
        let mut by_age: Vec<_> = self.policies.iter().collect();
        by_age.sort_by_key(|(key, policy)| (age(&policy.metadata), *key));
        for (key, policy) in by_age {
            let mut verdict = self.policy_verdict(key, &policy.spec.validation, inputs, old.verdict(key));
            for (service, target) in targets(key, &policy.spec) {
                let of_service = policies.by_service.entry(service.clone()).or_default();
                if !of_service.take(target, &verdict.tls) {
                    let message = format!("an older policy is for Service {service}");
                    verdict.accepted = Err(Fault::new("Conflicted", message));
                }
            }
            policies.verdicts.insert(key.clone(), verdict);
        }
        policies
    }

    fn policy_verdict(
        &self,
        key: &Key,
        validation: &PolicyValidation,
        inputs: Inputs<'_>,
        old: Option<&PolicyVerdict>,
    ) -> PolicyVerdict {
        let (authorities, resolved) = self.policy_authorities(key, validation, inputs);
        let tls = authorities.and_then(|authorities| tls(authorities, validation));
        match tls {
            Ok(new) => {
                let tls = match old.map(|old| &old.tls) {
                    Some(PortTls::Over(known)) if **known == new => known.clone(),
                    _ => Arc::new(new),
                };
                PolicyVerdict { accepted: Ok(()), resolved, tls: PortTls::Over(tls) }
            }
            Err(fault) => PolicyVerdict { accepted: Err(fault), resolved, tls: PortTls::Refused },
        }
    }

    fn policy_authorities(
        &self,
        key: &Key,
        validation: &PolicyValidation,
        inputs: Inputs<'_>,
    ) -> (Result<Arc<Authorities>, Fault>, Result<(), Fault>) {
        let refs = &validation.ca_certificate_refs;
        if refs.is_empty() {
            let authorities = match validation.well_known_ca_certificates.as_deref() {
                Some("System") => Ok(Authorities::of_system()),
                other => {
                    let message = format!("well-known certificates {:?} are not served", other.unwrap_or(""));
                    Err(Fault::new("Invalid", message))
                }
            };
            return (authorities, Ok(()));
        }
        let from = Referrer { kind: "BackendTLSPolicy", namespace: namespace_of(key) };
        let FoundAuthorities { authorities, resolved } = self.authorities(from, refs, "InvalidKind", inputs);
        let none = || Fault::new("NoValidCACertificate", "no certificate of an authority is valid");
        (authorities.ok_or_else(none), resolved)
    }
}

fn tls(authorities: Arc<Authorities>, validation: &PolicyValidation) -> Result<BackendTls, Fault> {
    let server_name = host(&validation.hostname)?;
    let names = match validation.subject_alt_names.as_slice() {
        [] => vec![SubjectName::Host(server_name.clone())],
        names => names.iter().map(subject_name).collect::<Result<_, _>>()?,
    };
    let spec = BackendTlsSpec {
        server_name: Some(server_name),
        check: EndpointCheck::Names(authorities, names),
        max_depth: None,
        identity: None,
        versions: TlsVersions::Both,
    };
    BackendTls::new(spec).map_err(|error| Fault::new("Invalid", error.to_string()))
}

fn subject_name(name: &SubjectAltName) -> Result<SubjectName, Fault> {
    match name.r#type.as_str() {
        "Hostname" => host(&name.hostname).map(SubjectName::Host),
        "URI" => Ok(SubjectName::Uri(name.uri.as_str().into())),
        other => Err(Fault::new("Invalid", format!("{other} is not a type of names"))),
    }
}

fn host(name: &str) -> Result<ServerName<'static>, Fault> {
    let invalid = |_| Fault::new("Invalid", format!("{name:?} is not the name of a host"));
    ServerName::try_from(name.to_owned()).map_err(invalid)
}
