//! Open connections that send requests all the time, and new ones beside them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Report;
use super::world::World;
use crate::netns::NetNs;

/// An answer that takes longer counts as none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const WORD: usize = 8;
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
        connections: usize,
        runtime: &Runtime,
        stop: &Arc<AtomicBool>,
    ) -> Result<Traffic> {
        let connect = |to: SocketAddr, count: usize| -> std::io::Result<Vec<TcpStream>> {
            (0..count).map(|_| TcpStream::connect_timeout(&to, ANSWER_TIMEOUT)).collect()
        };
        let (from_pod, outside) = (connections / 2, connections - connections / 2);
        let to = world.cluster_addr;
        let mut streams = world.visitor.run(|| connect(to, from_pod))?.context("connect from a pod")?;
        streams.extend(connect(world.node_port, outside).context("connect to the node port")?);
        let tally = Arc::new(Tally::default());
        let mut standing = JoinSet::new();
        let _entered = runtime.enter();
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            standing.spawn_on(keep_asking(number, stream, tally.clone(), stop.clone()), runtime.handle());
        }
        let dial = |dialler| dial_on(world, dialler, tally.clone(), stop.clone());
        let dialling = (0..DIALLERS).map(dial).collect::<Result<_>>()?;
        Ok(Traffic { standing, dialling, tally })
    }

    pub(super) fn finish(mut self, runtime: &Runtime, report: &mut Report) -> Result<()> {
        runtime.block_on(async { while self.standing.join_next().await.is_some() {} });
        for dialler in self.dialling {
            dialler.join().map_err(|_| anyhow::anyhow!("a dialling thread ended badly"))?;
        }
        report.requests = self.tally.requests.load(Ordering::Acquire);
        report.dialled = self.tally.dialled.load(Ordering::Acquire);
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
    let visitor = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    Ok(std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        let fd = std::os::fd::AsFd::as_fd(&visitor);
        if let Err(error) = rustix::thread::move_into_link_name_space(fd, kind) {
            return tally.broke(format!("enter the pod: {error}"));
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
