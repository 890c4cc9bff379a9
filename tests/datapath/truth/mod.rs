//! The truth table of Services: who is answered by whom and seen as whom, for every kind, policy, protocol, family,
//! client and affinity, by real packets between namespaces. What should be is [`rules::expected`].

mod probe;
mod rules;
mod sctp;
mod standing;
mod world;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::NetNs;

use probe::{Proto, Reply, ask, serve};
use rules::{Cell, Client, Endpoint, Expected, Kind, Seen, expected};
use world::{Family, Row, World};

/// What is printed where connections over SCTP are real.
pub(crate) const KERNELS_SCTP: &str = "SCTP is the kernel's";
/// How long an answer may take that should come, and one that should not. A client of SCTP whose port the server has from an association
/// that has not ended there waits for its timer of three seconds (RFC 9260, 16), and a busy machine for the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
const SILENCE_TIMEOUT: Duration = Duration::from_millis(400);
/// Connections after which each of two endpoints has answered, except once in a billion runs.
const CONNECTIONS_TO_MEET_BOTH: usize = 30;
/// Connections that affinity must hold together.
const AFFINITY_CONNECTIONS: usize = 4;
const WORKERS: usize = 24;
/// After so many the rest of a seat's questions is not asked: most wait long for an answer that does not come.
const WRONG_MAX: usize = 24;

/// Datagrams that may get lost, and are sent a second time. The other protocols do so themselves.
const LOST_MAX: usize = 2;

/// What was not as it should be.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    lost: Vec<String>,
}

/// Where questions come from.
struct Seat<'w> {
    client: Client,
    netns: &'w NetNs,
    /// With it services are translated at the socket, without it in packets.
    cgroup: Option<&'w Cgroup>,
    /// Of an outside client: the node by which it reaches addresses that no machine has.
    by: usize,
}

#[derive(Clone, Copy)]
struct Question {
    row: Row,
    family: Family,
    proto: Proto,
    cell: Cell,
}

impl fmt::Display for Question {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question { row, family, proto, cell } = self;
        let Cell { kind, policy, layout, client, entry } = cell;
        let affinity = if row.affinity { " with affinity" } else { "" };
        write!(
            to,
            "{kind:?} {policy:?} {layout:?}{affinity}, {proto:?} {family:?} from {client:?} at {entry}"
        )
    }
}

#[test]
fn every_combination_of_service_and_client_is_as_kubernetes_says() -> Result<()> {
    let rows = Row::all();
    let world = World::new(&rows)?;
    for node in 0..2 {
        for family in Family::ALL {
            let pod = Endpoint { node, host: false };
            serve(&world.servers[node], pod, family.endpoint(pod))?;
            let host = Endpoint { node, host: true };
            serve(&world.nodes[node].netns, host, family.endpoint(host))?;
        }
    }
    println!("{}", if sctp::is_the_kernels() { KERNELS_SCTP } else { "SCTP is made by hand" });
    let mut wrong = Vec::new();
    let mut lost = Vec::new();
    let mut asked = 0;
    for seat in seats(&world) {
        let questions = seat.questions(&rows);
        asked += questions.len();
        let found = seat.run(&questions)?;
        wrong.extend(found.wrong);
        lost.extend(found.lost);
    }
    lost.iter().for_each(|question| println!("{question}: answered at the second try"));
    let shown: Vec<&str> = wrong.iter().take(100).map(String::as_str).collect();
    ensure!(wrong.is_empty(), "{} of {asked} are wrong:\n{}", wrong.len(), shown.join("\n"));
    ensure!(lost.len() <= LOST_MAX, "{} of {asked} were answered only at the second try", lost.len());
    // Rows, families and protocols; five kinds of clients ask, of which two ask twice, and node ports are two.
    ensure!(asked > 3000, "only {asked} questions were asked");
    Ok(())
}

fn seats(world: &World) -> Vec<Seat<'_>> {
    let mut seats = Vec::new();
    for node in 0..2 {
        let cgroup = Some(&world.nodes[node].cgroup);
        let (pod, host, outside) = (&world.clients[node], &world.nodes[node].netns, &world.outside[node]);
        seats.extend([
            Seat { client: Client::Pod(node), netns: pod, cgroup: None, by: node },
            Seat { client: Client::Pod(node), netns: pod, cgroup, by: node },
            Seat { client: Client::Host(node), netns: host, cgroup, by: node },
            Seat { client: Client::Outside, netns: outside, cgroup: None, by: node },
        ]);
    }
    seats
}

impl Seat<'_> {
    fn questions(&self, rows: &[Row]) -> Vec<Question> {
        let mut questions = Vec::new();
        for row in rows {
            // A node port is asked at each node, anything else on the way by one.
            let entries: &[usize] = if row.kind == Kind::NodePort { &[0, 1] } else { &[self.by] };
            for entry in entries {
                let Row { kind, policy, layout, .. } = *row;
                let cell = Cell { kind, policy, layout, client: self.client, entry: *entry };
                for family in Family::ALL {
                    let question = |proto| Question { row: *row, family, proto, cell };
                    questions.extend(Proto::ALL.map(question));
                }
            }
        }
        questions
    }

    fn run(&self, questions: &[Question]) -> Result<Found> {
        // An ICMP error reaches every raw socket connected to its source: questions that expect one run first, alone.
        let refused = |question: &&Question| expected(&question.cell) == Expected::Refused;
        let (first, rest): (Vec<&Question>, Vec<&Question>) = questions.iter().partition(refused);
        let found = Mutex::new(Found::default());
        self.netns.run(|| -> Result<()> {
            // Threads are born into the cgroup and the namespace of their parent.
            self.cgroup.map_or(Ok(()), Cgroup::enter)?;
            self.work(&first, 1, &found);
            self.work(&rest, WORKERS, &found);
            Ok(())
        })??;
        found.into_inner().context("a question panicked")
    }

    fn work(&self, questions: &[&Question], workers: usize, found: &Mutex<Found>) {
        let next = Mutex::new(questions.iter());
        let one = || {
            if found.lock().expect("no panic").wrong.len() >= WRONG_MAX {
                return false;
            }
            let question = next.lock().expect("no panic").next();
            question.is_some_and(|question| {
                let by = if self.cgroup.is_some() { "socket" } else { "packet" };
                let lost = || found.lock().expect("no panic").lost.push(format!("{question} by {by}"));
                if let Err(error) = self.check(question, lost) {
                    let wrong = format!("{question} by {by}: {error:#}");
                    found.lock().expect("no panic").wrong.push(wrong);
                }
                true
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| while one() {});
            }
        });
    }

    /// `lost` is called when only the second try was answered.
    fn check(&self, question: &Question, lost: impl Fn()) -> Result<()> {
        let to = SocketAddr::from(question.row.address(question.family, question.cell.entry));
        let ask = |timeout, named| ask(question.proto, to, timeout, named);
        let candidates = match expected(&question.cell) {
            Expected::Answered(candidates) => candidates,
            Expected::Refused => {
                let reply = ask(ANSWER_TIMEOUT, false)?;
                ensure!(reply == Reply::Refused, "{reply:?} instead of a refusal");
                return Ok(());
            }
            Expected::Dropped => {
                let reply = ask(SILENCE_TIMEOUT, false)?;
                let host = matches!(self.client, Client::Host(_));
                // The node's own packets are refused at the socket, so its processes get an error, as under netfilter.
                let silent = reply == Reply::Nothing || host && reply == Reply::Forbidden;
                ensure!(silent, "{reply:?} instead of nothing");
                return Ok(());
            }
        };
        let mut met = BTreeSet::new();
        for number in 0..CONNECTIONS_TO_MEET_BOTH {
            let mut reply = ask(ANSWER_TIMEOUT, number % 2 == 1)?;
            if reply == Reply::Nothing && question.proto == Proto::Udp {
                reply = ask(ANSWER_TIMEOUT, number % 2 == 1)?;
                if reply != Reply::Nothing {
                    lost();
                }
            }
            let (endpoint, source) = match reply {
                Reply::Answer(endpoint, source) => (endpoint, source),
                reply => bail!("{reply:?} instead of an answer"),
            };
            let Some((_, seen)) = candidates.iter().find(|(candidate, _)| *candidate == endpoint) else {
                bail!("{endpoint:?} instead of {candidates:?}")
            };
            let wanted = self.address(question.family, *seen);
            ensure!(source == wanted, "{endpoint:?} saw {source} instead of {wanted}");
            met.insert(endpoint);
            let enough = if question.row.affinity {
                number + 1 == AFFINITY_CONNECTIONS
            } else {
                met.len() == candidates.len()
            };
            if enough {
                break;
            }
        }
        let wanted = if question.row.affinity { 1 } else { candidates.len() };
        ensure!(met.len() == wanted, "{met:?} answered");
        Ok(())
    }

    fn address(&self, family: Family, seen: Seen) -> IpAddr {
        match (seen, self.client) {
            (Seen::Node(node), _) | (Seen::Client, Client::Host(node)) => family.node(node),
            (Seen::Client, Client::Pod(node)) => family.client(node),
            (Seen::Client, Client::Outside) => family.outside(self.by),
        }
    }
}
