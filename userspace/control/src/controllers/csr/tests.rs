//! Which certificate requests are approved, denied, signed or left.

use super::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

struct Echo;
impl Signer for Echo {
    fn sign(&self, request: &SignRequest) -> Result<String, SignError> {
        Ok(format!("signed for {}", request.signer_name))
    }
}

fn pem(name: &str, organization: &str, names: &[&str]) -> Vec<u8> {
    pem_of(&KeyPair::generate().unwrap(), name, organization, names)
}

fn pem_of(key: &KeyPair, name: &str, organization: &str, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let name = |name: &&str| match name.parse() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(name).collect();
    params.serialize_request(key).unwrap().pem().unwrap().into_bytes()
}

fn csr(signer: &str, user: &str, group: &str, purpose: &str, request: Vec<u8>) -> CertificateSigningRequest {
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

fn csrs() -> Csrs {
    let names = NodeNames {
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        servers: ["api.example.org", "192.0.2.1"].map(str::to_owned).into(),
        recorded_since: Some(Timestamp::from_second(1000).unwrap()),
    };
    Csrs { signer: Some(Arc::new(Echo)), names }
}

fn reconcile(view: &View) -> Vec<Action> {
    let context =
        Context { now: Timestamp::UNIX_EPOCH, steady: Timestamp::UNIX_EPOCH, seed: 0, failure: None };
    let mut actions = csrs().reconcile(view, &Key::cluster("csr-1"), context);
    actions.retain(|a| !matches!(a, Action::RequeueAt(_)));
    actions
}

/// Reconciles until nothing changes but the request, whose condition is returned: `Approved`, `Denied`, or nothing.
fn decided(view: &mut View) -> String {
    for _ in 0..3 {
        match reconcile(view).pop() {
            Some(Action::Create(record)) => {
                view.watched(record, Timestamp::UNIX_EPOCH);
            }
            Some(Action::Update { object: Object::CertificateSigningRequest(csr), subresource }) => {
                assert_eq!(subresource, "approval");
                let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref()).unwrap();
                return conditions.first().unwrap().type_.clone();
            }
            Some(other) => panic!("{other:?}"),
            None => return String::new(),
        }
    }
    panic!("no end");
}

fn join(name: &str, key: &KeyPair, addresses: &str) -> CertificateSigningRequest {
    let request = pem_of(key, &format!("system:node:{name}"), NODES, &[]);
    let mut csr = csr(KUBELET_CLIENT, "system:bootstrap:abc", BOOTSTRAPPERS, "client auth", request);
    csr.metadata.annotations = Some([(NODE_ADDRESSES.to_owned(), addresses.to_owned())].into());
    csr
}

fn serving(name: &str, names: &[&str]) -> CertificateSigningRequest {
    let user = format!("system:node:{name}");
    csr(KUBELET_SERVING, &user, NODES, "server auth", pem(&user, NODES, names))
}

fn node(name: &str, created: i64, address: &str) -> Node {
    let created = Timestamp::from_second(created).unwrap();
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": created.to_string()},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
    .unwrap()
}

fn view(csr: CertificateSigningRequest) -> View {
    let mut view = View::default();
    view.watched(csr.into(), Timestamp::UNIX_EPOCH);
    view
}

fn approves(csr: CertificateSigningRequest) -> bool {
    decided(&mut view(csr)) == "Approved"
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
fn serving_certificates_are_for_what_the_join_recorded_and_not_for_what_the_node_says_of_itself() {
    let ask = |names: &[&str]| {
        let mut view = view(join("n1", &KeyPair::generate().unwrap(), "10.0.0.1,192.0.2.1"));
        assert_eq!(decided(&mut view), "Approved");
        let mut said = node("n1", 2000, "10.0.0.2");
        let addresses = said.status.as_mut().unwrap().addresses.as_mut().unwrap();
        for name in names {
            let mut address = addresses[0].clone();
            address.address = (*name).to_owned();
            addresses.push(address);
        }
        view.watched(said.into(), Timestamp::UNIX_EPOCH);
        view.watched(serving("n1", names).into(), Timestamp::UNIX_EPOCH);
        decided(&mut view)
    };
    assert_eq!(ask(&["10.0.0.1", "n1"]), "Approved");
    for names in [
        "10.0.0.2",
        "kubernetes.default.svc",
        "api.example.org",
        "localhost",
        "127.0.0.1",
        "10.96.0.1",
        "::ffff:10.96.0.1",
        "192.0.2.1",
        "n2",
    ] {
        assert_eq!(ask(&[names]), "", "{names}");
        assert_eq!(ask(&["10.0.0.1", names]), "", "{names}");
    }
}

#[test]
fn names_of_servers_and_services_are_not_signed_even_when_approved() {
    for name in
        ["kubernetes.default.svc", "web.shop.svc.cluster.local", "localhost", "127.0.0.1", "10.96.0.1"]
    {
        let mut request = serving("n1", &[name]);
        let approved = condition("Approved", "r", "m", Timestamp::UNIX_EPOCH);
        request.status.get_or_insert_default().conditions = Some(vec![approved]);
        match reconcile(&view(request)).as_slice() {
            [Action::Update { object: Object::CertificateSigningRequest(c), subresource: "status" }] => {
                assert_eq!(CsrState::of(c), CsrState::Failed, "{name}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_machine_cannot_join_under_the_name_of_a_server_or_a_service_or_with_their_addresses() {
    let key = KeyPair::generate().unwrap();
    for (name, address) in [
        ("kubernetes.default.svc", "10.0.0.1"),
        ("kubernetes", "10.0.0.1"),
        ("localhost", "10.0.0.1"),
        ("web.shop.svc.cluster.local", "10.0.0.1"),
        ("api.example.org", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("N1", "10.0.0.1"),
        ("n1", "127.0.0.1"),
        ("n1", "10.0.0.1,169.254.169.254"),
        ("n1", "10.96.0.1"),
        ("n1", "0.0.0.0"),
    ] {
        assert_eq!(decided(&mut view(join(name, &key, address))), "Denied", "{name} {address}");
    }
}

#[test]
fn a_name_belongs_to_the_machine_that_joined_first() {
    let (first, second) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut view = view(join("n1", &first, "10.0.0.1"));
    assert_eq!(decided(&mut view), "Approved");
    view.watched(join("n1", &second, "10.0.0.9").into(), Timestamp::UNIX_EPOCH);
    assert_eq!(decided(&mut view), "Denied", "another machine");
    view.watched(join("n1", &first, "10.0.0.1").into(), Timestamp::UNIX_EPOCH);
    assert_eq!(decided(&mut view), "Approved", "the same machine again");
    view.watched(join("n2", &second, "10.0.0.1").into(), Timestamp::UNIX_EPOCH);
    assert_eq!(decided(&mut view), "Denied", "another machine's address");
}

#[test]
fn a_registered_node_without_a_record_is_not_taken_over() {
    let mut view = view(join("n1", &KeyPair::generate().unwrap(), "10.0.0.1"));
    view.watched(node("n1", 2000, "10.0.0.1").into(), Timestamp::UNIX_EPOCH);
    assert_eq!(decided(&mut view), "Denied");
}

#[test]
fn nodes_of_earlier_versions_keep_their_addresses_and_later_ones_need_a_record() {
    let ask = |created: i64, ip: &str| {
        let mut view = view(serving("n1", &[ip]));
        view.watched(node("n1", created, "10.0.0.1").into(), Timestamp::UNIX_EPOCH);
        decided(&mut view)
    };
    assert_eq!(ask(999, "10.0.0.1"), "Approved");
    assert_eq!(ask(999, "10.0.0.2"), "");
    assert_eq!(ask(1000, "10.0.0.1"), "");
}

#[test]
fn a_record_goes_with_its_node_or_when_the_machine_never_registers() {
    let mut view = view(join("n1", &KeyPair::generate().unwrap(), "10.0.0.1"));
    decided(&mut view);
    let reconcile = |view: &View, now: i64| {
        let now = Timestamp::from_second(now).unwrap();
        csrs().reconcile(view, &join_record::key("n1"), Context { now, steady: now, seed: 0, failure: None })
    };
    assert!(matches!(reconcile(&view, 60).as_slice(), [Action::RequeueAt(_)]));
    assert!(matches!(reconcile(&view, 90_000).as_slice(), [Action::Delete(_)]));
    view.watched(node("n1", 2000, "10.0.0.1").into(), Timestamp::UNIX_EPOCH);
    match reconcile(&view, 60).as_slice() {
        [Action::Update { object: Object::Secret(record), .. }] => {
            let owners = record.metadata.owner_references.as_ref().unwrap();
            assert_eq!((owners[0].kind.as_str(), owners[0].uid.as_str()), ("Node", "n1"));
        }
        other => panic!("{other:?}"),
    }
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
    let mut good = csr(KUBELET_CLIENT, "x", BOOTSTRAPPERS, "client auth", pem("system:node:n1", NODES, &[]));
    let approved = condition("Approved", "r", "m", Timestamp::UNIX_EPOCH);
    good.status.get_or_insert_default().conditions = Some(vec![approved]);
    let mut view = view(good);
    let Some(Action::Update { object, .. }) = reconcile(&view).pop() else { panic!("not signed") };
    view.watched(object, Timestamp::UNIX_EPOCH);
    assert!(reconcile(&view).is_empty());
}
