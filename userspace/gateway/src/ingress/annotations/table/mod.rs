//! The annotations of ingress-nginx, one row each: the name, the form of its value, what it does or why it does not, and how it is read.
//! `docs/reference/annotations.md` is made from this table.

mod clients;
mod endpoints;
mod routes;
mod row;
mod tls;

pub(super) use row::{Annotation, Group, Reading};

pub(super) static GROUPS: &[Group] = &[
    routes::PATHS_HOSTS_AND_REDIRECTS,
    routes::CANARIES,
    routes::WHICH_ENDPOINT,
    clients::AUTHENTICATION_AND_CLIENTS,
    tls::CERTIFICATES_OF_CLIENTS,
    clients::LIMITS,
    clients::CROSS_ORIGIN_REQUESTS,
    endpoints::TIMES_AND_ATTEMPTS,
    endpoints::ENDPOINTS_AND_WHAT_THEY_ANSWER,
    tls::TLS_TO_ENDPOINTS,
    endpoints::COPIES_AND_LOGS,
    endpoints::BUFFERS_AND_TLS,
    endpoints::LANGUAGES_OF_NGINX_AND_ITS_MODULES,
];
