//! What the annotations of Ingresses add to their rules: policies, other hosts, canaries.

use std::sync::Arc;

use http::StatusCode;

use super::Index;
use super::annotations::{Headers, Resolved, ServiceAddress, pattern};
use super::backends::BackendKey;
use super::client_certificates::client_certificates;
use super::compile::Builder;
use super::facts::{BackendFacts, IngressFacts, PortName, RuleFacts};
use super::headers::headers_of;
use super::hosts::other_of;
use super::problem::Problem;
use super::states::SecretState;
use crate::config::Route;
use crate::filters::Redirect;
use crate::policy::{BasicAuth, ClientCertificates, Policy, TemplateRedirect};
use crate::routing::{Conditions, HostPattern, PathMatch, Rule};

/// The class whose Ingresses redirect to TLS unless they say otherwise, as ingress-nginx does.
const NGINX_CLASS: &str = "nginx";
const REALM: &str = "";

/// A canary and where its requests go.
pub(super) struct CanaryRule<'a> {
    pub(super) key: &'a Arc<str>,
    facts: &'a IngressFacts,
    backend: &'a BackendFacts,
    pub(super) is_used: bool,
}

impl<'a> CanaryRule<'a> {
    pub(super) fn new(key: &'a Arc<str>, facts: &'a IngressFacts, rule: &'a RuleFacts) -> CanaryRule<'a> {
        CanaryRule { key, facts, backend: &rule.backend, is_used: false }
    }
}

impl Builder<'_> {
    /// The route of a rule, or of a default backend.
    pub(super) fn route(
        &mut self,
        index: &Index,
        key: &Arc<str>,
        facts: &IngressFacts,
        backend: &BackendFacts,
        rule: Option<&RuleFacts>,
    ) -> Arc<Route> {
        let counters = facts.counters.clone();
        let settings = &facts.settings;
        let nothing = || Arc::new(Route { counters: counters.clone(), ..Route::default() });
        let Some(at) = self.backend(key, facts, backend) else { return nothing() };
        let named = match Named::find(index, key, facts) {
            Ok(named) => named,
            Err(problem) => {
                self.problems.push(problem);
                return nothing();
            }
        };
        let mut route = Route::to(counters.clone(), at);
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        let external = settings.external.as_ref().map(|(address, _)| self.service(key, namespace, address));
        let mirror = settings.mirror.as_ref().map(|address| self.service(key, namespace, address));
        let default_backend = settings.default_backend.as_ref().map(|name| {
            let service = format!("{namespace}/{name}").into();
            self.index_of(key, BackendKey::new(service, PortName::First))
        });
        let canary = rule.and_then(|rule| self.canary(rule));
        let resolved = Resolved {
            key,
            https_port: index.ports.https.filter(|_| redirects(facts, rule)),
            rate: facts.rate.clone(),
            basic: named.basic,
            clients: named.clients,
            verdicts: facts.verdicts.clone(),
            external_headers: named.external_headers,
            response_headers: named.response_headers,
            external,
            mirror,
            default_backend,
            canary: canary.map(|(backend, facts)| (backend, &facts.settings.canary)),
            pattern: rule.and_then(|rule| pattern(&expression(rule)).ok()),
        };
        settings.apply(&mut route, resolved);
        Arc::new(route)
    }

    fn service(&mut self, key: &Arc<str>, own: &str, address: &ServiceAddress) -> usize {
        let namespace = address.namespace.as_deref().unwrap_or(own);
        let service = format!("{namespace}/{}", address.name).into();
        self.index_of(key, BackendKey::new(service, PortName::Number(address.port)))
    }

    /// The canary of a rule.
    fn canary(&mut self, rule: &RuleFacts) -> Option<(usize, &IngressFacts)> {
        let canary = self.canaries.get_mut(&(rule.host.clone(), rule.text.clone()))?;
        canary.is_used = true;
        let (key, facts, backend) = (canary.key, canary.facts, canary.backend);
        Some((self.backend(key, facts, backend)?, facts))
    }

    /// Redirects of `/`, of names with and without `www.`, and other names of the rules.
    pub(super) fn add_others(&mut self, key: &Arc<str>, facts: &IngressFacts) {
        let settings = &facts.settings;
        if settings.is_denied || settings.canary.is_on {
            return;
        }
        let hosts: std::collections::BTreeSet<&HostPattern> =
            facts.rules.iter().map(|rule| &rule.host).collect();
        for host in &hosts {
            if let Some(to) = &settings.app_root {
                let redirect = TemplateRedirect { to: to.clone(), status: StatusCode::FOUND };
                let policy = Policy { redirect: Some(redirect), ..Policy::default() };
                let route = Route {
                    counters: facts.counters.clone(),
                    policy: Some(Arc::new(policy)),
                    ..Route::default()
                };
                self.add_free(key, (*host).clone(), PathMatch::Exact("/".into()), Arc::new(route));
            }
            if let (true, HostPattern::Exact(name)) = (settings.www_redirect, host) {
                let Some(other) = other_of(host) else { continue };
                let redirect = Redirect {
                    scheme: None,
                    host: Some(name.as_ref().into()),
                    path: None,
                    port: None,
                    status: StatusCode::PERMANENT_REDIRECT,
                };
                let route =
                    Route { counters: facts.counters.clone(), redirect: Some(redirect), ..Route::default() };
                if !self.has_host(&other) {
                    self.add_free(key, other, PathMatch::Prefix("/".into()), Arc::new(route));
                }
            }
        }
    }

    /// The rules of an Ingress for its other names, after all hosts of rules are known.
    pub(super) fn add_aliases(&mut self, index: &Index, key: &Arc<str>, facts: &IngressFacts) {
        for alias in facts.settings.aliases.iter().map(|alias| HostPattern::of_ingress(alias)) {
            if self.has_host(&alias) {
                continue;
            }
            for rule in &facts.rules {
                let route = self.route(index, key, facts, &rule.backend, Some(rule));
                let (host, path, conditions) = (alias.clone(), rule.path.clone(), Conditions::default());
                self.rules.push(Rule { host, path, conditions, target: route });
            }
        }
    }

    fn has_host(&self, host: &HostPattern) -> bool {
        self.hosts.contains(host)
    }

    /// Adds a rule unless an Ingress has one of its own.
    fn add_free(&mut self, key: &Arc<str>, host: HostPattern, path: PathMatch, target: Arc<Route>) {
        let free = self.owners.entry((host.clone(), path.clone()));
        if let std::collections::hash_map::Entry::Vacant(free) = free {
            free.insert(key.clone());
            self.rules.push(Rule { host, path, conditions: Conditions::default(), target });
        }
    }
}

/// What an Ingress names in its annotations beside Services. Without it, requests that should be kept out could come in.
struct Named {
    basic: Option<Arc<BasicAuth>>,
    clients: Option<ClientCertificates>,
    external_headers: Headers,
    response_headers: Headers,
}

impl Named {
    fn find(index: &Index, key: &Arc<str>, facts: &IngressFacts) -> Result<Named, Problem> {
        let settings = &facts.settings;
        let headers =
            |config_map: &Option<Box<str>>| headers_of(key, config_map.as_deref(), &index.config_maps);
        Ok(Named {
            basic: users(index, key, facts)?,
            clients: client_certificates(key, facts, &index.secrets, &index.client_checks)?,
            external_headers: headers(&settings.external_set_headers)?,
            response_headers: headers(&settings.response_headers)?,
        })
    }
}

fn users(index: &Index, key: &Arc<str>, facts: &IngressFacts) -> Result<Option<Arc<BasicAuth>>, Problem> {
    let settings = &facts.settings;
    let secret = match settings.users_of(key) {
        Ok(Some(secret)) => secret,
        Ok(None) => return Ok(None),
        Err(error) => return Err(Problem::bad_users(key, &"".into(), error)),
    };
    let Some(users) = index.users.get(&secret) else {
        return Err(match index.secrets.get(&secret) {
            Some(SecretState::Missing) => Problem::no_secret(key, &secret),
            _ => Problem::bad_users(key, &secret, "it was not read, or is of another kind"),
        });
    };
    let realm = settings.basic_realm.as_deref().unwrap_or(REALM);
    let made = users.authentication(settings.basic_is_map, realm);
    made.map(Some).map_err(|error| Problem::bad_users(key, &secret, error))
}

/// The expression of a rule's path, as ingress-nginx makes it.
fn expression(rule: &RuleFacts) -> String {
    match &rule.path {
        PathMatch::Pattern(pattern) => pattern.to_string(),
        PathMatch::Exact(path) => format!("^{}$", regex::escape(path)),
        PathMatch::Prefix(path) => format!("^{}", regex::escape(path)),
    }
}

/// Whether requests without TLS are redirected.
fn redirects(facts: &IngressFacts, rule: Option<&RuleFacts>) -> bool {
    let settings = &facts.settings;
    let by_default = facts.class.as_deref() == Some(NGINX_CLASS);
    let has_tls = || {
        let mut hosts = facts.tls.iter().flat_map(|tls| &tls.hosts);
        hosts.any(|host| *host == HostPattern::Any || rule.is_none_or(|rule| rule.host == *host))
    };
    settings.force_ssl_redirect || settings.ssl_redirect.unwrap_or(by_default) && has_tls()
}
