//! The access log: a line of JSON for a request that was sampled. A thread of its own writes, and a log that is slow loses lines, not time.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use http::request::Parts;
use jiff::Timestamp;
use serde::Serialize;

/// Lines that wait for the writer.
const MAX_WAITING_LINES: usize = 4_096;

/// Where lines go, and how many.
pub struct AccessLog {
    lines: SyncSender<String>,
    /// One request of so many is logged.
    one_of: u64,
    requests: AtomicU64,
}

/// What is known of a request before its response.
pub(super) struct Line {
    client: IpAddr,
    method: String,
    host: String,
    path: String,
    protocol: &'static str,
    user_agent: Option<String>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) error: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    time: Timestamp,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl AccessLog {
    /// Writes one request of `one_of`. The thread ends with the last clone of the gateway, or when writing fails.
    pub fn new(out: impl Write + Send + 'static, one_of: u64) -> std::io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&waiting, out))?;
        Ok(AccessLog { lines, one_of: one_of.max(1), requests: AtomicU64::new(0) })
    }

    /// The line of a request, if it is one that is logged.
    pub(super) fn sample(&self, client: IpAddr, head: &Parts) -> Option<Box<Line>> {
        if !self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_of) {
            return None;
        }
        let text =
            |name| head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let host = head.uri.authority().map(ToString::to_string).or_else(|| text(http::header::HOST));
        Some(Box::new(Line {
            client: client.to_canonical(),
            method: head.method.to_string(),
            host: host.unwrap_or_default(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            protocol: match head.version {
                http::Version::HTTP_2 => "HTTP/2",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            user_agent: text(USER_AGENT),
            endpoint: None,
            error: None,
        }))
    }

    /// Whether the writer takes the line.
    pub(super) fn write(
        &self,
        line: &Line,
        route: Option<&str>,
        status: u16,
        bytes: u64,
        took: Duration,
    ) -> bool {
        let Line { client, method, host, path, protocol, user_agent, endpoint, error } = line;
        let written = Written {
            time: Timestamp::try_from(SystemTime::now()).unwrap_or_default(),
            client: *client,
            method,
            host,
            path,
            protocol,
            user_agent: user_agent.as_deref(),
            route,
            endpoint: *endpoint,
            status,
            bytes,
            duration_ms: took.as_secs_f64() * 1e3,
            error: error.as_deref(),
        };
        serde_json::to_string(&written).is_ok_and(|text| self.lines.try_send(text).is_ok())
    }
}

fn write_all(lines: &Receiver<String>, mut out: impl Write) {
    while let Ok(line) = lines.recv() {
        let written = writeln!(out, "{line}").and_then(|()| {
            for line in lines.try_iter() {
                writeln!(out, "{line}")?;
            }
            out.flush()
        });
        if let Err(error) = written {
            tracing::error!(%error, "write access log failed; it ends");
            return;
        }
    }
}
