//! The rules of GRPCRoutes. A call of gRPC is a POST to `/SERVICE/METHOD`. PURE.

use std::sync::Arc;

use http::StatusCode;

use super::backends::Resolver;
use super::conditions::Fault;
use super::http_rules::{HostlessRule, backends, headers};
use super::kinds::{GrpcMatch, GrpcMethod, GrpcRule};
use super::{filters, sessions};
use crate::config::Route;
use crate::counters::RouteCounters;
use crate::routing::{Conditions, PathMatch};

pub(super) fn compile(
    rules: &[GrpcRule],
    counters: &Arc<RouteCounters>,
    resolver: &mut Resolver<'_>,
) -> Result<Vec<HostlessRule>, Fault> {
    let mut out = Vec::new();
    let every = [GrpcMatch::default()];
    for (number, rule) in rules.iter().enumerate() {
        let policy = sessions::policy(rule.session_persistence.as_ref(), resolver.route, number)?;
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
        for wanted in matches {
            let (path, last_element) = path_of(wanted.method.as_ref())?;
            let mut route = Route {
                counters: counters.clone(),
                unserved: Some(StatusCode::INTERNAL_SERVER_ERROR),
                policy: policy.clone(),
                ..Route::default()
            };
            filters::of_rule(&rule.filters, "/", &mut route, resolver)?;
            route.backends = backends(&rule.backend_refs, "/", resolver)?;
            let conditions =
                Conditions { headers: headers(&wanted.headers)?, last_element, ..Conditions::default() };
            out.push((path, conditions, Arc::new(route)));
        }
    }
    Ok(out)
}

/// The path, and its last element where only that is known.
fn path_of(method: Option<&GrpcMethod>) -> Result<(PathMatch, Option<Box<str>>), Fault> {
    let prefix = |path: &str| PathMatch::Prefix(path.into());
    let Some(method) = method else { return Ok((prefix("/"), None)) };
    if let Some(other) = method.r#type.as_deref().filter(|kind| *kind != "Exact") {
        return Err(Fault::new("UnsupportedValue", format!("methods of the type {other} are not served")));
    }
    Ok(match (method.service.as_deref(), method.method.as_deref()) {
        (Some(service), Some(name)) => (PathMatch::Exact(format!("/{service}/{name}").into()), None),
        (Some(service), None) => (prefix(&format!("/{service}")), None),
        (None, Some(name)) => (prefix("/"), Some(name.into())),
        (None, None) => (prefix("/"), None),
    })
}
