//! A change of policy under load: no verdict of one generation is kept as one of the next.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use skep_abi::{
    ABI_VERSION, Direction, NodeConfig, Proto, Verdict as PolicyVerdict, VerdictKey, verdicts_index,
};
use skep_netplan::{VerdictMapId, Write};

use super::frame::Frame;
use super::lab::{World, at};
use super::table::{POD, Table, opening};

const PACKETS: u16 = 30_000;
/// Slots of `a` and `b`.
const SLOTS: [u32; 2] = [0, 1];

#[test]
fn a_flow_opened_during_a_change_is_under_one_generation() -> Result<()> {
    let mut table = Table::new("pkg1")?;
    // Even generations allow everything, odd ones nothing.
    let id = VerdictMapId(99);
    let deny = [Direction::INGRESS, Direction::EGRESS].map(|direction| {
        let key = VerdictKey::new(direction, 0, Proto(0), skep_abi::Be16::new(0));
        (VerdictKey::DIRECTION_BITS, key, PolicyVerdict { allow: 0, rule: 1 })
    });
    let mut writes = vec![Write::CreateVerdictMap { id, entries: deny.to_vec().into() }];
    writes.extend(SLOTS.map(|slot| Write::PutVerdicts { index: verdicts_index(slot, 1), map: id }));
    table.lab.node.apply(&writes)?;
    let path = table.lab.node.bpffs()?.join(format!("v{ABI_VERSION}/maps/CONFIG"));
    let mut config: Array<MapData, NodeConfig> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
    let mut value = config.get(&0, 0)?;
    let done = AtomicBool::new(false);
    let world = World::ALL[0];
    let flips = std::thread::scope(|scope| -> Result<u32> {
        let flipping = scope.spawn(|| -> Result<u32> {
            let first = value.generation;
            while !done.load(Ordering::Relaxed) {
                value.generation += 1;
                config.set(0, value, 0)?;
            }
            Ok(value.generation - first)
        });
        let node = &mut table.lab.node;
        let datapath = node.datapath.as_mut().context("no datapath")?;
        let sent = node.netns.run(|| -> Result<()> {
            for number in 0..PACKETS {
                let packet =
                    Frame::new(at(world.a(), 10_000 + number), at(world.b(), 80), opening(Proto::UDP));
                datapath.test_run(POD, &packet.bytes(), 1)?;
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        sent??;
        flipping.join().map_err(|_| anyhow::anyhow!("the flipping thread ended badly"))?
    })?;
    let flows = table.lab.flow_entries()?;
    ensure!(flips > 1000 && flows.len() > 1000, "{flips} flips, {} flows: the run shows little", flows.len());
    let wrong = flows.values().filter(|flow| flow.generation & 1 == 1).count();
    ensure!(
        wrong == 0,
        "{wrong} of {} flows were allowed under one generation and kept as of the next",
        flows.len()
    );
    Ok(())
}
