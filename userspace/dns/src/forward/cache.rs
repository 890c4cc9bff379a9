//! PURE. Answers of upstreams, for as long as they may be used, within a number of bytes.
//!
//! In: answers, questions, times since the start. Out: [`Cached`]. The answers that were used least lately go first.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record};

use super::accept::Asked;
use crate::reply::Reply;
use crate::settings::CacheLimits;

/// TTL of a stale answer in seconds (RFC 8767, 4).
const STALE_TTL: u32 = 30;
/// Bytes of an entry beside its packet and its name.
const ENTRY_BYTES: usize = 240;

/// What the cache has for a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cached {
    pub(crate) reply: Reply,
    /// It has expired: to be used only while upstreams fail.
    pub(crate) stale: bool,
    /// It is used often and expires soon.
    pub(crate) renew: bool,
}

#[derive(Debug)]
pub(crate) struct Cache {
    limits: CacheLimits,
    entries: HashMap<Asked, Entry>,
    /// By the number of the last use.
    by_use: BTreeMap<u64, Asked>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    packet: Box<[u8]>,
    stored: Duration,
    ttl: u32,
    last_use: u64,
    hits: u32,
}

impl Cache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        Cache { limits, entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0 }
    }

    pub(crate) fn limit(&mut self, limits: CacheLimits) {
        self.limits = limits;
        self.evict();
    }

    pub(crate) fn get(&mut self, asked: &Asked, now: Duration) -> Option<Cached> {
        let entry = self.entries.get_mut(asked)?;
        let age = now.saturating_sub(entry.stored);
        let ttl = Duration::from_secs(entry.ttl.into());
        if age > ttl + self.limits.stale {
            self.remove(asked);
            return None;
        }
        self.uses += 1;
        self.by_use.remove(&entry.last_use);
        entry.last_use = self.uses;
        entry.hits = entry.hits.saturating_add(1);
        self.by_use.insert(self.uses, asked.clone());
        let stale = age >= ttl;
        let left = ttl.saturating_sub(age);
        let often = self.limits.prefetch != 0 && entry.hits >= self.limits.prefetch;
        let renew = !stale && often && left * 10 <= ttl;
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let mut reply = decode(&entry.packet)?;
        let records = reply.answers.iter_mut().chain(&mut reply.authorities);
        records.for_each(|record| {
            // RFC 1035, 7.3; an answer's records expire together, so that none outlives the others.
            record.ttl = if stale { STALE_TTL } else { record.ttl.min(entry.ttl).saturating_sub(age) };
        });
        Some(Cached { reply, stale, renew })
    }

    pub(crate) fn put(&mut self, asked: &Asked, reply: &Reply, now: Duration) {
        self.remove(asked);
        let Some(ttl) = self.lifetime(reply) else { return };
        let packet = encode(reply);
        if packet.is_empty() || packet.len() + ENTRY_BYTES > self.limits.bytes {
            return;
        }
        self.uses += 1;
        self.by_use.insert(self.uses, asked.clone());
        let entry = Entry { packet: packet.into(), stored: now, ttl, last_use: self.uses, hits: 0 };
        self.bytes += size(asked, &entry);
        self.entries.insert(asked.clone(), entry);
        self.evict();
    }

    /// Seconds; `None`: the answer is not kept.
    fn lifetime(&self, reply: &Reply) -> Option<u32> {
        let positive = reply.code == ResponseCode::NoError && !reply.answers.is_empty();
        let ttl = if positive {
            let least = reply.answers.iter().map(|record| record.ttl).min().unwrap_or(0);
            least.min(self.limits.positive_ttl)
        } else {
            // RFC 2308, 5: without a SOA a negative answer is not kept.
            let soa = reply.authorities.iter().find_map(negative_ttl)?;
            soa.min(self.limits.negative_ttl)
        };
        (ttl > 0).then_some(ttl)
    }

    fn evict(&mut self) {
        while self.bytes > self.limits.bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, asked: &Asked) {
        if let Some(entry) = self.entries.remove(asked) {
            self.by_use.remove(&entry.last_use);
            self.bytes -= size(asked, &entry);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The name is there twice.
fn size(asked: &Asked, entry: &Entry) -> usize {
    entry.packet.len() + 2 * asked.name.len() + ENTRY_BYTES
}

fn negative_ttl(record: &Record) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    }
}

fn encode(reply: &Reply) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = reply.code;
    message.answers.clone_from(&reply.answers);
    message.authorities.clone_from(&reply.authorities);
    message.to_vec().unwrap_or_default()
}

fn decode(packet: &[u8]) -> Option<Reply> {
    let message = Message::from_vec(packet).ok()?;
    let mut reply = Reply::of(message.metadata.response_code);
    (reply.answers, reply.authorities) = (message.answers, message.authorities);
    Some(reply)
}
