//! The store of several servers: an etcd cluster.

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, KeyValue, PutOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
};
use tokio::sync::mpsc;

use crate::{Entry, Event, Expect, Range, Result, Revision, Store, StoreError, Watch, WatchItem};

pub use etcd_client::{Certificate, Identity, TlsOptions};

#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
}

impl EtcdStore {
    /// Connects to any of the endpoints (`http://host:2379`); with `tls` the endpoints are `https://`.
    pub async fn connect(endpoints: &[String], tls: Option<TlsOptions>) -> Result<EtcdStore> {
        let options = tls.map(|tls| ConnectOptions::new().with_tls(tls));
        let client = Client::connect(endpoints, options).await.map_err(error)?;
        let store = EtcdStore { client };
        // A connection is made lazily; an unreachable etcd is better told now.
        store.revision().await?;
        Ok(store)
    }
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

fn entry(kv: &KeyValue) -> Result<Entry> {
    let key = kv.key_str().map_err(|_| StoreError::Corrupt("a key is not UTF-8".to_owned()))?;
    Ok(Entry {
        key: key.into(),
        value: Bytes::copy_from_slice(kv.value()),
        created: kv.create_revision() as Revision,
        modified: kv.mod_revision() as Revision,
    })
}

/// The entry that the failed branch of a transaction found.
fn found(responses: Vec<TxnOpResponse>) -> Result<Option<Entry>> {
    for response in responses {
        if let TxnOpResponse::Get(get) = response {
            return get.kvs().first().map(entry).transpose();
        }
    }
    Ok(None)
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        let options = at.map(|at| GetOptions::new().with_revision(at as i64));
        let response = self.client.kv_client().get(key, options).await.map_err(|e| read_error(e, at))?;
        let current = response.header().map_or(0, |header| header.revision() as Revision);
        Ok((response.kvs().first().map(entry).transpose()?, at.unwrap_or(current)))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let mut options = GetOptions::new().with_range(end_of(prefix)).with_limit(limit as i64);
        if let Some(at) = at {
            options = options.with_revision(at as i64);
        }
        // The key right behind `start_after` is that key with a zero byte appended.
        let start = start_after.map_or_else(|| prefix.to_owned(), |key| format!("{key}\0"));
        let response =
            self.client.kv_client().get(start, Some(options)).await.map_err(|e| read_error(e, at))?;
        let current = response.header().map_or(0, |header| header.revision() as Revision);
        let entries: Vec<Entry> = response.kvs().iter().map(entry).collect::<Result<_>>()?;
        let remaining = (response.count() as u64).saturating_sub(entries.len() as u64);
        Ok(Range { entries, revision: at.unwrap_or(current), more: response.more(), remaining })
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        let put = TxnOp::put(key, value.to_vec(), Some(PutOptions::new().with_prev_key()));
        let txn = Txn::new().when(compare(key, expect)).and_then([put]).or_else([TxnOp::get(key, None)]);
        let response = self.client.kv_client().txn(txn).await.map_err(error)?;
        if !response.succeeded() {
            return Err(StoreError::Conflict { actual: found(response.op_responses())? });
        }
        let modified = response.header().map_or(0, |header| header.revision() as Revision);
        let previous = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Put(put) => put.prev_key().map(|kv| kv.create_revision() as Revision),
            _ => None,
        });
        Ok(Entry { key: key.into(), value, created: previous.unwrap_or(modified), modified })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)> {
        let delete = TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key()));
        let txn = Txn::new().when(compare(key, expect)).and_then([delete]).or_else([TxnOp::get(key, None)]);
        let response = self.client.kv_client().txn(txn).await.map_err(error)?;
        if !response.succeeded() {
            let actual = found(response.op_responses())?;
            return Err(
                actual.map_or(StoreError::NotFound, |actual| StoreError::Conflict { actual: Some(actual) })
            );
        }
        let revision = response.header().map_or(0, |header| header.revision() as Revision);
        for response in response.op_responses() {
            if let TxnOpResponse::Delete(delete) = response
                && let Some(kv) = delete.prev_kvs().first()
            {
                return Ok((entry(kv)?, revision));
            }
        }
        Err(StoreError::NotFound)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        // etcd tells of a compacted start only in the stream; this read tells it at once.
        self.get(prefix, Some(after.max(1))).await.map(drop).or_else(|error| match error {
            StoreError::FutureRevision { .. } if after <= 1 => Ok(()),
            error => Err(error),
        })?;
        let options = WatchOptions::new()
            .with_range(end_of(prefix))
            .with_start_revision(after as i64 + 1)
            .with_prev_key()
            .with_progress_notify();
        let stream = self.client.watch_client().watch(prefix, Some(options)).await.map_err(error)?;
        let (sender, watch) = Watch::channel();
        let _ = sender.try_send(Ok(WatchItem::Progress(after)));
        tokio::spawn(forward(stream, sender));
        Ok(watch)
    }

    async fn revision(&self) -> Result<Revision> {
        let response = self.client.kv_client().get("/", None).await.map_err(error)?;
        Ok(response.header().map_or(0, |header| header.revision() as Revision))
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        match self.client.kv_client().compact(before as i64, None).await.map_err(error) {
            // Somebody else did it: that is what was asked for.
            Err(StoreError::Compacted { .. }) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Moves etcd's responses to the watcher until either end goes away.
async fn forward(mut stream: etcd_client::WatchStream, sender: mpsc::Sender<Result<WatchItem>>) {
    loop {
        let response = tokio::select! {
            response = stream.message() => response,
            () = sender.closed() => return,
        };
        let item = match response {
            Ok(Some(response)) => item(&response),
            Ok(None) => Some(Err(StoreError::Unavailable("etcd ended the watch".to_owned()))),
            Err(error_) => Some(Err(error(error_))),
        };
        let Some(item) = item else { continue };
        let last = item.is_err();
        if sender.try_send(item).is_err() || last {
            return;
        }
    }
}

fn item(response: &WatchResponse) -> Option<Result<WatchItem>> {
    if response.compact_revision() > 0 {
        return Some(Err(StoreError::Compacted { oldest: response.compact_revision() as Revision }));
    }
    if response.canceled() {
        return Some(Err(StoreError::Unavailable(response.cancel_reason().to_owned())));
    }
    if response.created() {
        return None;
    }
    if response.events().is_empty() {
        let revision = response.header().map_or(0, |header| header.revision() as Revision);
        return Some(Ok(WatchItem::Progress(revision)));
    }
    let events: Result<Vec<Event>> = response.events().iter().filter_map(|e| event(e).transpose()).collect();
    Some(events.map(WatchItem::Events))
}

fn event(event: &etcd_client::Event) -> Result<Option<Event>> {
    let Some(kv) = event.kv() else { return Ok(None) };
    let previous = event.prev_kv().map(entry).transpose()?;
    Ok(match event.event_type() {
        EventType::Put => Some(Event::Put { entry: entry(kv)?, previous }),
        EventType::Delete => {
            previous.map(|previous| Event::Delete { previous, revision: kv.mod_revision() as Revision })
        }
    })
}

fn error(error: etcd_client::Error) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = &error else {
        return StoreError::Unavailable(error.to_string());
    };
    let message = status.message();
    if message.contains("required revision has been compacted") {
        StoreError::Compacted { oldest: 0 }
    } else if message.contains("database space exceeded") {
        StoreError::Full(message.to_owned())
    } else {
        StoreError::Unavailable(message.to_owned())
    }
}

fn read_error(error_: etcd_client::Error, at: Option<Revision>) -> StoreError {
    match &error_ {
        etcd_client::Error::GRpcStatus(status) if status.message().contains("future revision") => {
            StoreError::FutureRevision { wanted: at.unwrap_or(0), current: 0 }
        }
        _ => error(error_),
    }
}
