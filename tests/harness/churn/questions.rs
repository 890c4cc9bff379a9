//! Questions to the cluster's DNS at a constant rate, from a pod. Each must be answered, also while agents are replaced.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::interval;

use super::report::Report;
use super::world::{STEADY, World};

/// As long as a resolver waits by default (resolv.conf(5)).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two groups of questions.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Questions(JoinHandle<Result<Tally>>);

#[derive(Default)]
struct Tally {
    asked: usize,
    broken: Vec<String>,
    slowest: Duration,
}

/// What is asked, and the only right answer.
struct Asker {
    socket: tokio::net::UdpSocket,
    name: Name,
    answer: Ipv4Addr,
    begun: Instant,
    waiting: HashMap<u16, Instant>,
    tally: Tally,
}

pub(super) fn start(
    world: &World,
    per_second: u32,
    runtime: &Runtime,
    stop: &Arc<AtomicBool>,
) -> Result<Questions> {
    let server = runtime.block_on(world.dns_addr())?;
    let connect = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = world.visitor.run(connect)?.context("connect to the cluster's DNS")?;
    let SocketAddr::V4(steady) = world.cluster_addr else { anyhow::bail!("not an IPv4 address") };
    let _entered = runtime.enter();
    let asker = Asker {
        socket: tokio::net::UdpSocket::from_std(socket)?,
        name: Name::from_ascii(format!("{STEADY}.default.svc.cluster.local."))?,
        answer: *steady.ip(),
        begun: Instant::now(),
        waiting: HashMap::new(),
        tally: Tally::default(),
    };
    Ok(Questions(runtime.spawn(asker.run(per_second, stop.clone()))))
}

impl Questions {
    /// Waits for the last answers.
    pub(super) fn finish(self, runtime: &Runtime, report: &mut Report) -> Result<()> {
        let mut tally = runtime.block_on(self.0).context("the questions ended badly")??;
        report.questions = tally.asked;
        report.slowest_answer = tally.slowest;
        report.broken.append(&mut tally.broken);
        Ok(())
    }
}

impl Asker {
    async fn run(mut self, per_second: u32, stop: Arc<AtomicBool>) -> Result<Tally> {
        let mut tick = interval(PAUSE);
        let mut buffer = [0; 512];
        let mut due = 0.0;
        loop {
            tokio::select! {
                received = self.socket.recv(&mut buffer) => self.check(&buffer[..received?]),
                _ = tick.tick() => {
                    self.give_up_late_ones();
                    if stop.load(Ordering::Acquire) {
                        if self.waiting.is_empty() {
                            return Ok(self.tally);
                        }
                        continue;
                    }
                    due += f64::from(per_second) * PAUSE.as_secs_f64();
                    while due >= 1.0 {
                        due -= 1.0;
                        self.ask().await?;
                    }
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<()> {
        let id = self.tally.asked as u16;
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(self.name.clone(), RecordType::A));
        self.socket.send(&question.to_vec()?).await.context("ask")?;
        self.tally.asked += 1;
        self.waiting.insert(id, Instant::now());
        Ok(())
    }

    fn check(&mut self, packet: &[u8]) {
        let answer = match Message::from_vec(packet) {
            Ok(answer) => answer,
            Err(error) => return self.broke(format!("no DNS message came: {error}")),
        };
        let Some(asked) = self.waiting.remove(&answer.id) else {
            return self.broke(format!("an answer came twice or late: {}", answer.id));
        };
        self.tally.slowest = self.tally.slowest.max(asked.elapsed());
        let right = answer
            .answers
            .iter()
            .any(|record| matches!(&record.data, RData::A(addr) if addr.0 == self.answer));
        if !right {
            self.broke(format!("{} is answered {}", self.name, answer.response_code));
        }
    }

    fn give_up_late_ones(&mut self) {
        let late = self.waiting.extract_if(|_, asked| asked.elapsed() > ANSWER_TIMEOUT).count();
        if late > 0 {
            self.broke(format!("{late} questions without an answer in {ANSWER_TIMEOUT:?}"));
        }
    }

    fn broke(&mut self, what: String) {
        self.tally.broken.push(format!("DNS after {:.1?}: {what}", self.begun.elapsed()));
    }
}
