//! The plugin as a runtime calls it, with an agent that records its requests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};
use skep_cni::agent::{
    AddReply, AddRequest, Attachment, CheckReply, CheckRequest, DelReply, DelRequest, GcReply, GcRequest,
    Network, NetworkServer, StatusReply, StatusRequest,
};
use skep_cni::{Environment, Outcome, run};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

#[derive(Default)]
struct Recorded {
    added: Vec<AddRequest>,
    deleted: Vec<Attachment>,
    checked: Vec<CheckRequest>,
    kept: Option<Vec<Attachment>>,
    refuse: Option<Status>,
}

#[derive(Clone, Default)]
struct FakeAgent(Arc<Mutex<Recorded>>);

impl FakeAgent {
    fn answer<T>(&self, reply: T, record: impl FnOnce(&mut Recorded)) -> Result<Response<T>, Status> {
        let mut recorded = self.0.lock().unwrap();
        record(&mut recorded);
        recorded.refuse.clone().map_or(Ok(Response::new(reply)), Err)
    }
}

#[tonic::async_trait]
impl Network for FakeAgent {
    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddReply>, Status> {
        let reply = AddReply {
            addresses: vec!["10.244.0.2".into(), "fd00::2".into()],
            gateways: vec!["169.254.1.1".into(), "fe80::1".into()],
            mac: "02:00:00:00:00:02".into(),
            host_ifname: "skep1234".into(),
            host_mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
        };
        self.answer(reply, |recorded| recorded.added.push(request.into_inner()))
    }

    async fn del(&self, request: Request<DelRequest>) -> Result<Response<DelReply>, Status> {
        self.answer(DelReply {}, |recorded| recorded.deleted.extend(request.into_inner().attachment))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        self.answer(CheckReply {}, |recorded| recorded.checked.push(request.into_inner()))
    }

    async fn gc(&self, request: Request<GcRequest>) -> Result<Response<GcReply>, Status> {
        self.answer(GcReply {}, |recorded| recorded.kept = Some(request.into_inner().valid))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.answer(StatusReply {}, |_| {})
    }
}

struct Harness {
    agent: FakeAgent,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

fn harness() -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cni.sock");
    let agent = FakeAgent::default();
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(NetworkServer::new(agent.clone()));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    Harness { agent, socket, _folder: folder }
}

impl Harness {
    async fn call(&self, command: &str, version: &str, more: Value) -> Outcome {
        let mut config =
            json!({"cniVersion": version, "name": "skep", "type": "skep-cni", "agentSocket": self.socket});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run(&environment(command), config.to_string().as_bytes()).await
    }
}

fn environment(command: &str) -> Environment {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u-1";
    Environment {
        command: Some(command.into()),
        container_id: Some("abc123".into()),
        netns: Some("/var/run/netns/cni-1".into()),
        ifname: Some("eth0".into()),
        args: Some(args.into()),
    }
}

fn code(outcome: &Outcome) -> Option<u64> {
    outcome.failed.then(|| outcome.stdout.as_ref().and_then(|value| value["code"].as_u64())).flatten()
}

#[tokio::test]
async fn add_sends_the_pod_to_the_agent_and_prints_the_addresses() {
    let harness = harness();
    let outcome = harness.call("ADD", "1.0.0", json!({})).await;
    assert!(!outcome.failed, "{outcome:?}");
    assert_eq!(
        outcome.stdout.unwrap(),
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "skep1234", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/cni-1"},
            ],
            "ips": [
                {"address": "10.244.0.2/32", "gateway": "169.254.1.1", "interface": 1},
                {"address": "fd00::2/128", "gateway": "fe80::1", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
            "dns": {},
        })
    );
    let recorded = harness.agent.0.lock().unwrap();
    let request = &recorded.added[0];
    let pod = request.pod.clone().unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("default", "web-1", "u-1"));
    assert_eq!(request.chained, None);
}

#[tokio::test]
async fn each_version_gets_its_own_form() {
    let harness = harness();
    let old = harness.call("ADD", "0.4.0", json!({})).await.stdout.unwrap();
    assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
    let new = harness.call("ADD", "1.1.0", json!({})).await.stdout.unwrap();
    assert_eq!(new["interfaces"][1]["mtu"], json!(1500));
    assert_eq!(new["ips"][0].get("version"), None);
}

#[tokio::test]
async fn chained_add_names_the_other_plugins_interface_and_passes_its_result_on() {
    let harness = harness();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "aa:00:00:00:00:01"},
            {"name": "veth7", "mac": "aa:00:00:00:00:02"},
            {"name": "eth0", "mac": "aa:00:00:00:00:03", "sandbox": "/run/netns/cni-1"},
        ],
        "ips": [{"address": "10.22.0.5/16", "gateway": "10.22.0.1", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0", "priority": 7}],
        "dns": {"nameservers": ["10.96.0.10"]},
    });
    let outcome = harness.call("ADD", "1.0.0", json!({"prevResult": previous})).await;
    assert_eq!(outcome.stdout.unwrap(), previous);
    let recorded = harness.agent.0.lock().unwrap();
    let chained = recorded.added[0].chained.clone().unwrap();
    assert_eq!((chained.host_ifname.as_str(), chained.mac.as_str()), ("veth7", "aa:00:00:00:00:03"));
    assert_eq!(chained.addresses, ["10.22.0.5"]);
}

#[tokio::test]
async fn chained_add_without_our_interface_is_refused() {
    let harness = harness();
    let previous = json!({"interfaces": [{"name": "eth1", "sandbox": "/run/netns/cni-1"}]});
    let outcome = harness.call("ADD", "1.0.0", json!({"prevResult": previous})).await;
    assert_eq!(code(&outcome), Some(7));
    assert!(harness.agent.0.lock().unwrap().added.is_empty());
}

#[tokio::test]
async fn del_needs_no_namespace_and_prints_nothing() {
    let harness = harness();
    let config = json!({"cniVersion": "1.0.0", "name": "skep", "agentSocket": harness.socket});
    let environment = Environment { netns: None, ..environment("DEL") };
    let outcome = run(&environment, config.to_string().as_bytes()).await;
    assert_eq!(outcome, Outcome { stdout: None, failed: false });
    assert_eq!(harness.agent.0.lock().unwrap().deleted[0].container_id, "abc123");
}

#[tokio::test]
async fn check_compares_with_the_previous_result() {
    let harness = harness();
    let result = harness.call("ADD", "1.0.0", json!({})).await.stdout.unwrap();
    let outcome = harness.call("CHECK", "1.0.0", json!({"prevResult": result})).await;
    assert!(!outcome.failed, "{outcome:?}");
    assert_eq!(harness.agent.0.lock().unwrap().checked[0].addresses, ["10.244.0.2", "fd00::2"]);
    assert_eq!(code(&harness.call("CHECK", "1.0.0", json!({})).await), Some(7));
    assert_eq!(code(&harness.call("CHECK", "0.3.1", json!({"prevResult": result})).await), Some(1));
}

#[tokio::test]
async fn gc_without_a_list_deletes_nothing() {
    let harness = harness();
    assert_eq!(code(&harness.call("GC", "1.1.0", json!({})).await), Some(7));
    assert!(harness.agent.0.lock().unwrap().kept.is_none());
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    assert!(!harness.call("GC", "1.1.0", valid).await.failed);
    assert_eq!(harness.agent.0.lock().unwrap().kept.as_ref().unwrap()[0].container_id, "c1");
}

#[tokio::test]
async fn refusals_of_the_agent_have_cni_codes() {
    let harness = harness();
    for (status, expected) in
        [(Status::unavailable("not yet"), 11), (Status::not_found("x"), 3), (Status::internal("x"), 100)]
    {
        harness.agent.0.lock().unwrap().refuse = Some(status);
        assert_eq!(code(&harness.call("ADD", "1.0.0", json!({})).await), Some(expected));
    }
    assert_eq!(code(&harness.call("STATUS", "1.1.0", json!({})).await), Some(50));
}

#[tokio::test]
async fn absent_agent_means_try_again() {
    let config = json!({"cniVersion": "1.0.0", "name": "skep", "agentSocket": "/nonexistent/cni.sock"});
    let outcome = run(&environment("ADD"), config.to_string().as_bytes()).await;
    assert_eq!(code(&outcome), Some(11));
    assert_eq!(outcome.stdout.unwrap()["cniVersion"], "1.0.0");
}

#[tokio::test]
async fn version_needs_no_configuration() {
    let outcome = run(&environment("VERSION"), b"").await;
    assert_eq!(
        outcome.stdout.unwrap(),
        json!({"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
}

#[tokio::test]
async fn invalid_calls_have_their_codes() {
    let good = json!({"cniVersion": "1.0.0", "name": "skep"}).to_string();
    let cases = [
        (environment("ADD"), "{", 6),
        (environment("ADD"), r#"{"cniVersion": "0.2.0", "name": "x"}"#, 1),
        (environment("ADD"), r#"{"cniVersion": "1.0.0"}"#, 7),
        (environment("NOPE"), good.as_str(), 4),
        (Environment { ifname: Some("a/b".into()), ..environment("ADD") }, good.as_str(), 4),
        (Environment { container_id: Some("../x".into()), ..environment("DEL") }, good.as_str(), 4),
        (Environment { netns: None, ..environment("ADD") }, good.as_str(), 4),
    ];
    let mut wrong = Vec::new();
    for (environment, stdin, expected) in cases {
        let found = code(&run(&environment, stdin.as_bytes()).await);
        if found != Some(expected) {
            wrong.push(format!("{found:?} instead of {expected}: {environment:?} {stdin}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("1.0.0")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("cniVersion"),
            Just("name"),
            Just("prevResult"),
            Just("interfaces"),
            Just("ips"),
            Just("address"),
            Just("interface"),
            Just("sandbox"),
            Just("cni.dev/valid-attachments"),
            Just("mtu"),
            Just("routes"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..5).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_input_causes_a_panic(
        command in "(ADD|DEL|CHECK|GC|STATUS|VERSION|[A-Z]{0,5})",
        id in ".{0,12}", ifname in ".{0,18}", args in ".{0,40}",
        stdin in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), any_json().prop_map(|v| v.to_string().into_bytes())],
        previous in any_json(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let environment = Environment {
            command: Some(command), container_id: Some(id), netns: Some("/run/netns/x".into()), ifname: Some(ifname),
            args: Some(args),
        };
        let outcome = runtime.block_on(run(&environment, &stdin));
        prop_assert!(!outcome.failed || outcome.stdout.is_some());
        let config = json!({"cniVersion": "1.0.0", "name": "x", "agentSocket": "/nonexistent", "prevResult": previous});
        let environment = Environment { container_id: Some("a".into()), ifname: Some("eth0".into()), ..environment };
        let outcome = runtime.block_on(run(&environment, config.to_string().as_bytes()));
        prop_assert!(!outcome.failed || outcome.stdout.is_some());
    }
}
