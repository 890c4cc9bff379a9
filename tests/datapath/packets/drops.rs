//! Drops of the lab's packets: each is counted, and has an event that names its hook and reason unless there were too many in a
//! second.

use std::time::Duration;

use anyhow::{Context, Result};
use skep_abi::{DropReason, EventKind, FlowEvent};
use skep_datapath::{Counters, Datapath, DropCount, Flows, Observation};
use tokio::runtime::Runtime;

use crate::node::runtime;

const DEADLINE: Duration = Duration::from_secs(10);
/// Events that are read at once.
const BATCH: usize = 64;

pub(crate) struct Drops {
    runtime: Runtime,
    reader: Option<Reader>,
}

/// Of one datapath.
struct Reader {
    counters: Counters,
    flows: Flows,
    /// Drops without an event, until now.
    left_out: u64,
}

impl Drops {
    pub(crate) fn new() -> Drops {
        Drops { runtime: runtime(), reader: None }
    }

    /// Counts before a packet. Events until now are forgotten.
    pub(crate) fn before(&mut self, datapath: &mut Datapath) -> Result<Vec<DropCount>> {
        let _inside = self.runtime.enter();
        if let Some(flows) = datapath.flows()? {
            datapath.observe(Observation::Drops)?;
            self.reader = Some(Reader { counters: datapath.counters()?, flows, left_out: 0 });
        }
        let reader = self.reader.as_mut().context("nothing reads drops")?;
        while reader.events(&self.runtime, Duration::ZERO)?.is_some() {}
        Ok(reader.counters.drops()?)
    }

    /// Why the packet was dropped, if it was.
    pub(crate) fn reason(&mut self, before: &[DropCount]) -> Result<Option<DropReason>> {
        let reader = self.reader.as_mut().context("nothing reads drops")?;
        let after = reader.counters.drops()?;
        let counted = before.iter().zip(&after).find(|(before, after)| after.packets > before.packets);
        let Some((_, drop)) = counted else { return Ok(None) };
        let left_out = reader.left_out()?;
        if std::mem::replace(&mut reader.left_out, left_out) == left_out {
            reader.expect(&self.runtime, drop)?;
        }
        Ok(Some(drop.reason))
    }
}

impl Reader {
    /// Reads events up to the one of the drop.
    fn expect(&mut self, runtime: &Runtime, drop: &DropCount) -> Result<()> {
        let is_it =
            |event: &FlowEvent| event.hook == drop.hook && u32::from(event.reason) == drop.reason as u32;
        loop {
            let events = self.events(runtime, DEADLINE)?;
            if events.with_context(|| format!("{drop:?}: no event within {DEADLINE:?}"))?.iter().any(is_it) {
                return Ok(());
            }
        }
    }

    fn events(&mut self, runtime: &Runtime, timeout: Duration) -> Result<Option<Vec<FlowEvent>>> {
        let events = runtime.block_on(async { tokio::time::timeout(timeout, self.flows.next(BATCH)).await });
        Ok(events.ok().transpose()?)
    }

    fn left_out(&self) -> Result<u64> {
        let counts = self.counters.events()?;
        let dropped = counts.iter().find(|count| count.kind == EventKind::Dropped);
        Ok(dropped.map_or(0, |count| count.limited + count.full))
    }
}
