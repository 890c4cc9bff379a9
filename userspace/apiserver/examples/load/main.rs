//! Loads an API server over TLS and measures it: what `cargo xtask bench api`,
//! `bench scheduler` and `bench pods` run beside `skep server`.
//!
//! `load ADDRESS PKI COMMAND [key=value...]`, where PKI is the server's folder of keys. Prints one line of JSON.
//! Commands: `ready`, `create`, `pods`, `get`, `list`, `watch`; of the scheduler `nodes`, `gated`, `open`, `schedule`; of nodes
//! `run`, `run-together`.

mod connection;
mod objects;
mod pods;
mod samples;
mod scheduling;
mod watch;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use connection::{Connection, Target};
use samples::Samples;

/// Any error ends the measurement.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Connections of each measurement.
const CONNECTIONS: usize = 32;
/// The namespace of the requests.
const NAMESPACE: &str = "bench";

struct Arguments(Vec<String>);

impl Arguments {
    fn number(&self, name: &str, default: usize) -> Result<usize, Failure> {
        let prefix = format!("{name}=");
        match self.0.iter().find_map(|argument| argument.strip_prefix(&prefix)) {
            Some(value) => value.parse().map_err(|_| format!("{name} wants a number, not {value}").into()),
            None => Ok(default),
        }
    }

    fn template(&self) -> Result<String, Failure> {
        let path = self.0.iter().find_map(|argument| argument.strip_prefix("template="));
        let path = path.ok_or("template=FILE is missing")?;
        std::fs::read_to_string(path).map_err(|error| format!("read {path}: {error}").into())
    }

    fn seconds(&self) -> Result<Duration, Failure> {
        Ok(Duration::from_secs(self.number("seconds", 5)? as u64))
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (Some(address), Some(pki), Some(command)) = (words.next(), words.next(), words.next()) else {
        return Err("load ADDRESS PKI COMMAND [key=value...]".into());
    };
    let arguments = Arguments(words.collect());
    let target = Arc::new(Target::new(&address, Path::new(&pki))?);
    let measured = match command.as_str() {
        "ready" => ready(&target).await?,
        "create" => {
            make_namespace(&target).await?;
            let count = arguments.number("count", 20_000)?;
            create(target, count, "configmaps", objects::configmap).await?
        }
        "pods" => create(target, arguments.number("count", 5_000)?, "pods", objects::pod).await?,
        "get" => {
            let count = arguments.number("count", 20_000)?;
            let path =
                move |at: usize| format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{}", name(at % count));
            read(target, arguments.seconds()?, path).await?
        }
        "list" => {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            read(target, arguments.seconds()?, move |_| path.clone()).await?
        }
        "watch" => {
            let (watchers, rate) = (arguments.number("watchers", 1_000)?, arguments.number("rate", 200)?);
            watch::measure(target, watchers, rate, arguments.seconds()?).await?
        }
        "nodes" => {
            make_namespace(&target).await?;
            scheduling::nodes(target, arguments.number("count", 1_000)?).await?
        }
        "gated" => {
            let count = arguments.number("count", 30_000)?;
            scheduling::create(target, count, arguments.template()?, true).await?
        }
        "open" => scheduling::open(target, arguments.number("count", 30_000)?).await?,
        "schedule" => {
            let count = arguments.number("count", 15_000)?;
            scheduling::create_and_bind(target, count, arguments.template()?).await?
        }
        "run" => {
            make_namespace(&target).await?;
            pods::one_at_a_time(target, arguments.number("count", 20)?, arguments.template()?).await?
        }
        "run-together" => {
            pods::together(target, arguments.number("count", 60)?, arguments.template()?).await?
        }
        other => return Err(format!("no such command: {other}").into()),
    };
    println!("{measured}");
    Ok(())
}

/// The time until the server is ready.
async fn ready(target: &Target) -> Result<Value, Failure> {
    let start = Instant::now();
    loop {
        if let Ok(mut connection) = Connection::open(target).await
            && let Ok(answer) = connection.send("GET", "/readyz", "").await
            && answer.code == 200
        {
            return Ok(json!({"seconds": start.elapsed().as_secs_f64()}));
        }
        if start.elapsed() > Duration::from_secs(60) {
            return Err("the server is not ready after a minute".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn make_namespace(target: &Target) -> Result<(), Failure> {
    let mut connection = Connection::open(target).await?;
    connection.expect(&[201, 409], "POST", "/api/v1/namespaces", &objects::namespace(NAMESPACE)).await?;
    // Pods need the service account of their namespace; a controller creates it.
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    for _ in 0..500 {
        if connection.send("GET", &account, "").await?.code == 200 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the controllers made no service account".into())
}

/// Names are spread like real ones: objects created one after the other are not neighbours in the key space.
pub(crate) fn name(at: usize) -> String {
    format!("{:08x}-{at}", (at as u32).wrapping_mul(2_654_435_761))
}

async fn create(
    target: Arc<Target>,
    count: usize,
    plural: &'static str,
    body: fn(&str) -> String,
) -> Result<Value, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/{plural}");
    repeat(target, move || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        (at < count).then(|| Request::post(path.clone(), body(&name(at))))
    })
    .await
}

async fn read(
    target: Arc<Target>,
    time: Duration,
    path: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Result<Value, Failure> {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    repeat(target, move || {
        let at = next.fetch_add(1, Ordering::Relaxed).wrapping_mul(7_919);
        (start.elapsed() < time).then(|| Request::get(path(at)))
    })
    .await
}

pub(crate) struct Request {
    method: &'static str,
    path: String,
    body: String,
    /// The status code of a correct answer.
    code: u16,
}

impl Request {
    pub(crate) fn post(path: String, body: String) -> Request {
        Request { method: "POST", path, body, code: 201 }
    }

    pub(crate) fn merge_patch(path: String, body: String) -> Request {
        Request { method: "PATCH", path, body, code: 200 }
    }

    fn get(path: String) -> Request {
        Request { method: "GET", path, body: String::new(), code: 200 }
    }
}

/// Sends the requests of `next` on every connection, one after the other, until `next` returns none.
pub(crate) async fn repeat(
    target: Arc<Target>,
    next: impl Fn() -> Option<Request> + Send + Sync + 'static,
) -> Result<Value, Failure> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(&target).await?);
    }
    let next = Arc::new(next);
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for mut connection in connections {
        let next = next.clone();
        tasks.spawn(async move {
            let mut samples = Samples::default();
            while let Some(request) = next() {
                let sent = Instant::now();
                connection.expect(&[request.code], request.method, &request.path, &request.body).await?;
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
