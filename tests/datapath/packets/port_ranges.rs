//! Blocks of ports: the backend serves at the port that was addressed; ports in no block are as without them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use skep_abi::{Addr, Backend, Be16, DropReason, OtherPorts, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;

use super::frame::Frame;
use super::lab::{AFFINITY_SECONDS, PROTOS, Verdict, World, at, port};
use super::service::{conversation, refusal};
use super::table::{FROM_OUTSIDE, POD, Table, data, each, opening};

/// Of a block of 16 ports, next to one of 256.
const FEW: u16 = 0x7530;
const MANY: u16 = 0x7600;
const MANY_LAST: u16 = 0x76ff;
/// Of a block with affinity, and of one whose backend is isolated.
const STICKY: u16 = 0x9000;
const CLOSED: u16 = 0xa000;
const FIRST_SET: u32 = 1_000;

/// `vip` and the balancer's address get blocks; `vip` refuses on other ports.
fn table(name: &str) -> Result<Table> {
    let mut table = Table::new(name)?;
    let mut writes = Vec::new();
    for (world, set) in World::ALL.into_iter().zip((FIRST_SET..).step_by(10)) {
        let blocks: [(u16, u8, &[IpAddr], u32); 4] = [
            (FEW, 1, &[world.b()], 0),
            (MANY, 2, &[world.b()], 0),
            (STICKY, 3, &[world.a(), world.b(), world.remote()], AFFINITY_SECONDS),
            (CLOSED, 1, &[world.closed()], 0),
        ];
        for ((first, level, backends, affinity_seconds), set) in blocks.into_iter().zip(set..) {
            let backend = |ip: &IpAddr| Backend { addr: Addr::from(*ip), ..Backend::default() };
            let mut backends: Vec<Backend> = backends.iter().map(backend).collect();
            backends.sort();
            writes.extend(Write::backend_set(set, &backends));
            let count = backends.len() as u32;
            let flags = ServiceValue::SAME_PORT;
            let value = ServiceValue { set, count, service: set, affinity_seconds, flags, ranges: 0 };
            for proto in PROTOS {
                for (ip, scope) in [
                    (world.vip(), Scope::INTERNAL),
                    (world.balancer(), Scope::INTERNAL),
                    (world.balancer(), Scope::EXTERNAL),
                ] {
                    let key = ServiceKey::block(ip.into(), Be16::new(first), proto, scope, level);
                    writes.push(Write::PutService(key, value));
                }
            }
        }
        let others =
            [(world.vip(), OtherPorts::BLOCKS | OtherPorts::REFUSED), (world.balancer(), OtherPorts::BLOCKS)];
        writes.extend(others.map(|(ip, flags)| Write::PutOtherPorts(ip.into(), flags)));
    }
    table.lab.node.apply(&writes)?;
    Ok(table)
}

#[test]
fn each_port_of_a_block_leads_to_the_same_port_of_the_backend() -> Result<()> {
    let mut table = table("pkr1")?;
    each(|world, proto, number| {
        let (a, client) = (at(world.a(), number), at(world.client(), number));
        for number in [FEW, FEW + 15, MANY, MANY + 77, MANY_LAST] {
            let backend = at(world.b(), number);
            conversation(&mut table, proto, (POD, a), at(world.vip(), number), backend)?;
            let balancer = at(world.balancer(), number);
            conversation(&mut table, proto, (FROM_OUTSIDE, client), balancer, backend)?;
        }
        // A port of the list keeps its target.
        table.lab.copy_service(world, proto, port::LOCAL, MANY + 5)?;
        conversation(&mut table, proto, (POD, a), at(world.vip(), MANY + 5), at(world.b(), port::BACKEND))?;
        // As from a network that routes cluster IPs here.
        let vip = at(world.vip(), FEW + 3);
        conversation(
            &mut table,
            proto,
            (FROM_OUTSIDE, at(world.client(), number + 1)),
            vip,
            at(world.b(), FEW + 3),
        )
    })
}

#[test]
fn ports_in_no_block_are_refused_by_a_cluster_address_and_nobodys_elsewhere() -> Result<()> {
    let mut table = table("pkr2")?;
    each(|world, proto, number| {
        for outside in [FEW - 1, FEW + 16, MANY - 1, MANY_LAST + 1] {
            let question = Frame::new(at(world.a(), number), at(world.vip(), outside), opening(proto));
            table.row(POD, &question, Verdict::Redirect, &refusal(&question))?;
            let question =
                Frame::new(at(world.client(), number), at(world.balancer(), outside), opening(proto));
            table.row(FROM_OUTSIDE, &question, Verdict::Pass, &question)?;
        }
        Ok(())
    })
}

#[test]
fn a_client_stays_with_one_backend_on_all_ports_of_a_block() -> Result<()> {
    let mut table = table("pkr3")?;
    each(|world, proto, number| {
        let mut backends = BTreeSet::new();
        for offset in 0..20 {
            let client = at(world.b(), number + offset);
            let question = Frame::new(client, at(world.vip(), STICKY + offset), opening(proto));
            let (_, bytes) = table.run(POD, &question)?;
            let (_, to) = Frame::ends(&bytes)?;
            ensure!(to.port() == STICKY + offset, "{to}");
            backends.insert(to.ip());
        }
        ensure!(backends.len() == 1, "one client was led to {backends:?}");
        Ok(())
    })?;
    // A connection that begins again keeps its backend while the block has it.
    for world in World::ALL {
        let question =
            Frame::new(at(world.client(), 50_000), at(world.balancer(), STICKY + 9), opening(Proto::TCP));
        let (_, first) = table.run(FROM_OUTSIDE, &question)?;
        for _ in 0..5 {
            ensure!(table.run(FROM_OUTSIDE, &question)?.1 == first);
        }
    }
    ensure!(table.lab.tidy()? == 0, "all flows lead to backends of their services");
    Ok(())
}

/// A policy is about what the packet becomes.
#[test]
fn policies_hold_behind_a_block() -> Result<()> {
    let mut table = table("pkr4")?;
    each(|world, proto, number| {
        for (program, client, frontend) in [
            (POD, at(world.a(), number), at(world.vip(), CLOSED + 1)),
            (FROM_OUTSIDE, at(world.client(), number), at(world.balancer(), CLOSED + 1)),
        ] {
            for body in [opening(proto), data(proto)] {
                table.dropped(program, &Frame::new(client, frontend, body), DropReason::PolicyIngress)?;
            }
        }
        Ok(())
    })
}
