//! The machine is shut down: pods end in order, and the machine waits for them. logind is a double of the test on a bus of its own.

use std::io::{BufRead as _, BufReader, PipeReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_node::AgentConfig;
use skep_node::shutdown::ShutdownSettings;
use skep_tests::node::{NODE, TestNode, container, phase};
use tokio::sync::watch;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedFd;

const BUS: &str = "bus.sock";
const MANAGER: &str = "/org/freedesktop/login1";
const DEADLINE: Duration = Duration::from_secs(60);

fn with_shutdown(config: &mut AgentConfig) {
    let seconds = Duration::from_secs;
    let settings = ShutdownSettings::new(seconds(40), seconds(20)).expect("periods that agree");
    config.shutdown = settings.map(|mut settings| {
        settings.bus = Some(address(&config.root_dir));
        settings
    });
}

fn address(folder: &Path) -> String {
    format!("unix:path={}", folder.join(BUS).display())
}

/// A message bus that only this test uses.
struct Bus(Child);

impl Bus {
    fn start(folder: &Path) -> Result<Bus> {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
        command.arg(format!("--address={}", address(folder))).stdout(Stdio::piped());
        let mut bus = Bus(command.spawn().context("run dbus-daemon")?);
        let output = bus.0.stdout.take().context("dbus-daemon has an output")?;
        BufReader::new(output).read_line(&mut String::new()).context("dbus-daemon does not listen")?;
        Ok(bus)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a lock of logind is: open at its holder, and a pipe that ends here when the holder closes it.
struct Logind {
    /// The other ends of the locks that were given, in their order.
    locks: watch::Sender<Vec<Arc<PipeReader>>>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn inhibit(&self, what: &str, who: &str, _why: &str, mode: &str) -> zbus::fdo::Result<OwnedFd> {
        if (what, who, mode) != ("shutdown", "skep", "delay") {
            return Err(zbus::fdo::Error::InvalidArgs(format!("{what} {who} {mode}")));
        }
        let (ours, theirs) = std::io::pipe().map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        self.locks.send_modify(|locks| locks.push(ours.into()));
        Ok(OwnedFd::from(std::os::fd::OwnedFd::from(theirs)))
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        60_000_000
    }
}

/// Whether the agent has let the lock go.
async fn is_released(lock: Arc<PipeReader>) -> Result<()> {
    let read = tokio::task::spawn_blocking(move || (&*lock).read(&mut [0]));
    ensure!(
        tokio::time::timeout(DEADLINE, read).await.context("the lock is held")??? == 0,
        "a lock has no bytes"
    );
    Ok(())
}

fn ready(node: Option<&Value>) -> Option<(String, String)> {
    let conditions = node?["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    Some((ready["status"].as_str()?.to_owned(), ready["message"].as_str().unwrap_or_default().to_owned()))
}

/// Checks that the shutdown ended the pod, and that it had time to end; returns when it ended.
fn end_by_shutdown(status: &Value) -> String {
    assert_eq!(status["reason"], "Terminated");
    assert_eq!(status["message"], "Pod was terminated in response to imminent node shutdown.");
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let disruption = conditions.filter(|c| c["type"] == "DisruptionTarget").collect::<Vec<_>>();
    assert_eq!(disruption.len(), 1, "{status}");
    assert_eq!(disruption[0]["reason"], "TerminationByKubelet");
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["exitCode"], 0, "it had time to end: {status}");
    terminated["finishedAt"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_until_pods_have_ended_critical_ones_last() -> Result<()> {
    let node = TestNode::start_with("shutdown", with_shutdown).await?;
    let _bus = tokio::task::block_in_place(|| Bus::start(node.root()))?;
    let (locks_in, mut locks) = watch::channel(Vec::new());
    let connection = zbus::connection::Builder::address(address(node.root()).as_str())?
        .serve_at(MANAGER, Logind { locks: locks_in })?
        .name("org.freedesktop.login1")?
        .build()
        .await?;
    let emitter = SignalEmitter::new(&connection, MANAGER)?;
    // The agent ran before there was a bus.
    tokio::time::timeout(DEADLINE, locks.wait_for(|locks| locks.len() == 1)).await.context("no lock")??;

    let script = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    let spec = json!({"containers": [container("main", script)], "terminationGracePeriodSeconds": 30});
    let mut critical = spec.clone();
    critical["priorityClassName"] = json!("system-node-critical");
    critical["priority"] = json!(2_000_001_000);
    let others = node.run_pod("others", spec.clone()).await?;
    let critical = node.run_pod("critical", critical).await?;
    for pod in [&others, &critical] {
        node.api.wait(pod, "a pod that runs", |pod| phase(pod) == "Running").await?;
    }

    Logind::prepare_for_shutdown(&emitter, true).await?;
    let first = locks.borrow().first().cloned().context("no lock")?;
    is_released(first).await?;
    let mut ended = Vec::new();
    for path in [&others, &critical] {
        node.api.wait(path, "a pod that has ended", |pod| phase(pod) == "Failed").await?;
        let pod = node.api.get(path).await?.unwrap_or_default();
        ended.push(end_by_shutdown(&pod["status"]));
    }
    assert!(ended[0] < ended[1], "the critical pod ends last: {ended:?}");
    let node_path = format!("/api/v1/nodes/{NODE}");
    let is = |wanted: (&str, &str)| {
        let wanted = (wanted.0.to_owned(), wanted.1.to_owned());
        move |node: Option<&Value>| ready(node).as_ref() == Some(&wanted)
    };
    node.api.wait(&node_path, "a node that is not ready", is(("False", "node is shutting down"))).await?;
    let late = node.run_pod("late", spec.clone()).await?;
    node.api.wait(&late, "a rejection", |pod| phase(pod) == "Failed").await?;
    let late = node.api.get(&late).await?.unwrap_or_default();
    assert_eq!(late["status"]["reason"], "NodeShutdown");

    // A shutdown that is cancelled: the node goes on, and delays the next one.
    Logind::prepare_for_shutdown(&emitter, false).await?;
    tokio::time::timeout(DEADLINE, locks.wait_for(|locks| locks.len() == 2))
        .await
        .context("no second lock")??;
    // These nodes have no network, which is the next reason.
    let goes_on = |node: Option<&Value>| ready(node).is_some_and(|(_, why)| why != "node is shutting down");
    node.api.wait(&node_path, "a node that goes on", goes_on).await?;
    let next = node.run_pod("next", spec).await?;
    node.api.wait(&next, "a pod that runs", |pod| phase(pod) == "Running").await?;
    Ok(())
}
