//! The annotations of ingress-nginx, one row each: the name, the form of its value, what it does or why it does not, and how it is read.
//! `docs/reference/annotations.md` is made from this table.

use super::settings::Settings;
use super::values::{
    Invalid, address, boolean, cookie_name, cookie_text, header_name, header_names, header_value, method,
    mirror, names, number, one_of, own_path, pattern, plain, ranges, redirect_status, replacement,
    retry_conditions, seconds, service_and_path, size, statuses, template,
};
use crate::config::Protocol;
use Reading::{Guard, Implied, Refused, RefusedGuard, Set};

/// A row of the table.
pub(super) struct Annotation {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    /// What it does; of others why not.
    pub(super) effect: &'static str,
    pub(super) reading: Reading,
}

type Read = fn(&mut Settings, &str) -> Result<(), Invalid>;

#[derive(Clone, Copy)]
pub(super) enum Reading {
    Set(Read),
    /// It keeps requests out: while its value is invalid, the rules of the Ingress answer 503.
    Guard(Read),
    /// What it asks for is so anyway, or tunes what is not there.
    Implied,
    Refused,
    /// It may keep requests out: the rules of the Ingress answer 503.
    RefusedGuard,
}

/// A part of the table, with its title.
pub(super) type Group = (&'static str, &'static [Annotation]);

pub(super) static GROUPS: &[Group] = &[
    (
        "Paths, hosts and redirects",
        &[
            Annotation {
                name: "app-root",
                value: "path",
                effect: "Requests for `/` are redirected to it",
                reading: Set(|s, v| {
                    s.app_root = Some(own_path(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "rewrite-target",
                value: "path",
                effect: "The path that the endpoint gets, with `$1` for groups of the rule's path; the paths are patterns",
                reading: Set(|s, v| {
                    s.rewrite_target = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "use-regex",
                value: "boolean",
                effect: "The paths of the rules are patterns, from the beginning, without regard to case",
                reading: Set(|s, v| {
                    s.uses_patterns = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "x-forwarded-prefix",
                value: "text",
                effect: "The endpoint gets it in `X-Forwarded-Prefix`",
                reading: Set(|s, v| {
                    s.forwarded_prefix = Some(header_value(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "upstream-vhost",
                value: "host",
                effect: "The endpoint gets it as `Host`",
                reading: Set(|s, v| {
                    header_value(v)?;
                    s.upstream_host = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "server-alias",
                value: "hosts",
                effect: "More hosts of the rules, if no rule has them",
                reading: Set(|s, v| {
                    s.aliases = names(&v.to_ascii_lowercase());
                    Ok(())
                }),
            },
            Annotation {
                name: "permanent-redirect",
                value: "address",
                effect: "All requests are redirected; variables are filled in",
                reading: Set(|s, v| {
                    s.permanent_redirect = Some(address(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "permanent-redirect-code",
                value: "status",
                effect: "301 without it",
                reading: Set(|s, v| {
                    s.permanent_status = Some(redirect_status(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "temporal-redirect",
                value: "address",
                effect: "As permanent-redirect, which it precedes",
                reading: Set(|s, v| {
                    s.temporal_redirect = Some(address(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "temporal-redirect-code",
                value: "status",
                effect: "302 without it",
                reading: Set(|s, v| {
                    s.temporal_status = Some(redirect_status(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "ssl-redirect",
                value: "boolean",
                effect: "308 to https, if the Ingress has TLS; true by default for the class of ingress-nginx",
                reading: Set(|s, v| {
                    s.ssl_redirect = Some(boolean(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "force-ssl-redirect",
                value: "boolean",
                effect: "308 to https, also without TLS",
                reading: Set(|s, v| {
                    s.force_ssl_redirect = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "from-to-www-redirect",
                value: "boolean",
                effect: "308 from the host with `www.` to the one without, or back",
                reading: Set(|s, v| {
                    s.www_redirect = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "preserve-trailing-slash",
                value: "boolean",
                effect: "a redirect keeps the path as it is",
                reading: Implied,
            },
        ],
    ),
    (
        "Canaries",
        &[
            Annotation {
                name: "canary",
                value: "boolean",
                effect: "The Ingress is a part of another one with the same host and path",
                reading: Set(|s, v| {
                    s.canary.is_on = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-by-header",
                value: "header",
                effect: "`always` and `never` decide",
                reading: Set(|s, v| {
                    s.canary.header = Some(header_name(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-by-header-value",
                value: "text",
                effect: "This value leads to the canary",
                reading: Set(|s, v| {
                    s.canary.value = Some(v.into());
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-by-header-pattern",
                value: "pattern",
                effect: "Values that match lead to the canary",
                reading: Set(|s, v| {
                    s.canary.pattern = Some(pattern(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-by-cookie",
                value: "cookie",
                effect: "`always` and `never` decide",
                reading: Set(|s, v| {
                    s.canary.cookie = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-weight",
                value: "number",
                effect: "So many of canary-weight-total requests",
                reading: Set(|s, v| {
                    s.canary.weight = number(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "canary-weight-total",
                value: "number",
                effect: "100 without it",
                reading: Set(|s, v| {
                    s.canary.total = Some(number(v)?);
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Which endpoint",
        &[
            Annotation {
                name: "affinity",
                value: "`cookie`",
                effect: "A cookie names the endpoint",
                reading: Set(|s, v| {
                    s.has_sessions = one_of(v, &[("cookie", true)])?;
                    Ok(())
                }),
            },
            Annotation {
                name: "affinity-mode",
                value: "word",
                effect: "a session keeps its endpoint as long as there is one",
                reading: Implied,
            },
            Annotation {
                name: "affinity-canary-behavior",
                value: "word",
                effect: "A session does not choose between the main Ingress and its canary",
                reading: Refused,
            },
            Annotation {
                name: "session-cookie-name",
                value: "name",
                effect: "`INGRESSCOOKIE` without it",
                reading: Set(|s, v| {
                    s.session.name = Some(cookie_name(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-path",
                value: "path",
                effect: "`/` without it",
                reading: Set(|s, v| {
                    s.session.path = Some(cookie_text(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-domain",
                value: "host",
                effect: "The cookie's `Domain`",
                reading: Set(|s, v| {
                    s.session.domain = Some(cookie_text(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-samesite",
                value: "word",
                effect: "`None`, `Lax` or `Strict`",
                reading: Set(|s, v| {
                    s.session.same_site =
                        Some(one_of(v, &[("None", "None"), ("Lax", "Lax"), ("Strict", "Strict")])?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-conditional-samesite-none",
                value: "boolean",
                effect: "`SameSite=None` is left out for browsers that misread it",
                reading: Set(|s, v| {
                    s.session.is_none_conditional = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-expires",
                value: "seconds",
                effect: "Served as `Max-Age`",
                reading: Set(|s, v| {
                    s.session.expires = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-max-age",
                value: "seconds",
                effect: "The cookie's `Max-Age`",
                reading: Set(|s, v| {
                    s.session.max_age = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-secure",
                value: "boolean",
                effect: "The cookie is `Secure`",
                reading: Set(|s, v| {
                    s.session.is_secure = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "session-cookie-change-on-failure",
                value: "boolean",
                effect: "The cookie follows a request to another endpoint",
                reading: Set(|s, v| {
                    s.session.changes_on_failure = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "upstream-hash-by",
                value: "text",
                effect: "Requests with the same text get the same endpoint; variables are filled in",
                reading: Set(|s, v| {
                    s.hash_by = Some(template(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "upstream-hash-by-subset",
                value: "boolean",
                effect: "Keys choose one endpoint",
                reading: Refused,
            },
            Annotation {
                name: "upstream-hash-by-subset-size",
                value: "number",
                effect: "Keys choose one endpoint",
                reading: Refused,
            },
            Annotation {
                name: "load-balance",
                value: "word",
                effect: "`round_robin` and `ewma`: in turn, of two the one with less to do",
                reading: Set(|s, v| {
                    one_of(v, &[("round_robin", ()), ("ewma", ())])?;
                    let _ = s;
                    Ok(())
                }),
            },
            Annotation {
                name: "service-upstream",
                value: "boolean",
                effect: "Requests go to the Service's address",
                reading: Set(|s, v| {
                    s.by_service = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "default-backend",
                value: "Service",
                effect: "Gets the requests while the rule's Service has no endpoint, and those of custom-http-errors",
                reading: Set(|s, v| {
                    s.default_backend = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "custom-http-errors",
                value: "statuses",
                effect: "Responses with them are replaced by that of default-backend",
                reading: Set(|s, v| {
                    s.error_statuses = statuses(v)?;
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Authentication and clients",
        &[
            Annotation {
                name: "auth-type",
                value: "word",
                effect: "`basic`",
                reading: Guard(|s, v| {
                    s.basic = one_of(v, &[("basic", true)])?;
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-secret",
                value: "Secret",
                effect: "Of the same namespace",
                reading: Guard(|s, v| {
                    s.basic_secret = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-secret-type",
                value: "word",
                effect: "`auth-file`: htpasswd in the key `auth`; `auth-map`: a key for each user. Hashes are bcrypt, apr1 and SHA",
                reading: Guard(|s, v| {
                    s.basic_is_map = one_of(v, &[("auth-file", false), ("auth-map", true)])?;
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-realm",
                value: "text",
                effect: "In `WWW-Authenticate`",
                reading: Set(|s, v| {
                    s.basic_realm = Some(v.into());
                    Ok(())
                }),
            },
            Annotation {
                name: "satisfy",
                value: "word",
                effect: "`any`: the client's address or its authentication is enough",
                reading: Guard(|s, v| {
                    s.satisfies_any = one_of(v, &[("any", true), ("all", false)])?;
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-url",
                value: "address of a Service",
                effect: "Is asked for each request; 2xx lets it go on, 401 and 403 are the answer",
                reading: Guard(|s, v| {
                    s.external = Some(service_and_path(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-method",
                value: "method",
                effect: "GET without it",
                reading: Set(|s, v| {
                    s.external_method = Some(method(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-signin",
                value: "address",
                effect: "401 becomes a redirect to it",
                reading: Set(|s, v| {
                    s.sign_in = Some(address(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-signin-redirect-param",
                value: "text",
                effect: "Parameter with the address of the request; `rd` without it",
                reading: Set(|s, v| {
                    s.sign_in_parameter = Some(v.trim().into());
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-response-headers",
                value: "headers",
                effect: "Of its response, for the endpoint",
                reading: Guard(|s, v| {
                    s.external_headers = header_names(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-request-redirect",
                value: "text",
                effect: "`X-Auth-Request-Redirect`",
                reading: Set(|s, v| {
                    s.request_redirect = Some(template(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-always-set-cookie",
                value: "boolean",
                effect: "Its cookies reach the client whatever the endpoint answers",
                reading: Set(|s, v| {
                    s.always_sets_cookies = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "auth-keepalive",
                value: "number",
                effect: "connections are kept as those to all endpoints are",
                reading: Implied,
            },
            Annotation {
                name: "auth-keepalive-requests",
                value: "number",
                effect: "connections are kept as those to all endpoints are",
                reading: Implied,
            },
            Annotation {
                name: "auth-keepalive-timeout",
                value: "seconds",
                effect: "connections are kept as those to all endpoints are",
                reading: Implied,
            },
            Annotation {
                name: "auth-keepalive-share-vars",
                value: "boolean",
                effect: "the client's headers are in both requests",
                reading: Implied,
            },
            Annotation {
                name: "auth-cache-key",
                value: "text",
                effect: "Each request is asked for",
                reading: Refused,
            },
            Annotation {
                name: "auth-cache-duration",
                value: "text",
                effect: "Each request is asked for",
                reading: Refused,
            },
            Annotation {
                name: "auth-proxy-set-headers",
                value: "ConfigMap",
                effect: "ConfigMaps are not read",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-snippet",
                value: "snippet",
                effect: "Snippets are of nginx' own language",
                reading: RefusedGuard,
            },
            Annotation {
                name: "enable-global-auth",
                value: "boolean",
                effect: "there is no global authentication",
                reading: Implied,
            },
            Annotation {
                name: "auth-tls-secret",
                value: "Secret",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-tls-verify-client",
                value: "word",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-tls-verify-depth",
                value: "number",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-tls-error-page",
                value: "address",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-tls-match-cn",
                value: "pattern",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "auth-tls-pass-certificate-to-upstream",
                value: "boolean",
                effect: "Client certificates are not asked for by Ingresses",
                reading: RefusedGuard,
            },
            Annotation {
                name: "whitelist-source-range",
                value: "ranges",
                effect: "Other clients get 403",
                reading: Guard(|s, v| {
                    s.allowed = ranges(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "denylist-source-range",
                value: "ranges",
                effect: "These clients get 403",
                reading: Guard(|s, v| {
                    s.denied = ranges(v)?;
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Limits",
        &[
            Annotation {
                name: "limit-rps",
                value: "number",
                effect: "Requests a second of a client and node; 503 beyond",
                reading: Guard(|s, v| {
                    s.limit_rps = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "limit-rpm",
                value: "number",
                effect: "Requests a minute of a client and node",
                reading: Guard(|s, v| {
                    s.limit_rpm = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "limit-burst-multiplier",
                value: "number",
                effect: "5 without it",
                reading: Set(|s, v| {
                    s.limit_burst = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "limit-connections",
                value: "number",
                effect: "Requests at once of a client and node",
                reading: Guard(|s, v| {
                    s.limit_connections = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "limit-whitelist",
                value: "ranges",
                effect: "Clients without limits",
                reading: Set(|s, v| {
                    s.limit_exempt = ranges(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "limit-rate",
                value: "KB a second",
                effect: "Responses are as fast as their client",
                reading: Refused,
            },
            Annotation {
                name: "limit-rate-after",
                value: "KB",
                effect: "Responses are as fast as their client",
                reading: Refused,
            },
            Annotation {
                name: "proxy-body-size",
                value: "size",
                effect: "413 beyond; 0: any",
                reading: Guard(|s, v| {
                    s.body_bytes = Some(size(v)?);
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Cross-origin requests",
        &[
            Annotation {
                name: "enable-cors",
                value: "boolean",
                effect: "The gateway answers preflights and names the origins",
                reading: Set(|s, v| {
                    s.cors.is_on = boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-allow-origin",
                value: "origins",
                effect: "`*` without it; `https://*.example.com` too",
                reading: Set(|s, v| {
                    s.cors.origins = Some(names(v));
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-allow-methods",
                value: "methods",
                effect: "GET, PUT, POST, DELETE, PATCH, OPTIONS without it",
                reading: Set(|s, v| {
                    s.cors.methods = Some(names(v));
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-allow-headers",
                value: "headers",
                effect: "The usual ones without it",
                reading: Set(|s, v| {
                    s.cors.headers = Some(names(v));
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-expose-headers",
                value: "headers",
                effect: "None without it",
                reading: Set(|s, v| {
                    s.cors.expose = names(v);
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-allow-credentials",
                value: "boolean",
                effect: "true without it",
                reading: Set(|s, v| {
                    s.cors.credentials = Some(boolean(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "cors-max-age",
                value: "seconds",
                effect: "1728000 without it",
                reading: Set(|s, v| {
                    s.cors.max_age = Some(number(v)?);
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Times and attempts",
        &[
            Annotation {
                name: "proxy-connect-timeout",
                value: "seconds",
                effect: "For a connection to an endpoint",
                reading: Set(|s, v| {
                    s.connect_timeout = Some(seconds(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-send-timeout",
                value: "seconds",
                effect: "Between two pieces of a request's body",
                reading: Set(|s, v| {
                    s.send_timeout = Some(seconds(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-read-timeout",
                value: "seconds",
                effect: "For a response, and between two pieces of its body",
                reading: Set(|s, v| {
                    s.read_timeout = Some(seconds(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-next-upstream",
                value: "conditions",
                effect: "When a request is sent to another endpoint",
                reading: Set(|s, v| {
                    s.retry.conditions = Some(retry_conditions(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-next-upstream-tries",
                value: "number",
                effect: "Endpoints in all; 0: the usual number",
                reading: Set(|s, v| {
                    s.retry.tries = Some(number(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-next-upstream-timeout",
                value: "seconds",
                effect: "After it no other endpoint is tried; 0: no limit",
                reading: Set(|s, v| {
                    s.retry.within = Some(seconds(v)?);
                    Ok(())
                }),
            },
        ],
    ),
    (
        "Endpoints and what they answer",
        &[
            Annotation {
                name: "backend-protocol",
                value: "word",
                effect: "`HTTP`, `AUTO_HTTP` and `GRPC`",
                reading: Set(|s, v| {
                    s.protocol = one_of(
                        v,
                        &[
                            ("HTTP", Some(Protocol::Http1)),
                            ("AUTO_HTTP", None),
                            ("GRPC", Some(Protocol::H2c)),
                        ],
                    )?;
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-http-version",
                value: "version",
                effect: "endpoints are spoken to in HTTP/1.1, or in HTTP/2",
                reading: Implied,
            },
            Annotation {
                name: "proxy-ssl-secret",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-ciphers",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-name",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-protocols",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-verify",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-verify-depth",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-ssl-server-name",
                value: "text",
                effect: "Endpoints of Ingresses are spoken to without TLS",
                reading: Refused,
            },
            Annotation {
                name: "proxy-cookie-domain",
                value: "two texts",
                effect: "Of the cookies that endpoints set",
                reading: Set(|s, v| {
                    s.cookie_domain = replacement(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-cookie-path",
                value: "two texts",
                effect: "Of the cookies that endpoints set",
                reading: Set(|s, v| {
                    s.cookie_path = replacement(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-redirect-from",
                value: "text",
                effect: "At the beginning of `Location` and `Refresh`",
                reading: Set(|s, v| {
                    s.redirect_from = plain(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "proxy-redirect-to",
                value: "text",
                effect: "What comes there instead",
                reading: Set(|s, v| {
                    s.redirect_to = plain(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "custom-headers",
                value: "ConfigMap",
                effect: "ConfigMaps are not read",
                reading: Refused,
            },
            Annotation {
                name: "connection-proxy-header",
                value: "text",
                effect: "connections to endpoints are the gateway's own",
                reading: Implied,
            },
            Annotation {
                name: "http2-push-preload",
                value: "boolean",
                effect: "clients take no pushed responses",
                reading: Implied,
            },
        ],
    ),
    (
        "Copies and logs",
        &[
            Annotation {
                name: "mirror-target",
                value: "address of a Service",
                effect: "Gets a copy of each request, as `http://SERVICE$request_uri`",
                reading: Set(|s, v| {
                    s.mirror = Some(mirror(v)?);
                    Ok(())
                }),
            },
            Annotation {
                name: "mirror-request-body",
                value: "boolean",
                effect: "`on`",
                reading: Set(|s, v| {
                    one_of(v, &[("on", ())])?;
                    let _ = s;
                    Ok(())
                }),
            },
            Annotation {
                name: "mirror-host",
                value: "host",
                effect: "A copy has the host of its request",
                reading: Refused,
            },
            Annotation {
                name: "enable-access-log",
                value: "boolean",
                effect: "`false`: no lines for its requests",
                reading: Set(|s, v| {
                    s.is_unlogged = !boolean(v)?;
                    Ok(())
                }),
            },
            Annotation {
                name: "enable-rewrite-log",
                value: "boolean",
                effect: "the access log has the path that the client sent",
                reading: Implied,
            },
            Annotation {
                name: "enable-opentelemetry",
                value: "boolean",
                effect: "trace context passes in its headers",
                reading: Implied,
            },
            Annotation {
                name: "opentelemetry-trust-incoming-span",
                value: "boolean",
                effect: "trace context passes in its headers",
                reading: Implied,
            },
        ],
    ),
    (
        "Buffers and TLS",
        &[
            Annotation {
                name: "proxy-buffering",
                value: "boolean",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "proxy-buffers-number",
                value: "number",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "proxy-buffer-size",
                value: "size",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "proxy-busy-buffers-size",
                value: "size",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "proxy-max-temp-file-size",
                value: "size",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "proxy-request-buffering",
                value: "boolean",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "client-body-buffer-size",
                value: "size",
                effect: "bodies pass in pieces, and are in no file",
                reading: Implied,
            },
            Annotation {
                name: "ssl-prefer-server-ciphers",
                value: "boolean",
                effect: "the cipher suites are those of TLS 1.2 and 1.3 that are safe",
                reading: Implied,
            },
            Annotation {
                name: "ssl-ciphers",
                value: "ciphers",
                effect: "The cipher suites are those of TLS 1.2 and 1.3 that are safe",
                reading: Refused,
            },
            Annotation {
                name: "ssl-passthrough",
                value: "boolean",
                effect: "Use a TLSRoute",
                reading: RefusedGuard,
            },
        ],
    ),
    (
        "Languages of nginx and its modules",
        &[
            Annotation {
                name: "configuration-snippet",
                value: "snippet",
                effect: "Snippets are of nginx' own language",
                reading: RefusedGuard,
            },
            Annotation {
                name: "server-snippet",
                value: "snippet",
                effect: "Snippets are of nginx' own language",
                reading: RefusedGuard,
            },
            Annotation {
                name: "stream-snippet",
                value: "snippet",
                effect: "Snippets are of nginx' own language",
                reading: RefusedGuard,
            },
            Annotation {
                name: "enable-modsecurity",
                value: "ModSecurity",
                effect: "There is no web application firewall",
                reading: RefusedGuard,
            },
            Annotation {
                name: "enable-owasp-core-rules",
                value: "ModSecurity",
                effect: "There is no web application firewall",
                reading: RefusedGuard,
            },
            Annotation {
                name: "modsecurity-transaction-id",
                value: "ModSecurity",
                effect: "There is no web application firewall",
                reading: RefusedGuard,
            },
            Annotation {
                name: "modsecurity-snippet",
                value: "ModSecurity",
                effect: "There is no web application firewall",
                reading: RefusedGuard,
            },
        ],
    ),
];
