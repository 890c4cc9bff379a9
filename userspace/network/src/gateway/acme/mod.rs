//! Orders certificates for Ingresses, Gateways and ListenerSets that ask for them.
//!
//! One process of the cluster runs it. In: what is asked for, the Secrets as they are, an authority of ACME. Out: Secrets, what answers
//! challenges, Events about what fails. [`skep_gateway::acme::plan`] decides; failures are kept in memory only, so that a new leader
//! tries once more.

mod account;
mod challenges;
mod http;
mod order;
mod renewal;
mod secret;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use skep_gateway::acme::{Attempts, Failure, Fault, Problem, Requests, Step, Stored, Wanted, plan};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::inputs::Named;
use super::{MAX_EXPIRY_WAIT, QUEUE_LENGTH, seconds_now};
use crate::events::{self, Report};
use account::Accounts;
use challenges::Published;
use renewal::{Renewals, Suggestion};
pub use settings::{AcmeError, AcmeSettings};

/// Orders at work at one time.
const MAX_ORDERS: usize = 4;
/// Questions about renewals at one time.
const MAX_QUESTIONS: usize = 4;

/// Who orders. Without settings every request is refused by an Event.
pub struct Acme {
    pub client: kube::Client,
    pub settings: Option<AcmeSettings>,
}

impl Acme {
    /// Runs until the future is dropped.
    pub(super) async fn run(self, requests: watch::Receiver<Requests>) {
        let Acme { client, settings } = self;
        let (problems_in, problems) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let reports = events::report(
            client.clone(),
            "skep-server".to_owned(),
            problems,
            |all, _| reports(all),
            stop.clone(),
        );
        match settings {
            None => {
                tokio::join!(reports, refuse(requests, problems_in));
            }
            Some(settings) => {
                let (published, writing) = challenges::publish(client.clone());
                let orders = Orders::new(client, settings, published, problems_in);
                tokio::join!(reports, writing, orders.run(requests));
            }
        }
    }
}

/// Says for each certificate that none are ordered.
async fn refuse(mut requests: watch::Receiver<Requests>, problems: watch::Sender<Vec<Problem>>) {
    loop {
        let asked = requests.borrow_and_update().clone();
        let owners = asked.wanted.values().flat_map(|wanted| &wanted.owners).collect::<BTreeSet<_>>();
        let disabled =
            |owner: &_| Problem { owner: Clone::clone(owner), secret: "".into(), fault: Fault::Disabled };
        problems.send_replace(owners.into_iter().map(disabled).collect());
        if requests.changed().await.is_err() {
            return;
        }
    }
}

/// A Secret as it is now, by its key; `None`: it does not exist.
type Found = (Arc<str>, Option<Secret>);

struct Orders {
    client: kube::Client,
    settings: Arc<AcmeSettings>,
    accounts: Arc<Accounts>,
    published: Published,
    problems: watch::Sender<Vec<Problem>>,
    secrets: Named<Secret, Found>,
    found: mpsc::Receiver<Found>,
    requests: Requests,
    /// What is known of the Secrets that are asked for.
    stored: HashMap<Arc<str>, Known>,
    attempts: HashMap<Arc<str>, Attempts>,
    renewals: Renewals,
    orders: JoinSet<(Arc<str>, Result<Secret, Failure>)>,
    questions: JoinSet<Suggestion>,
}

struct Known {
    stored: Stored,
    /// An event may be older than what was written here.
    revision: u64,
}

impl Orders {
    fn new(
        client: kube::Client,
        settings: AcmeSettings,
        published: Published,
        problems: watch::Sender<Vec<Problem>>,
    ) -> Orders {
        let (settings, (found_in, found)) = (Arc::new(settings), mpsc::channel(QUEUE_LENGTH));
        Orders {
            accounts: Arc::new(Accounts::new(client.clone(), settings.clone())),
            secrets: Named::new(client.clone(), found_in, |key, secret| (key, secret)),
            client,
            settings,
            published,
            problems,
            found,
            requests: Requests::default(),
            stored: HashMap::new(),
            attempts: HashMap::new(),
            renewals: Renewals::default(),
            orders: JoinSet::new(),
            questions: JoinSet::new(),
        }
    }

    async fn run(mut self, mut requests: watch::Receiver<Requests>) {
        loop {
            self.follow(requests.borrow_and_update().clone());
            let next = self.step(seconds_now());
            let wait = next.saturating_sub(seconds_now()).max(0);
            let wait = Duration::from_secs(u64::try_from(wait).unwrap_or_default()).min(MAX_EXPIRY_WAIT);
            tokio::select! {
                changed = requests.changed() => if changed.is_err() { return },
                Some(found) = self.found.recv() => self.take(found),
                Some(ended) = self.orders.join_next(), if !self.orders.is_empty() => self.ended(ended),
                Some(Ok(suggestion)) = self.questions.join_next(), if !self.questions.is_empty() => {
                    self.renewals.answered(suggestion, seconds_now());
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn follow(&mut self, requests: Requests) {
        if self.requests == requests {
            return;
        }
        let keys: BTreeSet<Arc<str>> = requests.wanted.keys().cloned().collect();
        self.secrets.follow(&keys);
        self.stored.retain(|key, _| keys.contains(key));
        self.attempts.retain(|key, attempts| keys.contains(key) || attempts.is_running);
        self.renewals.keep(|key| keys.contains(key));
        for (key, wanted) in &requests.wanted {
            // Other names are another order.
            let is_same = |old: &Wanted| old.names == wanted.names && old.challenge == wanted.challenge;
            let attempts = self.attempts.entry(key.clone()).or_default();
            if !attempts.is_running && !self.requests.wanted.get(key).is_some_and(is_same) {
                *attempts = Attempts::default();
            }
        }
        self.requests = requests;
    }

    fn take(&mut self, (key, secret): Found) {
        if self.secrets.take(&key) {
            self.know(&key, secret.as_ref());
        }
    }

    fn know(&mut self, key: &Arc<str>, secret: Option<&Secret>) {
        let version = secret.and_then(|secret| secret.metadata.resource_version.as_ref());
        let revision = version.and_then(|version| version.parse().ok()).unwrap_or_default();
        let is_old = |known: &Known| revision != 0 && revision < known.revision;
        if self.stored.get(key).is_some_and(is_old) {
            return;
        }
        self.stored.insert(key.clone(), Known { stored: Stored::parse(secret), revision });
        self.renewals.take(key, secret);
    }

    fn ended(&mut self, ended: Result<(Arc<str>, Result<Secret, Failure>), tokio::task::JoinError>) {
        let (key, result) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "an order of ACME panicked"),
        };
        match result {
            Ok(secret) => {
                tracing::info!(secret = %key, directory = self.settings.directory, "a certificate was issued");
                self.attempts.insert(key.clone(), Attempts::default());
                if self.requests.wanted.contains_key(&key) {
                    self.know(&key, Some(&secret));
                }
            }
            Err(failure) => {
                tracing::warn!(secret = %key, error = failure.error, "order certificate failed; it is retried");
                self.attempts.entry(key).or_default().failed(failure, &self.settings.pace, seconds_now());
            }
        }
    }

    /// Starts what is due, and returns when the next is, in seconds since 1970.
    fn step(&mut self, now: i64) -> i64 {
        let mut next = i64::MAX;
        let mut problems = self.requests.problems.clone();
        let Orders { requests, stored, attempts, renewals, orders, questions, .. } = self;
        for (key, wanted) in &requests.wanted {
            let attempts = attempts.entry(key.clone()).or_default();
            let stored = stored.get(key).map(|known| &known.stored);
            if matches!(stored, Some(Stored::Issued { .. })) && questions.len() < MAX_QUESTIONS {
                match renewals.ask(key, now) {
                    Ok(question) => drop(questions.spawn(renewal::ask(self.accounts.clone(), question))),
                    Err(at) => next = next.min(at.unwrap_or(next)),
                }
            }
            let problem = |owner, fault| Problem { owner, secret: key.clone(), fault };
            let faults = |fault: &Fault| {
                wanted.owners.iter().map(|owner| problem(owner.clone(), fault.clone())).collect::<Vec<_>>()
            };
            problems.extend(attempts.fault().iter().flat_map(faults));
            let directory = &self.settings.directory;
            match plan(wanted, directory, stored, attempts, renewals.at(key), now) {
                Step::Order if orders.len() < MAX_ORDERS => {
                    attempts.is_running = true;
                    let (client, accounts) = (self.client.clone(), self.accounts.clone());
                    let (settings, published) = (self.settings.clone(), self.published.clone());
                    orders.spawn(issue(client, accounts, settings, published, wanted.clone()));
                }
                // The end of another order is the next step.
                Step::Order | Step::Wait => {}
                Step::Until(at) => next = next.min(at),
                Step::Refuse(fault) => problems.extend(faults(&fault)),
            }
        }
        self.problems.send_if_modified(|known| {
            let changed = *known != problems;
            *known = problems;
            changed
        });
        next
    }
}

/// Orders a certificate, and writes it to its Secret.
async fn issue(
    client: kube::Client,
    accounts: Arc<Accounts>,
    settings: Arc<AcmeSettings>,
    published: Published,
    wanted: Wanted,
) -> (Arc<str>, Result<Secret, Failure>) {
    let issued = order::obtain(&accounts, &published, &settings.pace, &wanted).await;
    let stored = match issued {
        Ok(issued) => {
            let stored = secret::store(&client, &settings.directory, &wanted, issued).await;
            stored.map_err(|error| Failure { error: error.to_string(), is_rate_limit: false, retry_at: None })
        }
        Err(failure) => Err(failure),
    };
    (wanted.secret, stored)
}

fn reports(problems: &[Problem]) -> BTreeMap<String, Report> {
    let report = |problem: &Problem| {
        let owner = &problem.owner;
        let (namespace, name) = owner.key.split_once('/').unwrap_or_default();
        let report = Report {
            component: "skep-acme",
            api_version: owner.api_version,
            kind: owner.kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            reason: problem.fault.reason(),
            message: problem.to_string(),
            is_of_node: false,
        };
        (format!("{} {}: {problem}", owner.kind, owner.key), report)
    };
    problems.iter().map(report).collect()
}
