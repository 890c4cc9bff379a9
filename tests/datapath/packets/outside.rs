//! To the outside: as the node, whatever the protocol, and never under the pod's own address.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use skep_abi::{Backend, Be16, DropReason, Proto, Scope, ServiceKey, ServiceValue, verdicts_index};
use skep_netplan::{VerdictMapId, Write};

use super::frame::{Body, Frame};
use super::lab::{Verdict, World, at, port};
use super::table::{FROM_OUTSIDE, POD, TO_OUTSIDE, Table, data, each, opening};

const GRE: u8 = 47;
const ESP: u8 = 50;
/// IPv6 in IP, which no address of the lab's makes a difference to.
const TUNNEL: u8 = 41;

/// A frontend of `vip` whose backend is a client outside.
fn export(table: &mut Table, world: World, proto: Proto, frontend: u16, set: u32) -> Result<()> {
    let backend = Backend { addr: world.client().into(), port: Be16::new(port::BACKEND), reserved: 0 };
    let key =
        ServiceKey { addr: world.vip().into(), port: Be16::new(frontend), proto, scope: Scope::INTERNAL };
    let value = ServiceValue { set, count: 1, service: set, ..ServiceValue::default() };
    let writes: Vec<Write> =
        Write::backend_set(set, &[backend]).chain([Write::PutService(key, value)]).collect();
    table.lab.node.apply(&writes)
}

#[test]
fn an_endpoint_outside_the_cluster_sees_the_node() -> Result<()> {
    let mut table = Table::new("pko1")?;
    let mut generation = 3;
    each(|world, proto, number| {
        export(&mut table, world, proto, 95, 2000)?;
        let (a, vip, outside) =
            (at(world.a(), number), at(world.vip(), 95), at(world.client(), port::BACKEND));
        let question = Frame::new(a, vip, opening(proto));
        let (_, bytes) = table.run(POD, &question)?;
        let (node, to) = Frame::ends(&bytes)?;
        ensure!(node.ip() == world.node() && to == outside, "{node} {to}");
        let translated = |frame: &Frame| frame.from(node).to(outside);
        // A change of policy that allows the flow again keeps it.
        for _ in 0..2 {
            let question = Frame::new(a, vip, data(proto));
            table.row(POD, &question, Verdict::Redirect, &translated(&question))?;
            // The uplink's own hook has nothing to add.
            let sent = translated(&question);
            table.row(TO_OUTSIDE, &sent, Verdict::Pass, &sent)?;
            let answer = Frame::new(outside, node, data(proto));
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.from(vip).to(a))?;
            generation += 2;
            table.lab.node.apply(&[Write::SetGeneration(generation)])?;
        }
        let denied = Frame::new(at(world.closed(), number), vip, opening(proto));
        table.dropped(POD, &denied, DropReason::PolicyEgress)?;
        // The pod's policy is about the pod, not about the node that it speaks as.
        let isolated = VerdictMapId(2);
        generation += 2;
        table.lab.node.apply(&[
            Write::PutVerdicts { index: verdicts_index(0, generation), map: isolated },
            Write::SetGeneration(generation),
        ])?;
        let question = Frame::new(a, vip, data(proto));
        table.dropped(POD, &question, DropReason::PolicyEgress)?;
        generation += 2;
        table.lab.node.apply(&[
            Write::DeleteVerdicts { index: verdicts_index(0, generation) },
            Write::SetGeneration(generation),
        ])
    })
}

fn raw(from: IpAddr, to: IpAddr, proto: u8) -> Frame {
    Frame::new(at(from, 0), at(to, 0), Body::Raw { proto, message: b"whatever stands behind it".to_vec() })
}

#[test]
fn protocols_without_ports_go_out_as_the_node_and_their_answers_come_back() -> Result<()> {
    let mut table = Table::new("pko2")?;
    for world in World::ALL {
        let (node, outside) = (world.node(), world.client());
        for proto in [GRE, ESP, TUNNEL] {
            let sent = raw(world.a(), outside, proto);
            for _ in 0..2 {
                table.row(POD, &sent, Verdict::Pass, &sent)?;
                table.row(TO_OUTSIDE, &sent, Verdict::Pass, &sent.from(at(node, 0)))?;
            }
            let answer = raw(outside, node, proto);
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(sent.source))?;
            // One pod at a time: nothing tells their flows apart.
            let second = raw(world.b(), outside, proto);
            table.row(POD, &second, Verdict::Pass, &second)?;
            table.dropped(TO_OUTSIDE, &second, DropReason::NoPort)?;
            // The node's own come first.
            let own = raw(node, outside, proto);
            table.row(TO_OUTSIDE, &own, Verdict::Pass, &own)?;
            table.row(FROM_OUTSIDE, &answer, Verdict::Pass, &answer)?;
        }
        let lite = Frame::new(at(world.a(), 7), at(outside, 9), Body::UdpLite(b"lite".to_vec()));
        table.row(POD, &lite, Verdict::Pass, &lite)?;
        let (_, bytes) = table.run(TO_OUTSIDE, &lite)?;
        let ours = Frame::ends(&bytes)?.0;
        table.row(TO_OUTSIDE, &lite, Verdict::Pass, &lite.from(ours))?;
        let answer = lite.answer(Body::UdpLite(b"etil".to_vec())).to(ours);
        table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &answer.to(lite.source))?;
    }
    Ok(())
}

#[test]
fn icmp_queries_find_back_and_other_messages_stay_as_they_are() -> Result<()> {
    let mut table = Table::new("pko3")?;
    for world in World::ALL {
        let (a, node, outside) = (at(world.a(), 0), at(world.node(), 0), at(world.client(), 0));
        let message = |from, to, kind, word: [u8; 4]| {
            Frame::new(from, to, Body::Icmp { kind, code: 0, word, rest: vec![0; 12] })
        };
        if world.is_v4() {
            let request = message(a, outside, 13, [0x12, 0x34, 0, 1]);
            table.row(POD, &request, Verdict::Pass, &request)?;
            let (_, bytes) = table.run(TO_OUTSIDE, &request)?;
            let [high, low] = Frame::echo(&bytes)?.to_be_bytes();
            table.row(TO_OUTSIDE, &request, Verdict::Pass, &message(node, outside, 13, [high, low, 0, 1]))?;
            let answer = message(outside, node, 14, [high, low, 0, 1]);
            let back = message(outside, a, 14, [0x12, 0x34, 0, 1]);
            table.row(FROM_OUTSIDE, &answer, Verdict::Redirect, &back)?;
        }
        // About an unknown flow: the MTU stays what it is.
        let kind = if world.is_v4() { 3 } else { 2 };
        let unknown = message(a, outside, kind, [0, 0, 5, 0]);
        table.row(POD, &unknown, Verdict::Pass, &unknown)?;
        table.row(TO_OUTSIDE, &unknown, Verdict::Pass, &unknown.from(node))?;
        // What comes to the node is the node's.
        let about_node = message(outside, node, kind, [0, 0, 5, 0]);
        table.row(FROM_OUTSIDE, &about_node, Verdict::Pass, &about_node)?;
    }
    Ok(())
}

#[test]
fn without_its_entry_no_packet_leaves_under_a_pods_address() -> Result<()> {
    let mut table = Table::new("pko4")?;
    each(|world, proto, number| {
        let question = Frame::new(at(world.a(), number), at(world.client(), 443), opening(proto));
        table.row(POD, &question, Verdict::Pass, &question)?;
        table.lab.forget_flows()?;
        table.dropped(TO_OUTSIDE, &question, DropReason::NoPort)?;
        // Others' packets, and those inside the cluster, go on.
        for (from, to) in [(world.stranger(), world.client()), (world.a(), world.remote())] {
            let forwarded = Frame::new(at(from, number), at(to, 443), opening(proto));
            table.row(TO_OUTSIDE, &forwarded, Verdict::Pass, &forwarded)?;
        }
        Ok(())
    })
}

/// A packet that no hook of a pod has translated, such as one from before there was the frontend.
#[test]
fn a_packet_to_a_frontend_gets_no_address_of_the_node_and_the_next_is_translated_as_ever() -> Result<()> {
    let mut table = Table::new("pko5")?;
    each(|world, proto, number| {
        let question = Frame::new(at(world.a(), number), at(world.vip(), port::REMOTE), opening(proto));
        let opened = table.run(POD, &question)?;
        ensure!(Frame::ends(&opened.1)?.1 == at(world.remote(), port::BACKEND), "{opened:?}");
        table.dropped(TO_OUTSIDE, &question, DropReason::NoPort)?;
        ensure!(table.run(POD, &question)? == opened, "{world:?} {proto:?}: another packet than {opened:?}");
        Ok(())
    })
}
