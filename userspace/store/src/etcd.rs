//! The store of several servers: an etcd cluster.
//!
//! In and out: the [`Store`] interface, as etcd's gRPC API. etcd's errors become [`StoreError`]s.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, KeyValue, KvClient,
    PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::task::AbortHandle;

use crate::watch::WatchSender;
use crate::{Entry, Event, Expect, Range, Result, Revision, Store, StoreError, Watch, WatchItem};

pub use etcd_client::{Certificate, Identity, TlsOptions};

/// Bounds the wait for etcd's answer; a cluster elects a new leader in less.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings find dead connections; etcd refuses them if they come more often than every 5 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// etcd keeps all history unless a client compacts it. As in Kubernetes, it is kept for one to two intervals.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);
/// Bounds the entries of one request, so that none stalls etcd: larger ranges are read in pages at one revision.
const MAX_PAGE_ENTRIES: usize = 1_000;
/// Pages and bursts of events exceed tonic's default of 4 MiB; etcd bounds them itself.
const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// Written to raise the revision, then deleted; of no kind.
const RAISING_KEY: &str = "/registry/skep.io/restore";
/// Bounds the writes at once that raise the revision.
const MAX_RAISING_WRITES: u64 = 512;
/// How to connect to an etcd cluster.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// With it the endpoints are `https://`.
    pub tls: Option<TlsOptions>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// Where the keys of `/registry` are in etcd; as upstream's `--etcd-prefix`. Empty: there.
    pub prefix: String,
}

/// A client of an etcd cluster; compacts its history regularly.
pub struct EtcdStore {
    client: Client,
    keys: Keys,
    compaction: AbortHandle,
}

/// The prefix that callers use.
const REGISTRY: &str = "/registry";

/// Maps the keys of callers to those in etcd, and back.
#[derive(Clone)]
struct Keys(Arc<str>);

impl Keys {
    fn new(prefix: &str) -> Keys {
        let trimmed = prefix.trim_matches('/');
        Keys(if trimmed.is_empty() { REGISTRY.into() } else { format!("/{trimmed}").into() })
    }

    fn to_etcd<'a>(&self, key: &'a str) -> Cow<'a, str> {
        match key.strip_prefix(REGISTRY) {
            Some(rest) if *self.0 != *REGISTRY => Cow::Owned(format!("{}{rest}", self.0)),
            _ => Cow::Borrowed(key),
        }
    }

    fn ours<'a>(&self, key: &'a str) -> Cow<'a, str> {
        match key.strip_prefix(&*self.0) {
            Some(rest) if *self.0 != *REGISTRY => Cow::Owned(format!("{REGISTRY}{rest}")),
            _ => Cow::Borrowed(key),
        }
    }

    fn entry(&self, kv: &KeyValue) -> Result<Entry> {
        let key = kv.key_str().map_err(|_| StoreError::Corrupt("a key is not UTF-8".to_owned()))?;
        Ok(Entry {
            key: self.ours(key).as_ref().into(),
            value: Bytes::copy_from_slice(kv.value()),
            created: kv.create_revision() as Revision,
            modified: kv.mod_revision() as Revision,
        })
    }
}

impl EtcdStore {
    /// Connects to any of the endpoints (`http://host:2379`).
    pub async fn connect(endpoints: &[String], options: EtcdOptions) -> Result<EtcdStore> {
        let EtcdOptions { tls, user, prefix } = options;
        // Ends watches of a member that lost its cluster: it would send no more events.
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(REQUEST_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT);
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        let client = Client::connect(endpoints, Some(options)).await.map_err(store_error)?;
        let compaction = tokio::spawn(compact_regularly(client.clone())).abort_handle();
        let store = EtcdStore { client, keys: Keys::new(&prefix), compaction };
        // Connections are made lazily; this fails now if etcd cannot be reached.
        store.revision().await?;
        Ok(store)
    }

    fn kv(&self) -> KvClient {
        kv(&self.client)
    }

    /// Adds the revisions that etcd's errors lack.
    async fn with_revisions(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Compacted { .. } => {
                StoreError::Compacted { oldest: self.compacted().await.unwrap_or(0) }
            }
            StoreError::FutureRevision { wanted, .. } => {
                StoreError::FutureRevision { wanted, current: self.revision().await.unwrap_or(0) }
            }
            error => error,
        }
    }

    /// The revision before which history was compacted. Only etcd's refusal of a watch contains it.
    async fn compacted(&self) -> Result<Revision> {
        let options = WatchOptions::new().with_start_revision(1);
        let mut stream = with_timeout(self.client.watch_client().watch("/", Some(options))).await?;
        while let Some(response) = with_timeout(stream.message()).await? {
            if response.canceled() || !response.created() {
                return Ok(response.compact_revision() as Revision);
            }
        }
        Ok(0)
    }

    /// Writes entries in one transaction, whatever their keys hold.
    pub(crate) async fn put_all(&self, entries: Vec<Entry>) -> Result<()> {
        let puts: Vec<TxnOp> = entries
            .iter()
            .map(|entry| {
                let key = self.keys.to_etcd(&entry.key);
                TxnOp::put(&*key, entry.value.to_vec(), None)
            })
            .collect();
        if !puts.is_empty() {
            with_timeout(self.kv().txn(Txn::new().and_then(puts))).await?;
        }
        Ok(())
    }

    /// Writes until etcd's revision is at least `wanted`; etcd has no other way. The revision afterwards.
    pub(crate) async fn raise_revision(&self, wanted: Revision) -> Result<Revision> {
        let key = self.keys.to_etcd(RAISING_KEY);
        let mut current = self.revision().await?;
        while current < wanted {
            let writes = (wanted - current).min(MAX_RAISING_WRITES);
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..writes {
                let (mut kv, key) = (self.kv(), key.clone().into_owned());
                tasks.spawn(async move { with_timeout(kv.put(key, "", None)).await.map(drop) });
            }
            while let Some(done) = tasks.join_next().await {
                done.map_err(|_| StoreError::Closed)??;
            }
            current = self.revision().await?;
        }
        with_timeout(self.kv().delete(&*key, None)).await?;
        self.revision().await
    }

    async fn page(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<etcd_client::GetResponse> {
        self.get_range(start, GetOptions::new().with_range(end).with_limit(limit as i64), at).await
    }

    async fn get_range(
        &self,
        start: Vec<u8>,
        mut options: GetOptions,
        at: Option<Revision>,
    ) -> Result<etcd_client::GetResponse> {
        if let Some(at) = at {
            options = options.with_revision(at as i64);
        }
        match with_timeout(self.kv().get(start, Some(options))).await {
            Ok(response) => Ok(response),
            Err(error) => Err(self.with_revisions(at_revision(error, at)).await),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.compaction.abort();
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// A request's answer; `Unavailable` if none comes in time.
async fn with_timeout<T>(request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.map_err(store_error),
        Err(_) => Err(StoreError::Unavailable(format!("etcd did not answer within {REQUEST_TIMEOUT:?}"))),
    }
}

/// Compacts history older than an interval. If several servers do so, the later one has nothing to do.
async fn compact_regularly(client: Client) {
    let mut before = None;
    let mut interval = tokio::time::interval(COMPACTION_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Some(before) = before
            && let Err(error) = compact(&client, before).await
        {
            tracing::warn!(before, %error, "compact etcd history failed");
            continue;
        }
        before = current(&client).await.ok();
    }
}

async fn compact(client: &Client, before: Revision) -> Result<()> {
    match with_timeout(kv(client).compact(before as i64, None)).await {
        // Another server compacted it.
        Err(StoreError::Compacted { .. }) => Ok(()),
        result => result.map(drop).map_err(|error| at_revision(error, Some(before))),
    }
}

async fn current(client: &Client) -> Result<Revision> {
    let response = with_timeout(kv(client).get("/", None)).await?;
    Ok(response.header().map_or(0, |header| header.revision() as Revision))
}

/// The smallest key after `start_after` is that key with a zero byte appended.
fn start_of(prefix: &str, start_after: Option<&str>) -> Vec<u8> {
    let next = start_after.filter(|key| *key >= prefix).map(|key| format!("{key}\0"));
    next.unwrap_or_else(|| prefix.to_owned()).into_bytes()
}

/// etcd's range end for all keys with a prefix is the prefix with its last byte raised.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn compare(key: &str, expect: Expect) -> Vec<Compare> {
    match expect {
        Expect::Absent => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Expect::Revision(revision) => vec![Compare::mod_revision(key, CompareOp::Equal, revision as i64)],
        Expect::Any => Vec::new(),
    }
}

/// The entry that the failed branch of a transaction read.
fn found(keys: &Keys, responses: Vec<TxnOpResponse>) -> Result<Option<Entry>> {
    for response in responses {
        if let TxnOpResponse::Get(get) = response {
            return get.kvs().first().map(|kv| keys.entry(kv)).transpose();
        }
    }
    Ok(None)
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        let options = at.map(|at| GetOptions::new().with_revision(at as i64));
        let response = match with_timeout(self.kv().get(&*self.keys.to_etcd(key), options)).await {
            Ok(response) => response,
            Err(error) => return Err(self.with_revisions(at_revision(error, at)).await),
        };
        let current = response.header().map_or(0, |header| header.revision() as Revision);
        Ok((response.kvs().first().map(|kv| self.keys.entry(kv)).transpose()?, at.unwrap_or(current)))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let (prefix, start_after) =
            (&*self.keys.to_etcd(prefix), start_after.map(|key| self.keys.to_etcd(key)));
        let mut start = start_of(prefix, start_after.as_deref());
        let mut range = Range { entries: Vec::new(), revision: at.unwrap_or(0), more: false };
        let mut at = at;
        loop {
            let wanted =
                if limit == 0 { MAX_PAGE_ENTRIES } else { MAX_PAGE_ENTRIES.min(limit - range.entries.len()) };
            let response = self.page(start, end_of(prefix), wanted, at).await?;
            if at.is_none() {
                range.revision = response.header().map_or(0, |header| header.revision() as Revision);
                at = Some(range.revision);
            }
            for kv in response.kvs() {
                range.entries.push(self.keys.entry(kv)?);
            }
            range.more = response.more();
            match response.kvs().last() {
                Some(last) if range.more && (limit == 0 || range.entries.len() < limit) => {
                    start = [last.key(), &[0]].concat();
                }
                _ => return Ok(range),
            }
        }
    }

    async fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64> {
        let (prefix, start_after) =
            (&*self.keys.to_etcd(prefix), start_after.map(|key| self.keys.to_etcd(key)));
        let start_after = start_after.as_deref();
        let options = GetOptions::new().with_range(end_of(prefix)).with_count_only();
        Ok(self.get_range(start_of(prefix, start_after), options, at).await?.count() as u64)
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        let at = &*self.keys.to_etcd(key);
        let put = TxnOp::put(at, value.to_vec(), Some(PutOptions::new().with_prev_key()));
        let txn = Txn::new().when(compare(at, expect)).and_then([put]).or_else([TxnOp::get(at, None)]);
        let response = with_timeout(self.kv().txn(txn)).await?;
        if !response.succeeded() {
            return Err(StoreError::Conflict { actual: found(&self.keys, response.op_responses())? });
        }
        let modified = response.header().map_or(0, |header| header.revision() as Revision);
        let previous = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Put(put) => put.prev_key().map(|kv| kv.create_revision() as Revision),
            _ => None,
        });
        Ok(Entry { key: key.into(), value, created: previous.unwrap_or(modified), modified })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)> {
        let at = &*self.keys.to_etcd(key);
        let delete = TxnOp::delete(at, Some(DeleteOptions::new().with_prev_key()));
        let txn = Txn::new().when(compare(at, expect)).and_then([delete]).or_else([TxnOp::get(at, None)]);
        let response = with_timeout(self.kv().txn(txn)).await?;
        if !response.succeeded() {
            let actual = found(&self.keys, response.op_responses())?;
            return Err(
                actual.map_or(StoreError::NotFound, |actual| StoreError::Conflict { actual: Some(actual) })
            );
        }
        let revision = response.header().map_or(0, |header| header.revision() as Revision);
        for response in response.op_responses() {
            if let TxnOpResponse::Delete(delete) = response
                && let Some(kv) = delete.prev_kvs().first()
            {
                return Ok((self.keys.entry(kv)?, revision));
            }
        }
        Err(StoreError::NotFound)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        // etcd reports a compacted start only in the stream; this read fails at once.
        if after > 0 {
            self.get(prefix, Some(after)).await?;
        }
        // Watches all keys: the revisions of other keys' events are progress, in order with the matching events. etcd 3.4's
        // own progress notifications are not in order (etcd issue 15220).
        let options =
            WatchOptions::new().with_all_keys().with_start_revision(after as i64 + 1).with_prev_key();
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
        let stream = with_timeout(client.watch("", Some(options))).await?;
        let (sender, watch) = Watch::channel();
        sender.offer(Ok(WatchItem::Progress(after)));
        tokio::spawn(forward(stream, self.keys.clone(), prefix.to_owned(), sender));
        Ok(watch)
    }

    async fn revision(&self) -> Result<Revision> {
        current(&self.client).await
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        match compact(&self.client, before).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.with_revisions(error).await),
        }
    }
}

/// Sends etcd's responses to the watcher until either end is gone.
async fn forward(mut stream: WatchStream, keys: Keys, prefix: String, sender: WatchSender) {
    let prefix = keys.to_etcd(&prefix).into_owned();
    loop {
        let response = tokio::select! {
            response = stream.message() => response,
            () = sender.closed() => return,
        };
        let item = match response {
            Ok(Some(response)) => item(&keys, &response, &prefix),
            Ok(None) => Some(Err(StoreError::Unavailable("etcd ended the watch".to_owned()))),
            Err(error) => Some(Err(store_error(error))),
        };
        let Some(item) = item else { continue };
        let last = item.is_err();
        if !sender.offer(item) || last {
            return;
        }
    }
}

/// The item for the watcher of a prefix; `None` if the response has nothing for it.
fn item(keys: &Keys, response: &WatchResponse, prefix: &str) -> Option<Result<WatchItem>> {
    if response.compact_revision() > 0 {
        return Some(Err(StoreError::Compacted { oldest: response.compact_revision() as Revision }));
    }
    if response.canceled() {
        return Some(Err(StoreError::Unavailable(response.cancel_reason().to_owned())));
    }
    let until = response.events().last()?.kv()?.mod_revision() as Revision;
    let matching = response
        .events()
        .iter()
        .filter(|event| event.kv().is_some_and(|kv| kv.key().starts_with(prefix.as_bytes())))
        .filter_map(|e| event(keys, e).transpose())
        .collect::<Result<Vec<Event>>>();
    Some(matching.map(
        |events| {
            if events.is_empty() { WatchItem::Progress(until) } else { WatchItem::Events(events) }
        },
    ))
}

fn event(keys: &Keys, event: &etcd_client::Event) -> Result<Option<Event>> {
    let Some(kv) = event.kv() else { return Ok(None) };
    let previous = event.prev_kv().map(|kv| keys.entry(kv)).transpose()?;
    Ok(match event.event_type() {
        EventType::Put => Some(Event::Put { entry: keys.entry(kv)?, previous }),
        EventType::Delete => {
            previous.map(|previous| Event::Delete { previous, revision: kv.mod_revision() as Revision })
        }
    })
}

/// etcd has no codes for these; its messages are part of its API (etcd's `rpctypes`).
fn store_error(error: etcd_client::Error) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = &error else {
        return StoreError::Unavailable(error.to_string());
    };
    let message = status.message();
    if message.contains("required revision has been compacted") {
        StoreError::Compacted { oldest: 0 }
    } else if message.contains("required revision is a future revision") {
        StoreError::FutureRevision { wanted: 0, current: 0 }
    } else if message.contains("database space exceeded") {
        StoreError::Full(message.to_owned())
    } else if message.contains("request is too large") || message.contains("message larger than max") {
        StoreError::TooLarge(message.to_owned())
    } else if message.contains("data corruption") {
        StoreError::Corrupt(message.to_owned())
    } else {
        StoreError::Unavailable(message.to_owned())
    }
}

/// Adds the revision that the request named.
fn at_revision(error: StoreError, at: Option<Revision>) -> StoreError {
    match error {
        StoreError::FutureRevision { current, .. } => {
            StoreError::FutureRevision { wanted: at.unwrap_or(0), current }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_below_the_prefix_in_etcd_and_below_registry_for_callers() {
        for (prefix, stored) in
            [("", "/registry/pods/a/b"), ("registry", "/registry/pods/a/b"), ("/one/", "/one/pods/a/b")]
        {
            let keys = Keys::new(prefix);
            assert_eq!(keys.to_etcd("/registry/pods/a/b"), stored, "{prefix}");
            assert_eq!(keys.ours(stored), "/registry/pods/a/b", "{prefix}");
        }
    }
}
