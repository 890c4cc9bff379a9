//! How clients of Ingresses are verified.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::annotations::{Demand, named};
use super::facts::IngressFacts;
use super::problem::Problem;
use super::states::{Parsed, SecretState, SecretStates};
use crate::authorities::Authorities;
use crate::client_check::{ClientCheck, ClientMode};
use crate::policy::ClientCertificates;
use crate::routing::HostPattern;

/// Certificates between that of a client and an authority's, if no annotation says so.
const DEPTH: usize = 1;

/// The checks that were made, by Secret and depth. One stays the same while its authorities do, so that sessions of TLS go on.
#[derive(Default)]
pub(super) struct ClientChecks(Mutex<HashMap<(Arc<str>, usize), (Arc<Authorities>, Arc<ClientCheck>)>>);

impl ClientChecks {
    /// What an Ingress asks of the certificates of its clients. `None`: nothing.
    pub(super) fn of(
        &self,
        key: &Arc<str>,
        facts: &IngressFacts,
        secrets: &SecretStates,
    ) -> Result<Option<ClientCertificates>, Problem> {
        let settings = &facts.settings.clients;
        let (Some(secret), Demand::Of(demand)) = (&settings.secret, settings.demand) else { return Ok(None) };
        let secret = named(key, secret).map_err(|error| Problem::bad_clients(key, secret, error))?;
        let authorities = match secrets.get(&secret) {
            Some(SecretState::Found(facts)) => facts.authorities.as_ref().and_then(Parsed::in_force),
            Some(SecretState::Missing) | None => None,
        };
        let authorities = authorities.ok_or_else(|| {
            Problem::bad_clients(key, &secret, "it does not exist, was not read, or has no valid ca.crt")
        })?;
        let depth = settings.depth.unwrap_or(DEPTH);
        let check = self.check(&secret, authorities, depth);
        let check = check.map_err(|error| Problem::bad_clients(key, &secret, error))?;
        Ok(Some(ClientCertificates {
            check,
            demand,
            subject: settings.subject.clone(),
            error_page: settings.error_page.clone(),
            passes: settings.passes,
        }))
    }

    /// The checks of hosts, of Ingresses from the oldest on: the oldest one's is in force.
    pub(super) fn by_host<'i>(
        &self,
        ingresses: &[(&'i Arc<str>, &'i IngressFacts)],
        secrets: &SecretStates,
    ) -> HashMap<HostPattern, Arc<ClientCheck>> {
        let mut hosts = HashMap::new();
        for (key, facts) in ingresses {
            // Why there is none is said with the routes.
            let Ok(Some(clients)) = self.of(key, facts, secrets) else { continue };
            let of_rules = facts.rules.iter().map(|rule| &rule.host);
            for host in of_rules.chain(facts.tls.iter().flat_map(|tls| &tls.hosts)) {
                hosts.entry(host.clone()).or_insert_with(|| clients.check.clone());
            }
        }
        hosts
    }

    fn check(
        &self,
        secret: &Arc<str>,
        authorities: &Arc<Authorities>,
        depth: usize,
    ) -> Result<Arc<ClientCheck>, String> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (secret.clone(), depth);
        if let Some((of, check)) = made.get(&at).filter(|(of, _)| Arc::ptr_eq(of, authorities)) {
            let _ = of;
            return Ok(check.clone());
        }
        // Routes decide about clients that have none.
        let check = ClientCheck::new(authorities.clone(), ClientMode::Optional, Some(depth));
        let check = Arc::new(check.map_err(|error| error.to_string())?);
        made.insert(at, (authorities.clone(), check.clone()));
        Ok(check)
    }
}
