//! Certificates, names of nodes, and servers that share a store.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use skep_apiserver::Identity;
use skep_control::{SignError, SignRequest, Signer};
use skep_test_servers::Etcd;
use skep_tests::api_server::TestApiServer;
use skep_tests::pipe::Pipe;
use skep_tests::server_process::ServerProcess;
use skep_tests::stepped_clock::SteppedClock;

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until `condition` holds.
async fn until<F: Future<Output = Result<bool>>>(what: &str, condition: impl Fn() -> F) -> Result<Duration> {
    let start = Instant::now();
    while !condition().await.unwrap_or(false) {
        ensure!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(start.elapsed())
}

struct Sign;
impl Signer for Sign {
    fn sign(&self, request: &SignRequest) -> Result<String, SignError> {
        Ok(format!("signed for {}", request.signer_name))
    }
}

fn request(signer: &str, node: &str, purpose: &str, names: &[&str]) -> Result<CertificateSigningRequest> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName((*name).try_into()?),
        });
    }
    let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": "csr-"},
        "spec": {"request": "", "signerName": signer, "usages": ["digital signature", purpose]},
    }))?;
    csr.spec.request = ByteString(pem.into_bytes());
    Ok(csr)
}

fn condition_of(csr: &CertificateSigningRequest) -> String {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.and_then(|all| all.first()).map(|condition| condition.type_.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gives_itself_the_names_of_the_api_server_is_not_certified_for_them() -> Result<()> {
    let server = TestApiServer::start().await?;
    let config = skep_control::Config { signer: Some(Arc::new(Sign)), ..skep_control::Config::default() };
    let running =
        tokio::spawn(skep_control::run(skep_control::Clients::new(server.clients_by_user().0), config));
    let token = server.client_of(Identity::new("system:bootstrap:abcdef", &["system:bootstrappers"]));
    let evil = server.client_of(Identity::new("system:node:evil", &["system:nodes"]));
    let ask = async |client: &Client, mut csr: CertificateSigningRequest, addresses: &str| {
        if !addresses.is_empty() {
            let annotation = ("skep.io/node-addresses".to_owned(), addresses.to_owned());
            csr.metadata.annotations = Some([annotation].into());
        }
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        let created = api.create(&PostParams::default(), &csr).await?;
        Ok::<_, anyhow::Error>(created.metadata.name.unwrap_or_default())
    };
    let all: Api<CertificateSigningRequest> = Api::all(server.client());
    let decided = async |name: &str| {
        until("a decision", || async { Ok(!condition_of(&all.get(name).await?).is_empty()) }).await?;
        Ok::<_, anyhow::Error>(condition_of(&all.get(name).await?))
    };
    let client_signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let joins = |node: &str| request(client_signer, node, "client auth", &[]);
    let first = ask(&token, joins("evil")?, "192.0.2.66").await?;
    ensure!(decided(&first).await? == "Approved");
    // The same token, another machine.
    let again = ask(&token, joins("evil")?, "192.0.2.67").await?;
    ensure!(decided(&again).await? == "Denied", "a token took over a name");
    let shadow = ask(&token, joins("kubernetes.default.svc")?, "192.0.2.68").await?;
    ensure!(decided(&shadow).await? == "Denied", "a node has the name of a Service");

    let nodes: Api<Node> = Api::all(evil.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "evil"}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let names = ["kubernetes.default.svc", "10.96.0.1", "127.0.0.1", "192.0.2.99"];
    let mut addresses: Vec<_> = names.map(|name| json!({"type": "InternalIP", "address": name})).to_vec();
    addresses.push(json!({"type": "InternalIP", "address": "192.0.2.66"}));
    let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
    // Whether the API server takes such addresses is another matter.
    drop(nodes.patch_status("evil", &PatchParams::default(), &patch).await);
    let serving = |names: &[&str]| request("kubernetes.io/kubelet-serving", "evil", "server auth", names);
    let mut asked = Vec::new();
    for name in names {
        asked.push((name, ask(&evil, serving(&[name])?, "").await?));
    }
    let own = ask(&evil, serving(&["192.0.2.66", "evil"])?, "").await?;
    ensure!(decided(&own).await? == "Approved");
    for (name, csr) in asked {
        ensure!(condition_of(&all.get(&csr).await?).is_empty(), "certified for {name}");
    }
    running.abort();
    Ok(())
}

/// The keys that servers of one cluster have in common.
fn copy_keys(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.join("pki"))?;
    for entry in fs::read_dir(from.join("pki"))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        if name.contains("-ca.")
            || name.starts_with("ca.")
            || name == "service-account.key"
            || name == "secrets.keys"
        {
            fs::copy(&path, to.join("pki").join(name))?;
        }
    }
    Ok(())
}

async fn holder(client: &Client) -> Result<(String, i32)> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let spec = leases.get("skep-controller-manager").await?.spec.context("a lease has a spec")?;
    Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default()))
}

/// Addresses in the slices of the `kubernetes` Service, as IP:PORT.
async fn endpoints(client: &Client) -> Result<BTreeSet<String>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let mut found = BTreeSet::new();
    let of_service = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    for slice in slices.list(&of_service).await? {
        let value = serde_json::to_value(&slice)?;
        for endpoint in value["endpoints"].as_array().into_iter().flatten() {
            let ip = endpoint["addresses"][0].as_str().unwrap_or_default();
            found.insert(format!("{ip}:{}", value["ports"][0]["port"]));
        }
    }
    Ok(found)
}

/// Creates ConfigMaps until it is stopped; returns the names whose creation was acknowledged.
fn load(client: Client, prefix: &'static str, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let name = format!("{prefix}-{number}");
            let map = json!({"metadata": {"name": name}, "data": {"n": number.to_string()}});
            let Ok(map) = serde_json::from_value(map) else { break };
            let options = PostParams::default();
            let created = maps.create(&options, &map);
            match tokio::time::timeout(Duration::from_secs(5), created).await {
                Ok(Ok(_)) => acknowledged.push(name),
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
        acknowledged
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_the_leader_and_another_leads_within_its_lease() -> Result<()> {
    let etcd = Etcd::start()?;
    let store = format!("--store=etcd={}", etcd.url());
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = ServerProcess::start(a.path(), &[&store]).await?;
    let of_first = first.client().await?;
    until("the first server leads", || async { Ok(!holder(&of_first).await?.0.is_empty()) }).await?;
    copy_keys(a.path(), b.path())?;
    let second = ServerProcess::start(b.path(), &[&store]).await?;
    let client = second.client().await?;
    let both = BTreeSet::from([first.address(), second.address()].map(|address| address.to_string()));
    until("both are endpoints", || async { Ok(endpoints(&client).await? == both) }).await?;
    let (old, transitions) = holder(&client).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let loads = [load(of_first, "by-first", stop.clone()), load(client.clone(), "by-second", stop.clone())];
    tokio::time::sleep(Duration::from_secs(3)).await;
    let dead = first.address().to_string();
    first.kill()?;
    let taken = until("the second server leads", || async { Ok(holder(&client).await?.0 != old) }).await?;
    ensure!(taken < Duration::from_secs(25), "leadership was free for {taken:?}");
    ensure!(holder(&client).await?.1 == transitions + 1, "more than one took the lease");
    until("the dead server is no endpoint", || async { Ok(!endpoints(&client).await?.contains(&dead)) })
        .await?;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for load in loads {
        acknowledged.extend(load.await?);
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let stored = maps.list(&ListParams::default()).await?;
    let stored: BTreeSet<String> = stored.into_iter().filter_map(|map| map.metadata.name).collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    ensure!(lost.is_empty(), "{} of {} acknowledged writes are lost", lost.len(), acknowledged.len());
    ensure!(acknowledged.iter().any(|name| name.starts_with("by-first")), "the first server took no write");

    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    }))?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment).await?;
    let sets: Api<ReplicaSet> = Api::namespaced(client, "default");
    until("the new leader works", || async {
        Ok(!sets.list(&ListParams::default()).await?.items.is_empty())
    })
    .await?;
    Ok(())
}

/// The time of the first line of a server's log with this text.
fn logged_at(data: &Path, text: &str) -> Option<String> {
    let log = fs::read_to_string(data.join("log")).unwrap_or_default();
    // Times are in UTC and of one length: their order is that of the texts.
    log.lines()
        .find(|line| line.contains(text))
        .and_then(|line| line.split_whitespace().next())
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_the_store_stops_before_another_begins() -> Result<()> {
    let etcd = Etcd::start()?;
    let pipe = Pipe::start(etcd.address()).await?;
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = ServerProcess::start(a.path(), &[&format!("--store=etcd=http://{}", pipe.address())]).await?;
    until("the first server leads", || async { Ok(logged_at(a.path(), "leading").is_some()) }).await?;
    copy_keys(a.path(), b.path())?;
    let second = ServerProcess::start(b.path(), &[&format!("--store=etcd={}", etcd.url())]).await?;
    pipe.block();
    until("the second server leads", || async { Ok(logged_at(b.path(), "leading").is_some()) }).await?;
    let ended =
        logged_at(a.path(), "leadership lost").context("the first server still believes that it leads")?;
    let began = logged_at(b.path(), "leading").context("the second server leads")?;
    ensure!(ended < began, "two leaders: one until {ended}, the other from {began}");
    drop((first, second));
    Ok(())
}

/// A node whose lease is renewed by the true clock until it is stopped.
async fn living_node(client: Client, name: &'static str, stop: Arc<AtomicBool>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?)
        .await?;
    let ready = json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "lastHeartbeatTime": Timestamp::now(),
    }]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let time = format!("{:.6}", Timestamp::now());
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": time},
            });
            let _ = leases.patch(name, &PatchParams::apply("node").force(), &Patch::Apply(lease)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    Ok(())
}

/// Whether a node is ready, and its taints.
async fn state(client: &Client, name: &str) -> Result<(bool, Vec<String>)> {
    let node = Api::<Node>::all(client.clone()).get(name).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    Ok((ready, taints.into_iter().map(|taint| taint.key).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_step_of_the_leader_moves_no_lease_and_marks_no_node() -> Result<()> {
    let (etcd, clock) = (Etcd::start()?, SteppedClock::new()?);
    let store = format!("--store=etcd={}", etcd.url());
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = ServerProcess::start_with(a.path(), &[&store], clock.environment()?).await?;
    let of_first = first.client().await?;
    until("the first server leads", || async { Ok(!holder(&of_first).await?.0.is_empty()) }).await?;
    copy_keys(a.path(), b.path())?;
    let second = ServerProcess::start(b.path(), &[&store]).await?;
    let client = second.client().await?;
    let both = BTreeSet::from([first.address(), second.address()].map(|address| address.to_string()));
    until("both are endpoints", || async { Ok(endpoints(&client).await? == both) }).await?;
    let stop = Arc::new(AtomicBool::new(false));
    living_node(client.clone(), "n", stop.clone()).await?;
    let well = (true, Vec::new());
    until("the node is ready", || async { Ok(state(&client, "n").await? == well) }).await?;

    let before = holder(&client).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(of_first);
    for (number, seconds) in [3_600, 0, 86_400, 0].into_iter().enumerate() {
        clock.step_to(seconds)?;
        let written: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": format!("at-{number}")}}))?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let created = maps.create(&PostParams::default(), &written).await?.metadata.creation_timestamp;
        let ahead = created.context("a time of creation")?.0.as_second() - Timestamp::now().as_second();
        ensure!((ahead - seconds).abs() < 30, "the clock was not stepped: {ahead} s ahead, not {seconds}");
        // Longer than a lease of a server and the time between two looks at the nodes.
        let until = Instant::now() + Duration::from_secs(16);
        while Instant::now() < until {
            ensure!(holder(&client).await? == before, "the lease of the controllers moved");
            ensure!(endpoints(&client).await? == both, "a living server is no endpoint");
            let now = state(&client, "n").await?;
            ensure!(now == well, "the node was marked: {now:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_keys_of_its_own_does_not_start_on_a_shared_store_and_says_what_to_copy() -> Result<()>
{
    let etcd = Etcd::start()?;
    let store = format!("--store=etcd={}", etcd.url());
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = ServerProcess::start(a.path(), &[&store]).await?;
    let refused = match ServerProcess::start(b.path(), &[&store]).await {
        Ok(_) => String::new(),
        Err(error) => format!("{error:#}"),
    };
    ensure!(refused.contains("differ from those of the servers"), "{refused}");
    ensure!(refused.contains("ca.key") && refused.contains("service-account.key"), "{refused}");
    copy_keys(a.path(), b.path())?;
    drop(ServerProcess::start(b.path(), &[&store]).await?);
    drop(first);
    Ok(())
}

/// Runs `skep certs rotate` on a server's folder.
fn rotate(data: &Path, stage: &str) -> Result<()> {
    let skep = xtask::binaries::built(xtask::binaries::Profile::Dev)?.skep;
    let mut command = std::process::Command::new(skep);
    command.args(["certs", "rotate", "--stage", stage, "--data-dir"]).arg(data);
    let output = command.output().context("run skep certs rotate")?;
    ensure!(output.status.success(), "rotate {stage}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A client with a token, which trusts the server's CAs as they are published now.
fn with_token(server: &ServerProcess, data: &Path, token: &str) -> Result<Client> {
    let mut config = kube::Config::new(format!("https://{}", server.address()).parse()?);
    let bundle = fs::read(data.join("pki/ca.crt"))?;
    let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bundle).collect();
    config.root_cert = Some(trusted?.iter().map(|ca| ca.to_vec()).collect());
    config.auth_info.token = Some(token.to_owned().into());
    Ok(Client::try_from(config)?)
}

async fn token(client: &Client) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let request = serde_json::from_value(json!({"spec": {"audiences": []}, "metadata": {}}))?;
    let made = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    made.status.and_then(|status| status.token).context("the request has no token")
}

/// Whether the server accepts the credentials of a client: it may be refused, but not as unknown.
async fn is_known(client: &Client) -> bool {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    match maps.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => status.code == 403,
        other => other.is_ok(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cas_and_token_keys_are_rotated_while_the_server_runs() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut server = ServerProcess::start(data.path(), &[]).await?;
    let first = server.client().await?;
    until("the account exists", || async { Ok(token(&first).await.is_ok()) }).await?;
    let old_token = token(&first).await?;
    let kubeconfig = || fs::read_to_string(data.path().join("admin.kubeconfig")).unwrap_or_default();

    for stage in ["trust", "sign"] {
        let before = kubeconfig();
        rotate(data.path(), stage)?;
        until("the server follows", || async { Ok(kubeconfig() != before) }).await?;
        // Clients from before have the old CA's certificate and the old key's token.
        ensure!(is_known(&with_token(&server, data.path(), &old_token)?).await, "{stage}: the old token");
        ensure!(is_known(&server.client().await?).await, "{stage}: a client that starts now");
    }
    ensure!(is_known(&first).await, "a client from before the rotation");
    let new = server.client().await?;
    let new_token = token(&new).await?;
    let maps: Api<ConfigMap> = Api::namespaced(new.clone(), "default");
    let trusted = fs::read_to_string(data.path().join("pki/ca.crt"))?;
    until("pods trust both CAs", || async {
        let data = maps.get("kube-root-ca.crt").await?.data.unwrap_or_default();
        Ok(data
            .get("ca.crt")
            .is_some_and(|pem| pem.matches("BEGIN").count() == trusted.matches("BEGIN").count()))
    })
    .await?;
    rotate(data.path(), "drop")?;
    until("the old token is refused", || async {
        Ok(!is_known(&with_token(&server, data.path(), &old_token)?).await)
    })
    .await?;
    ensure!(is_known(&with_token(&server, data.path(), &new_token)?).await, "the new token");
    ensure!(is_known(&server.client().await?).await, "an administrator");
    server.check_alive()
}
