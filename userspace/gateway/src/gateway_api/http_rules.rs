//! The rules of HTTPRoutes. PURE.

use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, Method, StatusCode};

use super::backends::Resolver;
use super::conditions::Fault;
use super::kinds::{BackendRef, HttpMatch, HttpRule, NamedMatch};
use super::{filters, sessions};
use crate::config::{Route, RouteBackend};
use crate::counters::RouteCounters;
use crate::routing::{Conditions, PathMatch, normalise};

/// A rule without its host.
pub(super) type HostlessRule = (PathMatch, Conditions, Arc<Route>);

/// The rules of a route, in their order. A value that is not served makes the whole route invalid.
pub(super) fn compile(
    rules: &[HttpRule],
    counters: &Arc<RouteCounters>,
    resolver: &mut Resolver<'_>,
) -> Result<Vec<HostlessRule>, Fault> {
    let mut out = Vec::new();
    let every = [HttpMatch::default()];
    for (number, rule) in rules.iter().enumerate() {
        let policy = sessions::policy(rule.session_persistence.as_ref(), resolver.route, number)?;
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
        for wanted in matches {
            let (path, matched) = path_of(wanted)?;
            let mut route = Route {
                counters: counters.clone(),
                timeouts: filters::timeouts(rule.timeouts.as_ref())?,
                retry: rule.retry.as_ref().map(filters::retry).transpose()?,
                unserved: Some(StatusCode::INTERNAL_SERVER_ERROR),
                policy: policy.clone(),
                ..Route::default()
            };
            filters::of_rule(&rule.filters, &matched, &mut route, resolver)?;
            route.backends = backends(&rule.backend_refs, &matched, resolver)?;
            out.push((path, conditions(wanted)?, Arc::new(route)));
        }
    }
    Ok(out)
}

pub(super) fn backends(
    refs: &[BackendRef],
    matched: &str,
    resolver: &mut Resolver<'_>,
) -> Result<Vec<RouteBackend>, Fault> {
    let backend = |reference: &BackendRef| {
        Ok(RouteBackend {
            backend: resolver.resolve(reference),
            weight: reference.weight.unwrap_or(1),
            filters: filters::of_backend(&reference.filters, matched)?,
        })
    };
    refs.iter().map(backend).collect()
}

/// The path, and the text of it that a prefix replaces.
fn path_of(wanted: &HttpMatch) -> Result<(PathMatch, String), Fault> {
    let spec = wanted.path.as_ref();
    let value = spec.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let kind = spec.and_then(|path| path.r#type.as_deref()).unwrap_or("PathPrefix");
    let normal =
        normalise(value).map_err(|error| Fault::new("UnsupportedValue", format!("path {value}: {error}")))?;
    let path: Box<str> = normal.matched.into();
    match kind {
        "Exact" => Ok((PathMatch::Exact(path.clone()), path.into())),
        "PathPrefix" => Ok((PathMatch::Prefix(path.clone()), path.into())),
        other => Err(Fault::new("UnsupportedValue", format!("paths of the type {other} are not served"))),
    }
}

fn conditions(wanted: &HttpMatch) -> Result<Conditions, Fault> {
    let method = wanted.method.as_deref().map(Method::from_str).transpose();
    let mut conditions = Conditions {
        method: method.map_err(|_| Fault::new("UnsupportedValue", "the method is none"))?,
        headers: headers(&wanted.headers)?,
        ..Conditions::default()
    };
    for query in &wanted.query_params {
        is_exact(query)?;
        // Of two equal names the first counts.
        if conditions.query.iter().all(|(name, _)| *name != query.name) {
            conditions.query.push((query.name.clone(), query.value.clone()));
        }
    }
    Ok(conditions)
}

pub(super) fn headers(wanted: &[NamedMatch]) -> Result<Vec<(HeaderName, String)>, Fault> {
    let mut headers: Vec<(HeaderName, String)> = Vec::new();
    for header in wanted {
        is_exact(header)?;
        let name = HeaderName::from_str(&header.name);
        let name =
            name.map_err(|_| Fault::new("UnsupportedValue", format!("{} is no header", header.name)))?;
        if headers.iter().all(|(known, _)| *known != name) {
            headers.push((name, header.value.clone()));
        }
    }
    Ok(headers)
}

fn is_exact(wanted: &NamedMatch) -> Result<(), Fault> {
    match wanted.r#type.as_deref() {
        None | Some("Exact") => Ok(()),
        Some(other) => {
            Err(Fault::new("UnsupportedValue", format!("matches of the type {other} are not served")))
        }
    }
}
