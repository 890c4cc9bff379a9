//! Admission plugins that an administrator may switch on. The others always run.

use std::collections::BTreeSet;
use std::str::FromStr;

/// A plugin that is off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptionalPlugin {
    AlwaysPullImages,
    DenyServiceExternalIPs,
    EventRateLimit,
    PodNodeSelector,
}

/// The plugins that always run.
const ALWAYS: [&str; 18] = [
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeRestriction",
    "PodSecurity",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// Why a choice of plugins cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    #[error("there is no admission plugin {0:?}")]
    Unknown(String),
    #[error("admission plugin {0} always runs and cannot be disabled")]
    AlwaysRuns(String),
    #[error("admission plugin {0} is enabled and disabled")]
    Both(String),
}

impl FromStr for OptionalPlugin {
    type Err = PluginError;

    fn from_str(name: &str) -> Result<OptionalPlugin, PluginError> {
        match name {
            "AlwaysPullImages" => Ok(OptionalPlugin::AlwaysPullImages),
            "DenyServiceExternalIPs" => Ok(OptionalPlugin::DenyServiceExternalIPs),
            "EventRateLimit" => Ok(OptionalPlugin::EventRateLimit),
            "PodNodeSelector" => Ok(OptionalPlugin::PodNodeSelector),
            name => Err(PluginError::Unknown(name.to_owned())),
        }
    }
}

impl OptionalPlugin {
    /// The plugins that run, by the names in `--enable-admission-plugins` and `--disable-admission-plugins`.
    pub fn selected(enabled: &[String], disabled: &[String]) -> Result<BTreeSet<Self>, PluginError> {
        if let Some(both) = enabled.iter().find(|name| disabled.contains(name)) {
            return Err(PluginError::Both(both.clone()));
        }
        for name in disabled {
            match ALWAYS.contains(&name.as_str()) {
                true => return Err(PluginError::AlwaysRuns(name.clone())),
                false => drop(name.parse::<OptionalPlugin>()?),
            }
        }
        enabled.iter().filter(|name| !ALWAYS.contains(&name.as_str())).map(|name| name.parse()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_selected_by_upstreams_names() {
        let select = |enabled: &[&str], disabled: &[&str]| {
            let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            OptionalPlugin::selected(&all(enabled), &all(disabled))
        };
        let pull = BTreeSet::from([OptionalPlugin::AlwaysPullImages]);
        assert_eq!(select(&["AlwaysPullImages", "NodeRestriction"], &["EventRateLimit"]), Ok(pull));
        assert_eq!(select(&["Nonsense"], &[]), Err(PluginError::Unknown("Nonsense".to_owned())));
        let node = "NodeRestriction".to_owned();
        assert_eq!(select(&[], &["NodeRestriction"]), Err(PluginError::AlwaysRuns(node)));
        let both = PluginError::Both("PodNodeSelector".to_owned());
        assert_eq!(select(&["PodNodeSelector"], &["PodNodeSelector"]), Err(both));
    }
}
