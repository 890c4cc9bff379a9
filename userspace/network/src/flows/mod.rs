//! The flow log: flow events with the names of the API.
//!
//! In: events from the datapath, names from the engine. Out: [`FlowLog`], which remembers the newest and hands on what comes, to
//! readers by the kubelet API and by a unix socket. The programs send drops while the agent runs, and flows that open only while
//! somebody reads them.

mod log;
mod record;
mod socket;

use std::time::Duration;

use skep_datapath::{Flows, Observation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::engine::Message;

pub use log::FlowLog;
pub use socket::serve;

/// Events that get their names together.
const BATCH: usize = 256;
/// The reader sleeps so long after each batch, so that a flood wakes it seldom.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);

/// What an agent observes without a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowLogLevel {
    Off,
    #[default]
    Drops,
    All,
}

impl FlowLogLevel {
    fn observation(self, readers: usize) -> Observation {
        match self {
            FlowLogLevel::Off => Observation::Nothing,
            FlowLogLevel::Drops if readers == 0 => Observation::Drops,
            FlowLogLevel::Drops | FlowLogLevel::All => Observation::All,
        }
    }
}

/// Fills the log until the engine has ended.
pub async fn run(
    node: String,
    mut events: Flows,
    log: FlowLog,
    level: FlowLogLevel,
    to: mpsc::Sender<Message>,
) {
    let follow = follow_readers(log.clone(), level, to.clone());
    let fill = async {
        loop {
            let batch = match events.next(BATCH).await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "read flow events failed");
                    return;
                }
            };
            let clock = record::Clock::now();
            let (answer, names) = oneshot::channel();
            if to.send(Message::Names(batch.clone(), answer)).await.is_err() {
                return;
            }
            let Ok(names) = names.await else { return };
            for (event, names) in batch.iter().zip(names) {
                log.push(record::record(&node, event, names, &clock));
            }
            sleep(BATCH_INTERVAL).await;
        }
    };
    tokio::join!(follow, fill);
}

/// Has the programs send what is read.
async fn follow_readers(log: FlowLog, level: FlowLogLevel, to: mpsc::Sender<Message>) {
    let mut readers = log.readers();
    let mut last = None;
    loop {
        let wanted = level.observation(*readers.borrow_and_update());
        if last != Some(wanted) {
            if to.send(Message::Observe(wanted)).await.is_err() {
                return;
            }
            last = Some(wanted);
        }
        if readers.changed().await.is_err() {
            return;
        }
    }
}
