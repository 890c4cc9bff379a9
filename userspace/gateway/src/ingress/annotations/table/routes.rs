//! Which requests a rule has, and where they go.

use super::row::Reading::{Implied, Set};
use super::row::{Annotation, Group};
use crate::ingress::annotations::values::{
    address, boolean, cookie_name, cookie_text, header_name, header_value, names, number, one_of, own_path,
    pattern, redirect_status, statuses, template,
};

pub(super) const PATHS_HOSTS_AND_REDIRECTS: Group = (
    "Paths, hosts and redirects",
    &[
        Annotation::new(
            "app-root",
            "path",
            "Requests for `/` are redirected to it",
            Set(|s, v| {
                s.app_root = Some(own_path(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "rewrite-target",
            "path",
            "The path that the endpoint gets, with `$1` for groups of the rule's path; the paths are patterns",
            Set(|s, v| {
                s.rewrite_target = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "use-regex",
            "boolean",
            "The paths of the rules are patterns, from the beginning, without regard to case",
            Set(|s, v| {
                s.uses_patterns = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "x-forwarded-prefix",
            "text",
            "The endpoint gets it in `X-Forwarded-Prefix`",
            Set(|s, v| {
                s.forwarded_prefix = Some(header_value(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "upstream-vhost",
            "host",
            "The endpoint gets it as `Host`",
            Set(|s, v| {
                header_value(v)?;
                s.upstream_host = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "server-alias",
            "hosts",
            "More hosts of the rules, if no rule has them",
            Set(|s, v| {
                s.aliases = names(&v.to_ascii_lowercase());
                Ok(())
            }),
        ),
        Annotation::new(
            "permanent-redirect",
            "address",
            "All requests are redirected; variables are filled in",
            Set(|s, v| {
                s.permanent_redirect = Some(address(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "permanent-redirect-code",
            "status",
            "301 without it",
            Set(|s, v| {
                s.permanent_status = Some(redirect_status(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "temporal-redirect",
            "address",
            "As permanent-redirect, which it precedes",
            Set(|s, v| {
                s.temporal_redirect = Some(address(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "temporal-redirect-code",
            "status",
            "302 without it",
            Set(|s, v| {
                s.temporal_status = Some(redirect_status(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "ssl-redirect",
            "boolean",
            "308 to https, if the Ingress has TLS; true by default for the class of ingress-nginx",
            Set(|s, v| {
                s.ssl_redirect = Some(boolean(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "force-ssl-redirect",
            "boolean",
            "308 to https, also without TLS",
            Set(|s, v| {
                s.force_ssl_redirect = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "from-to-www-redirect",
            "boolean",
            "308 from the host with `www.` to the one without, or back",
            Set(|s, v| {
                s.www_redirect = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new("preserve-trailing-slash", "boolean", "a redirect keeps the path as it is", Implied),
    ],
);

pub(super) const CANARIES: Group = (
    "Canaries",
    &[
        Annotation::new(
            "canary",
            "boolean",
            "The Ingress is a part of another one with the same host and path",
            Set(|s, v| {
                s.canary.is_on = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-by-header",
            "header",
            "`always` and `never` decide",
            Set(|s, v| {
                s.canary.header = Some(header_name(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-by-header-value",
            "text",
            "This value leads to the canary",
            Set(|s, v| {
                s.canary.value = Some(v.into());
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-by-header-pattern",
            "pattern",
            "Values that match lead to the canary",
            Set(|s, v| {
                s.canary.pattern = Some(pattern(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-by-cookie",
            "cookie",
            "`always` and `never` decide",
            Set(|s, v| {
                s.canary.cookie = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-weight",
            "number",
            "So many of canary-weight-total requests",
            Set(|s, v| {
                s.canary.weight = number(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "canary-weight-total",
            "number",
            "100 without it",
            Set(|s, v| {
                s.canary.total = Some(number(v)?);
                Ok(())
            }),
        ),
    ],
);

pub(super) const WHICH_ENDPOINT: Group = (
    "Which endpoint",
    &[
        Annotation::new(
            "affinity",
            "`cookie`",
            "A cookie names the endpoint",
            Set(|s, v| {
                s.has_sessions = one_of(v, &[("cookie", true)])?;
                Ok(())
            }),
        ),
        Annotation::new(
            "affinity-mode",
            "word",
            "a session keeps its endpoint as long as there is one",
            Implied,
        ),
        Annotation::new(
            "affinity-canary-behavior",
            "word",
            "`sticky`: a session goes on at the canary, or past it, where it began; `legacy`: it does not choose between them",
            Set(|s, v| {
                s.session.is_legacy_canary = one_of(v, &[("sticky", false), ("legacy", true)])?;
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-name",
            "name",
            "`INGRESSCOOKIE` without it",
            Set(|s, v| {
                s.session.name = Some(cookie_name(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-path",
            "path",
            "`/` without it",
            Set(|s, v| {
                s.session.path = Some(cookie_text(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-domain",
            "host",
            "The cookie's `Domain`",
            Set(|s, v| {
                s.session.domain = Some(cookie_text(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-samesite",
            "word",
            "`None`, `Lax` or `Strict`",
            Set(|s, v| {
                s.session.same_site =
                    Some(one_of(v, &[("None", "None"), ("Lax", "Lax"), ("Strict", "Strict")])?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-conditional-samesite-none",
            "boolean",
            "`SameSite=None` is left out for browsers that misread it",
            Set(|s, v| {
                s.session.is_none_conditional = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-expires",
            "seconds",
            "Served as `Max-Age`",
            Set(|s, v| {
                s.session.expires = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-max-age",
            "seconds",
            "The cookie's `Max-Age`",
            Set(|s, v| {
                s.session.max_age = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-secure",
            "boolean",
            "The cookie is `Secure`",
            Set(|s, v| {
                s.session.is_secure = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "session-cookie-change-on-failure",
            "boolean",
            "The cookie follows a request to another endpoint",
            Set(|s, v| {
                s.session.changes_on_failure = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "upstream-hash-by",
            "text",
            "Requests with the same text get the same endpoint; variables are filled in",
            Set(|s, v| {
                s.hash_by = Some(template(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "upstream-hash-by-subset",
            "boolean",
            "`true`: such requests get one of a few endpoints",
            Set(|s, v| {
                s.hashes_to_subset = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "upstream-hash-by-subset-size",
            "number",
            "How many; 3 without it",
            Set(|s, v| {
                s.hash_subset_size = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "load-balance",
            "word",
            "`round_robin` and `ewma`: in turn, of two the one with less to do",
            Set(|s, v| {
                one_of(v, &[("round_robin", ()), ("ewma", ())])?;
                let _ = s;
                Ok(())
            }),
        ),
        Annotation::new(
            "service-upstream",
            "boolean",
            "Requests go to the Service's address",
            Set(|s, v| {
                s.by_service = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "default-backend",
            "Service",
            "Gets the requests while the rule's Service has no endpoint, and those of custom-http-errors",
            Set(|s, v| {
                s.default_backend = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "custom-http-errors",
            "statuses",
            "Responses with them are replaced by that of default-backend",
            Set(|s, v| {
                s.error_statuses = statuses(v)?;
                Ok(())
            }),
        ),
    ],
);
