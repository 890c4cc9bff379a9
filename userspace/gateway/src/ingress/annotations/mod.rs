//! The annotations of ingress-nginx. PURE. In: the annotations of an Ingress. Out: [`Settings`], and what of them has no effect.

mod compile;
mod reference;
mod settings;
mod table;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

pub(super) use compile::{Headers, Resolved};
pub use reference::reference;
pub(super) use settings::{Demand, EndpointTlsSettings, Settings, Unnamed, named};
use values::Invalid;
pub(super) use values::{ServiceAddress, pattern};

use table::{Annotation, GROUPS, Reading};

/// The prefix of the names.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

static BY_NAME: LazyLock<BTreeMap<&'static str, &'static Annotation>> = LazyLock::new(|| {
    let rows = GROUPS.iter().flat_map(|(_, rows)| rows.iter());
    rows.map(|row| (row.name, row)).collect()
});

/// What becomes of an annotation that is not simply in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) name: Box<str>,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// No annotation has this name.
    Unknown,
    /// It is so anyway.
    Implied(&'static str),
    /// `denies`: the rules of the Ingress answer 503.
    Refused {
        why: &'static str,
        denies: bool,
    },
    Invalid {
        why: String,
        denies: bool,
    },
}

/// What an annotation would do, by its name without the prefix: for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Served,
    Implied,
    Refused,
    Unknown,
}

/// Whether an annotation is served, by its whole name, and what it does or why it does not. `None`: another prefix.
pub fn support(name: &str) -> Option<(Support, &'static str)> {
    let row = BY_NAME.get(name.strip_prefix(PREFIX)?);
    Some(row.map_or((Support::Unknown, "ingress-nginx has no such annotation"), |row| {
        let support = match row.reading {
            Reading::Set(_) | Reading::Guard(_) => Support::Served,
            Reading::Implied => Support::Implied,
            Reading::Refused | Reading::RefusedGuard => Support::Refused,
        };
        (support, row.effect)
    }))
}

/// Whether an annotation, without the prefix, keeps requests out.
pub(crate) fn is_lock(name: &str) -> bool {
    BY_NAME.get(name).is_some_and(|row| matches!(row.reading, Reading::Guard(_) | Reading::RefusedGuard))
}

/// The names of all annotations, without the prefix.
pub fn names() -> impl Iterator<Item = &'static str> {
    BY_NAME.keys().copied()
}

impl Settings {
    pub(super) fn parse(annotations: Option<&BTreeMap<String, String>>) -> (Settings, Vec<Finding>) {
        let (mut settings, mut findings) = (Settings::default(), Vec::new());
        let own = annotations.into_iter().flatten();
        for (name, value) in own.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value))) {
            if let Some(outcome) = settings.read(name, value) {
                findings.push(Finding { name: name.into(), outcome });
            }
        }
        (settings, findings)
    }

    fn read(&mut self, name: &str, value: &str) -> Option<Outcome> {
        let Some(row) = BY_NAME.get(name) else { return Some(Outcome::Unknown) };
        let (read, denies) = match row.reading {
            Reading::Set(read) => (read, false),
            Reading::Guard(read) => (read, true),
            Reading::Implied => return Some(Outcome::Implied(row.effect)),
            // What is switched off asks for nothing.
            Reading::Refused | Reading::RefusedGuard if matches!(value, "false" | "off" | "") => return None,
            Reading::Refused => return Some(Outcome::Refused { why: row.effect, denies: false }),
            Reading::RefusedGuard => {
                self.is_denied = true;
                return Some(Outcome::Refused { why: row.effect, denies: true });
            }
        };
        let Invalid(why) = read(self, value).err()?;
        self.is_denied |= denies;
        Some(Outcome::Invalid { why, denies })
    }
}

impl Finding {
    pub(super) fn reason(&self) -> &'static str {
        match self.outcome {
            Outcome::Unknown => "UnknownAnnotation",
            Outcome::Implied(_) => "AnnotationWithoutEffect",
            Outcome::Refused { .. } => "AnnotationRefused",
            Outcome::Invalid { .. } => "InvalidAnnotation",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end =
            |denies: bool| if denies { "; requests for the Ingress get 503" } else { "; it has no effect" };
        write!(out, "annotation {PREFIX}{}: ", self.name)?;
        match &self.outcome {
            Outcome::Unknown => out.write_str("there is no such annotation; it has no effect"),
            Outcome::Implied(why) => write!(out, "it changes nothing: {why}"),
            Outcome::Refused { why, denies } => write!(out, "not served: {why}{}", end(*denies)),
            Outcome::Invalid { why, denies } => write!(out, "{why}{}", end(*denies)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_annotation_that_ingress_nginx_documents_has_a_row() {
        let mut counts = BTreeMap::new();
        for name in names() {
            let (support, _) = support(&format!("{PREFIX}{name}")).unwrap();
            *counts.entry(format!("{support:?}")).or_insert(0) += 1;
        }
        assert_eq!(BY_NAME.len(), 130);
        assert_eq!(GROUPS.iter().map(|(_, rows)| rows.len()).sum::<usize>(), 130, "a name is there twice");
        assert!(counts["Refused"] <= 10, "{counts:?}");
    }

    #[test]
    fn what_is_refused_invalid_or_unknown_is_found() {
        let annotations = [
            ("rewrite-target", "/"),
            ("nothing", "x"),
            ("proxy-buffering", "on"),
            ("ssl-ciphers", "a"),
            ("enable-modsecurity", "false"),
            ("canary-weight", "many"),
        ];
        let parse = |more: &[(&str, &str)]| {
            let all = annotations.iter().chain(more);
            let all = all.map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect();
            let (settings, found) = Settings::parse(Some(&all));
            (
                settings.is_denied,
                found.iter().map(|found| (found.name.to_string(), found.reason())).collect::<Vec<_>>(),
            )
        };
        let found = |names: &[(&str, &'static str)]| {
            names.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect::<Vec<_>>()
        };
        let usual = [
            ("canary-weight", "InvalidAnnotation"),
            ("nothing", "UnknownAnnotation"),
            ("proxy-buffering", "AnnotationWithoutEffect"),
            ("ssl-ciphers", "AnnotationRefused"),
        ];
        assert_eq!(parse(&[]), (false, found(&usual)));
        // What would keep requests out and does not is no reason to let them in.
        for (name, value) in [
            ("whitelist-source-range", "10.0.0.0/99"),
            ("auth-type", "digest"),
            ("server-snippet", "deny all;"),
            ("auth-tls-verify-client", "perhaps"),
            ("enable-modsecurity", "true"),
        ] {
            assert!(parse(&[(name, value)]).0, "{name}");
        }
    }
}
