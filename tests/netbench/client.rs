//! A client and a server of one-byte requests: `rr` over one connection, `crr` with a connection for each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    Rr,
    Crr,
}

#[derive(clap::Args)]
pub(crate) struct Client {
    #[arg(value_enum)]
    kind: Kind,
    to: SocketAddr,
    #[arg(long)]
    millis: u64,
    /// Whose processor time is counted too
    #[arg(long)]
    server: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Processor time of client and server.
    pub(crate) busy: f64,
}

impl std::ops::AddAssign for Sample {
    fn add_assign(&mut self, other: Sample) {
        self.requests += other.requests;
        self.seconds += other.seconds;
        self.busy += other.busy;
    }
}

/// How long one answer may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The first of this many parts of the time only warms up.
const WARM_UP_REQUESTS: u32 = 10;
/// Requests between two looks at the clock.
const STRIDE: u64 = 16;

/// Serves one connection after the other until it is ended.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut byte = [0];
        // A client that went away is no fault of the server.
        let _ = stream.set_nodelay(true);
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    }
    Ok(())
}

/// Prints a [`Sample`].
pub(crate) fn measure(client: &Client) -> Result<()> {
    let time = Duration::from_millis(client.millis);
    requests(client.kind, client.to, time / WARM_UP_REQUESTS)?;
    let processes = [std::process::id(), client.server];
    let busy = |processes: [u32; 2]| processes.into_iter().map(running).sum::<Result<f64>>();
    let (before, start) = (busy(processes)?, Instant::now());
    let requests = requests(client.kind, client.to, time)?;
    let seconds = start.elapsed().as_secs_f64();
    let sample = Sample { requests, seconds, busy: busy(processes)? - before };
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

fn requests(kind: Kind, to: SocketAddr, time: Duration) -> Result<u64> {
    let start = Instant::now();
    let (mut done, mut kept) = (0, None);
    while done % STRIDE != 0 || start.elapsed() < time {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => dial(to)?,
        };
        let mut byte = [0];
        stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).context("ask")?;
        if kind == Kind::Rr {
            kept = Some(stream);
        }
        done += 1;
    }
    Ok(done)
}

fn dial(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(stream)
}

/// Seconds that the process has run, system calls and the interrupts taken in them included.
fn running(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/schedstat");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let Some(nanos) = text.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()) else {
        bail!("{file} says {text:?}");
    };
    Ok(nanos / 1e9)
}
