//! Verdict maps as the programs read them: a map that is missing, and what all peers may do.

use std::sync::Arc;

use anyhow::{Result, ensure};
use skep_abi::{
    Addr, Be16, CLASS_ANY, Direction, DropReason, Pod, Proto, Verdict as PolicyVerdict, VerdictKey,
    isolated_bit, verdicts_index,
};
use skep_netplan::{VerdictMapId, Write};

use super::frame::Frame;
use super::lab::{GENERATION, Verdict, World, at};
use super::table::{POD, Table, opening};

/// Behind the slots of the other pods.
const SLOT: u32 = 200;

#[test]
fn a_pod_under_policy_is_closed_while_its_map_is_missing() -> Result<()> {
    let mut table = Table::new("pmis")?;
    let mut port = 1000;
    for world in World::ALL {
        for (isolated, expected) in [
            (0, None),
            (isolated_bit(GENERATION.wrapping_add(1)), None),
            (isolated_bit(GENERATION), Some(DropReason::PolicyIngress)),
        ] {
            port += 1;
            let pod = Pod { ifindex: 1, slot: SLOT, isolated, ..Pod::default() };
            table.lab.node.apply(&[Write::PutPod(Addr::from(world.b()), pod)])?;
            let packet = Frame::new(at(world.a(), port), at(world.b(), 80), opening(Proto::UDP));
            let (verdict, _) = table.run(POD, &packet)?;
            let dropped = match verdict {
                Verdict::Drop(reason) => Some(reason),
                _ => None,
            };
            ensure!(dropped == expected, "isolated {isolated}: {verdict:?}");
        }
    }
    Ok(())
}

#[test]
fn what_all_peers_may_do_is_allowed_whatever_the_peers_class() -> Result<()> {
    let mut table = Table::new("pany")?;
    let key = |class, proto, port| VerdictKey::new(Direction::INGRESS, class, proto, Be16::new(port));
    let verdict = |allow, rule| PolicyVerdict { allow, rule };
    let class = 7;
    let entries = [
        (VerdictKey::DIRECTION_BITS, key(0, Proto(0), 0), verdict(0, 0)),
        (VerdictKey::PORT_BITS, key(class, Proto::UDP, 53), verdict(1, 1)),
        (VerdictKey::PORT_BITS, key(CLASS_ANY, Proto::UDP, 80), verdict(1, 2)),
    ];
    let id = VerdictMapId(u64::from(SLOT));
    let mut writes = vec![
        Write::CreateVerdictMap { id, entries: Arc::new(entries) },
        Write::PutVerdicts { index: verdicts_index(SLOT, GENERATION), map: id },
    ];
    for world in World::ALL {
        let pod = Pod { ifindex: 1, slot: SLOT, isolated: isolated_bit(GENERATION), ..Pod::default() };
        writes.push(Write::PutPod(Addr::from(world.b()), pod));
        let (even_or_odd, addr) = ((GENERATION & 1) as u8, Addr::from(world.a()));
        writes.push(Write::PutClass { table: even_or_odd, prefix_bits: 128, addr, class });
    }
    table.lab.node.apply(&writes)?;
    for world in World::ALL {
        // Pod `a` is of the class, `elsewhere` of none.
        for (to, allowed) in [(53, true), (80, true), (81, false)] {
            let packet = Frame::new(at(world.a(), 2000 + to), at(world.b(), to), opening(Proto::UDP));
            let (verdict, _) = table.run(POD, &packet)?;
            ensure!(matches!(verdict, Verdict::Drop(_)) != allowed, "port {to}: {verdict:?}");
        }
    }
    Ok(())
}
