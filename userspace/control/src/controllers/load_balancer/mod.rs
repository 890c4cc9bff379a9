//! Addresses for Services of type LoadBalancer, from LoadBalancerPools. PURE.
//!
//! All Services share one key, so that two Services cannot get the same address. A Service keeps its address while a pool
//! covers it. Services of another class, and those that no pool selects, are left to other controllers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::routing::versions;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;
use crate::pool::LoadBalancerPool;

/// The class of Services that are always ours.
const CLASS: &str = "skep.io/lb";
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Marks a Service as ours, and holds the result of the allocation.
const CONDITION: &str = "skep.io/LoadBalancerAddress";

pub struct LoadBalancers;

impl Controller for LoadBalancers {
    fn name(&self) -> &'static str {
        "load-balancer"
    }

    fn account(&self) -> &'static str {
        "service-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::LoadBalancerPool]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        let matters = |object: &Object| match object {
            Object::Service(service) => concerns(service),
            Object::LoadBalancerPool(_) => true,
            _ => false,
        };
        if versions(change).any(matters) {
            keys.push(Key::cluster("all"));
        }
    }

    fn reconcile(&self, view: &View, _: &Key, context: Context<'_>) -> Vec<Action> {
        let pools: Vec<Pool<'_>> = view.pools.iter().map(|(_, pool)| Pool::of(pool)).collect();
        let services = view.services.iter().map(|(_, service)| service);
        let (ours, others): (Vec<&Arc<Service>>, Vec<_>) =
            services.filter(|service| concerns(service)).partition(|s| is_ours(s, &pools));
        let mut used: BTreeSet<IpAddr> = others.into_iter().flat_map(|service| ingress(service)).collect();
        // Kept addresses come before new ones; of two Services with the same address the older keeps it.
        let mut ours = ours;
        ours.sort_by_key(|service| (meta::created(&service.metadata), Key::of(&service.metadata)));
        let kept: Vec<Vec<IpAddr>> = ours.iter().map(|service| keep(service, &pools, &mut used)).collect();
        let services = ours.iter().zip(kept);
        services.flat_map(|(service, kept)| settle(service, kept, &pools, &mut used, context)).collect()
    }
}

struct Pool<'a> {
    object: &'a LoadBalancerPool,
    cidrs: Vec<IpNetwork>,
}

impl<'a> Pool<'a> {
    fn of(object: &'a Arc<LoadBalancerPool>) -> Pool<'a> {
        Pool { object, cidrs: object.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect() }
    }

    fn selects(&self, service: &Service) -> bool {
        let selector = self.object.spec.service_selector.as_ref();
        !meta::terminating(&self.object.metadata)
            && selector.is_none_or(|selector| meta::selects(selector, service.metadata.labels.as_ref()))
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| {
            span(cidr).is_some_and(|(first, last)| cidr.contains(ip) && (first..=last).contains(&ip))
        })
    }
}

/// The first and the last address to allocate: without the network address and IPv4's broadcast address.
fn span(cidr: &IpNetwork) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = (cidr.network(), cidr.broadcast());
    match (first, last) {
        (IpAddr::V4(_), IpAddr::V4(_)) if cidr.prefix() < 31 => Some((after(first)?, before(last)?)),
        (IpAddr::V6(_), _) if cidr.prefix() < 127 => Some((after(first)?, last)),
        _ => Some((first, last)),
    }
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).checked_add(1)?).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).checked_add(1)?).into(),
    })
}

fn before(ip: IpAddr) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).checked_sub(1)?).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).checked_sub(1)?).into(),
    })
}

fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether the Service needs an address, or may have one to release.
fn concerns(service: &Service) -> bool {
    is_balanced(service) || has_finalizer(service) || is_marked(service)
}

fn is_marked(service: &Service) -> bool {
    conditions(service).any(|condition| condition.type_ == CONDITION)
}

/// Ours by class; without a class, by our condition, or because a pool selects it.
fn is_ours(service: &Service, pools: &[Pool<'_>]) -> bool {
    match service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref()) {
        Some(class) => class == CLASS,
        None => is_marked(service) || is_balanced(service) && pools.iter().any(|pool| pool.selects(service)),
    }
}

fn conditions(service: &Service) -> impl Iterator<Item = &Condition> {
    service.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn ingress(service: &Service) -> impl Iterator<Item = IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.into_iter().flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_ref()?.parse().ok())
}

fn wants(service: &Service) -> bool {
    is_balanced(service) && !meta::terminating(&service.metadata)
}

/// The address that the Service requests.
fn requested(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.load_balancer_ip.as_ref()?.parse().ok()
}

/// Addresses that stay: of a family of the Service, covered by a pool that selects it, and not against its request.
fn keep(service: &Service, pools: &[Pool<'_>], used: &mut BTreeSet<IpAddr>) -> Vec<IpAddr> {
    if !wants(service) {
        return Vec::new();
    }
    let requested = requested(service);
    let mut kept: Vec<IpAddr> = Vec::new();
    for ip in ingress(service) {
        let valid = families(service).contains(&ip.is_ipv4())
            && pools.iter().any(|pool| pool.selects(service) && pool.covers(ip))
            && requested.is_none_or(|requested| requested == ip || requested.is_ipv4() != ip.is_ipv4())
            && kept.iter().all(|other| other.is_ipv4() != ip.is_ipv4());
        if valid && used.insert(ip) {
            kept.push(ip);
        }
    }
    kept
}

/// True for IPv4.
fn families(service: &Service) -> Vec<bool> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    listed.unwrap_or_else(|| vec!["IPv4".into()]).iter().map(|family| family == "IPv4").collect()
}

/// Why a Service has no address.
type Refusal = (&'static str, String);

fn settle(
    service: &Arc<Service>,
    kept: Vec<IpAddr>,
    pools: &[Pool<'_>],
    used: &mut BTreeSet<IpAddr>,
    context: Context<'_>,
) -> Vec<Action> {
    if !wants(service) {
        return release(service);
    }
    if !has_finalizer(service) {
        // The finalizer comes before the address: no Service with an address can be deleted without its release.
        return vec![with_finalizer(service, true)];
    }
    let (mut addresses, mut refusal) = (Vec::new(), None);
    for v4 in families(service) {
        let found = match kept.iter().find(|ip| ip.is_ipv4() == v4) {
            Some(ip) => Ok(*ip),
            None => allocate(service, v4, pools, used),
        };
        match found {
            Ok(ip) => addresses.push(ip),
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    // With PreferDualStack one address is better than none; the condition names the missing one.
    let policy = service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref());
    if refusal.is_some() && policy == Some("RequireDualStack") {
        addresses.retain(|ip| kept.contains(ip));
    }
    publish(service, &addresses, refusal, context)
}

fn allocate(
    service: &Service,
    v4: bool,
    pools: &[Pool<'_>],
    used: &mut BTreeSet<IpAddr>,
) -> Result<IpAddr, Refusal> {
    let pools = || pools.iter().filter(|pool| pool.selects(service));
    if let Some(ip) = requested(service).filter(|ip| ip.is_ipv4() == v4) {
        if !pools().any(|pool| pool.covers(ip)) {
            return Err((
                "AddressNotInPool",
                format!("no LoadBalancerPool for this Service has the address {ip}"),
            ));
        }
        return if used.insert(ip) {
            Ok(ip)
        } else {
            Err(("AddressInUse", format!("the address {ip} is in use")))
        };
    }
    let cidrs = || pools().flat_map(|pool| &pool.cidrs).filter(|cidr| cidr.is_ipv4() == v4);
    let family = if v4 { "IPv4" } else { "IPv6" };
    if cidrs().next().is_none() {
        return Err(("NoPool", format!("no LoadBalancerPool for this Service has {family} addresses")));
    }
    match cidrs().find_map(|cidr| lowest_free(cidr, used)) {
        Some(ip) => {
            used.insert(ip);
            Ok(ip)
        }
        None => Err((
            "PoolExhausted",
            format!("no {family} address is left in the LoadBalancerPools for this Service"),
        )),
    }
}

fn lowest_free(cidr: &IpNetwork, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let (first, last) = span(cidr)?;
    let mut candidate = first;
    for taken in used.range(first..=last) {
        if *taken != candidate {
            break;
        }
        candidate = after(candidate)?;
    }
    (candidate <= last).then_some(candidate)
}

/// Removes the finalizer; then, of a Service that stays, addresses and condition. The condition is removed last, since it
/// marks the Service as ours.
fn release(service: &Arc<Service>) -> Vec<Action> {
    if has_finalizer(service) {
        return vec![with_finalizer(service, false)];
    }
    let stale = is_marked(service) || is_balanced(service) && ingress(service).next().is_some();
    if !stale || meta::terminating(&service.metadata) {
        return Vec::new();
    }
    let others = conditions(service).filter(|condition| condition.type_ != CONDITION).cloned();
    vec![write(service, None, others.collect())]
}

fn with_finalizer(service: &Arc<Service>, wanted: bool) -> Action {
    let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
    let finalizers = Some(finalizers).filter(|all| !all.is_empty());
    Action::Patch {
        kind: Kind::Service,
        key: Key::of(&service.metadata),
        patch: json!({"metadata": {
            "uid": service.metadata.uid, "resourceVersion": service.metadata.resource_version, "finalizers": finalizers,
        }}),
        subresource: "",
    }
}

/// Writes addresses and condition if they changed, and an Event for a new refusal.
fn publish(
    service: &Arc<Service>,
    addresses: &[IpAddr],
    refusal: Option<Refusal>,
    context: Context<'_>,
) -> Vec<Action> {
    let (status, reason, message) = match &refusal {
        Some((reason, message)) => ("False", *reason, message.clone()),
        None => ("True", "Allocated", "every address is allocated".to_owned()),
    };
    let known = conditions(service).find(|condition| condition.type_ == CONDITION);
    let published = known.is_some_and(|k| k.status == status && k.reason == reason && k.message == message);
    if published && ingress(service).eq(addresses.iter().copied()) {
        return Vec::new();
    }
    let since = known.filter(|known| known.status == status).map(|known| known.last_transition_time.0);
    let new = condition(status, reason, &message, since.unwrap_or(context.now));
    let others = conditions(service).filter(|condition| condition.type_ != CONDITION).cloned();
    let of = |ip: &IpAddr| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some("VIP".into()),
        ..Default::default()
    };
    let ingress = Some(addresses.iter().map(of).collect::<Vec<_>>()).filter(|all| !all.is_empty());
    let mut actions = vec![write(service, ingress, others.chain([new]).collect())];
    if let Some((reason, message)) = refusal.filter(|_| !published) {
        actions.push(Action::record(&Object::Service(service.clone()), true, reason, message));
    }
    actions
}

fn condition(status: &str, reason: &str, message: &str, since: Timestamp) -> Condition {
    Condition {
        type_: CONDITION.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: meta::time(since),
        observed_generation: None,
    }
}

fn write(service: &Service, ingress: Option<Vec<LoadBalancerIngress>>, conditions: Vec<Condition>) -> Action {
    let new = ServiceStatus {
        conditions: Some(conditions).filter(|all| !all.is_empty()),
        load_balancer: Some(LoadBalancerStatus { ingress }),
    };
    let mut action =
        Action::patch_status(Kind::Service, Key::of(&service.metadata), service.status.as_ref(), &new);
    if let Action::Patch { patch, .. } = &mut action {
        // The list contains conditions of other writers: it is valid only for the version that it was read from.
        patch["metadata"] = json!({"resourceVersion": service.metadata.resource_version});
    }
    action
}

#[cfg(test)]
mod tests;
