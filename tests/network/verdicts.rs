//! Many pods' verdicts change in one step of the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skep_abi::{Be16, Direction, Proto, Verdict, VerdictKey};
use skep_netplan::{VerdictMapId, Write};

use crate::agent::Machine;

const PODS: u32 = 100;

#[test]
fn verdicts_of_a_hundred_pods_cost_one_wait_of_the_kernel() -> Result<()> {
    let machine = Machine::new("np-verdicts")?;
    let key = VerdictKey::new(Direction::INGRESS, 0, Proto(0), Be16::new(0));
    let map = |n: u32| VerdictMapId(u64::from(n));
    let create = |n: u32| {
        let entry = (VerdictKey::DIRECTION_BITS, key, Verdict { allow: 0, rule: n });
        Write::CreateVerdictMap { id: map(n), entries: Arc::new([entry]) }
    };
    let creates: Vec<Write> = (0..PODS).map(create).collect();
    let puts: Vec<Write> = (0..PODS).map(|index| Write::PutVerdicts { index, map: map(index) }).collect();
    let deletes: Vec<Write> = (0..PODS).map(|index| Write::DeleteVerdicts { index }).collect();
    machine.datapath(|datapath| {
        datapath.apply(&creates)?;
        let start = Instant::now();
        datapath.apply(&puts)?;
        let took = start.elapsed();
        println!("verdicts of {PODS} pods put in {took:?}");
        // One by one they take about 10 ms each.
        ensure!(took < Duration::from_millis(300), "{PODS} puts took {took:?}");
        let wanted: BTreeMap<u32, VerdictMapId> = (0..PODS).map(|index| (index, map(index))).collect();
        ensure!(datapath.observed()?.verdicts == wanted, "some puts are missing");

        // One that is gone already does not keep the others.
        datapath.apply(&[Write::DeleteVerdicts { index: PODS / 2 }])?;
        datapath.apply(&deletes)?;
        ensure!(datapath.observed()?.verdicts.is_empty(), "some verdicts are left");
        // An unknown map is refused by its name.
        let unknown = Write::PutVerdicts { index: 1, map: VerdictMapId(u64::MAX) };
        let error = datapath.apply(&[puts[0].clone(), unknown]).err().map(|error| error.index);
        ensure!(error == Some(1), "an unknown map was accepted: {error:?}");
        Ok(())
    })
}
