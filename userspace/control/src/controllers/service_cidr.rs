//! ServiceCIDRs: ready once a finalizer protects them, deleted only when no Service depends on them alone. PURE.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use skep_api::time;

use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Servers that have not seen the deletion may still allocate addresses (upstream's grace period).
const DELETION_GRACE: Duration = Duration::from_secs(10);

pub struct ServiceCidrs;

impl Controller for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidr"
    }

    fn account(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ServiceCIDR]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::ServiceCIDR, keys);
        let frees = match change.object() {
            Some(Object::Service(_)) => change.old.is_some(),
            Some(Object::ServiceCIDR(_)) => true,
            _ => false,
        };
        if frees {
            let waiting = view.service_cidrs.iter().filter(|(_, cidr)| meta::terminating(&cidr.metadata));
            keys.extend(waiting.map(|(key, _)| key.clone()));
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(cidr) = view.service_cidrs.get(key) else { return Vec::new() };
        let protected = cidr.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
        if !meta::terminating(&cidr.metadata) {
            let protect = (!protected).then(|| with_finalizer(cidr, true));
            let ready = condition("True", "", "Kubernetes Service CIDR is ready", context);
            return protect.into_iter().chain(publish(cidr, key, ready)).collect();
        }
        if !protected {
            return Vec::new();
        }
        if is_in_use(view, cidr) {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            return publish(cidr, key, condition("False", "Terminating", why, context)).into_iter().collect();
        }
        let since = cidr.metadata.deletion_timestamp.as_ref().map_or(context.now, |time| time.0);
        let until = time::after(since, DELETION_GRACE);
        if context.now < until {
            return vec![Action::RequeueAt(until)];
        }
        vec![with_finalizer(cidr, false)]
    }
}

fn with_finalizer(cidr: &ServiceCIDR, wanted: bool) -> Action {
    let mut new = cidr.clone();
    let mut finalizers = new.metadata.finalizers.take().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
    new.metadata.finalizers = Some(finalizers).filter(|all| !all.is_empty());
    Action::update(new)
}

fn condition(status: &str, reason: &str, message: &str, context: Context<'_>) -> Condition {
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: meta::time(context.now),
        observed_generation: None,
    }
}

/// Writes the condition if status or reason changed; a range that the API server made ready stays as it is.
fn publish(cidr: &ServiceCIDR, key: &Key, new: Condition) -> Option<Action> {
    let old = cidr.status.as_ref();
    let conditions = old.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().find(|condition| condition.type_ == new.type_);
    if known.is_some_and(|known| known.status == new.status && known.reason == new.reason) {
        return None;
    }
    let mut all = conditions;
    all.retain(|condition| condition.type_ != new.type_);
    all.push(new);
    let status = ServiceCIDRStatus { conditions: Some(all) };
    Some(Action::patch_status(Kind::ServiceCIDR, key.clone(), old, &status))
}

fn ranges(cidr: &ServiceCIDR) -> impl Iterator<Item = IpNetwork> {
    let cidrs = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok())
}

/// Whether a Service has an address that only this range contains.
fn is_in_use(view: &View, cidr: &ServiceCIDR) -> bool {
    let others = view.service_cidrs.iter().filter(|(_, other)| !meta::terminating(&other.metadata));
    let others: Vec<IpNetwork> = others.flat_map(|(_, other)| ranges(other)).collect();
    let contains = |range: &IpNetwork, ip: IpAddr| {
        range.contains(ip) && ip != range.network() && !(ip.is_ipv4() && ip == range.broadcast())
    };
    let mut addresses = view
        .services
        .iter()
        .flat_map(|(_, service)| service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten()))
        .filter_map(|ip| ip.parse::<IpAddr>().ok());
    addresses.any(|ip| ranges(cidr).any(|r| contains(&r, ip)) && !others.iter().any(|r| contains(r, ip)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Context<'static> {
        Context {
            now: Timestamp::from_second(second).unwrap(),
            steady: Timestamp::from_second(second).unwrap(),
            seed: 1,
            failure: None,
        }
    }

    fn put(view: &mut View, name: &str, cidr: &str, extra: Value) {
        let mut metadata = json!({"name": name, "uid": name});
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let object = json!({"metadata": metadata, "spec": {"cidrs": [cidr]}});
        view.watched(serde_json::from_value::<ServiceCIDR>(object).unwrap().into(), Timestamp::UNIX_EPOCH);
    }

    fn deleting() -> Value {
        json!({"finalizers": [FINALIZER, "other"], "deletionTimestamp": "1970-01-01T00:00:01Z"})
    }

    fn serve(view: &mut View, ip: &str) {
        let service = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIPs": [ip]}});
        view.watched(serde_json::from_value::<Service>(service).unwrap().into(), Timestamp::UNIX_EPOCH);
    }

    fn reconcile(view: &View, second: i64) -> Vec<Action> {
        ServiceCidrs.reconcile(view, &Key::cluster("a"), at(second))
    }

    fn finalizers(actions: &[Action]) -> Option<Vec<String>> {
        match actions {
            [Action::Update { object: Object::ServiceCIDR(cidr), .. }, ..] => {
                Some(cidr.metadata.finalizers.clone().unwrap_or_default())
            }
            _ => None,
        }
    }

    #[test]
    fn a_new_range_is_protected_and_then_ready() {
        let mut view = View::default();
        put(&mut view, "a", "10.0.0.0/24", json!({}));
        let actions = reconcile(&view, 1);
        assert_eq!(finalizers(&actions), Some(vec![FINALIZER.to_owned()]));
        let [_, Action::Patch { patch, subresource: "status", .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert_eq!(patch["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn a_range_in_use_stays_with_a_reason() {
        let mut view = View::default();
        put(&mut view, "a", "10.0.0.0/24", deleting());
        serve(&mut view, "10.0.0.9");
        let actions = reconcile(&view, 100);
        let [Action::Patch { patch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(patch["status"]["conditions"][0]["reason"], "Terminating");
        // Another range that contains the address replaces it, unless it is being deleted too.
        put(&mut view, "b", "10.0.0.0/8", deleting());
        assert!(matches!(reconcile(&view, 100).as_slice(), [Action::Patch { .. }]));
        put(&mut view, "c", "10.0.0.0/16", json!({}));
        assert_eq!(finalizers(&reconcile(&view, 100)), Some(vec!["other".to_owned()]));
    }

    #[test]
    fn an_unused_range_is_deleted_after_the_grace_period() {
        let mut view = View::default();
        put(&mut view, "a", "10.0.0.0/24", deleting());
        serve(&mut view, "10.0.1.9");
        let [Action::RequeueAt(until)] = reconcile(&view, 2)[..] else { panic!() };
        assert_eq!(until.as_second(), 11);
        assert_eq!(finalizers(&reconcile(&view, 11)), Some(vec!["other".to_owned()]));
    }
}
