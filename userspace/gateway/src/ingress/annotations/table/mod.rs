//! The annotations of ingress-nginx, one row each: the name, the form of its value, what it does or why it does not, and how it is read.
//! `docs/reference/annotations.md` is made from this table.

mod clients;
mod endpoints;
mod routes;
mod tls;

use super::settings::Settings;
use super::values::Invalid;

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

impl Annotation {
    const fn new(
        name: &'static str,
        value: &'static str,
        effect: &'static str,
        reading: Reading,
    ) -> Annotation {
        Annotation { name, value, effect, reading }
    }
}
