//! Many watchers of one resource while it is written: each must get every event in order; the delay is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::connection::{Connection, Target};
use crate::samples::Samples;
use crate::{CONNECTIONS, Failure, NAMESPACE, objects};

/// The time that events have to arrive after the last write.
const PATIENCE: Duration = Duration::from_secs(20);
/// Each writer has an object of its own, so that writes do not conflict.
const WRITERS: usize = 8;

pub(crate) async fn measure(
    target: Arc<Target>,
    watchers: usize,
    rate: usize,
    time: Duration,
) -> Result<Value, Failure> {
    let writes = rate * time.as_secs() as usize;
    let base = Instant::now();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(connect(&target).await?);
    }
    for at in 0..WRITERS {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let body = stamped(at, base);
        Connection::open(&target).await?.expect(&[201, 409], "POST", &path, &body).await?;
    }
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let revision = revision(&target, &path).await?;
    let mut tasks = JoinSet::new();
    for at in 0..watchers {
        let body = watch(connections[at % CONNECTIONS].clone(), &target.address, &path, &revision).await?;
        tasks.spawn(follow(body, writes, base));
    }
    let writing = write(target, writes, rate, base).await?;
    let mut all = Samples::default();
    while let Some(done) = tasks.join_next().await {
        all.merge(done??);
    }
    let mut report = all.report(time);
    report["writes"] = json!(writes);
    report["watchers"] = json!(watchers);
    report["writing"] = writing;
    Ok(report)
}

fn stamped(at: usize, base: Instant) -> String {
    objects::stamped(&format!("watched-{at}"), base.elapsed().as_nanos())
}

/// The revision of the list at the path.
pub(crate) async fn revision(target: &Target, path: &str) -> Result<String, Failure> {
    let path = format!("{path}?limit=1");
    let answer = Connection::open(target).await?.expect(&[200], "GET", &path, "").await?;
    let list = answer.body.split("\"metadata\":{").nth(1).unwrap_or_default();
    let number = list.split("\"resourceVersion\":\"").nth(1).and_then(|rest| rest.split('"').next());
    Ok(number.ok_or("a list without a resourceVersion")?.to_owned())
}

pub(crate) async fn connect(target: &Target) -> Result<SendRequest<Empty<Bytes>>, Failure> {
    let stream = TokioIo::new(target.connect("h2").await?);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    // As client-go's window: room for bursts.
    builder.initial_stream_window_size(4 << 20).initial_connection_window_size(64 << 20);
    let (sender, connection) = builder.handshake(stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

pub(crate) async fn watch(
    mut connection: SendRequest<Empty<Bytes>>,
    address: &str,
    path: &str,
    revision: &str,
) -> Result<Incoming, Failure> {
    let uri = format!("https://{address}{path}?watch=1&allowWatchBookmarks=true&resourceVersion={revision}");
    connection.ready().await?;
    let response = connection.send_request(Request::get(uri).body(Empty::new())?).await?;
    if !response.status().is_success() {
        return Err(format!("a watch was answered {}", response.status()).into());
    }
    Ok(response.into_body())
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    bytes: Vec<u8>,
    /// Where the next line begins.
    from: usize,
    count: usize,
}

impl Lines {
    pub(crate) fn new(body: Incoming) -> Lines {
        Lines { body, bytes: Vec::new(), from: 0, count: 0 }
    }

    pub(crate) async fn next(&mut self) -> Result<&str, Failure> {
        let end = loop {
            if let Some(at) = self.bytes[self.from..].iter().position(|byte| *byte == b'\n') {
                break self.from + at;
            }
            self.bytes.drain(..self.from);
            self.from = 0;
            let frame = self.body.frame().await;
            let frame = frame.ok_or_else(|| format!("a watch ended after {} events", self.count))??;
            self.bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        };
        let line = std::str::from_utf8(&self.bytes[self.from..end])?;
        self.from = end + 1;
        self.count += 1;
        Ok(line)
    }
}

/// Reads as many events as there are writes.
async fn follow(body: Incoming, writes: usize, base: Instant) -> Result<Samples, Failure> {
    let (mut samples, mut lines, mut last) = (Samples::default(), Lines::new(body), 0u64);
    while samples.len() < writes {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await;
        let line = line.map_err(|_| format!("{} of {writes} events came", samples.len()))??;
        let now = base.elapsed();
        if line.starts_with("{\"type\":\"BOOKMARK\"") {
            continue;
        }
        let revision = between(line, "\"resourceVersion\":\"").ok_or("an event without a revision")?;
        let sent = between(line, "\"sent\":\"").ok_or_else(|| format!("an odd event: {line}"))?;
        if revision <= last {
            return Err(format!("revision {revision} came after {last}").into());
        }
        last = revision;
        samples.add(now.saturating_sub(Duration::from_nanos(sent)));
    }
    Ok(samples)
}

fn between(line: &str, before: &str) -> Option<u64> {
    let (_, rest) = line.split_once(before)?;
    rest.split('"').next()?.parse().ok()
}

/// Writes at a rate. Late writes are not skipped.
async fn write(target: Arc<Target>, writes: usize, rate: usize, base: Instant) -> Result<Value, Failure> {
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for writer in 0..WRITERS {
        let mut connection = Connection::open(&target).await?;
        tasks.spawn(async move {
            let mut samples = Samples::default();
            for at in (writer..writes).step_by(WRITERS) {
                let due = start + Duration::from_secs_f64(at as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
                let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/watched-{writer}");
                let sent = Instant::now();
                connection.expect(&[200], "PUT", &path, &stamped(writer, base)).await?;
                samples.add(sent.elapsed());
            }
            Ok::<Samples, Failure>(samples)
        });
    }
    let mut all = Samples::default();
    while let Some(done) = tasks.join_next().await {
        all.merge(done??);
    }
    Ok(all.report(start.elapsed()))
}
