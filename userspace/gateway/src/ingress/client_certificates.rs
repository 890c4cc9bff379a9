//! What Ingresses ask of the certificates of their clients.

use std::collections::HashMap;
use std::sync::Arc;

use super::annotations::{Demand, named};
use super::facts::IngressFacts;
use super::hosts::hosts_of;
use super::problem::Problem;
use super::states::{Parsed, SecretState, SecretStates};
use crate::client_check::{ClientCheck, ClientChecks, ClientMode};
use crate::policy::ClientCertificates;
use crate::routing::HostPattern;

/// Certificates between that of a client and an authority's, if no annotation says so.
const DEPTH: usize = 1;

/// `None`: nothing.
pub(super) fn client_certificates(
    key: &Arc<str>,
    facts: &IngressFacts,
    secrets: &SecretStates,
    checks: &ClientChecks,
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
    // Routes decide about clients that have none.
    let depth = settings.depth.unwrap_or(DEPTH);
    let check = checks.get(authorities, ClientMode::Optional, Some(depth));
    Ok(Some(ClientCertificates {
        check: check.map_err(|error| Problem::bad_clients(key, &secret, error))?,
        demand,
        subject: settings.subject.clone(),
        error_page: settings.error_page.clone(),
        passes: settings.passes,
    }))
}

/// The checks of hosts, of Ingresses from the oldest on: the oldest one's is in force.
pub(super) fn checks_by_host(
    ingresses: &[(&Arc<str>, &IngressFacts)],
    secrets: &SecretStates,
    checks: &ClientChecks,
) -> HashMap<HostPattern, Arc<ClientCheck>> {
    let mut hosts = HashMap::new();
    for (key, facts) in ingresses {
        // Why there is none is said with the routes.
        let Ok(Some(clients)) = client_certificates(key, facts, secrets, checks) else { continue };
        for host in hosts_of(facts).into_iter().chain(facts.tls.iter().flat_map(|tls| tls.hosts.clone())) {
            hosts.entry(host).or_insert_with(|| clients.check.clone());
        }
    }
    hosts
}
