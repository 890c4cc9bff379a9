//! `skep flows` and `skep drops`: the flow logs of nodes.
//!
//! In: conditions, and where to read: nodes through the API server, or this node's socket. Out: a table, or lines of JSON.

use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use skep_api::flow_log::{DEFAULT_LAST, End, FlowQuery, FlowRecord, Line, MAX_LAST, Verdict, path};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::kubeconfig::client_from_file;

/// Lines that are read and not yet printed.
const BACKLOG: usize = 1_024;

#[derive(clap::Args)]
pub(crate) struct Flows {
    /// Only flows that were allowed, or only packets that were dropped
    #[arg(long, value_enum)]
    verdict: Option<VerdictArgument>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(clap::Args)]
pub(crate) struct Drops {
    #[command(flatten)]
    selection: Selection,
}

#[derive(clap::Args)]
struct Selection {
    /// A kubeconfig whose user may get `flows` of the group flows.skep.io
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skep/server/admin.kubeconfig")]
    kubeconfig: PathBuf,
    /// Read this machine's node by its agent's socket (flows.sock beside --cni-socket), without an API server
    #[arg(long, conflicts_with_all = ["kubeconfig", "nodes"])]
    socket: Option<PathBuf>,
    /// Node to read; may be repeated [default: all nodes]
    #[arg(long = "node")]
    nodes: Vec<String>,
    /// Only what concerns pods of the namespace; the rights to that namespace's flows suffice, with --node
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only what concerns the pod, as NAME or NAMESPACE/NAME
    #[arg(long)]
    pod: Option<String>,
    /// Only what has the port at either end
    #[arg(long)]
    port: Option<u16>,
    /// Only what has the protocol, such as tcp
    #[arg(long)]
    protocol: Option<String>,
    /// Only drops for the reason, such as ingress-policy
    #[arg(long)]
    reason: Option<String>,
    /// Show so many of the newest lines of each node
    #[arg(long, default_value_t = DEFAULT_LAST, value_parser = last)]
    last: usize,
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum VerdictArgument {
    Allowed,
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

fn last(text: &str) -> Result<usize> {
    let last: usize = text.parse()?;
    if last > MAX_LAST {
        bail!("agents remember {MAX_LAST} lines");
    }
    Ok(last)
}

pub(crate) async fn flows(arguments: Flows) -> Result<()> {
    let verdict = arguments.verdict.map(|verdict| match verdict {
        VerdictArgument::Allowed => Verdict::Allowed,
        VerdictArgument::Dropped => Verdict::Dropped,
    });
    run(arguments.selection, verdict).await
}

pub(crate) async fn drops(arguments: Drops) -> Result<()> {
    run(arguments.selection, Some(Verdict::Dropped)).await
}

async fn run(selection: Selection, verdict: Option<Verdict>) -> Result<()> {
    let Selection { kubeconfig, socket, nodes, namespace, pod, port, protocol, reason, last, follow, output } =
        selection;
    let query = FlowQuery { namespace, pod, port, protocol, verdict, reason, last, follow };
    let (to, lines) = mpsc::channel(BACKLOG);
    let reading = match socket {
        Some(socket) => {
            let read = read_socket(socket, query, to);
            tokio::spawn(async move { read.await.map(|()| 1) })
        }
        None => {
            let (_, client) = client_from_file(&kubeconfig).await?;
            tokio::spawn(read_nodes(client, nodes, query, to))
        }
    };
    match print(lines, follow, output).await {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
        printed => printed.context("write the answer")?,
    }
    match reading.await.context("read flows")?? {
        0 => bail!("no node's flow log could be read"),
        _ => Ok(()),
    }
}

/// How many nodes were read. One that fails is named and left out.
async fn read_nodes(
    client: Client,
    nodes: Vec<String>,
    query: FlowQuery,
    to: mpsc::Sender<String>,
) -> Result<usize> {
    let nodes = match nodes.is_empty() {
        true => {
            let all = Api::<Node>::all(client.clone()).list_metadata(&ListParams::default()).await;
            let all = all.context("list nodes; name them by --node")?;
            all.items.into_iter().filter_map(|node| node.metadata.name).collect()
        }
        false => nodes,
    };
    let query = Arc::new(query);
    let reads = nodes.into_iter().map(|node| {
        let (client, query, to) = (client.clone(), query.clone(), to.clone());
        async move {
            let read = read_node(client, &node, &query, &to).await;
            if let Err(error) = &read {
                eprintln!("skep: node {node}: {error:#}");
            }
            read.is_ok()
        }
    });
    Ok(futures::future::join_all(reads).await.into_iter().filter(|read| *read).count())
}

async fn read_node(client: Client, node: &str, query: &FlowQuery, to: &mpsc::Sender<String>) -> Result<()> {
    let uri = format!("{}?{query}", path(node, query.namespace.as_deref()));
    let request = http::Request::get(uri).body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    while let Some(line) = lines.next().await {
        if to.send(line?).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn read_socket(socket: PathBuf, query: FlowQuery, to: mpsc::Sender<String>) -> Result<()> {
    let stream = UnixStream::connect(&socket).await;
    let mut stream = stream.with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(format!("{query}\n").as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(error) = line.strip_prefix("error: ") {
            bail!("{error}");
        }
        if to.send(line).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The past of all nodes by time; what follows as it comes.
async fn print(mut lines: mpsc::Receiver<String>, follow: bool, output: Output) -> io::Result<()> {
    let mut out = io::stdout();
    if output == Output::Table {
        writeln!(out, "{}", header())?;
    }
    let mut write = |text: &str, line: &Line| match (line, output) {
        (Line::Flow(record), Output::Table) => writeln!(out, "{}", row(record)),
        (Line::Flow(_), Output::Json) => writeln!(out, "{text}"),
        (Line::Lost { lost }, _) => writeln!(io::stderr(), "skep: {lost} lines are missing here"),
    };
    let mut past: Vec<(String, Line)> = Vec::new();
    while let Some(text) = lines.recv().await {
        let line = serde_json::from_str(&text).map_err(io::Error::other)?;
        match follow {
            true => write(&text, &line)?,
            false => past.push((text, line)),
        }
    }
    past.sort_by_key(|(_, line)| match line {
        Line::Flow(record) => Some(record.time),
        Line::Lost { .. } => None,
    });
    past.iter().try_for_each(|(text, line)| write(text, line))
}

fn columns(cells: [&str; 8]) -> String {
    let [time, node, direction, verdict, protocol, source, destination, why] = cells;
    format!(
        "{time:<24} {node:<12} {direction:<12} {verdict:<8} {protocol:<6} {source:<32} {destination:<32} {why}"
    )
}

fn header() -> String {
    columns(["TIME", "NODE", "DIRECTION", "VERDICT", "PROTO", "SOURCE", "DESTINATION", "WHY"])
}

fn row(record: &FlowRecord) -> String {
    let time = record.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    let verdict = match record.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Dropped => "dropped",
    };
    let (source, destination) = (end(&record.source), end(&record.destination));
    let why = why(record);
    let (node, direction, protocol) = (&record.node, &record.direction, &record.protocol);
    columns([&time, node, direction, verdict, protocol, &source, &destination, &why])
}

/// The pod, the node or the address, with the port.
fn end(end: &End) -> String {
    let name = match (&end.pod, &end.node, end.ip) {
        (Some(pod), _, _) => format!("{}/{}", pod.namespace, pod.name),
        (None, Some(node), _) => format!("node/{node}"),
        (None, None, Some(ip)) if ip.is_ipv6() && end.port.is_some() => format!("[{ip}]"),
        (None, None, Some(ip)) => ip.to_string(),
        (None, None, None) => return "-".to_owned(),
    };
    end.port.map_or(name.clone(), |port| format!("{name}:{port}"))
}

/// The reason with the policies, or the rule; the pod that sent another's address; the Service; the gateway's route.
fn why(record: &FlowRecord) -> String {
    let mut parts = Vec::new();
    match (&record.reason, &record.rule) {
        (Some(reason), _) if !record.denied_by.is_empty() => {
            parts.push(format!("{reason}: no rule of {}", record.denied_by.join(", ")));
        }
        (Some(reason), _) => parts.push(reason.clone()),
        (None, Some(rule)) => parts.push(format!("{} {}", rule.policy, rule.field)),
        (None, None) => {}
    }
    let is_end =
        |pod| record.source.pod.as_ref() == Some(pod) || record.destination.pod.as_ref() == Some(pod);
    if let Some(pod) = record.interface.as_ref().filter(|pod| !is_end(pod)) {
        parts.push(format!("at pod {}/{}", pod.namespace, pod.name));
    }
    if let Some(service) = &record.service {
        parts.push(format!("service {}/{}:{}", service.namespace, service.name, service.port));
    }
    if let Some(route) = &record.route {
        parts.push(format!("route {route}"));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> FlowRecord {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_row_says_who_and_why() {
        let pod = |name: &str| format!(r#"{{"namespace": "shop", "name": "{name}"}}"#);
        let common = r#""time": "2026-11-29T10:00:00.5Z", "node": "n1", "direction": "from-pod", "protocol": "TCP", "bytes": 74"#;
        let (client, web) = (pod("client"), pod("web"));
        let denied = format!(
            r#"{{{common}, "verdict": "dropped", "reason": "ingress policy", "deniedBy": ["shop/a", "shop/b"],
            "interface": {client}, "source": {{"ip": "10.1.0.2", "port": 4000, "pod": {client}}},
            "destination": {{"ip": "10.1.0.3", "port": 80, "pod": {web}}},
            "service": {{"namespace": "shop", "name": "web", "port": 8080}}, "route": "tcproute/shop/web"}}"#
        );
        let row = row(&record(&denied));
        for part in [
            "2026-11-29T10:00:00.500Z",
            "shop/client:4000",
            "shop/web:80",
            "ingress policy: no rule of shop/a, shop/b; service shop/web:8080; route tcproute/shop/web",
        ] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
        let spoofed = format!(
            r#"{{{common}, "verdict": "dropped", "reason": "spoofed source", "interface": {client},
            "source": {{"ip": "fd00::1", "port": 1}}, "destination": {{}}}}"#
        );
        let spoofed = record(&spoofed);
        assert_eq!((end(&spoofed.source), end(&spoofed.destination)), ("[fd00::1]:1".into(), "-".into()));
        assert_eq!(why(&spoofed), "spoofed source; at pod shop/client");
        let allowed = format!(
            r#"{{{common}, "verdict": "allowed", "source": {{}}, "destination": {{"node": "n2", "port": 22}},
            "rule": {{"policy": "shop/a", "field": "spec.ingress[1]"}}}}"#
        );
        let allowed = record(&allowed);
        assert_eq!(
            (why(&allowed), end(&allowed.destination)),
            ("shop/a spec.ingress[1]".into(), "node/n2:22".into())
        );
    }
}
