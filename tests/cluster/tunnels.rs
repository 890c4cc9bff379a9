//! The server reaches kubelets, pods and Services through tunnels, and no other way. Its namespace has no route to pods.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};
use skep_tests::api_server::Authority;
use skep_tests::far_end;
use xtask::cluster::host;
use xtask::cluster::kubectl::text;
use xtask::cluster::layout::{Layout, UPLINK};
use xtask::example::http_get;

use crate::fixture::{Shared, Space, in_pod, options, shared};
use crate::running::{LIMIT, Running};

/// Packets of the server's namespace to pods and Services: counted, and dropped. Its drop removes what it made.
struct Counter {
    netns: String,
}

impl Counter {
    /// Gives the namespace a default route, as a server's machine has one.
    fn new(layout: &Layout) -> Result<Counter> {
        let counter = Counter { netns: format!("--net={}", layout.server_netns_path().display()) };
        let rules = format!(
            "table ip skep_test {{\nchain out {{\ntype filter hook output priority 0;\n\
             ip daddr {{ {}, {} }} counter drop\n}}\n}}\n",
            layout.pod_cidr(),
            layout.service_cidr()
        );
        counter.run(&["nft", &rules])?;
        let gateway = layout.gateway_addr().to_string();
        counter.run(&["ip", "route", "replace", "default", "via", &gateway, "dev", UPLINK])?;
        Ok(counter)
    }

    fn packets(&self) -> Result<u64> {
        let shown = self.run(&["nft", "list", "table", "ip", "skep_test"])?;
        let count = shown.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).with_context(|| format!("no counter in {shown}"))
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("nsenter").arg(&self.netns).arg("--").args(words).output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.run(&["ip", "route", "del", "default"]);
        let _ = self.run(&["nft", "delete", "table", "ip", "skep_test"]);
    }
}

fn name_of(pod: &Value) -> &str {
    text(pod, "/metadata/name")
}

/// The number of a pod's node.
fn node_index(pod: &Value) -> Result<u8> {
    text(pod, "/spec/nodeName").trim_start_matches("node-").parse().context("the node's number")
}

/// What a proxy of the API answers.
fn proxied(space: &Space<'_>, what: &str) -> Result<String> {
    space.kubectl.run(&["get", "--raw", &format!("/api/v1/namespaces/{}/{what}/proxy/", space.name)])
}

/// Repeats it until it succeeds; the time that this took.
fn until_works<T>(limit: Duration, mut work: impl FnMut() -> Result<T>) -> Result<Duration> {
    let began = Instant::now();
    loop {
        match work() {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[test]
fn a_server_without_a_route_to_pods_reaches_all_of_them() -> Result<()> {
    let shared = shared()?;
    let layout = &shared.cluster.layout;
    let routes = host::ip(&["-n", &layout.server_netns(), "route"])?;
    ensure!(routes.lines().count() == 1 && !routes.contains("default"), "the server has routes:\n{routes}");
    let counter = Counter::new(layout)?;
    let space = Space::new(&shared.cluster.kubectl, "tunnels")?;
    space.deploy("web", 3)?;
    space.expose("web")?;
    for pod in space.ready_pods("app=web")? {
        let name = name_of(&pod);
        let node = text(&pod, "/spec/nodeName");
        ensure!(space.run(&["exec", name, "--", "sh", "-c", "hostname"])?.trim() == name);
        ensure!(proxied(&space, &format!("pods/{name}:8080"))?.starts_with(name));
        let stats = ["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")];
        ensure!(space.kubectl.run(&stats)?.contains(node));
    }
    ensure!(proxied(&space, "services/web:80")?.starts_with("web-"));
    follows_logs(&space)?;
    forwards_a_port(&space)?;
    ensure!(counter.packets()? == 0, "{} packets to pods or Services left the server", counter.packets()?);
    Ok(())
}

fn follows_logs(space: &Space<'_>) -> Result<()> {
    let script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let image = format!("--image={}", xtask::image::EXAMPLE);
    space.run(&["run", "talks", &image, "--labels=app=talks", "--command", "--", "sh", "-c", script])?;
    space.wait_ready("app=talks", 1)?;
    let mut logs = Running::start(space, &["logs", "--follow", "talks"])?;
    let lines = logs.lines()?;
    for number in 1..20 {
        let line = lines.recv_timeout(LIMIT).context("the log ended")?;
        ensure!(line == format!("line {number}"), "{line}");
    }
    Ok(())
}

fn forwards_a_port(space: &Space<'_>) -> Result<()> {
    let mut forward = Running::start(space, &["port-forward", "deployment/web", ":8080"])?;
    let line = forward.lines()?.recv_timeout(LIMIT).context("kubectl forwards nothing")?;
    let address = line.split(' ').nth(2).context("no address")?.parse()?;
    for _ in 0..20 {
        let answer = http_get(address, Duration::from_secs(5))?;
        ensure!(answer.starts_with("web-"), "{answer}");
    }
    Ok(())
}

#[test]
fn a_webhook_in_a_pod_is_called() -> Result<()> {
    let shared = shared()?;
    let counter = Counter::new(&shared.cluster.layout)?;
    let space = Space::new(&shared.cluster.kubectl, "tunnel-webhook")?;
    space.deploy("hook", 1)?;
    space.run(&["expose", "deployment", "hook", "--port=443", "--target-port=8443"])?;
    let pod = space.ready_pods("app=hook")?.into_iter().next().context("no pod")?;
    let ip: IpAddr = text(&pod, "/status/podIP").parse()?;
    let ca = Authority::new()?;
    let serving = ca.issue_for("hook", "x", &format!("hook.{}.svc", space.name))?;
    let config = far_end::tls(&serving, None);
    let (done, stop) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        // In the pod's namespace: to the cluster it is a process of the pod.
        let serving = scope.spawn(|| {
            in_pod(&shared.cluster, &pod, move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    far_end::serve_on(SocketAddr::new(ip, 8443), config, deny).await;
                    let _ = stop.await;
                });
                Ok(())
            })
        });
        let asked = is_denied(&space, &STANDARD.encode(&ca.certificate));
        let _ = space.kubectl.run(&["delete", "validatingwebhookconfigurations", "tunnel-webhook"]);
        drop(done);
        serving.join().map_err(|_| anyhow::anyhow!("the webhook ended badly"))??;
        asked
    })?;
    ensure!(counter.packets()? == 0, "{} packets left the server", counter.packets()?);
    Ok(())
}

async fn deny(request: hyper::Request<hyper::body::Incoming>) -> far_end::Answer {
    let bytes = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let answer = json!({
        "apiVersion": review["apiVersion"], "kind": review["kind"],
        "response": {"uid": review["request"]["uid"], "allowed": false, "status": {"message": "not in this pod's house"}},
    });
    hyper::Response::new(Full::new(Bytes::from(answer.to_string())).boxed())
}

fn is_denied(space: &Space<'_>, bundle: &str) -> Result<()> {
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "tunnel-webhook"},
        "webhooks": [{
            "name": "hook.tunnels.test", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": {"caBundle": bundle, "service": {"namespace": space.name, "name": "hook"}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["CREATE"]}],
        }],
    });
    space.apply(&hook.to_string())?;
    until_works(LIMIT, || {
        let said = space.refused(&["create", "secret", "generic", "denied"])?;
        ensure!(said.contains("not in this pod's house"), "{said}");
        Ok(())
    })?;
    Ok(())
}

/// The node's agent runs again whatever happens.
struct Agent<'a>(&'a Shared, u8);

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.0.cluster.start_node(self.1);
    }
}

#[test]
fn a_broken_tunnel_ends_an_exec_with_the_reason_and_is_back_with_the_agent() -> Result<()> {
    let shared = shared()?;
    let counter = Counter::new(&shared.cluster.layout)?;
    let space = Space::new(&shared.cluster.kubectl, "tunnel-breaks")?;
    space.deploy("web", 1)?;
    let pod = space.ready_pods("app=web")?.into_iter().next().context("no pod")?;
    let (index, name) = (node_index(&pod)?, name_of(&pod).to_owned());
    let script = "while true; do echo on; sleep 0.1; done";
    let mut exec = Running::start(&space, &["exec", &name, "--", "sh", "-c", script])?;
    let lines = exec.lines()?;
    lines.recv_timeout(LIMIT).context("the exec says nothing")?;
    let agent = Agent(&shared, index);
    ensure!(shared.cluster.kill_agent(index)?, "there was no agent to kill");
    let said = exec.failed()?;
    ensure!(said.contains(&format!("the tunnel to node node-{index} broke")), "{said}");
    // Without a tunnel there is no way, also for a machine with a default route.
    let Err(refused) = proxied(&space, &format!("pods/{name}:8080")) else {
        bail!("a pod without a tunnel answered")
    };
    let wanted = format!("node node-{index} has no tunnel to this server");
    ensure!(format!("{refused:#}").contains(&wanted), "{refused:#}");
    let refused = space.refused(&["logs", &name])?;
    ensure!(refused.contains(&wanted), "{refused}");
    ensure!(counter.packets()? == 0, "{} packets to pods left the server", counter.packets()?);
    drop(agent);
    let took = until_works(LIMIT, || proxied(&space, &format!("pods/{name}:8080")))?;
    println!("the pod answered {took:?} after the agent's start");
    Ok(())
}

#[test]
fn a_server_that_restarts_finds_every_agent_again() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "tunnel-restart")?;
    space.deploy("web", 3)?;
    let pods = space.ready_pods("app=web")?;
    ensure!(shared.cluster.kill_server()?, "there was no server to kill");
    shared.cluster.start_server(&options())?;
    let ready = Instant::now();
    for pod in &pods {
        // The first attempt waits for the tunnel: nothing fails meanwhile.
        proxied(&space, &format!("pods/{}:8080", name_of(pod)))?;
    }
    println!("every node was reached {:?} after the server was ready", ready.elapsed());
    ensure!(ready.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[test]
fn a_tunnel_that_is_cut_is_back_within_two_seconds() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "tunnel-cut")?;
    space.deploy("web", 1)?;
    let pod = space.ready_pods("app=web")?.into_iter().next().context("no pod")?;
    let node = shared.cluster.layout.node(node_index(&pod)?);
    let ask = || proxied(&space, &format!("pods/{}:8080", name_of(&pod)));
    ask()?;
    // Every connection of the node to the server is reset, as a firewall that restarts does it.
    let server = shared.cluster.layout.server_addr().to_string();
    let kill = ["ss", "--kill", "--tcp", "dst", &server, "dport", "=", "6443"];
    let output = Command::new("nsenter")
        .arg(format!("--net={}", node.netns_path().display()))
        .arg("--")
        .args(kill)
        .output()
        .context("run ss (Debian: apt-get install iproute2)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let began = Instant::now();
    ask()?;
    println!("the pod answered {:?} after the cut", began.elapsed());
    ensure!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    Ok(())
}
