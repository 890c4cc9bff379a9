//! Which clients may send requests, how many, and who may read the responses.

use super::row::Reading::{Guard, Implied, RefusedGuard, Set};
use super::row::{Annotation, Group};
use crate::ingress::annotations::values::{
    address, boolean, cache_rules, header_names, method, names, number, one_of, ranges, service_and_path,
    size, template,
};

pub(super) const AUTHENTICATION_AND_CLIENTS: Group = (
    "Authentication and clients",
    &[
        Annotation::new(
            "auth-type",
            "word",
            "`basic`",
            Guard(|s, v| {
                s.basic = one_of(v, &[("basic", true)])?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-secret",
            "Secret",
            "Of the same namespace",
            Guard(|s, v| {
                s.basic_secret = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-secret-type",
            "word",
            "`auth-file`: htpasswd in the key `auth`; `auth-map`: a key for each user. Hashes are bcrypt, apr1 and SHA",
            Guard(|s, v| {
                s.basic_is_map = one_of(v, &[("auth-file", false), ("auth-map", true)])?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-realm",
            "text",
            "In `WWW-Authenticate`",
            Set(|s, v| {
                s.basic_realm = Some(v.into());
                Ok(())
            }),
        ),
        Annotation::new(
            "satisfy",
            "word",
            "`any`: the client's address or its authentication is enough",
            Guard(|s, v| {
                s.satisfies_any = one_of(v, &[("any", true), ("all", false)])?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-url",
            "address of a Service",
            "Is asked for each request; 2xx lets it go on, 401 and 403 are the answer",
            Guard(|s, v| {
                s.external = Some(service_and_path(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-method",
            "method",
            "GET without it",
            Set(|s, v| {
                s.external_method = Some(method(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-signin",
            "address",
            "401 becomes a redirect to it",
            Set(|s, v| {
                s.sign_in = Some(address(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-signin-redirect-param",
            "text",
            "Parameter with the address of the request; `rd` without it",
            Set(|s, v| {
                s.sign_in_parameter = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-response-headers",
            "headers",
            "Of its response, for the endpoint",
            Guard(|s, v| {
                s.external_headers = header_names(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-request-redirect",
            "text",
            "`X-Auth-Request-Redirect`",
            Set(|s, v| {
                s.request_redirect = Some(template(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-always-set-cookie",
            "boolean",
            "Its cookies reach the client whatever the endpoint answers",
            Set(|s, v| {
                s.always_sets_cookies = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-keepalive",
            "number",
            "connections are kept as those to all endpoints are",
            Implied,
        ),
        Annotation::new(
            "auth-keepalive-requests",
            "number",
            "connections are kept as those to all endpoints are",
            Implied,
        ),
        Annotation::new(
            "auth-keepalive-timeout",
            "seconds",
            "connections are kept as those to all endpoints are",
            Implied,
        ),
        Annotation::new(
            "auth-keepalive-share-vars",
            "boolean",
            "the client's headers are in both requests",
            Implied,
        ),
        Annotation::new(
            "auth-cache-key",
            "text",
            "Requests with the same text are asked for once, until the time of the answer is over; variables are filled in",
            Guard(|s, v| {
                s.cache_key = Some(template(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-cache-duration",
            "times",
            "Statuses and how long such answers are kept; `200 202 401 5m` without it",
            Set(|s, v| {
                s.cache_rules = Some(cache_rules(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-proxy-set-headers",
            "ConfigMap",
            "Of the same namespace, as NAMESPACE/NAME: headers of the question beside those of the request",
            Guard(|s, v| {
                s.external_set_headers = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new("auth-snippet", "snippet", "Snippets are of nginx' own language", RefusedGuard),
        Annotation::new("enable-global-auth", "boolean", "there is no global authentication", Implied),
        Annotation::new(
            "whitelist-source-range",
            "ranges",
            "Other clients get 403",
            Guard(|s, v| {
                s.allowed = ranges(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "denylist-source-range",
            "ranges",
            "These clients get 403",
            Guard(|s, v| {
                s.denied = ranges(v)?;
                Ok(())
            }),
        ),
    ],
);

pub(super) const LIMITS: Group = (
    "Limits",
    &[
        Annotation::new(
            "limit-rps",
            "number",
            "Requests a second of a client and node; 503 beyond",
            Guard(|s, v| {
                s.limit_rps = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-rpm",
            "number",
            "Requests a minute of a client and node",
            Guard(|s, v| {
                s.limit_rpm = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-burst-multiplier",
            "number",
            "5 without it",
            Set(|s, v| {
                s.limit_burst = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-connections",
            "number",
            "Requests at once of a client and node",
            Guard(|s, v| {
                s.limit_connections = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-whitelist",
            "ranges",
            "Clients without limits",
            Set(|s, v| {
                s.limit_exempt = ranges(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-rate",
            "KB a second",
            "Of the body of each response; 0: as fast as the client reads",
            Set(|s, v| {
                s.limit_rate = number(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "limit-rate-after",
            "KB",
            "What of a body goes out at once before",
            Set(|s, v| {
                s.limit_rate_after = number(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-body-size",
            "size",
            "413 beyond; 0: any",
            Guard(|s, v| {
                s.body_bytes = Some(size(v)?);
                Ok(())
            }),
        ),
    ],
);

pub(super) const CROSS_ORIGIN_REQUESTS: Group = (
    "Cross-origin requests",
    &[
        Annotation::new(
            "enable-cors",
            "boolean",
            "The gateway answers preflights and names the origins",
            Set(|s, v| {
                s.cors.is_on = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-allow-origin",
            "origins",
            "`*` without it; `https://*.example.com` too",
            Set(|s, v| {
                s.cors.origins = Some(names(v));
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-allow-methods",
            "methods",
            "GET, PUT, POST, DELETE, PATCH, OPTIONS without it",
            Set(|s, v| {
                s.cors.methods = Some(names(v));
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-allow-headers",
            "headers",
            "The usual ones without it",
            Set(|s, v| {
                s.cors.headers = Some(names(v));
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-expose-headers",
            "headers",
            "None without it",
            Set(|s, v| {
                s.cors.expose = names(v);
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-allow-credentials",
            "boolean",
            "true without it",
            Set(|s, v| {
                s.cors.credentials = Some(boolean(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "cors-max-age",
            "seconds",
            "1728000 without it",
            Set(|s, v| {
                s.cors.max_age = Some(number(v)?);
                Ok(())
            }),
        ),
    ],
);
