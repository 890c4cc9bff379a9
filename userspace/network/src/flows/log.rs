//! The newest flow records, and those that come.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use futures::stream::unfold;
use skep_api::flow_log::{FlowQuery, FlowRecord, Line, MAX_LAST, QueryError, Verdict};
use skep_gateway::Gateway;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// Records that a reader may be behind.
const BACKLOG: usize = 4_096;

/// A bounded log. Clones are the same log.
#[derive(Clone)]
pub struct FlowLog(Arc<Shared>);

struct Shared {
    recent: Mutex<Recent>,
    live: broadcast::Sender<Arc<FlowRecord>>,
    /// How many readers want flows that open.
    readers: watch::Sender<usize>,
    /// Names the routes of its connections.
    gateway: Option<Gateway>,
}

/// Allowed flows take nothing from dropped packets.
#[derive(Default)]
struct Recent {
    allowed: VecDeque<Arc<FlowRecord>>,
    dropped: VecDeque<Arc<FlowRecord>>,
}

impl Default for FlowLog {
    fn default() -> Self {
        FlowLog::new(None)
    }
}

impl FlowLog {
    /// `gateway`: that of this node.
    pub fn new(gateway: Option<Gateway>) -> FlowLog {
        let (live, _) = broadcast::channel(BACKLOG);
        FlowLog(Arc::new(Shared { recent: Mutex::default(), live, readers: watch::Sender::new(0), gateway }))
    }

    /// How many readers want flows that open.
    pub fn readers(&self) -> watch::Receiver<usize> {
        self.0.readers.subscribe()
    }

    pub(crate) fn push(&self, mut record: FlowRecord) {
        if record.route.is_none() {
            record.route = self.0.route_of(&record);
        }
        let record = Arc::new(record);
        let mut recent = self.recent();
        let list = match record.verdict {
            Verdict::Allowed => &mut recent.allowed,
            Verdict::Dropped => &mut recent.dropped,
        };
        if list.len() == MAX_LAST {
            list.pop_front();
        }
        list.push_back(record.clone());
        // Under the lock: a reader that begins now has the record once. Without readers there is no receiver.
        let _ = self.0.live.send(record);
    }

    /// The answer to a query, as [`Line`]s in JSON. It ends after the past, unless the query follows.
    pub fn read(
        &self,
        query: &str,
    ) -> Result<impl Stream<Item = String> + Send + Sync + 'static, QueryError> {
        let query = FlowQuery::parse(query)?;
        let recent = self.recent();
        let live = query.follow.then(|| self.0.live.subscribe());
        let past = recent.last(&query);
        drop(recent);
        let wants_opened = query.follow && query.verdict != Some(Verdict::Dropped);
        let reader = wants_opened.then(|| Reader::new(self.0.clone()));
        Ok(unfold(Reading { past, live, query, _reader: reader }, Reading::next))
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The route for which the gateway opened the connection.
    fn route_of(&self, record: &FlowRecord) -> Option<String> {
        let FlowRecord { source, destination, .. } = record;
        let gateway = self.gateway.as_ref().filter(|_| source.pod.is_none())?;
        let own = SocketAddr::new(source.ip?, source.port?);
        gateway.route_of(own, SocketAddr::new(destination.ip?, destination.port?))
    }
}

impl Recent {
    /// The newest records that the query selects, by time.
    fn last(&self, query: &FlowQuery) -> VecDeque<Arc<FlowRecord>> {
        let newest = |list: &VecDeque<Arc<FlowRecord>>| -> Vec<Arc<FlowRecord>> {
            list.iter().rev().filter(|record| query.matches(record)).take(query.last).cloned().collect()
        };
        let mut records = newest(&self.allowed);
        records.extend(newest(&self.dropped));
        records.sort_by_key(|record| record.time);
        let more = records.len().saturating_sub(query.last);
        records.drain(..more);
        records.into()
    }
}

/// Counts as a reader while it lives.
struct Reader(Arc<Shared>);

impl Reader {
    fn new(shared: Arc<Shared>) -> Reader {
        shared.readers.send_modify(|readers| *readers += 1);
        Reader(shared)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers = readers.saturating_sub(1));
    }
}

/// An answer in progress.
struct Reading {
    past: VecDeque<Arc<FlowRecord>>,
    live: Option<broadcast::Receiver<Arc<FlowRecord>>>,
    query: FlowQuery,
    _reader: Option<Reader>,
}

impl Reading {
    async fn next(mut self) -> Option<(String, Reading)> {
        let line = match self.past.pop_front() {
            Some(record) => text(&record),
            None => self.next_live().await?,
        };
        Some((line, self))
    }

    async fn next_live(&mut self) -> Option<String> {
        let live = self.live.as_mut()?;
        loop {
            match live.recv().await {
                Ok(record) if self.query.matches(&record) => return Some(text(&record)),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Some(text(&Line::Lost { lost })),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn text(line: &impl serde::Serialize) -> String {
    // Texts, numbers and maps with keys of text always have a JSON form.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::pin_mut;
    use jiff::Timestamp;
    use skep_api::flow_log::End;

    use super::*;

    fn record(second: i64, verdict: Verdict) -> FlowRecord {
        FlowRecord {
            time: Timestamp::from_second(second).unwrap(),
            node: "n".into(),
            verdict,
            reason: (verdict == Verdict::Dropped).then(|| "no port".into()),
            direction: "from-pod".into(),
            protocol: "UDP".into(),
            source: End::default(),
            destination: End::default(),
            interface: None,
            service: None,
            route: None,
            rule: None,
            denied_by: Vec::new(),
            bytes: 60,
        }
    }

    fn seconds(lines: &[String]) -> Vec<i64> {
        let line = |line: &String| match serde_json::from_str(line).unwrap() {
            Line::Flow(record) => record.time.as_second(),
            Line::Lost { lost } => -i64::try_from(lost).unwrap(),
        };
        lines.iter().map(line).collect()
    }

    async fn past(log: &FlowLog, query: &str) -> Vec<i64> {
        seconds(&log.read(query).unwrap().collect::<Vec<_>>().await)
    }

    #[tokio::test]
    async fn a_flood_of_flows_hides_no_drop() {
        let log = FlowLog::default();
        log.push(record(0, Verdict::Dropped));
        (1..=MAX_LAST as i64 + 5).for_each(|second| log.push(record(second, Verdict::Allowed)));
        assert_eq!(past(&log, "verdict=dropped").await, [0]);
        assert_eq!(past(&log, "last=2").await, [MAX_LAST as i64 + 4, MAX_LAST as i64 + 5]);
        let all = past(&log, &format!("last={}", 2 * MAX_LAST)).await;
        assert_eq!((all.len(), all[0], all[1]), (MAX_LAST + 1, 0, 6));
    }

    #[tokio::test]
    async fn a_reader_that_follows_has_the_past_and_then_each_record_once() {
        let log = FlowLog::default();
        log.push(record(1, Verdict::Dropped));
        let reading = log.read("follow=true").unwrap();
        pin_mut!(reading);
        log.push(record(2, Verdict::Allowed));
        let lines = [reading.next().await.unwrap(), reading.next().await.unwrap()];
        assert_eq!(seconds(&lines), [1, 2]);
    }

    #[tokio::test]
    async fn a_slow_reader_learns_how_much_it_lost() {
        let log = FlowLog::default();
        let reading = log.read("follow=true").unwrap();
        pin_mut!(reading);
        (1..=BACKLOG as i64 + 3).for_each(|second| log.push(record(second, Verdict::Dropped)));
        let lines = [reading.next().await.unwrap(), reading.next().await.unwrap()];
        assert_eq!(seconds(&lines), [-3, 4]);
    }

    #[test]
    fn only_who_follows_opening_flows_has_them_sent() {
        let log = FlowLog::default();
        let readers = || *log.readers().borrow();
        let (drops, past) = (log.read("follow=true&verdict=dropped").unwrap(), log.read("").unwrap());
        assert_eq!(readers(), 0);
        let all = log.read("follow=true").unwrap();
        assert_eq!(readers(), 1);
        drop((drops, past, all));
        assert_eq!(readers(), 0);
    }
}
