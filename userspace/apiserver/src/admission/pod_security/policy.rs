//! The labels of a namespace as a policy: the standards, each of a version, that it enforces, audits and warns of.

use std::fmt;

use serde_json::json;
use skep_api::Errors;
use skep_api::field::Path;
use skep_api::selector::Labels;

pub(super) const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level as of a minor version of Kubernetes; `None` is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) minor: Option<u32>,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl Standard {
    /// Whether pods that `old` admits may violate this standard.
    pub(super) fn raises(self, old: Standard) -> bool {
        self.level != Level::Privileged && self != old && self.level >= old.level
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodSecurityPolicy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl PodSecurityPolicy {
    /// An invalid level counts as restricted for `enforce`, and as privileged for `audit` and `warn`.
    pub(super) fn of(labels: &impl Labels, problems: &mut Errors) -> PodSecurityPolicy {
        let mut read = |mode: &str, fallback: Level| {
            let level = labels.label(&format!("{PREFIX}{mode}"));
            let version = labels.label(&format!("{PREFIX}{mode}-version"));
            let level_read = level.map(|text| level_of(mode, text, problems));
            let standard = Standard {
                level: level_read.map_or(Level::Privileged, |read| read.unwrap_or(fallback)),
                minor: version.and_then(|text| minor_of(mode, text, problems)),
            };
            (standard, level_read, version.is_some())
        };
        let (enforce, enforced, _) = read("enforce", Level::Restricted);
        let (audit, ..) = read("audit", Level::Privileged);
        let (mut warn, warned, warn_version) = read("warn", Level::Privileged);
        if warned.is_none() && matches!(enforced, Some(Some(_))) {
            warn.level = enforce.level;
            if !warn_version {
                warn.minor = enforce.minor;
            }
        }
        PodSecurityPolicy { enforce, audit, warn }
    }

    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

fn at(mode: &str) -> Path {
    Path::new("metadata").child("labels").key(&format!("{PREFIX}{mode}"))
}

fn level_of(mode: &str, text: &str, problems: &mut Errors) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => {
            problems.invalid(&at(mode), &json!(text), "must be one of privileged, baseline, restricted");
            None
        }
    }
}

fn minor_of(mode: &str, text: &str, problems: &mut Errors) -> Option<u32> {
    if text == "latest" {
        return None;
    }
    let digits = text.strip_prefix("v1.").unwrap_or_default();
    let plain = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|c| c.is_ascii_digit());
    let minor = digits.parse().ok().filter(|_| plain);
    if minor.is_none() {
        problems.invalid(&at(&format!("{mode}-version")), &json!(text), "must be \"latest\" or \"v1.x\"");
    }
    minor
}
