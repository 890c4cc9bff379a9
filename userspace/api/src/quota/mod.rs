//! ResourceQuota: the usage of objects, the quotas that apply to them, and whether a quota is exceeded. PURE.
//!
//! In: a quota and an object as JSON. Out: the usage that the object adds, or why it is refused. The API server charges
//! writes with it, and the quota controller recounts existing objects with it.

mod pods;
mod scope;

use jiff::Timestamp;
use serde_json::Value;

use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{Resources, quantity};
use crate::value::items;

/// Resources that are not stored or too short-lived to count.
const IGNORED: [(&str, &str); 9] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
];
/// Core resources with a second name for their count, older than `count/`.
const COUNT_ALIASES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
/// Between the storage class and the resource in a name such as `gold.storageclass.storage.k8s.io/requests.storage`.
const STORAGE_CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";

/// How the objects of one resource count towards quotas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meter {
    pub group: String,
    pub plural: String,
    usage_kind: UsageKind,
}

/// The resources that an object uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UsageKind {
    Pods,
    Services,
    Claims,
    /// Only their count.
    Count,
}

impl Meter {
    /// The meter of a resource; `None` if quotas do not count it.
    pub fn of(group: &str, plural: &str) -> Option<Meter> {
        if IGNORED.contains(&(group, plural)) {
            return None;
        }
        let usage_kind = match (group, plural) {
            ("", "pods") => UsageKind::Pods,
            ("", "services") => UsageKind::Services,
            ("", "persistentvolumeclaims") => UsageKind::Claims,
            _ => UsageKind::Count,
        };
        Some(Meter { group: group.to_owned(), plural: plural.to_owned(), usage_kind })
    }

    /// The meter whose objects count towards this name of a quota; `None` if there is none.
    pub fn for_quota_name(name: &str) -> Option<Meter> {
        if let Some(resource) = name.strip_prefix("count/") {
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            return Meter::of(group, plural);
        }
        let core = ["pods", "services", "persistentvolumeclaims"];
        let all = core.iter().chain(&COUNT_ALIASES).filter_map(|plural| Meter::of("", plural));
        all.into_iter().find(|meter| meter.counts(name))
    }

    /// Whether only the count of objects matters.
    pub fn is_count(&self) -> bool {
        self.usage_kind == UsageKind::Count
    }

    fn count_name(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("count/{}{dot}{}", self.plural, self.group)
    }

    /// Whether objects of this resource count towards this name of a quota.
    pub fn counts(&self, name: &str) -> bool {
        name == self.count_name()
            || match self.usage_kind {
                UsageKind::Pods => pods::counts(name),
                UsageKind::Services => {
                    matches!(name, "services" | "services.nodeports" | "services.loadbalancers")
                }
                UsageKind::Claims => {
                    let base = name.split_once(STORAGE_CLASS_INFIX).map_or(name, |(_, base)| base);
                    matches!(base, "persistentvolumeclaims" | "requests.storage")
                }
                UsageKind::Count => {
                    self.group.is_empty() && name == self.plural && COUNT_ALIASES.contains(&name)
                }
            }
    }

    /// Whether a write can change the usage. `old` is the object before an update.
    pub fn handles(&self, subresource: &str, new: &Value, old: Option<&Value>) -> bool {
        match (self.usage_kind, subresource, old) {
            (_, "", None) | (UsageKind::Services | UsageKind::Claims, "", Some(_)) => true,
            (UsageKind::Pods, "", Some(old)) => scope::is_terminating(old) != scope::is_terminating(new),
            (UsageKind::Pods, "resize", Some(_)) => true,
            (UsageKind::Claims, "status", Some(old)) => {
                ["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus"]
                    .iter()
                    .any(|field| old["status"][*field] != new["status"][*field])
            }
            _ => false,
        }
    }

    /// The usage of an object.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Resources {
        let mut usage = Resources::default();
        usage.set(self.count_name(), one());
        match self.usage_kind {
            UsageKind::Pods => pods::usage(object, now, &mut usage),
            UsageKind::Services => services(object, &mut usage),
            UsageKind::Claims => claims(object, &mut usage),
            UsageKind::Count if self.counts(&self.plural) => usage.set(self.plural.as_str(), one()),
            UsageKind::Count => {}
        }
        usage
    }

    fn matches_scopes(&self, quota: &Value, object: &Value) -> bool {
        scope::selectors(&quota["spec"]).all(|selector| match self.usage_kind {
            UsageKind::Pods => scope::selects_pod(&selector, object),
            UsageKind::Claims => scope::selects_claim(&selector, object),
            UsageKind::Services | UsageKind::Count => false,
        })
    }

    /// Whether a quota applies to the object, by the quota's status. Err: the API's message if the quota cannot be charged.
    pub fn applies(&self, quota: &Value, object: &Value) -> Result<bool, String> {
        let name = meta::name(quota);
        let (hard, used) = (&quota["status"]["hard"], &quota["status"]["used"]);
        let names = hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let counted: Vec<&str> = names.filter(|name| self.counts(name)).collect();
        if counted.is_empty() || !self.matches_scopes(quota, object) {
            return Ok(false);
        }
        if self.usage_kind == UsageKind::Pods {
            pods::check_specified(object, &counted).map_err(|why| format!("failed quota: {name}: {why}"))?;
        }
        if counted.iter().any(|name| used.get(*name).is_none()) {
            return Err(format!("status unknown for quota: {name}, resources: {}", counted.join(",")));
        }
        Ok(true)
    }

    /// The usage that a write adds to a quota that applies to the new object.
    pub fn added(&self, quota: &Value, new: &Value, old: Option<&Value>, now: Timestamp) -> Resources {
        let mut added = self.usage(new, now);
        if let Some(old) = old.filter(|old| self.matches_scopes(quota, old)) {
            added.subtract(&self.usage(old, now));
        }
        added.0.retain(|name, amount| !amount.is_zero() && quota["status"]["hard"].get(name).is_some());
        added
    }

    /// The usage of these objects in a quota.
    pub fn used<'a>(
        &self,
        quota: &Value,
        objects: impl Iterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Resources {
        let mut used = Resources::default();
        for object in objects.filter(|object| self.matches_scopes(quota, object)) {
            used.add(&self.usage(object, now));
        }
        used
    }

    /// The usage of `count` objects that are counted only.
    pub fn used_by_count(&self, quota: &Value, count: u64) -> Resources {
        let mut used = Resources::default();
        if scope::selectors(&quota["spec"]).next().is_none() {
            let amount = Quantity::from_millis(i128::from(count) * 1000);
            used.set(self.count_name(), amount);
            used.set(self.plural.as_str(), amount);
        }
        used
    }
}

/// The usage of a quota after `added`. Err: the API's message if it exceeds a limit.
pub fn charge(quota: &Value, added: &Resources) -> Result<Resources, String> {
    let status = &quota["status"];
    let (hard, before) = (Resources::of(&status["hard"]), Resources::of(&status["used"]));
    let mut after = before.clone();
    after.add(added);
    let over = |name: &str| {
        added.0.contains_key(name) && hard.get(name).is_some_and(|limit| after.get(name) > Some(limit))
    };
    if !after.0.keys().any(|name| over(name)) {
        return Ok(after);
    }
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        meta::name(quota),
        added.masked(over),
        before.masked(over),
        hard.masked(over)
    ))
}

/// Names of the resources with a negative usage.
pub fn negative(usage: &Resources) -> Vec<&str> {
    let below = usage.0.iter().filter(|(_, amount)| **amount < Quantity::default());
    below.map(|(name, _)| name.as_str()).collect()
}

fn one() -> Quantity {
    number(1)
}

fn number(count: usize) -> Quantity {
    Quantity::from_millis(count as i128 * 1000)
}

/// Node ports count as soon as the type implies them; they are allocated later.
fn services(service: &Value, usage: &mut Resources) {
    let spec = &service["spec"];
    let ports = items(spec, "ports").count();
    let asked = items(spec, "ports").filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (asked, 1),
        Some("LoadBalancer") => (ports, 1),
        _ => (0, 0),
    };
    usage.set("services", one());
    usage.set("services.nodeports", number(node_ports));
    usage.set("services.loadbalancers", number(balancers));
}

fn claims(claim: &Value, usage: &mut Resources) {
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let mut set = |name: &str, amount: Quantity| {
        usage.set(name, amount);
        if !class.is_empty() {
            usage.set(format!("{class}{STORAGE_CLASS_INFIX}{name}"), amount);
        }
    };
    set("persistentvolumeclaims", one());
    if let Some(asked) = quantity(&claim["spec"]["resources"]["requests"]["storage"]) {
        let given = quantity(&claim["status"]["allocatedResources"]["storage"]).unwrap_or_default();
        set("requests.storage", asked.max(given).rounded_up());
    }
}

#[cfg(test)]
mod tests;
