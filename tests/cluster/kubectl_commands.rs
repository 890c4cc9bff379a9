//! What users do with pods and nodes by kubectl, with the versions of [`deps::KUBECTLS`] and the one of the machine: `exec -it`, `cp`,
//! `port-forward`, `logs -f`, `attach`, `debug`, `top`, `drain`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::cluster::kubectl::{Kubectl, text};
use xtask::deps;
use xtask::example::http_get;
use xtask::image::EXAMPLE;

use crate::fixture::{NODES, Space, shared};
use crate::running::{LIMIT, Running};

/// Usage is known some seconds after a pod's start.
const USAGE_LIMIT: Duration = Duration::from_secs(60);
const FILE_BYTES: usize = 300_000;

#[test]
fn every_kubectl_works_with_pods_and_nodes() -> Result<()> {
    let shared = shared()?;
    let of_machine = shared.cluster.kubectl.clone();
    let mut kubectls = vec![of_machine.clone()];
    for version in deps::KUBECTLS {
        kubectls.push(Kubectl { program: deps::pinned_kubectl(version)?, ..of_machine.clone() });
    }
    for kubectl in &kubectls {
        let version = deps::kubectl_minor(&kubectl.program).context("a kubectl without a version")?;
        let space = Space::new(kubectl, &format!("kubectl-{}", version.replace('.', "-")))?;
        works(&space).with_context(|| format!("kubectl {version}"))?;
    }
    Ok(())
}

fn works(space: &Space<'_>) -> Result<()> {
    space.deploy("web", 1)?;
    let image = format!("--image={EXAMPLE}");
    let talk = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done";
    space.run(&["run", "talks", &image, "--labels=app=talks", "--command", "--", "sh", "-c", talk])?;
    space.wait_ready("app=talks", 1)?;
    has_a_terminal(space)?;
    copies(space)?;
    forwards(space)?;
    follows(space)?;
    debugs(space, &image)?;
    shows_usage(space)?;
    drains(space)
}

/// `exec -it` on a terminal of its own: it is a terminal inside too, input arrives, and the exit code comes back.
fn has_a_terminal(space: &Space<'_>) -> Result<()> {
    let command = space.kubectl.command(&[
        "--namespace",
        &space.name,
        "exec",
        "-it",
        "deployment/web",
        "--",
        "sh",
        "-c",
        "tty && read word && echo got-$word && exit 7",
    ]);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = script.spawn().context("run script (Debian: bsdutils)")?;
    let mut input = running.stdin.take().context("no input")?;
    input.write_all(b"hello\n")?;
    let output = running.wait_with_output()?;
    drop(input);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("/dev/pts/") && said.contains("got-hello"), "{said}");
    ensure!(output.status.code() == Some(7), "exec ended with {}: {said}", output.status);
    Ok(())
}

fn copies(space: &Space<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    fs::write(&there, &bytes)?;
    space.run(&["cp", &there.display().to_string(), "talks:/tmp/copy"])?;
    space.run(&["cp", "talks:/tmp/copy", &back.display().to_string()])?;
    ensure!(fs::read(&back)? == bytes, "the copy of a copy differs");
    Ok(())
}

fn forwards(space: &Space<'_>) -> Result<()> {
    let mut forward = Running::start(space, &["port-forward", "deployment/web", ":8080"])?;
    let line = forward.lines()?.recv_timeout(LIMIT).context("kubectl forwards nothing")?;
    let address = line.split(' ').nth(2).context("no address")?.parse()?;
    let answer = http_get(address, Duration::from_secs(5))?;
    ensure!(answer.starts_with("web-"), "{answer}");
    Ok(())
}

/// `logs -f` begins with the first line, `attach` with what comes next; neither leaves a line out.
fn follows(space: &Space<'_>) -> Result<()> {
    let mut logs = Running::start(space, &["logs", "-f", "talks"])?;
    let lines = logs.lines()?;
    for number in 1..10 {
        let line = lines.recv_timeout(LIMIT).context("the log ended")?;
        ensure!(line == format!("line {number}"), "{line}");
    }
    let mut attached = Running::start(space, &["attach", "talks"])?;
    let lines = attached.lines()?;
    let number = |line: &str| line.strip_prefix("line ").and_then(|number| number.parse::<u32>().ok());
    let first = lines.recv_timeout(LIMIT).context("attach shows nothing")?;
    let first = number(&first).with_context(|| first.clone())?;
    for wanted in first + 1..first + 6 {
        let line = lines.recv_timeout(LIMIT).context("attach ended")?;
        ensure!(number(&line) == Some(wanted), "{line} in place of line {wanted}");
    }
    Ok(())
}

/// A container beside the pod's processes, and a pod on a node with the node's files.
fn debugs(space: &Space<'_>, image: &str) -> Result<()> {
    let script = "ps | grep -v grep | grep -c 'echo line'";
    space.run(&[
        "debug",
        "talks",
        image,
        "--container=look",
        "--target=talks",
        "--profile=general",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    let counted = until(LIMIT, || {
        let logs = space.run(&["logs", "talks", "--container=look"])?;
        ensure!(!logs.is_empty(), "the debug container says nothing");
        Ok(logs)
    })?;
    ensure!(counted.trim() == "1", "processes of the target: {counted}");
    let said = space.run(&[
        "debug",
        "node/node-1",
        image,
        "--profile=general",
        "--",
        "sh",
        "-c",
        "test -e /host/etc/passwd && echo has-files",
    ])?;
    let name = said.split_whitespace().find(|word| word.starts_with("node-debugger-"));
    let name = name.with_context(|| format!("no pod in {said}"))?.to_owned();
    until(LIMIT, || {
        let logs = space.run(&["logs", &name])?;
        ensure!(logs.trim() == "has-files", "{logs}");
        Ok(())
    })
}

fn shows_usage(space: &Space<'_>) -> Result<()> {
    until(USAGE_LIMIT, || {
        let shown = space.run(&["top", "pod", "talks", "--no-headers"])?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        ensure!(words.len() == 3 && words[1].ends_with('m') && words[2].ends_with("Mi"), "{shown}");
        Ok(())
    })?;
    let nodes = space.run(&["top", "node", "--no-headers"])?;
    ensure!(nodes.lines().count() == usize::from(NODES), "{nodes}");
    Ok(())
}

/// Makes the node schedulable again, however the test ends.
struct Cordoned<'a>(&'a Kubectl, String);

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["uncordon", &self.1]);
    }
}

/// The pods of a drained node run elsewhere, and the node takes no new ones until it is uncordoned.
fn drains(space: &Space<'_>) -> Result<()> {
    let pod = space.ready_pods("app=web")?.into_iter().next().context("no pod")?;
    let node = text(&pod, "/spec/nodeName").to_owned();
    let cordoned = Cordoned(space.kubectl, node.clone());
    let words = ["drain", &node, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s"];
    let said = space.run(&words)?;
    ensure!(said.contains(&format!("pod/{} evicted", text(&pod, "/metadata/name"))), "{said}");
    space.rolled_out("web")?;
    space.run(&["scale", "deployment/web", "--replicas=3"])?;
    space.wait_ready("app=web", 3)?;
    for pod in space.ready_pods("app=web")? {
        ensure!(
            text(&pod, "/spec/nodeName") != node,
            "{} runs on the drained node",
            text(&pod, "/metadata/name")
        );
    }
    drop(cordoned);
    let node = space.kubectl.get(&["node", &node])?;
    ensure!(node.pointer("/spec/unschedulable").is_none(), "the node is still cordoned");
    Ok(())
}

/// Repeats it until it succeeds.
fn until<T>(limit: Duration, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match work() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            done => return done,
        }
    }
}
