//! The hosts of an Ingress. PURE.

use std::collections::BTreeSet;

use super::facts::IngressFacts;
use crate::routing::HostPattern;

/// The hosts that an Ingress has, or would have if no other one had them. What is made of it depends only on Ingresses with one of
/// these.
pub(super) fn hosts_of(facts: &IngressFacts) -> BTreeSet<HostPattern> {
    let mut hosts: BTreeSet<HostPattern> = facts.rules.iter().map(|rule| rule.host.clone()).collect();
    if facts.settings.www_redirect {
        let others: Vec<_> = hosts.iter().filter_map(other_of).collect();
        hosts.extend(others);
    }
    hosts.extend(facts.settings.aliases.iter().map(|alias| HostPattern::of_ingress(alias)));
    if facts.default.is_some() {
        hosts.insert(HostPattern::Any);
    }
    hosts
}

/// The name with `www.` of one without, and the other way round.
pub(super) fn other_of(host: &HostPattern) -> Option<HostPattern> {
    let HostPattern::Exact(name) = host else { return None };
    Some(HostPattern::of_ingress(&match name.strip_prefix("www.") {
        Some(bare) => bare.to_owned(),
        None => format!("www.{name}"),
    }))
}
