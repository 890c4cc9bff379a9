//! How endpoints are spoken to, and what of their answers reaches clients.

use super::row::Reading::{Guard, Implied, Refused, RefusedGuard, Set};
use super::row::{Annotation, Group};
use crate::config::Protocol;
use crate::ingress::annotations::values::{
    boolean, mirror, number, one_of, plain, replacement, retry_conditions, seconds, template,
};

pub(super) const TIMES_AND_ATTEMPTS: Group = (
    "Times and attempts",
    &[
        Annotation::new(
            "proxy-connect-timeout",
            "seconds",
            "For a connection to an endpoint",
            Set(|s, v| {
                s.connect_timeout = Some(seconds(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-send-timeout",
            "seconds",
            "Between two pieces of a request's body",
            Set(|s, v| {
                s.send_timeout = Some(seconds(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-read-timeout",
            "seconds",
            "For a response, and between two pieces of its body",
            Set(|s, v| {
                s.read_timeout = Some(seconds(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-next-upstream",
            "conditions",
            "When a request is sent to another endpoint",
            Set(|s, v| {
                s.retry.conditions = Some(retry_conditions(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-next-upstream-tries",
            "number",
            "Endpoints in all; 0: the usual number",
            Set(|s, v| {
                s.retry.tries = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-next-upstream-timeout",
            "seconds",
            "After it no other endpoint is tried; 0: no limit",
            Set(|s, v| {
                s.retry.within = Some(seconds(v)?);
                Ok(())
            }),
        ),
    ],
);

pub(super) const ENDPOINTS_AND_WHAT_THEY_ANSWER: Group = (
    "Endpoints and what they answer",
    &[
        Annotation::new(
            "backend-protocol",
            "word",
            "`HTTP`, `HTTPS`, `GRPC`, `GRPCS` and `AUTO_HTTP`",
            Guard(|s, v| {
                (s.protocol, s.endpoint_tls.is_on) = one_of(
                    v,
                    &[
                        ("HTTP", (Some(Protocol::Http1), false)),
                        ("HTTPS", (Some(Protocol::Http1), true)),
                        ("AUTO_HTTP", (None, false)),
                        ("GRPC", (Some(Protocol::H2c), false)),
                        ("GRPCS", (Some(Protocol::H2c), true)),
                    ],
                )?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-http-version",
            "version",
            "endpoints are spoken to in HTTP/1.1, or in HTTP/2",
            Implied,
        ),
        Annotation::new(
            "proxy-cookie-domain",
            "two texts",
            "Of the cookies that endpoints set",
            Set(|s, v| {
                s.cookie_domain = replacement(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-cookie-path",
            "two texts",
            "Of the cookies that endpoints set",
            Set(|s, v| {
                s.cookie_path = replacement(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-redirect-from",
            "text",
            "At the beginning of `Location` and `Refresh`",
            Set(|s, v| {
                s.redirect_from = plain(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-redirect-to",
            "text",
            "What comes there instead",
            Set(|s, v| {
                s.redirect_to = plain(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "custom-headers",
            "ConfigMap",
            "Of the same namespace, as NAMESPACE/NAME: headers of responses",
            Guard(|s, v| {
                s.response_headers = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "connection-proxy-header",
            "text",
            "connections to endpoints are the gateway's own",
            Implied,
        ),
        Annotation::new("http2-push-preload", "boolean", "clients take no pushed responses", Implied),
    ],
);

pub(super) const COPIES_AND_LOGS: Group = (
    "Copies and logs",
    &[
        Annotation::new(
            "mirror-target",
            "address of a Service",
            "Gets a copy of each request, as `http://SERVICE$request_uri`",
            Set(|s, v| {
                s.mirror = Some(mirror(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "mirror-request-body",
            "boolean",
            "`on`",
            Set(|s, v| {
                one_of(v, &[("on", ())])?;
                let _ = s;
                Ok(())
            }),
        ),
        Annotation::new(
            "mirror-host",
            "host",
            "Of copies; that of the request without it. Variables are filled in",
            Set(|s, v| {
                s.mirror_host = Some(template(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "enable-access-log",
            "boolean",
            "`false`: no lines for its requests",
            Set(|s, v| {
                s.is_unlogged = !boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "enable-rewrite-log",
            "boolean",
            "the access log has the path that the client sent",
            Implied,
        ),
        Annotation::new("enable-opentelemetry", "boolean", "trace context passes in its headers", Implied),
        Annotation::new(
            "opentelemetry-trust-incoming-span",
            "boolean",
            "trace context passes in its headers",
            Implied,
        ),
    ],
);

pub(super) const BUFFERS_AND_TLS: Group = (
    "Buffers and TLS",
    &[
        Annotation::new("proxy-buffering", "boolean", "bodies pass in pieces, and are in no file", Implied),
        Annotation::new(
            "proxy-buffers-number",
            "number",
            "bodies pass in pieces, and are in no file",
            Implied,
        ),
        Annotation::new("proxy-buffer-size", "size", "bodies pass in pieces, and are in no file", Implied),
        Annotation::new(
            "proxy-busy-buffers-size",
            "size",
            "bodies pass in pieces, and are in no file",
            Implied,
        ),
        Annotation::new(
            "proxy-max-temp-file-size",
            "size",
            "bodies pass in pieces, and are in no file",
            Implied,
        ),
        Annotation::new(
            "proxy-request-buffering",
            "boolean",
            "bodies pass in pieces, and are in no file",
            Implied,
        ),
        Annotation::new(
            "client-body-buffer-size",
            "size",
            "bodies pass in pieces, and are in no file",
            Implied,
        ),
        Annotation::new(
            "ssl-prefer-server-ciphers",
            "boolean",
            "the cipher suites are those of TLS 1.2 and 1.3 that are safe",
            Implied,
        ),
        Annotation::new(
            "ssl-ciphers",
            "ciphers",
            "The cipher suites are those of TLS 1.2 and 1.3 that are safe",
            Refused,
        ),
        Annotation::new(
            "ssl-passthrough",
            "boolean",
            "Connections of TLS for a host whose rule has the path `/` go to its endpoints as they are",
            Guard(|s, v| {
                s.passes_tls = boolean(v)?;
                Ok(())
            }),
        ),
    ],
);

pub(super) const LANGUAGES_OF_NGINX_AND_ITS_MODULES: Group = (
    "Languages of nginx and its modules",
    &[
        Annotation::new(
            "configuration-snippet",
            "snippet",
            "Snippets are of nginx' own language",
            RefusedGuard,
        ),
        Annotation::new("server-snippet", "snippet", "Snippets are of nginx' own language", RefusedGuard),
        Annotation::new("stream-snippet", "snippet", "Snippets are of nginx' own language", RefusedGuard),
        Annotation::new(
            "enable-modsecurity",
            "ModSecurity",
            "There is no web application firewall",
            RefusedGuard,
        ),
        Annotation::new(
            "enable-owasp-core-rules",
            "ModSecurity",
            "There is no web application firewall",
            RefusedGuard,
        ),
        Annotation::new(
            "modsecurity-transaction-id",
            "ModSecurity",
            "There is no web application firewall",
            RefusedGuard,
        ),
        Annotation::new(
            "modsecurity-snippet",
            "ModSecurity",
            "There is no web application firewall",
            RefusedGuard,
        ),
    ],
);
