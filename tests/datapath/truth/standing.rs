//! Connections that stand while both agents restart and the endpoints of their Services change, from every kind of client by
//! every kind of address: over TCP, and over SCTP where the kernel has it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::NetNs;

use super::probe::{Proto, connect, serve};
use super::rules::{Client, Endpoint, Layout, Policy};
use super::world::{Family, Row, World};
use super::{ANSWER_TIMEOUT, KERNELS_SCTP, sctp};

/// Restarts of each agent, each with a change of all endpoints.
const ROUNDS: usize = 2;

/// A connection, and what its endpoint says.
struct Standing {
    what: String,
    stream: BufReader<TcpStream>,
    answer: String,
}

impl Standing {
    fn ask(&mut self) -> Result<String> {
        self.stream.get_mut().write_all(b"?")?;
        let mut text = String::new();
        self.stream.read_line(&mut text)?;
        Ok(text.trim_end().to_owned())
    }
}

#[test]
fn connections_of_every_kind_outlive_restarts_and_changes_of_endpoints() -> Result<()> {
    let is_served = |row: &Row| {
        let layout = matches!(row.layout, Layout::PodOnEach | Layout::PodOfFirst);
        layout && row.policy == Policy::Cluster && !row.affinity
    };
    let rows: Vec<Row> = Row::all().into_iter().filter(is_served).collect();
    let mut world = World::new(&rows)?;
    for node in 0..2 {
        for family in Family::ALL {
            let pod = Endpoint { node, host: false };
            serve(&world.servers[node], pod, family.endpoint(pod))?;
        }
    }
    let protos: &[Proto] = if sctp::is_the_kernels() { &[Proto::Tcp, Proto::Sctp] } else { &[Proto::Tcp] };
    let mut standing = connect_all(&world, &rows, protos)?;
    println!("{} connections over {protos:?}", standing.len());
    if protos.contains(&Proto::Sctp) {
        println!("{KERNELS_SCTP}");
    }
    for round in 0..ROUNDS {
        // A pod that is no endpoint any more keeps its connections, as one that is not ready does.
        let layout = if round % 2 == 0 { Layout::HostOfFirst } else { Layout::PodOnEach };
        let changed: Vec<Row> = rows.iter().map(|row| Row { layout, ..*row }).collect();
        world.plan(&changed)?;
        ask_all(&mut standing, "after a change of endpoints")?;
        world.restart()?;
        ask_all(&mut standing, "after a restart")?;
        world.plan(&rows)?;
        ask_all(&mut standing, "after a plan that brings the endpoints back")?;
    }
    Ok(())
}

fn connect_all(world: &World, rows: &[Row], protos: &[Proto]) -> Result<Vec<Standing>> {
    let mut standing = Vec::new();
    for (client, netns, cgroup) in clients(world) {
        for row in rows {
            // By the second node: it is for some of the endpoints a way through.
            for (family, proto) in Family::ALL.iter().flat_map(|family| protos.iter().map(|p| (*family, *p)))
            {
                let to = SocketAddr::from(row.address(family, 1));
                let what = format!("{proto:?} from {client:?} to {to}");
                let dial = || -> Result<TcpStream> {
                    cgroup.map_or(Ok(()), Cgroup::enter)?;
                    Ok(connect(proto, to, ANSWER_TIMEOUT)?)
                };
                let stream = netns.run(dial)?.with_context(|| what.clone())?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                let mut one = Standing { what, stream: BufReader::new(stream), answer: String::new() };
                one.answer = one.ask().with_context(|| one.what.clone())?;
                ensure!(!one.answer.is_empty(), "{}: no answer", one.what);
                standing.push(one);
            }
        }
    }
    Ok(standing)
}

/// Of the first node, by packets and by sockets, and an outside one.
fn clients(world: &World) -> [(Client, &NetNs, Option<&Cgroup>); 4] {
    let cgroup = Some(&world.nodes[0].cgroup);
    [
        (Client::Pod(0), &world.clients[0], None),
        (Client::Pod(0), &world.clients[0], cgroup),
        (Client::Host(0), &world.nodes[0].netns, cgroup),
        (Client::Outside, &world.outside[1], None),
    ]
}

/// The same endpoint answers on each, and sees the same address.
fn ask_all(standing: &mut [Standing], when: &str) -> Result<()> {
    let mut broken = Vec::new();
    for one in standing.iter_mut() {
        match one.ask() {
            Ok(answer) if answer == one.answer => {}
            answer => broken.push(format!("{}: {answer:?} instead of {:?}", one.what, one.answer)),
        }
    }
    ensure!(broken.is_empty(), "{when} {} broke:\n{}", broken.len(), broken.join("\n"));
    Ok(())
}
