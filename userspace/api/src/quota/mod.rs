//! ResourceQuota: what objects count for, which quotas they fall under, and whether there is room. PURE.
//!
//! In: a quota and an object as JSON. Out: what the object adds to the quota's use, or why it may not. The API server
//! charges by it when objects are written, and the quota controller counts by it what is there.

mod pods;
mod scope;

use jiff::Timestamp;
use serde_json::Value;

use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{Resources, quantity};
use crate::value::items;

/// Kinds that are not stored, or too short-lived to count.
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
/// Core kinds whose number had a name of its own before `count/` came.
const ALIASED: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// How one resource's objects count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meter {
    pub group: String,
    pub plural: String,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Pods,
    Services,
    Claims,
    /// By their number alone.
    Number,
}

impl Meter {
    /// `None` for what no quota counts.
    pub fn of(group: &str, plural: &str) -> Option<Meter> {
        if IGNORED.contains(&(group, plural)) {
            return None;
        }
        let form = match (group, plural) {
            ("", "pods") => Form::Pods,
            ("", "services") => Form::Services,
            ("", "persistentvolumeclaims") => Form::Claims,
            _ => Form::Number,
        };
        Some(Meter { group: group.to_owned(), plural: plural.to_owned(), form })
    }

    /// What counts towards a resource of this name; `None` if nothing does.
    pub fn behind(name: &str) -> Option<Meter> {
        if let Some(resource) = name.strip_prefix("count/") {
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            return Meter::of(group, plural);
        }
        let core = ["pods", "services", "persistentvolumeclaims"];
        let all = core.iter().chain(&ALIASED).filter_map(|plural| Meter::of("", plural));
        all.into_iter().find(|meter| meter.counts(name))
    }

    /// Whether the number of objects is all that is asked for.
    pub fn is_number(&self) -> bool {
        self.form == Form::Number
    }

    fn count_name(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("count/{}{dot}{}", self.plural, self.group)
    }

    /// Whether objects of this resource count towards that name.
    pub fn counts(&self, name: &str) -> bool {
        name == self.count_name()
            || match self.form {
                Form::Pods => pods::counts(name),
                Form::Services => {
                    matches!(name, "services" | "services.nodeports" | "services.loadbalancers")
                }
                Form::Claims => {
                    let base = name.split_once(OF_CLASS).map_or(name, |(_, base)| base);
                    matches!(base, "persistentvolumeclaims" | "requests.storage")
                }
                Form::Number => self.group.is_empty() && name == self.plural && ALIASED.contains(&name),
            }
    }

    /// Whether a write can change what is used. `old` is what was before an update.
    pub fn handles(&self, subresource: &str, new: &Value, old: Option<&Value>) -> bool {
        match (self.form, subresource, old) {
            (_, "", None) | (Form::Services | Form::Claims, "", Some(_)) => true,
            (Form::Pods, "", Some(old)) => scope::is_terminating(old) != scope::is_terminating(new),
            (Form::Pods, "resize", Some(_)) => true,
            (Form::Claims, "status", Some(old)) => {
                ["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus"]
                    .iter()
                    .any(|field| old["status"][*field] != new["status"][*field])
            }
            _ => false,
        }
    }

    /// What an object counts for.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Resources {
        let mut usage = Resources::default();
        usage.set(self.count_name(), one());
        match self.form {
            Form::Pods => pods::usage(object, now, &mut usage),
            Form::Services => services(object, &mut usage),
            Form::Claims => claims(object, &mut usage),
            Form::Number if self.counts(&self.plural) => usage.set(self.plural.as_str(), one()),
            Form::Number => {}
        }
        usage
    }

    fn in_scopes(&self, quota: &Value, object: &Value) -> bool {
        scope::selectors(&quota["spec"]).all(|selector| match self.form {
            Form::Pods => scope::selects_pod(&selector, object),
            Form::Claims => scope::selects_claim(&selector, object),
            Form::Services | Form::Number => false,
        })
    }

    /// Whether a quota, as its status has it, is for the object; why not, if it lacks what the quota needs to know.
    pub fn falls_under(&self, quota: &Value, object: &Value) -> Result<bool, String> {
        let name = meta::name(quota);
        let (hard, used) = (&quota["status"]["hard"], &quota["status"]["used"]);
        let names = hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let counted: Vec<&str> = names.filter(|name| self.counts(name)).collect();
        if counted.is_empty() || !self.in_scopes(quota, object) {
            return Ok(false);
        }
        if self.form == Form::Pods {
            pods::check_stated(object, &counted).map_err(|why| format!("failed quota: {name}: {why}"))?;
        }
        if counted.iter().any(|name| used.get(*name).is_none()) {
            return Err(format!("status unknown for quota: {name}, resources: {}", counted.join(",")));
        }
        Ok(true)
    }

    /// What a write adds to the use of a quota that the new object falls under.
    pub fn added(&self, quota: &Value, new: &Value, old: Option<&Value>, now: Timestamp) -> Resources {
        let mut added = self.usage(new, now);
        if let Some(old) = old.filter(|old| self.in_scopes(quota, old)) {
            added.subtract(&self.usage(old, now));
        }
        added.0.retain(|name, amount| !amount.is_zero() && quota["status"]["hard"].get(name).is_some());
        added
    }

    /// The objects' share of what is used of a quota.
    pub fn used<'a>(
        &self,
        quota: &Value,
        objects: impl Iterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Resources {
        let mut used = Resources::default();
        for object in objects.filter(|object| self.in_scopes(quota, object)) {
            used.add(&self.usage(object, now));
        }
        used
    }

    /// The same of so many objects that only their number is known of.
    pub fn used_by_number(&self, quota: &Value, count: u64) -> Resources {
        let mut used = Resources::default();
        if scope::selectors(&quota["spec"]).next().is_none() {
            let amount = Quantity::from_millis(i128::from(count) * 1000);
            used.set(self.count_name(), amount);
            used.set(self.plural.as_str(), amount);
        }
        used
    }
}

/// The use of a quota after `added`, or why that is too much.
pub fn charge(quota: &Value, added: &Resources) -> Result<Resources, String> {
    let status = &quota["status"];
    let (hard, before) = (Resources::of(&status["hard"]), Resources::of(&status["used"]));
    let mut after = before.clone();
    after.add(added);
    let over = |name: &str| {
        added.0.contains_key(name) && hard.get(name).is_some_and(|most| after.get(name) > Some(most))
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

/// Names of resources that an object would count for by less than nothing.
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

/// Node ports count by intent: they are not given yet.
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
            usage.set(format!("{class}{OF_CLASS}{name}"), amount);
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
