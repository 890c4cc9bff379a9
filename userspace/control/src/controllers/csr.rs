//! CertificateSigningRequests: those of nodes are approved by rule, approved ones are signed, old ones deleted. PURE but
//! for the signer's key. A request that passes no rule is left to a person, never denied.

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
use crate::config::{SignRequest, Signer};
use crate::meta;

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
}

impl Controller for Csrs {
    fn name(&self) -> &'static str {
        "csr"
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::CertificateSigningRequest, keys);
        // A serving request waits for the node's addresses.
        if let Some(Object::Node(node)) = &change.new
            && addresses(node)
                != change.old.as_ref().map_or(Vec::new(), |o| match o {
                    Object::Node(old) => addresses(old),
                    _ => Vec::new(),
                })
        {
            let user = format!("{NODE_USER}{}", meta::name(&node.metadata));
            let open = view.csrs.iter().filter(|(_, c)| c.spec.username.as_deref() == Some(&user));
            keys.extend(open.map(|(key, _)| key.clone()));
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
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
            CsrState::Pending => actions.extend(approve(view, csr, context.now)),
            CsrState::Approved => actions.extend(self.sign(csr, context.now)),
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
        ..Default::default()
    };
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(dns) => requested.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => requested.ips.extend(address(bytes)),
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

/// The approval of a node's request, if a rule allows it.
fn approve(view: &View, csr: &Arc<CertificateSigningRequest>, now: Timestamp) -> Option<Action> {
    let requested = parse(&csr.spec.request.0)?;
    let message = match csr.spec.signer_name.as_str() {
        KUBELET_CLIENT => client_rule(&csr.spec, &requested)?,
        KUBELET_SERVING => serving_rule(view, &csr.spec, &requested)?,
        _ => return None,
    };
    let mut approved = csr.as_ref().clone();
    let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(condition("Approved", "AutoApproved", message, now));
    Some(Action::Update { object: approved.into(), subresource: "approval" })
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

/// A node's client certificate: for a bootstrapper, or for the node itself, which renews it.
fn client_rule(spec: &CertificateSigningRequestSpec, requested: &Requested) -> Option<&'static str> {
    let node = requested.name.starts_with(NODE_USER)
        && requested.name.len() > NODE_USER.len()
        && requested.organizations == [NODES]
        && requested.dns.is_empty()
        && requested.ips.is_empty()
        && !requested.others;
    if !node || !usages_are(spec, "client auth") {
        return None;
    }
    if spec.username.as_deref() == Some(&requested.name) && in_group(spec, NODES) {
        return Some("The node renews its own client certificate");
    }
    in_group(spec, BOOTSTRAPPERS).then_some("A bootstrapping node requests its client certificate")
}

/// A node's serving certificate: requested by the node itself, for names and addresses of its Node object.
fn serving_rule(
    view: &View,
    spec: &CertificateSigningRequestSpec,
    requested: &Requested,
) -> Option<&'static str> {
    let node = requested.name.strip_prefix(NODE_USER)?;
    let own = spec.username.as_deref() == Some(&requested.name) && in_group(spec, NODES);
    if !own || requested.organizations != [NODES] || requested.others || !usages_are(spec, "server auth") {
        return None;
    }
    let known = addresses(view.nodes.get(&Key::cluster(node))?);
    let names = requested.dns.iter().all(|dns| dns == node || known.contains(dns));
    let ips = requested.ips.iter().all(|ip| known.iter().any(|k| k.parse() == Ok(*ip)));
    (names && ips && !(requested.dns.is_empty() && requested.ips.is_empty()))
        .then_some("The node requests a serving certificate for its own addresses")
}

fn addresses(node: &Node) -> Vec<String> {
    let listed = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    listed.map(|a| a.address.clone()).collect()
}

impl Csrs {
    /// Signs an approved request, or sets the condition Failed.
    fn sign(&self, csr: &Arc<CertificateSigningRequest>, now: Timestamp) -> Option<Action> {
        let signer = self.signer.as_ref()?;
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&csr.spec.signer_name.as_str()) {
            return None;
        }
        let lifetime =
            csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        let mut signed = csr.as_ref().clone();
        let status: &mut CertificateSigningRequestStatus = signed.status.get_or_insert_default();
        let signature = match (parse(&csr.spec.request.0), String::from_utf8(csr.spec.request.0.clone())) {
            (Some(requested), Ok(csr_pem)) if allowed(&csr.spec, &requested) => signer
                .sign(&SignRequest {
                    csr_pem,
                    signer_name: csr.spec.signer_name.clone(),
                    usages: csr.spec.usages.clone().unwrap_or_default(),
                    lifetime: lifetime.unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME),
                })
                .map_err(|e| e.to_string()),
            (Some(_), _) => Err("subject, names or usages are not what this signer certifies".to_owned()),
            (None, _) => Err("the request cannot be parsed or is not signed by its own key".to_owned()),
        };
        match signature {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err(message) => {
                let failed = condition("Failed", "SignerValidationFailure", &message, now);
                status.conditions.get_or_insert_default().push(failed);
            }
        }
        Some(Action::update_status(signed))
    }
}

/// What each signer certifies, independent of the approval.
fn allowed(spec: &CertificateSigningRequestSpec, requested: &Requested) -> bool {
    let node =
        requested.name.starts_with(NODE_USER) && requested.organizations == [NODES] && !requested.others;
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => {
            node && requested.dns.is_empty() && requested.ips.is_empty() && usages_are(spec, "client auth")
        }
        KUBELET_SERVING => node && usages_are(spec, "server auth"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SignError;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    struct Echo;
    impl Signer for Echo {
        fn sign(&self, request: &SignRequest) -> Result<String, SignError> {
            Ok(format!("signed for {}", request.signer_name))
        }
    }

    fn pem(name: &str, organization: &str, ips: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.subject_alt_names = ips.iter().map(|ip| SanType::IpAddress(ip.parse().unwrap())).collect();
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    fn csr(
        signer: &str,
        user: &str,
        group: &str,
        purpose: &str,
        request: Vec<u8>,
    ) -> CertificateSigningRequest {
        let mut csr = CertificateSigningRequest::default();
        csr.metadata.name = Some("csr-1".into());
        csr.metadata.creation_timestamp = Some(meta::time(Timestamp::UNIX_EPOCH));
        csr.spec.signer_name = signer.into();
        csr.spec.username = Some(user.into());
        csr.spec.groups = Some(vec![group.into()]);
        csr.spec.usages = Some(vec!["digital signature".into(), purpose.into()]);
        csr.spec.request = ByteString(request);
        csr
    }

    fn reconcile(view: &View) -> Vec<Action> {
        let context = Context { now: Timestamp::UNIX_EPOCH, seed: 0, failure: None };
        let csrs = Csrs { signer: Some(Arc::new(Echo)) };
        let mut actions = csrs.reconcile(view, &Key::cluster("csr-1"), context);
        actions.retain(|a| !matches!(a, Action::RequeueAt(_)));
        actions
    }

    fn view(csr: CertificateSigningRequest) -> View {
        let mut view = View::default();
        view.watched(csr.into(), Timestamp::UNIX_EPOCH);
        view
    }

    fn approves(csr: CertificateSigningRequest) -> bool {
        matches!(reconcile(&view(csr)).as_slice(), [Action::Update { subresource: "approval", .. }])
    }

    #[test]
    fn bootstrappers_get_node_identities_and_nothing_else() {
        let ask = |cn: &str, org: &str, group: &str| {
            approves(csr(KUBELET_CLIENT, "system:bootstrap:abc", group, "client auth", pem(cn, org, &[])))
        };
        assert!(ask("system:node:n1", NODES, BOOTSTRAPPERS));
        assert!(!ask("system:node:n1", NODES, "system:authenticated"));
        assert!(!ask("system:node:n1", "system:masters", BOOTSTRAPPERS));
        assert!(!ask("admin", NODES, BOOTSTRAPPERS));
    }

    #[test]
    fn a_node_renews_its_own_identity_but_not_another() {
        let ask = |user: &str| {
            approves(csr(KUBELET_CLIENT, user, NODES, "client auth", pem("system:node:n1", NODES, &[])))
        };
        assert!(ask("system:node:n1"));
        assert!(!ask("system:node:n2"));
    }

    #[test]
    fn serving_certificates_are_for_the_nodes_own_addresses() {
        let ask = |ip: &str| {
            let request = pem("system:node:n1", NODES, &[ip]);
            let mut view = view(csr(KUBELET_SERVING, "system:node:n1", NODES, "server auth", request));
            let node: Node = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "n1"},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
            }))
            .unwrap();
            view.watched(node.into(), Timestamp::UNIX_EPOCH);
            reconcile(&view).len() == 1
        };
        assert!(ask("10.0.0.1"));
        assert!(!ask("10.0.0.2"));
    }

    #[test]
    fn a_forged_request_fails_even_when_approved() {
        let mut request = String::from_utf8(pem("system:node:n1", NODES, &[])).unwrap();
        let middle = request.len() / 2;
        let other = if request.as_bytes()[middle] == b'A' { "B" } else { "A" };
        request.replace_range(middle..=middle, other);
        let mut forged = csr(KUBELET_CLIENT, "x", BOOTSTRAPPERS, "client auth", request.into_bytes());
        let approved = condition("Approved", "r", "m", Timestamp::UNIX_EPOCH);
        forged.status.get_or_insert_default().conditions = Some(vec![approved]);
        match reconcile(&view(forged)).as_slice() {
            [Action::Update { object: Object::CertificateSigningRequest(c), subresource: "status" }] => {
                assert_eq!(CsrState::of(c), CsrState::Failed);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approved_request_is_signed_once() {
        let mut good =
            csr(KUBELET_CLIENT, "x", BOOTSTRAPPERS, "client auth", pem("system:node:n1", NODES, &[]));
        let approved = condition("Approved", "r", "m", Timestamp::UNIX_EPOCH);
        good.status.get_or_insert_default().conditions = Some(vec![approved]);
        let mut view = view(good);
        let Some(Action::Update { object, .. }) = reconcile(&view).pop() else { panic!("not signed") };
        view.watched(object, Timestamp::UNIX_EPOCH);
        assert!(reconcile(&view).is_empty());
    }
}
