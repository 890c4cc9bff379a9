//! CertificateSigningRequests: those of nodes are approved by rule, approved ones are signed, old ones deleted. PURE but
//! for the signer's key. A request that passes no rule is left to a person; a join under a name that is reserved, or that
//! another machine has, is denied. Joins are kept in [`join_record`]s.

mod join_record;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::Node;
use skep_api::time;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, Pem, X509CertificationRequest};

use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::config::{NODE_ADDRESSES, NodeNames, SignError, SignRequest, Signer};
use crate::meta;
pub use join_record::JOIN_RECORD_TYPE;
use join_record::{JoinRecord, check_address, check_free, check_name};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";
const NODE_USER: &str = "system:node:";
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

pub struct Csrs {
    pub signer: Option<Arc<dyn Signer>>,
    pub names: NodeNames,
}

impl Controller for Csrs {
    fn name(&self) -> &'static str {
        "csr"
    }

    fn account(&self) -> &'static str {
        "certificate-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CertificateSigningRequest, Kind::Node, Kind::Secret]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::CertificateSigningRequest, keys);
        // Requests of nodes wait for the record of the join; the record waits for the Node.
        match change.object() {
            Some(Object::Node(node)) if change.old.is_none() || change.new.is_none() => {
                keys.push(join_record::key(meta::name(&node.metadata)));
            }
            Some(Object::Secret(record)) => {
                let record = Key::of(&record.metadata);
                if join_record::node_of(&record).is_some() {
                    keys.push(record);
                    let open = view.csrs.iter().filter(|(_, csr)| CsrState::of(csr) == CsrState::Pending);
                    keys.extend(open.map(|(key, _)| key.clone()));
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        if let Some(node) = join_record::node_of(key) {
            return join_record::reconcile(view, key, node, context);
        }
        let Some(csr) = view.csrs.get(key).filter(|c| !meta::terminating(&c.metadata)) else {
            return Vec::new();
        };
        let state = CsrState::of(csr);
        let expires = time::after(meta::created(&csr.metadata), state.kept());
        if expires <= context.now {
            return vec![Action::delete(Object::CertificateSigningRequest(csr.clone()))];
        }
        let mut actions = vec![Action::RequeueAt(expires)];
        match state {
            CsrState::Pending => actions.extend(self.decide(view, csr, context.now)),
            CsrState::Approved => actions.extend(self.sign(view, csr, context.now)),
            CsrState::Issued | CsrState::Denied | CsrState::Failed => {}
        }
        actions
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CsrState {
    Pending,
    Approved,
    Issued,
    Denied,
    Failed,
}

impl CsrState {
    fn of(csr: &CertificateSigningRequest) -> Self {
        let status = csr.status.as_ref();
        let has =
            |kind: &str| status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == kind);
        if has("Denied") {
            CsrState::Denied
        } else if has("Failed") {
            CsrState::Failed
        } else if status.and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty()) {
            CsrState::Issued
        } else if has("Approved") {
            CsrState::Approved
        } else {
            CsrState::Pending
        }
    }

    /// For how long after its creation such a request is kept.
    fn kept(self) -> Duration {
        match self {
            CsrState::Pending | CsrState::Approved => HOUR * 24,
            CsrState::Issued | CsrState::Denied | CsrState::Failed => HOUR,
        }
    }
}

/// The subject and names of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Requested {
    name: String,
    organizations: Vec<String>,
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    /// Whether there are other names: mail addresses, URIs, a second common name.
    others: bool,
    /// SubjectPublicKeyInfo in DER, as hex.
    public_key: String,
}

/// Parses the PEM request and checks that its own key signed it.
fn parse(request: &[u8]) -> Option<Requested> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(request).ok()?;
    let Pem { label, contents } = &pem;
    if label != "CERTIFICATE REQUEST" && label != "NEW CERTIFICATE REQUEST" {
        return None;
    }
    let (_, csr) = X509CertificationRequest::from_der(contents).ok()?;
    csr.verify_signature().ok()?;
    let subject = &csr.certification_request_info.subject;
    let mut names = subject.iter_common_name().filter_map(|n| n.as_str().ok());
    let mut requested = Requested {
        name: names.next()?.to_owned(),
        organizations: subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok().map(str::to_owned))
            .collect(),
        others: names.next().is_some(),
        public_key: hex(csr.certification_request_info.subject_pki.raw),
        ..Default::default()
    };
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(dns) => requested.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(ip) => requested.ips.push(ip),
                    None => requested.others = true,
                },
                _ => requested.others = true,
            }
        }
    }
    Some(requested)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the rules say about a request.
enum Decision {
    Approve(&'static str),
    Deny {
        reason: &'static str,
        message: String,
    },
    /// The join is recorded first. The record's change leads back here.
    Record(Option<Action>),
    /// A person decides.
    Leave,
}

impl Csrs {
    fn decide(&self, view: &View, csr: &Arc<CertificateSigningRequest>, now: Timestamp) -> Option<Action> {
        let requested = parse(&csr.spec.request.0)?;
        let decision = match csr.spec.signer_name.as_str() {
            KUBELET_CLIENT => self.client_rule(view, csr, &requested),
            KUBELET_SERVING => self.serving_rule(view, &csr.spec, &requested),
            _ => Decision::Leave,
        };
        let decided = match decision {
            Decision::Approve(message) => condition("Approved", "AutoApproved", message, now),
            Decision::Deny { reason, message } => condition("Denied", reason, &message, now),
            Decision::Record(action) => return action,
            Decision::Leave => return None,
        };
        let mut answered = csr.as_ref().clone();
        answered.status.get_or_insert_default().conditions.get_or_insert_default().push(decided);
        Some(Action::Update { object: answered.into(), subresource: "approval" })
    }

    /// A node's client certificate: for a bootstrapper, or for the node itself, which renews it.
    fn client_rule(&self, view: &View, csr: &CertificateSigningRequest, requested: &Requested) -> Decision {
        let spec = &csr.spec;
        let Some(node) = requested.name.strip_prefix(NODE_USER).filter(|node| !node.is_empty()) else {
            return Decision::Leave;
        };
        let plain = requested.organizations == [NODES]
            && requested.dns.is_empty()
            && requested.ips.is_empty()
            && !requested.others;
        if !plain || !usages_are(spec, "client auth") {
            return Decision::Leave;
        }
        if spec.username.as_deref() == Some(&requested.name) && in_group(spec, NODES) {
            return Decision::Approve("The node renews its own client certificate");
        }
        if !in_group(spec, BOOTSTRAPPERS) {
            return Decision::Leave;
        }
        match JoinRecord::of(view, node) {
            Some(record) if record.public_key == requested.public_key => {
                Decision::Approve("A bootstrapping node requests its client certificate")
            }
            None if view.nodes.get(&Key::cluster(node)).is_none() => {
                self.first_join(view, csr, node, requested)
            }
            _ => Decision::Deny { reason: "NodeNameTaken", message: taken(node) },
        }
    }

    /// Records the join of a machine, unless its name or an address is not a node's.
    fn first_join(
        &self,
        view: &View,
        csr: &CertificateSigningRequest,
        node: &str,
        requested: &Requested,
    ) -> Decision {
        let addresses = claimed(csr);
        let checked = addresses.iter().try_for_each(|ip| match check_free(&self.names, view, node, *ip) {
            // It is not recorded; a person may approve the certificate.
            Err(join_record::Refusal::ServerAddress(_)) => Ok(()),
            checked => checked,
        });
        if let Err(why) = check_name(&self.names, node).and(checked) {
            return Decision::Deny { reason: "NodeRefused", message: why.to_string() };
        }
        Decision::Record(self.record(view, csr, node, requested))
    }

    fn record(
        &self,
        view: &View,
        csr: &CertificateSigningRequest,
        node: &str,
        requested: &Requested,
    ) -> Option<Action> {
        let free = claimed(csr).into_iter().filter(|ip| check_free(&self.names, view, node, *ip).is_ok());
        let record = JoinRecord { public_key: requested.public_key.clone(), addresses: free.collect() };
        record.write(view, node)
    }

    /// A node's serving certificate: requested by the node itself, for its name and the addresses of its join.
    fn serving_rule(
        &self,
        view: &View,
        spec: &CertificateSigningRequestSpec,
        requested: &Requested,
    ) -> Decision {
        let Some(node) = requested.name.strip_prefix(NODE_USER) else { return Decision::Leave };
        let own = spec.username.as_deref() == Some(&requested.name) && in_group(spec, NODES);
        let plain = requested.organizations == [NODES] && !requested.others;
        if !own || !plain || !usages_are(spec, "server auth") || check_name(&self.names, node).is_err() {
            return Decision::Leave;
        }
        let Some(record) = JoinRecord::of(view, node) else { return self.adopt(view, node) };
        let names = requested.dns.iter().all(|dns| dns == node);
        let ips = requested
            .ips
            .iter()
            .all(|ip| record.addresses.contains(ip) && check_free(&self.names, view, node, *ip).is_ok());
        if names && ips && !(requested.dns.is_empty() && requested.ips.is_empty()) {
            Decision::Approve("The node requests a serving certificate for its own addresses")
        } else {
            Decision::Leave
        }
    }

    /// Makes the record of a node that an earlier version registered.
    fn adopt(&self, view: &View, node: &str) -> Decision {
        let since = self.names.recorded_since;
        let Some(object) = view.nodes.get(&Key::cluster(node)) else { return Decision::Leave };
        if since.is_none_or(|since| meta::created(&object.metadata) >= since) {
            return Decision::Leave;
        }
        let others: Vec<String> = view
            .nodes
            .iter()
            .filter(|(key, _)| &*key.name != node)
            .flat_map(|(_, other)| addresses(other))
            .collect();
        let own = addresses(object).into_iter().filter(|address| !others.contains(address));
        let free = own.filter_map(|address| address.parse().ok());
        let free = free.filter(|ip| check_free(&self.names, view, node, *ip).is_ok());
        let record = JoinRecord { public_key: String::new(), addresses: free.collect() };
        Decision::Record(record.write(view, node))
    }
}

fn taken(node: &str) -> String {
    format!(
        "node {node:?} was joined by another machine, or with another key; choose another name, or delete the Node if its \
         machine is gone or was set up anew"
    )
}

/// The addresses that a joining machine says it has.
fn claimed(csr: &CertificateSigningRequest) -> BTreeSet<IpAddr> {
    join_record::parse_addresses(meta::annotation(&csr.metadata, NODE_ADDRESSES).unwrap_or_default())
}

fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    }
}

fn in_group(spec: &CertificateSigningRequestSpec, group: &str) -> bool {
    spec.groups.iter().flatten().any(|g| g == group)
}

fn usages_are(spec: &CertificateSigningRequestSpec, purpose: &str) -> bool {
    let usages = spec.usages.as_deref().unwrap_or_default();
    let known = |u: &str| u == purpose || u == "digital signature" || u == "key encipherment";
    usages.iter().all(|u| known(u))
        && [purpose, "digital signature"].iter().all(|w| usages.iter().any(|u| u == w))
}

fn addresses(node: &Node) -> Vec<String> {
    let listed = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    listed.map(|a| a.address.clone()).collect()
}

impl Csrs {
    /// Signs an approved request, or sets the condition Failed.
    fn sign(&self, view: &View, csr: &Arc<CertificateSigningRequest>, now: Timestamp) -> Vec<Action> {
        let Some(signer) = self.signer.as_ref() else { return Vec::new() };
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&csr.spec.signer_name.as_str()) {
            return Vec::new();
        }
        let requested = parse(&csr.spec.request.0);
        let mut actions = Vec::new();
        let mut signed = csr.as_ref().clone();
        let status: &mut CertificateSigningRequestStatus = signed.status.get_or_insert_default();
        let certificate = match requested {
            Some(requested) => {
                actions.extend(self.record_approved(view, csr, &requested));
                self.certificate(signer.as_ref(), csr, &requested)
            }
            None => Err(SignError("the request cannot be parsed or is not signed by its own key".to_owned())),
        };
        match certificate {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err(SignError(message)) => {
                let failed = condition("Failed", "SignerValidationFailure", &message, now);
                status.conditions.get_or_insert_default().push(failed);
            }
        }
        actions.push(Action::update_status(signed));
        actions
    }

    /// A join that a person approved is recorded like any other: the machine may join again.
    fn record_approved(
        &self,
        view: &View,
        csr: &CertificateSigningRequest,
        requested: &Requested,
    ) -> Option<Action> {
        let node = requested.name.strip_prefix(NODE_USER)?;
        let joins = csr.spec.signer_name == KUBELET_CLIENT && in_group(&csr.spec, BOOTSTRAPPERS);
        let same = JoinRecord::of(view, node).is_some_and(|record| record.public_key == requested.public_key);
        if !joins || same || !self.allowed(&csr.spec, requested) {
            return None;
        }
        self.record(view, csr, node, requested)
    }

    fn certificate(
        &self,
        signer: &dyn Signer,
        csr: &CertificateSigningRequest,
        requested: &Requested,
    ) -> Result<String, SignError> {
        let spec = &csr.spec;
        let lifetime = spec.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        let csr_pem =
            String::from_utf8(spec.request.0.clone()).ok().filter(|_| self.allowed(spec, requested));
        let csr_pem = csr_pem.ok_or_else(|| {
            SignError("subject, names or usages are not what this signer certifies".to_owned())
        })?;
        let request = SignRequest {
            csr_pem,
            signer_name: spec.signer_name.clone(),
            usages: spec.usages.clone().unwrap_or_default(),
            lifetime: lifetime.unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME),
        };
        signer.sign(&request)
    }

    /// What each signer certifies, independent of the approval.
    fn allowed(&self, spec: &CertificateSigningRequestSpec, requested: &Requested) -> bool {
        let node =
            requested.name.strip_prefix(NODE_USER).is_some_and(|node| check_name(&self.names, node).is_ok())
                && requested.organizations == [NODES]
                && !requested.others;
        match spec.signer_name.as_str() {
            KUBELET_CLIENT => {
                node && requested.dns.is_empty()
                    && requested.ips.is_empty()
                    && usages_are(spec, "client auth")
            }
            KUBELET_SERVING => {
                node && usages_are(spec, "server auth")
                    && requested.dns.iter().all(|dns| check_name(&self.names, dns).is_ok())
                    && requested.ips.iter().all(|ip| check_address(&self.names, *ip).is_ok())
            }
            // Never a superuser.
            _ => {
                let usages = spec.usages.as_deref().unwrap_or_default();
                let known = ["client auth", "digital signature", "key encipherment"];
                usages.iter().all(|u| known.contains(&u.as_str()))
                    && usages.iter().any(|u| u == "client auth")
                    && !requested.organizations.iter().any(|o| o == "system:masters")
            }
        }
    }
}
