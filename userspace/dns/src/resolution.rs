//! The way from a question to its answer, as a state machine.
//!
//! In: a [`Query`], who asked, the index, the answers of upstreams. Out: [`Next`]. Call [`Resolution::next`] first; while it
//! says [`Next::Forward`], ask the upstreams and call [`Resolution::forwarded`] with what they said.

use std::collections::VecDeque;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::{Client, Index};
use crate::name::{self, Labels};
use crate::question::Query;
use crate::reply::Reply;
use crate::rewrite;
use crate::settings::Settings;
use crate::zone::{self, Lookup};

/// Aliases in a row; more are a loop.
const MAX_ALIASES: usize = 8;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Done(Reply),
    /// Ask the upstreams of this name for the type of the question.
    Forward(Name),
}

/// What upstreams said.
#[derive(Clone, Debug, PartialEq)]
pub enum Forwarded {
    Answer(Reply),
    /// There are none for the name, or none gave a usable answer in time.
    Failed,
}

/// A question that is being answered.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// As it was asked.
    asked: Name,
    /// As it is looked up: another name if a rule rewrites it.
    name: Name,
    kind: RecordType,
    /// The name that is tried, and the names to try after it; the first that exists is the answer.
    candidate: Name,
    others: VecDeque<Name>,
    /// Whether the candidates come from a search list.
    searching: bool,
    aliases: Vec<Record>,
    /// Any number; see [`Reply::rotate`].
    seed: u32,
}

impl Resolution {
    /// `client`: the pod that asked, if names are searched for it.
    pub fn new(
        query: &Query,
        client: Option<&Client>,
        index: &Index,
        settings: &Settings,
        seed: u32,
    ) -> Self {
        let name = rewrite::apply(&settings.rewrites, &query.name).unwrap_or_else(|| query.name.clone());
        let client = client.filter(|_| settings.search);
        let others =
            client.map(|client| search(&name, query.kind, client, index, settings)).unwrap_or_default();
        Resolution {
            asked: query.name.clone(),
            kind: query.kind,
            searching: !others.is_empty(),
            candidate: name.clone(),
            others: others.into(),
            aliases: Vec::new(),
            seed,
            name,
        }
    }

    pub fn next(&mut self, index: &Index, settings: &Settings) -> Next {
        loop {
            match find(index, settings, &self.candidate, self.kind) {
                Lookup::Outside => return Next::Forward(self.candidate.clone()),
                // A search goes on behind a name without records, as resolvers do.
                Lookup::Absent | Lookup::NonTerminal if self.try_another() => {}
                Lookup::Absent if self.searching || self.aliases.is_empty() => {
                    return Next::Done(self.absent(settings));
                }
                Lookup::Absent => return self.done(self.absent(settings)),
                Lookup::NonTerminal | Lookup::Empty => {
                    self.commit(settings.ttl);
                    return self.done(negative(settings, &self.candidate, ResponseCode::NoError));
                }
                Lookup::Records { answers, additionals } => {
                    self.commit(settings.ttl);
                    let mut reply = Reply::of(ResponseCode::NoError);
                    reply.authoritative = true;
                    (reply.answers, reply.additionals) = (answers, additionals);
                    return self.done(reply);
                }
                Lookup::Alias { target, ttl } => {
                    self.commit(ttl);
                    self.aliases.push(alias(&self.candidate, &target, ttl));
                    if self.aliases.len() > MAX_ALIASES {
                        return Next::Done(Reply::of(ResponseCode::ServFail));
                    }
                    if matches!(self.kind, RecordType::CNAME | RecordType::ANY) {
                        let mut reply = Reply::of(ResponseCode::NoError);
                        reply.authoritative = true;
                        return self.done(reply);
                    }
                    self.candidate = target;
                }
            }
        }
    }

    /// Takes what the upstreams said to the name of [`Next::Forward`].
    pub fn forwarded(&mut self, said: Forwarded, index: &Index, settings: &Settings) -> Next {
        match said {
            Forwarded::Answer(reply) if reply.code == ResponseCode::NoError => {
                self.commit(settings.ttl);
                self.done(reply)
            }
            Forwarded::Answer(reply) if reply.code == ResponseCode::NXDomain => {
                match (self.try_another(), self.searching) {
                    (true, _) => self.next(index, settings),
                    (false, true) => Next::Done(self.absent(settings)),
                    (false, false) => self.done(reply),
                }
            }
            // What was asked for does not exist; only the search cannot go on. The client continues it.
            _ if self.searching => Next::Done(self.absent(settings)),
            Forwarded::Answer(reply) => self.done(reply),
            Forwarded::Failed => self.done(Reply::of(ResponseCode::ServFail)),
        }
    }

    /// Goes on to the next candidate; `false`: there is none.
    fn try_another(&mut self) -> bool {
        match self.others.pop_front() {
            Some(next) => {
                self.candidate = next;
                true
            }
            None => false,
        }
    }

    /// The candidate exists: the search ends here.
    fn commit(&mut self, ttl: u32) {
        if self.searching && self.candidate != self.name {
            self.aliases.push(alias(&self.name, &self.candidate, ttl));
        }
        self.searching = false;
        self.others.clear();
    }

    /// The answer if no candidate exists.
    fn absent(&self, settings: &Settings) -> Reply {
        negative(settings, &self.name, ResponseCode::NXDomain)
    }

    fn done(&self, mut reply: Reply) -> Next {
        if !self.aliases.is_empty() {
            reply.answers.splice(0..0, self.aliases.iter().cloned());
            // The bit is about the first owner, which is the cluster's (RFC 1035, 4.1.1).
            reply.authoritative = true;
        }
        if self.name != self.asked {
            reply.rename(&self.name, &self.asked);
        }
        reply.rotate(self.seed);
        Next::Done(reply)
    }
}

fn find(index: &Index, settings: &Settings, name: &Name, kind: RecordType) -> Lookup {
    match settings.hosts.get(name) {
        Some(ips) => zone::addresses(kind, name, ips.iter().copied(), settings.hosts.ttl),
        None => zone::lookup(index, settings, name, kind),
    }
}

fn alias(from: &Name, to: &Name, ttl: u32) -> Record {
    Record::from_rdata(from.clone(), ttl, RData::CNAME(CNAME(to.clone())))
}

/// No such name, or no such record: with the zone's SOA (RFC 2308).
fn negative(settings: &Settings, name: &Name, code: ResponseCode) -> Reply {
    let mut reply = Reply::of(code);
    let owner = match settings.domain().zone_of(name) {
        true => settings.domain().clone(),
        false => name.clone(),
    };
    reply.authoritative = true;
    reply.authorities = vec![zone::soa(settings, owner, settings.negative_ttl())];
    reply
}

/// What the pod's resolver would ask next, if the name does not exist: the pod's search list after its first domain, and the
/// name itself. Empty: the name is not one that a resolver made with the first domain. What looks like the full name of a
/// Service of the pod's namespace, or of an endpoint of one, is not searched for: a program that waits for its peer to appear
/// means that name only, and nobody outside needs to know.
fn search(name: &Name, kind: RecordType, client: &Client, index: &Index, settings: &Settings) -> Vec<Name> {
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Vec::new();
    }
    let labels = Labels::of(name);
    let below = labels.below(settings.domain_labels());
    let Some([base @ .., namespace, svc]) = below.as_deref() else { return Vec::new() };
    let [.., _, last] = base else { return Vec::new() };
    if **namespace != *client.namespace || *svc != "svc" || index.service(namespace, last).is_some() {
        return Vec::new();
    }
    let Ok(base) = Name::from_labels(name.iter().take(base.len())) else { return Vec::new() };
    let mut base = base;
    base.set_fqdn(false);
    let below = |domain: &Name| base.clone().append_domain(domain).ok();
    let svc = name::parse("svc").and_then(|mut svc| {
        svc.set_fqdn(false);
        svc.append_domain(settings.domain()).ok()
    });
    let domains = svc.into_iter().chain([settings.domain().clone()]);
    let domains = domains.chain(settings.node_searches.iter().cloned());
    let domains = domains.chain(client.searches.iter().filter_map(|text| name::parse(text)));
    let root = Name::root();
    domains.chain([root]).filter_map(|domain| below(&domain)).filter(|candidate| candidate != name).collect()
}
