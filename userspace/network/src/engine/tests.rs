//! The engine over a datapath of values; with the plugin in front where the call itself is tested.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use skep_abi::{Addr, verdicts_index};
use skep_datapath::{Observation, ServicesInForce};
use skep_netplan::{DatagramServices, Index, Observed, Owner, Write};
use tokio::task::JoinHandle;

use super::*;
use crate::dataplane::{DataplaneError, Expiry, FlowTableState, Interface, Link};

/// Outlives the engine, like the kernel.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Kernel>>);

#[derive(Default)]
struct Kernel {
    maps: Observed,
    links: Vec<String>,
    /// Maps as they were when programs were put on a pod.
    at_attach: Vec<Observed>,
    writes: usize,
    /// Calls with writes.
    applies: usize,
    /// Writes that fail while it is set.
    refuses: Option<fn(&Write) -> bool>,
    refuse_link: bool,
    expiries: usize,
    /// What the last expiry was given.
    in_force: Option<ServicesInForce>,
    uplinks: Vec<skep_datapath::Uplink>,
}

#[async_trait]
impl Dataplane for Fake {
    fn observed(&self) -> Result<Observed, DataplaneError> {
        Ok(self.0.lock().unwrap().maps.clone())
    }

    fn apply(&mut self, writes: &[Write]) -> Result<(), PartlyApplied> {
        let mut kernel = self.0.lock().unwrap();
        kernel.applies += 1;
        for (done, write) in writes.iter().enumerate() {
            if kernel.refuses.is_some_and(|refuses| refuses(write)) {
                let error = DataplaneError::new("write", "no space");
                return Err(PartlyApplied { done, error, needless: false });
            }
            kernel.maps.apply(write);
            kernel.writes += 1;
        }
        Ok(())
    }

    async fn add_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError> {
        let mut kernel = self.0.lock().unwrap();
        if kernel.refuse_link {
            return Err(DataplaneError::new("add", "no such namespace"));
        }
        if !kernel.links.contains(&link.host_ifname) {
            kernel.links.push(link.host_ifname.clone());
        }
        let position = kernel.links.iter().position(|name| *name == link.host_ifname).unwrap_or_default();
        Ok(Interface { ifindex: position as u32 + 10, mac: [2; 6], host_mac: [4; 6] })
    }

    fn attach_pod(&mut self, _: u32) -> Result<(), DataplaneError> {
        let mut kernel = self.0.lock().unwrap();
        let maps = kernel.maps.clone();
        kernel.at_attach.push(maps);
        Ok(())
    }

    async fn check_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError> {
        self.add_pod(link).await
    }

    async fn delete_pod(&mut self, link: &Link) -> Result<(), DataplaneError> {
        self.0.lock().unwrap().links.retain(|name| *name != link.host_ifname);
        Ok(())
    }

    fn expire_flows(&self, in_force: ServicesInForce, _: Vec<PathBuf>) -> Expiry {
        let kernel = self.0.clone();
        Box::pin(async move {
            let mut kernel = kernel.lock().unwrap();
            kernel.expiries += 1;
            kernel.in_force = Some(in_force);
            Ok(FlowTableState::default())
        })
    }

    fn set_links(&mut self, links: &NodeLinks) -> Result<(), DataplaneError> {
        self.0.lock().unwrap().uplinks = links.uplinks.clone();
        Ok(())
    }

    fn observe(&mut self, _: Observation) -> Result<(), DataplaneError> {
        Ok(())
    }
}

struct Running {
    to: mpsc::Sender<Message>,
    state: watch::Receiver<NetworkState>,
    problems: watch::Receiver<Problems>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(folder: &Path, kernel: &Fake) -> Running {
    start_with(folder, kernel, |_| {}).await
}

async fn start_with(folder: &Path, kernel: &Fake, change: impl FnOnce(&mut NetworkConfig)) -> Running {
    let mut config = NetworkConfig::new("node-a", folder.join("cni.sock"), folder.to_owned());
    config.pod_timeout = Duration::from_millis(200);
    change(&mut config);
    let mut engine = Engine::open(config, kernel.clone()).await.unwrap();
    let (problems, (to, messages)) = (engine.problems(), mpsc::channel(64));
    let (sender, state) = watch::channel(NetworkState::NotReady(String::new()));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move { engine.run(messages, sender, stopped).await });
    Running { to, state, problems, stop, task }
}

impl Running {
    async fn index(&self, change: impl FnOnce(&mut Index) + Send + 'static) {
        self.to.send(Message::index(change)).await.ok().unwrap();
    }

    /// The node with its podCIDR, and the end of all lists.
    async fn sync(&mut self) {
        let node: Node =
            object(json!({"metadata": {"name": "node-a"}, "spec": {"podCIDR": "10.244.0.0/24"}}));
        self.index(move |index| index.apply_node(&node)).await;
        for _ in 0..KINDS {
            self.to.send(Message::Listed).await.ok().unwrap();
        }
        self.state.wait_for(|state| *state == NetworkState::Ready).await.unwrap();
    }

    /// Waits until the problems' text contains this; `""` waits until there is none.
    async fn problem(&mut self, text: &str) {
        let has = |problems: &Problems| match text {
            "" => problems.iter().next().is_none(),
            text => problems.iter().any(|(problem, _)| problem.contains(text)),
        };
        let waiting = self.problems.wait_for(has);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect(text).unwrap();
    }

    async fn pod(&self, name: &str) {
        self.annotated_pod(name, json!({})).await;
    }

    async fn annotated_pod(&self, name: &str, annotations: Value) {
        let uid = format!("uid-{name}");
        let pod: Pod = object(json!({
            "metadata": {"namespace": "default", "name": name, "uid": uid, "annotations": annotations},
            "spec": {"nodeName": "node-a", "containers": []},
        }));
        self.index(move |index| index.apply_pod(&pod)).await;
    }

    async fn add(&self, container: &str, pod: &str) -> Result<Added, CallError> {
        let owner = Owner { namespace: "default".into(), name: pod.into(), uid: format!("uid-{pod}") };
        let (container_id, ifname, netns) = (container.into(), "eth0".into(), "/run/netns/x".into());
        let add = Add { container_id, ifname, netns, owner, mtu: 0, chained: None };
        self.call(|answer| Call::Add(add, answer)).await
    }

    async fn del(&self, container: &str) -> Result<(), CallError> {
        let (container_id, ifname) = (container.to_owned(), "eth0".to_owned());
        self.call(|answer| Call::Del { container_id, ifname, answer }).await
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> T {
        let (send, receive) = oneshot::channel();
        self.to.send(Message::Cni(call(send))).await.ok().unwrap();
        receive.await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn deny_all() -> NetworkPolicy {
    object(json!({"metadata": {"namespace": "default", "name": "deny"}, "spec": {"podSelector": {}}}))
}

fn service(name: &str) -> Service {
    object(json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    }))
}

#[tokio::test]
async fn policy_is_in_the_maps_before_add_is_answered() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.index(|index| index.apply_policy(&deny_all())).await;
    running.sync().await;
    running.pod("web").await;
    let added = running.add("c1", "web").await.unwrap();
    let kernel = kernel.0.lock().unwrap();
    let maps = kernel.at_attach.first().unwrap();
    let pod = maps.pods[&Addr::from(added.addrs[0])];
    let verdicts = maps.verdicts[&verdicts_index(pod.slot, maps.generation)];
    assert!(maps.verdict_maps.contains_key(&verdicts));
}

#[tokio::test]
async fn add_waits_for_its_pod_and_no_longer_than_its_timeout() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    let (waiting, ()) = tokio::join!(running.add("c1", "late"), running.pod("late"));
    assert_eq!(waiting.unwrap().addrs, [std::net::IpAddr::from([10, 244, 0, 2])]);
    assert!(matches!(running.add("c2", "never").await, Err(CallError::NotYet(_))));
    assert_eq!(kernel.0.lock().unwrap().links.len(), 1);
}

#[tokio::test]
async fn a_second_add_gives_the_same_addresses() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.pod("web").await;
    let first = running.add("c1", "web").await.unwrap();
    assert_eq!(running.add("c1", "web").await.unwrap(), first);
    assert_eq!(kernel.0.lock().unwrap().maps.pods.len(), 1);
}

#[tokio::test]
async fn del_removes_everything_and_may_be_repeated() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.pod("web").await;
    running.add("c1", "web").await.unwrap();
    for _ in 0..2 {
        running.del("c1").await.unwrap();
        let kernel = kernel.0.lock().unwrap();
        assert!(kernel.maps.pods.is_empty() && kernel.links.is_empty());
    }
    running.end().await;
    assert_eq!(std::fs::read(folder.path().join("allocations.json")).unwrap(), b"[]");
}

#[tokio::test]
async fn failed_add_leaves_nothing_behind() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.pod("web").await;
    kernel.0.lock().unwrap().refuse_link = true;
    assert!(matches!(running.add("c1", "web").await, Err(CallError::Failed(_))));
    assert_eq!(std::fs::read(folder.path().join("allocations.json")).unwrap(), b"[]");
    assert!(kernel.0.lock().unwrap().maps.pods.is_empty());
}

#[tokio::test]
async fn next_agent_keeps_addresses_and_writes_nothing_again() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.index(|index| index.apply_policy(&deny_all())).await;
    running.sync().await;
    running.pod("web").await;
    let before = running.add("c1", "web").await.unwrap();
    running.end().await;
    let writes = kernel.0.lock().unwrap().writes;

    let mut running = start(folder.path(), &kernel).await;
    running.index(|index| index.apply_policy(&deny_all())).await;
    running.pod("web").await;
    running.pod("other").await;
    running.sync().await;
    assert_eq!(kernel.0.lock().unwrap().writes, writes);
    assert_eq!(running.add("c1", "web").await.unwrap(), before);
    assert_ne!(running.add("c2", "other").await.unwrap().addrs, before.addrs);
}

#[tokio::test]
async fn bandwidth_is_that_of_the_annotations_when_the_sandbox_was_made() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    let limits = |ingress: &str, egress: &str| json!({"kubernetes.io/ingress-bandwidth": ingress, "kubernetes.io/egress-bandwidth": egress});
    let rates = || {
        let kernel = kernel.0.lock().unwrap();
        let rates = kernel.maps.pods.values().map(|pod| (pod.ingress_rate, pod.egress_rate));
        rates.collect::<Vec<_>>()
    };
    running.annotated_pod("web", limits("10M", "1.5k")).await;
    running.add("c1", "web").await.unwrap();
    assert_eq!(rates(), [(10_000_000, 1_500)]);
    running.annotated_pod("web", limits("20M", "20M")).await;
    running.add("c1", "web").await.unwrap();
    running.end().await;
    // As after a change of the maps' layout: the interface exists, the maps are empty.
    kernel.0.lock().unwrap().maps = Observed::default();
    let mut running = start(folder.path(), &kernel).await;
    running.annotated_pod("web", limits("20M", "20M")).await;
    running.sync().await;
    running.del("none").await.unwrap();
    assert_eq!(rates(), [(10_000_000, 1_500)]);
}

#[tokio::test]
async fn unreasonable_bandwidth_gets_no_sandbox() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.annotated_pod("web", json!({"kubernetes.io/ingress-bandwidth": "10"})).await;
    let Err(CallError::Invalid(message)) = running.add("c1", "web").await else { panic!("ADD succeeded") };
    assert_eq!(
        message,
        "annotation kubernetes.io/ingress-bandwidth: \"10\" is not between 1k and 1P bits a second"
    );
    assert!(kernel.0.lock().unwrap().links.is_empty());
}

#[tokio::test]
async fn nothing_changes_until_every_kind_is_listed() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.index(|index| index.apply_service(&service("old"))).await;
    running.sync().await;
    running.end().await;
    let before = kernel.0.lock().unwrap().maps.clone();
    assert_eq!(
        (before.services.len(), before.other_ports.len()),
        (1, 1),
        "a port, and the rest of the address"
    );

    let mut running = start(folder.path(), &kernel).await;
    for _ in 1..KINDS {
        running.to.send(Message::Listed).await.ok().unwrap();
    }
    // The engine answers after it has processed everything sent before.
    assert!(running.call(Call::Status).await.is_err());
    assert_eq!(kernel.0.lock().unwrap().maps, before);
    running.sync().await;
    assert!(kernel.0.lock().unwrap().maps.services.is_empty());
}

#[tokio::test]
async fn a_service_that_cannot_be_written_is_a_problem_and_is_repeated() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    kernel.0.lock().unwrap().refuses = Some(|write| matches!(write, Write::PutService(..)));
    let mut running = start(folder.path(), &kernel).await;
    running.index(|index| index.apply_service(&service("a"))).await;
    running.sync().await;
    running.problem("service default/a: the kernel refused it").await;
    assert_eq!(*running.state.borrow(), NetworkState::Ready);
    kernel.0.lock().unwrap().refuses = None;
    running.problem("").await;
    assert_eq!(kernel.0.lock().unwrap().maps.services.len(), 1);
}

#[tokio::test]
async fn a_route_that_cannot_be_written_holds_up_neither_services_nor_pods_nor_policies() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    kernel.0.lock().unwrap().refuses = Some(|write| matches!(write, Write::PutRoute { .. }));
    let mut running = start(folder.path(), &kernel).await;
    let node: Node = object(json!({
        "metadata": {"name": "node-b"}, "spec": {"podCIDR": "10.244.3.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.5"}]},
    }));
    running.index(move |index| index.apply_node(&node)).await;
    running.sync().await;
    running.problem("route to pods 10.244.3.0/24: the kernel refused it").await;
    running.index(|index| index.apply_service(&service("a"))).await;
    running.index(|index| index.apply_policy(&deny_all())).await;
    running.pod("web").await;
    running.add("c1", "web").await.unwrap();
    {
        let kernel = kernel.0.lock().unwrap();
        assert_eq!(
            (kernel.maps.services.len(), kernel.maps.pods.len(), kernel.maps.verdicts.len()),
            (1, 1, 1)
        );
        assert_eq!(*running.state.borrow(), NetworkState::Ready);
    }
    running.index(|index| index.delete_node("node-b")).await;
    running.problem("").await;
}

#[tokio::test]
async fn a_policy_that_does_not_decode_isolates_its_namespace_on_a_fresh_agent() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    let meta = |namespace: &str| k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some("p".to_owned()),
        ..Default::default()
    };
    let (here, elsewhere) = (meta("default"), meta("elsewhere"));
    running.index(move |index| index.apply_unreadable_policy(&elsewhere, "no type")).await;
    running.sync().await;
    running.pod("web").await;
    running.add("c1", "web").await.unwrap();
    assert!(kernel.0.lock().unwrap().maps.verdicts.is_empty(), "another namespace's policy");
    running.index(move |index| index.apply_unreadable_policy(&here, "no type")).await;
    running.problem("NetworkPolicy default/p: object: it cannot be decoded").await;
    {
        let kernel = kernel.0.lock().unwrap();
        let maps = &kernel.maps;
        let map = maps.verdicts.values().next().unwrap();
        let entries = &maps.verdict_maps[map];
        assert_eq!(entries.len(), 2, "both directions: {entries:?}");
        assert!(entries.iter().all(|(_, _, verdict)| verdict.allow == 0), "{entries:?}");
    }
    running.index(|index| index.delete_policy("elsewhere/p")).await;
    running.index(|index| index.delete_policy("default/p")).await;
    running.problem("").await;
}

#[tokio::test]
async fn no_pod_starts_while_policies_cannot_be_written() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.index(|index| index.apply_policy(&deny_all())).await;
    running.pod("web").await;
    kernel.0.lock().unwrap().refuses = Some(|write| matches!(write, Write::CreateVerdictMap { .. }));
    let Err(CallError::Failed(why)) = running.add("c1", "web").await else { panic!("the pod got a network") };
    assert!(why.contains("its policies could not be written"), "{why}");
    assert!(kernel.0.lock().unwrap().at_attach.is_empty(), "the pod could have sent without its policies");
    running.index(|index| index.apply_service(&service("a"))).await;
    running.pod("other").await;
    assert!(running.add("c2", "other").await.is_err());
    assert_eq!(kernel.0.lock().unwrap().maps.services.len(), 1, "services do not wait for policies");
    kernel.0.lock().unwrap().refuses = None;
    running.add("c1", "web").await.unwrap();
    running.problem("").await;
}

#[tokio::test]
async fn plugin_and_agent_agree_over_the_socket() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.pod("web").await;
    let socket = folder.path().join("cni.sock");
    let listener = crate::cni::listen(&socket).unwrap();
    tokio::spawn(crate::cni::serve(listener, running.to.clone(), running.stop.clone()));
    let mut config = json!({"cniVersion": "1.0.0", "name": "skep", "agentSocket": socket});
    let environment = |command: &str| skep_cni::Environment {
        command: Some(command.into()),
        container_id: Some("c1".into()),
        netns: Some("/run/netns/x".into()),
        ifname: Some("eth0".into()),
        args: Some("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=uid-web".into()),
    };
    let added = skep_cni::run(&environment("ADD"), config.to_string().as_bytes()).await;
    assert!(!added.failed, "{added:?}");
    let result = added.stdout.unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.0.2/32");
    config["prevResult"] = result;
    for command in ["CHECK", "DEL", "DEL"] {
        let outcome = skep_cni::run(&environment(command), config.to_string().as_bytes()).await;
        assert!(!outcome.failed, "{command}: {outcome:?}");
    }
    let gone = skep_cni::run(&environment("CHECK"), config.to_string().as_bytes()).await;
    assert_eq!(gone.stdout.unwrap()["code"], 3);
    assert!(kernel.0.lock().unwrap().links.is_empty());
}

#[tokio::test]
async fn flows_are_expired_when_backends_of_datagrams_may_go_and_not_for_streams() {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start(folder.path(), &kernel).await;
    running.sync().await;
    running.index(|index| index.apply_service(&service("web"))).await;
    // The engine answers after the writes.
    running.del("none").await.unwrap();
    assert_eq!(kernel.0.lock().unwrap().expiries, 0);
    let mut names = service("names");
    let spec = names.spec.as_mut().unwrap();
    spec.cluster_ip = Some("10.96.0.2".into());
    spec.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
    let first = names.clone();
    running.index(move |index| index.apply_service(&first)).await;
    let in_force = loop {
        if let Some(in_force) = kernel.0.lock().unwrap().in_force.clone() {
            break in_force;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let ask = || {
        tokio::task::spawn_blocking({
            let in_force = in_force.clone();
            move || in_force()
        })
    };
    let of_maps = || DatagramServices::of(&kernel.0.lock().unwrap().maps);
    let (first, written) = (ask().await.unwrap(), of_maps());
    assert_eq!(first, written);
    // A walk that began earlier asks again at its end, and learns of what was written since.
    names.spec.as_mut().unwrap().cluster_ip = Some("10.96.0.3".into());
    running.index(move |index| index.apply_service(&names)).await;
    running.del("none").await.unwrap();
    let (second, written) = (ask().await.unwrap(), of_maps());
    assert_eq!(second, written);
    assert_ne!(first, second);
    running.end().await;
    assert!(ask().await.unwrap().is_empty(), "nothing is stale once the engine has ended");
}

#[tokio::test]
async fn a_change_alone_is_written_at_once_and_a_burst_together() {
    const WINDOW: Duration = Duration::from_secs(2);
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let mut running = start_with(folder.path(), &kernel, |config| config.coalesce_window = WINDOW).await;
    running.sync().await;
    tokio::time::sleep(WINDOW).await;
    let service = |host: usize| -> Service {
        object(json!({
            "metadata": {"namespace": "default", "name": format!("web-{host}")},
            "spec": {"clusterIP": format!("10.96.0.{host}"), "ports": [{"port": 80}]},
        }))
    };
    let written = async |count: usize| {
        while kernel.0.lock().unwrap().maps.services.len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (begun, first) = (Instant::now(), service(1));
    running.index(move |index| index.apply_service(&first)).await;
    written(1).await;
    assert!(begun.elapsed() < WINDOW, "{:?}", begun.elapsed());
    let before = kernel.0.lock().unwrap().applies;
    for host in 2..=31 {
        let next = service(host);
        running.index(move |index| index.apply_service(&next)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    written(31).await;
    let applies = kernel.0.lock().unwrap().applies - before;
    assert!(applies <= 2, "{applies} plans");
    running.end().await;
}
