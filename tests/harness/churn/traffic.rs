//! Open connections that send requests all the time, others that are silent for long, new ones beside them, and some that must be
//! refused.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::options::Options;
use super::report::Report;
use super::world::World;
use crate::netns::{NetNs, enter};

/// An answer that takes longer counts as none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const WORD: usize = 8;
/// How long a connection is tried that must be refused.
pub(super) const REFUSAL_TIMEOUT: Duration = Duration::from_millis(300);
/// A client's first byte of a word that is to be answered after the silence. Without it the server answers at once.
const LATER: u8 = 1;
/// Several, so that a fault of one connection differs from a fault of all.
const DIALLERS: usize = 4;

pub(super) struct Traffic {
    standing: JoinSet<()>,
    dialling: Vec<std::thread::JoinHandle<()>>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    requests: AtomicUsize,
    dialled: AtomicUsize,
    after_silence: AtomicUsize,
    refused: AtomicUsize,
    broken: Mutex<Vec<String>>,
}

impl Tally {
    fn broke(&self, what: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Two ends of each connection are open here.
pub(super) fn allow_files(wanted: usize) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    if limit.current.is_some_and(|now| now < wanted) {
        ensure!(limit.maximum.is_none_or(|most| most >= wanted), "{wanted} open files are not allowed");
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).context("raise the limit of open files")?;
    }
    Ok(())
}

/// Answers every word with itself.
pub(super) fn serve(pod: &NetNs, at: SocketAddr, runtime: &Runtime) -> Result<()> {
    let listener = pod.run(|| TcpListener::bind(at))??;
    listener.set_nonblocking(true)?;
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Ok(())
}

/// One connection with one answer, from the namespace of this thread.
pub(super) fn dial(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&[7; WORD])?;
    stream.read_exact(&mut [0; WORD])
}

impl Traffic {
    pub(super) fn start(
        world: &World,
        options: &Options,
        runtime: &Runtime,
        stop: &Arc<AtomicBool>,
    ) -> Result<Traffic> {
        let connect = |to: SocketAddr, count: usize| -> std::io::Result<Vec<TcpStream>> {
            (0..count).map(|_| TcpStream::connect_timeout(&to, ANSWER_TIMEOUT)).collect()
        };
        let from_pod = options.connections / 2;
        let to = world.cluster_addr;
        let mut streams = world.visitor.run(|| connect(to, from_pod))?.context("connect from a pod")?;
        for (number, to) in world.node_ports.iter().enumerate() {
            let count = (options.connections - from_pod + number) / world.node_ports.len();
            streams.extend(connect(*to, count).with_context(|| format!("connect to the node port {to}"))?);
        }
        let tally = Arc::new(Tally::default());
        let mut standing = JoinSet::new();
        let _entered = runtime.enter();
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            standing.spawn_on(keep_asking(number, stream, tally.clone(), stop.clone()), runtime.handle());
        }
        let outside = serve_after(world.outside, options.silence, runtime)?;
        let streams =
            world.visitor.run(|| connect(outside, options.silent))?.context("connect to the outside")?;
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let work = be_silent(number, stream, options.silence, tally.clone());
            let stop = stop.clone();
            let work = async move {
                tokio::select! {
                    () = work => {}
                    () = stopped(stop) => {}
                }
            };
            standing.spawn_on(work, runtime.handle());
        }
        let dial = |dialler| dial_on(world, dialler, tally.clone(), stop.clone());
        let mut dialling = (0..DIALLERS).map(dial).collect::<Result<Vec<_>>>()?;
        dialling.push(be_refused(world, tally.clone(), stop.clone())?);
        Ok(Traffic { standing, dialling, tally })
    }

    pub(super) fn finish(mut self, runtime: &Runtime, report: &mut Report) -> Result<()> {
        runtime.block_on(async { while self.standing.join_next().await.is_some() {} });
        for dialler in self.dialling {
            dialler.join().map_err(|_| anyhow::anyhow!("a dialling thread ended badly"))?;
        }
        report.requests = self.tally.requests.load(Ordering::Acquire);
        report.dialled = self.tally.dialled.load(Ordering::Acquire);
        report.after_silence = self.tally.after_silence.load(Ordering::Acquire);
        report.refused = self.tally.refused.load(Ordering::Acquire);
        report.broken =
            std::mem::take(&mut *self.tally.broken.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Asks about once a second until the end.
async fn keep_asking(
    number: usize,
    mut stream: tokio::net::TcpStream,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) {
    let name = format!("connection {number}, {:?}", stream.peer_addr());
    for request in 0_u64.. {
        // Spread over the second, and never twice at the same distance from a change.
        tokio::time::sleep(Duration::from_millis(600 + (number as u64 * 37 + request * 101) % 700)).await;
        if stop.load(Ordering::Acquire) {
            return;
        }
        let word = request.to_be_bytes();
        let mut answer = [0; WORD];
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, async {
            stream.write_all(&word).await?;
            stream.read_exact(&mut answer).await
        });
        match asked.await {
            Ok(Ok(_)) if answer == word => drop(tally.requests.fetch_add(1, Ordering::Relaxed)),
            Ok(Ok(_)) => return tally.broke(format!("{name}, request {request}: another's answer")),
            Ok(Err(error)) => return tally.broke(format!("{name}, request {request}: {error}")),
            Err(_) => {
                return tally.broke(format!("{name}, request {request}: no answer in {ANSWER_TIMEOUT:?}"));
            }
        }
    }
}

/// New connections from the pod, one after the other.
fn dial_on(
    world: &World,
    dialler: usize,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let (path, to) = (world.visitor.path(), world.cluster_addr);
    Ok(std::thread::spawn(move || {
        if let Err(error) = enter(&path) {
            return tally.broke(format!("enter the pod: {error:#}"));
        }
        let start = Instant::now();
        for number in 0_u64.. {
            if stop.load(Ordering::Acquire) {
                return;
            }
            let at = start.elapsed();
            match dial(to) {
                Ok(()) => drop(tally.dialled.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tally.broke(format!(
                        "dialler {dialler}, connection {number}, begun after {at:.1?}: {error}"
                    ));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }))
}

async fn stopped(stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Answers each word with itself, after the silence if the word asks for that.
fn serve_after(at: Ipv4Addr, silence: Duration, runtime: &Runtime) -> Result<SocketAddr> {
    let listener = TcpListener::bind((at, 0))?;
    let addr = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut word = [0; WORD];
                while stream.read_exact(&mut word).await.is_ok() {
                    if word[0] == LATER {
                        tokio::time::sleep(silence).await;
                    }
                    if stream.write_all(&word).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(addr)
}

/// Says nothing for long, then asks; and asks for an answer that comes after a long silence, so that the other end speaks first.
async fn be_silent(number: usize, mut stream: tokio::net::TcpStream, silence: Duration, tally: Arc<Tally>) {
    let name = format!("silent connection {number}, {:?}", stream.local_addr());
    for round in 0_u32.. {
        let later = (round as usize + number).is_multiple_of(2);
        let mut word = [0; WORD];
        word[0] = if later { LATER } else { 0 };
        word[4..].copy_from_slice(&round.to_be_bytes());
        let wait = if later { silence } else { Duration::ZERO };
        tokio::time::sleep(silence - wait).await;
        let mut answer = [0; WORD];
        let asked = tokio::time::timeout(wait + ANSWER_TIMEOUT, async {
            stream.write_all(&word).await?;
            stream.read_exact(&mut answer).await
        });
        let who = if later { "the other end" } else { "this end" };
        match asked.await {
            Ok(Ok(_)) if answer == word => drop(tally.after_silence.fetch_add(1, Ordering::Relaxed)),
            Ok(Ok(_)) => return tally.broke(format!("{name}, round {round}: another's answer")),
            Ok(Err(error)) => return tally.broke(format!("{name}, round {round}, {who} speaks: {error}")),
            Err(_) => return tally.broke(format!("{name}, round {round}, {who} speaks: no answer")),
        }
    }
}

/// Tries to reach the closed pod, by its address and by its Service, from a pod; nothing may pass.
fn be_refused(
    world: &World,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let (path, closed) = (world.visitor.path(), world.closed);
    Ok(std::thread::spawn(move || {
        if let Err(error) = enter(&path) {
            return tally.broke(format!("enter the pod: {error:#}"));
        }
        let start = Instant::now();
        while !stop.load(Ordering::Acquire) {
            for to in closed {
                match TcpStream::connect_timeout(&to, REFUSAL_TIMEOUT) {
                    Ok(_) => {
                        tally.broke(format!("a connection to {to} passed after {:.1?}", start.elapsed()))
                    }
                    Err(_) => drop(tally.refused.fetch_add(1, Ordering::Relaxed)),
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }))
}
