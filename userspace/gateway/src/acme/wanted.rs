//! The certificates that are asked for, by Secret, and the requests that are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::request::{ChallengeKind, Request};

/// Names of a certificate, as public authorities bound them.
const MAX_NAMES: usize = 100;

/// A certificate that should be in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// NAMESPACE/NAME.
    pub secret: Arc<str>,
    pub names: BTreeSet<Arc<str>>,
    pub challenge: ChallengeKind,
    pub owners: BTreeSet<Owner>,
}

/// An object that asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// NAMESPACE/NAME.
    pub key: Arc<str>,
    pub uid: String,
}

impl Owner {
    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').unwrap_or_default().0
    }
}

/// Why a certificate is not ordered, or was not issued.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The server has no directory.
    Disabled,
    /// Name and value.
    Annotation(&'static str, String),
    Wildcard(Arc<str>),
    Name(String),
    NoName,
    /// The object names no Secret for TLS.
    NoSecret,
    TooManyNames,
    /// The name, and the namespace that had it first.
    Taken(Arc<str>, String),
    /// The Secret is in another namespace than the object.
    ForeignNamespace,
    /// No listener at which the challenge could be answered.
    NoListener(ChallengeKind),
    /// The Secret exists, and is not from here.
    ForeignSecret,
    /// The order failed. With the time of the next one in seconds since 1970.
    Order(String, i64),
}

impl Fault {
    /// In one word, as Events have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Disabled => "AcmeDisabled",
            Fault::Annotation(..) => "InvalidAnnotation",
            Fault::Wildcard(_) => "AcmeWildcard",
            Fault::NoSecret => "AcmeNoSecret",
            Fault::Name(_) | Fault::NoName | Fault::TooManyNames => "AcmeInvalidNames",
            Fault::Taken(..) => "AcmeNameTaken",
            Fault::ForeignNamespace | Fault::ForeignSecret => "AcmeForeignSecret",
            Fault::NoListener(_) => "AcmeNoListener",
            Fault::Order(..) => "AcmeOrderFailed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Disabled => out.write_str("the server orders no certificates: it has no --acme-directory"),
            Fault::Annotation(name, value) => {
                write!(out, "annotation {name}: {value:?} is not a valid value")
            }
            Fault::Wildcard(name) => {
                write!(out, "{name} is not ordered: names with a wildcard are validated by DNS only (dns-01)")
            }
            Fault::Name(name) => write!(out, "{name:?} is not a DNS name that can be validated"),
            Fault::NoName => out.write_str("no name is given that a certificate could be for"),
            Fault::NoSecret => out.write_str("the object names no Secret for TLS"),
            Fault::TooManyNames => write!(out, "a certificate has at most {MAX_NAMES} names"),
            Fault::Taken(name, namespace) => {
                write!(out, "{name} is not ordered: an older object of namespace {namespace} has it")
            }
            Fault::ForeignNamespace => {
                out.write_str("certificates are ordered into Secrets of the object's own namespace only")
            }
            Fault::NoListener(kind) => write!(
                out,
                "{} needs {}",
                kind.name(),
                match kind {
                    ChallengeKind::Http => "a listener for HTTP at port 80",
                    ChallengeKind::TlsAlpn => "a listener for HTTPS or TLS at port 443",
                }
            ),
            Fault::ForeignSecret => {
                out.write_str("the Secret exists and was not made by ACME; it is not replaced")
            }
            Fault::Order(error, retry_at) => {
                let at = jiff::Timestamp::from_second(*retry_at).unwrap_or_default();
                write!(out, "order failed: {error}; the next one is made at {at}")
            }
        }
    }
}

/// A fault of a certificate, for an object that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub owner: Owner,
    /// Empty: it is about all of the object's.
    pub secret: Arc<str>,
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.secret.is_empty() {
            true => self.fault.fmt(out),
            false => write!(out, "Secret {}: {}", self.secret, self.fault),
        }
    }
}

/// What is asked for by all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub wanted: BTreeMap<Arc<str>, Wanted>,
    pub problems: Vec<Problem>,
}

/// The namespace that had a name first, by name.
#[derive(Default)]
pub(crate) struct Claims(BTreeMap<Arc<str>, (i64, Arc<str>)>);

impl Claims {
    /// `created` in seconds since 1970; `owner` is NAMESPACE/NAME, which decides among objects of one second.
    pub(crate) fn add(&mut self, name: &str, created: i64, owner: &Arc<str>) {
        let claim = (created, owner.clone());
        match self.0.get_mut(name) {
            Some(known) if *known <= claim => {}
            Some(known) => *known = claim,
            None => drop(self.0.insert(name.into(), claim)),
        }
    }

    fn namespace(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(_, owner)| owner.split_once('/').unwrap_or_default().0)
    }
}

/// A Secret with its names, as an object has them.
pub(crate) struct Asked<'a> {
    pub(crate) owner: &'a Owner,
    pub(crate) request: &'a Request,
    pub(crate) secret: Arc<str>,
    pub(crate) names: Vec<String>,
    /// Those that the object's listeners allow, the preferred one first.
    pub(crate) challenges: &'a [ChallengeKind],
}

impl Requests {
    pub(crate) fn add(&mut self, asked: Asked<'_>, claims: &Claims) {
        let (owner, secret) = (asked.owner.clone(), asked.secret.clone());
        let merged = checked(&asked, claims).and_then(|(names, challenge)| {
            let known = self.wanted.get(&secret);
            let all = known.map_or(names.len(), |known| known.names.union(&names).count());
            if all > MAX_NAMES { Err(Fault::TooManyNames) } else { Ok((names, challenge)) }
        });
        match merged {
            Ok((names, challenge)) => {
                let new = || Wanted {
                    secret: secret.clone(),
                    names: BTreeSet::new(),
                    challenge,
                    owners: BTreeSet::new(),
                };
                let wanted = self.wanted.entry(secret.clone()).or_insert_with(new);
                wanted.names.extend(names);
                wanted.owners.insert(owner);
            }
            Err(fault) => self.problems.push(Problem { owner, secret, fault }),
        }
    }
}

fn checked(asked: &Asked<'_>, claims: &Claims) -> Result<(BTreeSet<Arc<str>>, ChallengeKind), Fault> {
    let namespace = asked.owner.namespace();
    if asked.secret.split_once('/').unwrap_or_default().0 != namespace {
        return Err(Fault::ForeignNamespace);
    }
    let challenge = match asked.request.challenge.clone()? {
        Some(kind) if !asked.challenges.contains(&kind) => return Err(Fault::NoListener(kind)),
        Some(kind) => kind,
        None => *asked.challenges.first().ok_or(Fault::NoListener(ChallengeKind::Http))?,
    };
    let names = asked.names.iter().map(|name| checked_name(name)).collect::<Result<BTreeSet<_>, _>>()?;
    if names.is_empty() {
        return Err(Fault::NoName);
    }
    for name in &names {
        if let Some(first) = claims.namespace(name).filter(|first| *first != namespace) {
            return Err(Fault::Taken(name.clone(), first.to_owned()));
        }
    }
    Ok((names, challenge))
}

fn checked_name(name: &str) -> Result<Arc<str>, Fault> {
    let name = name.to_ascii_lowercase();
    if name.starts_with("*.") {
        return Err(Fault::Wildcard(name.into()));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let last = name.rsplit('.').next().unwrap_or_default();
    match name.len() <= 253 && name.split('.').all(is_label) && !is_number(last) {
        true => Ok(name.into()),
        false => Err(Fault::Name(name)),
    }
}
