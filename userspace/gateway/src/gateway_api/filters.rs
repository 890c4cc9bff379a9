//! Filters, timeouts and retries of rules. PURE.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::backends::Resolver;
use super::conditions::Fault;
use super::kinds::{
    CorsSpec, Filter, HeaderModifier, HeaderSpec, MirrorSpec, PathModifier, RedirectSpec, RetrySpec,
    TimeoutsSpec,
};
use crate::config::{Mirror, Retry, Route, Timeouts};
use crate::filters::{Cors, Filters, HeaderChanges, Origin, PathRewrite, Redirect};
use crate::headers::frames_message;

/// The filters of a rule. `matched`: the prefix that its match is for.
pub(super) fn of_rule(
    filters: &[Filter],
    matched: &str,
    route: &mut Route,
    resolver: &mut Resolver<'_>,
) -> Result<(), Fault> {
    for filter in filters {
        match filter.r#type.as_str() {
            "RequestRedirect" => {
                let spec = filter.request_redirect.as_ref();
                route.redirect = spec.map(|spec| redirect(spec, matched)).transpose()?;
            }
            "RequestMirror" => {
                let mirrored = filter.request_mirror.as_ref().and_then(|spec| mirror(spec, resolver));
                route.mirrors.extend(mirrored);
            }
            "CORS" => route.cors = filter.cors.as_ref().map(cors),
            _ => shared(filter, matched, &mut route.filters)?,
        }
    }
    Ok(())
}

/// Those that a backend may have too.
pub(super) fn of_backend(filters: &[Filter], matched: &str) -> Result<Filters, Fault> {
    let mut out = Filters::default();
    filters.iter().try_for_each(|filter| shared(filter, matched, &mut out))?;
    Ok(out)
}

fn shared(filter: &Filter, matched: &str, out: &mut Filters) -> Result<(), Fault> {
    match filter.r#type.as_str() {
        "RequestHeaderModifier" => {
            out.request =
                filter.request_header_modifier.as_ref().map(headers).transpose()?.unwrap_or_default();
        }
        "ResponseHeaderModifier" => {
            out.response =
                filter.response_header_modifier.as_ref().map(headers).transpose()?.unwrap_or_default();
        }
        "URLRewrite" => {
            let Some(spec) = &filter.url_rewrite else { return Ok(()) };
            out.rewrite.host = spec.hostname.as_deref().map(Into::into);
            out.rewrite.path = spec.path.as_ref().and_then(|path| path_rewrite(path, matched));
        }
        other => {
            return Err(Fault::new("UnsupportedValue", format!("the filter {other} is not served here")));
        }
    }
    Ok(())
}

fn headers(modifier: &HeaderModifier) -> Result<HeaderChanges, Fault> {
    let bad = |name: &str| Fault::new("UnsupportedValue", format!("the header {name} cannot be changed"));
    let name = |text: &str| {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| bad(text))?;
        if frames_message(&name) { Err(bad(text)) } else { Ok(name) }
    };
    let pair = |header: &HeaderSpec| {
        let value = HeaderValue::from_str(&header.value).map_err(|_| bad(&header.name))?;
        Ok((name(&header.name)?, value))
    };
    Ok(HeaderChanges {
        remove: modifier.remove.iter().map(|text| name(text)).collect::<Result<_, Fault>>()?,
        set: modifier.set.iter().map(pair).collect::<Result<_, Fault>>()?,
        add: modifier.add.iter().map(pair).collect::<Result<_, Fault>>()?,
    })
}

fn path_rewrite(path: &PathModifier, matched: &str) -> Option<PathRewrite> {
    match (&path.replace_full_path, &path.replace_prefix_match) {
        (Some(full), _) => Some(PathRewrite::Full(full.as_str().into())),
        (None, Some(with)) => {
            Some(PathRewrite::Prefix { matched: matched.into(), with: with.as_str().into() })
        }
        (None, None) => None,
    }
}

fn redirect(spec: &RedirectSpec, matched: &str) -> Result<Redirect, Fault> {
    let code = spec.status_code.unwrap_or(302);
    let status = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection);
    Ok(Redirect {
        scheme: spec.scheme.as_deref().map(|scheme| scheme.to_ascii_lowercase().into()),
        host: spec.hostname.as_deref().map(Into::into),
        path: spec.path.as_ref().and_then(|path| path_rewrite(path, matched)),
        port: spec.port,
        status: status.ok_or_else(|| Fault::new("UnsupportedValue", format!("{code} does not redirect")))?,
    })
}

fn mirror(spec: &MirrorSpec, resolver: &mut Resolver<'_>) -> Option<Mirror> {
    let backend = resolver.resolve(&spec.backend_ref)?;
    let (numerator, denominator) = match (&spec.fraction, spec.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    Some(Mirror { backend, numerator, denominator })
}

fn cors(spec: &CorsSpec) -> Cors {
    let names = |all: &[String]| all.iter().map(|name| name.as_str().into()).collect();
    Cors {
        origins: spec.allow_origins.iter().map(|origin| Origin::parse(origin)).collect(),
        methods: names(&spec.allow_methods),
        headers: names(&spec.allow_headers),
        expose: names(&spec.expose_headers),
        credentials: spec.allow_credentials.unwrap_or_default(),
        max_age: spec.max_age,
    }
}

pub(super) fn timeouts(spec: Option<&TimeoutsSpec>) -> Result<Timeouts, Fault> {
    let of = |text: &Option<String>| text.as_deref().map(duration).transpose();
    match spec {
        Some(spec) => Ok(Timeouts { request: of(&spec.request)?, attempt: of(&spec.backend_request)? }),
        None => Ok(Timeouts::default()),
    }
}

pub(super) fn retry(spec: &RetrySpec) -> Result<Retry, Fault> {
    let statuses = spec.codes.iter().filter_map(|code| StatusCode::from_u16(*code).ok()).collect();
    let backoff = spec.backoff.as_deref().map(duration).transpose()?.unwrap_or_default();
    Ok(Retry { statuses, attempts: spec.attempts.unwrap_or(1), backoff })
}

pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    crate::duration::duration(text)
        .ok_or_else(|| Fault::new("UnsupportedValue", format!("{text} is not a duration")))
}
