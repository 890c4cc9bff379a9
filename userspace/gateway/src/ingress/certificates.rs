//! The certificates of the gateway's Ingresses, by host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::client_certificates::checks_by_host;
use super::facts::IngressFacts;
use super::problem::Problem;
use super::states::SecretStates;
use crate::certificate::{Certificate, Stapled};
use crate::client_check::{ClientCheck, ClientChecks};
use crate::config::{StreamRoute, TlsAction, TlsServer, TlsServers};
use crate::routing::{HostPattern, HostTable};

/// What Ingresses say about TLS, compiled.
#[derive(Default)]
pub(super) struct Certificates {
    table: HostTable<Arc<TlsServer>>,
    /// Of the table.
    servers: Arc<TlsServers>,
    pub(super) problems: Vec<Problem>,
    /// When the next certificate expires, in seconds since 1970.
    pub(super) next_expiry: Option<i64>,
}

impl Certificates {
    /// Of two certificates for a host, and of two checks of its clients, the older Ingress' is in force.
    pub(super) fn compile<'i>(
        ingresses: impl Iterator<Item = (&'i Arc<str>, &'i IngressFacts)>,
        secrets: &SecretStates,
        checks: &ClientChecks,
        now: i64,
    ) -> Certificates {
        let mut by_age: Vec<_> = ingresses.collect();
        by_age.sort_by_key(|(key, facts)| (facts.created, *key));
        let mut builder = Builder { now, ..Builder::default() };
        for (key, facts) in &by_age {
            builder.add(secrets, key, facts);
        }
        for (host, check) in checks_by_host(&by_age, secrets, checks) {
            builder.check_clients(&host, &check);
        }
        let Builder { table, problems, next_expiry, .. } = builder;
        Certificates { servers: Arc::new(TlsServers::new(table.clone())), table, problems, next_expiry }
    }

    /// The servers, with those that pass connections on to endpoints instead.
    pub(super) fn servers<'p>(
        &self,
        passthroughs: impl Iterator<Item = &'p (HostPattern, Arc<StreamRoute>)>,
    ) -> Arc<TlsServers> {
        let mut passthroughs = passthroughs.peekable();
        if passthroughs.peek().is_none() {
            return self.servers.clone();
        }
        let mut table = self.table.clone();
        for (host, stream) in passthroughs {
            let action = TlsAction::Passthrough(stream.clone());
            let server = Arc::new(TlsServer { certificates: Vec::new(), clients: None, action });
            table.set(host.clone(), server);
        }
        Arc::new(TlsServers::new(table))
    }
}

#[derive(Default)]
struct Builder {
    table: HostTable<Arc<TlsServer>>,
    /// By Secret.
    servers: HashMap<Arc<str>, Arc<TlsServer>>,
    problems: Vec<Problem>,
    now: i64,
    next_expiry: Option<i64>,
}

impl Builder {
    fn check_staple(&mut self, key: &Arc<str>, secret: &Arc<str>, certificate: &Certificate) {
        match &certificate.staple {
            None => {}
            Some(Err(error)) => self.problems.push(Problem::bad_staple(key, secret, error)),
            Some(Ok(stapled)) if stapled.not_after <= self.now => {
                self.problems.push(Problem::staple_expired(key, secret, stapled.not_after));
            }
            Some(Ok(Stapled { not_after: at, .. })) => {
                self.next_expiry = Some(self.next_expiry.map_or(*at, |next| next.min(*at)));
            }
        }
    }

    /// Clients of the host are asked for certificates, whatever server of several hosts it has.
    fn check_clients(&mut self, host: &HostPattern, check: &Arc<ClientCheck>) {
        // A name that the pattern stands for.
        let name = match host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::OneLabel(suffix) | HostPattern::Suffix(suffix) => format!("*.{suffix}"),
            HostPattern::Any => String::new(),
        };
        let Some(server) = self.table.find(&name).next() else { return };
        let server = Arc::new(TlsServer { clients: Some(check.clone()), ..TlsServer::clone(server) });
        self.table.set(host.clone(), server);
    }

    fn add(&mut self, secrets: &SecretStates, key: &Arc<str>, facts: &IngressFacts) {
        for tls in &facts.tls {
            let Some(secret) = &tls.secret else { continue };
            // It was not looked for yet.
            let Some(state) = secrets.get(secret) else { continue };
            let Some(state) = state.certificate() else {
                self.problems.push(Problem::no_secret(key, secret));
                continue;
            };
            self.problems.extend(state.error().map(|error| Problem::bad_secret(key, secret, error)));
            let Some(certificate) = state.in_force() else { continue };
            match certificate.not_after {
                at if at <= self.now => self.problems.push(Problem::expired(key, secret, at)),
                at => self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at))),
            }
            self.check_staple(key, secret, certificate);
            let server = match self.servers.entry(secret.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(Arc::new(TlsServer {
                    certificates: vec![certificate.clone()],
                    clients: None,
                    action: TlsAction::Http,
                })),
            };
            for alias in &facts.settings.aliases {
                self.table.entry(HostPattern::of_ingress(alias), || server.clone());
            }
            for host in &tls.hosts {
                self.table.entry(host.clone(), || server.clone());
            }
        }
    }
}
