//! Cluster IPs, from the ready ServiceCIDRs. An IPAddress object holds each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use rand::Rng as _;
use serde_json::{Value, json};
use skep_api::field::Path;
use skep_api::kinds::service::{AddressWant, Family};
use skep_api::{Errors, Kind, Reason, Status, find, meta};
use skep_store::{Expect, StoreError};

use super::owner::Owner;
use crate::cache::{Caches, Changes};
use crate::clock::now;
use crate::config::ServiceNetwork;
use crate::object::{key, prefix};
use crate::stored::{Storage, stamp, store_error};

/// The ServiceCIDR of the server's flags.
const DEFAULT_RANGE: &str = "kubernetes";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

fn kinds() -> Result<(&'static Kind, &'static Kind), Status> {
    let of = |plural| find("networking.k8s.io", "v1", plural);
    of("ipaddresses")
        .zip(of("servicecidrs"))
        .ok_or_else(|| Status::internal("networking.k8s.io/v1 is not served"))
}

/// The wanted address, allocated in the store to `owner`; without an owner it is only chosen. A refusal goes to `errors`.
pub(crate) async fn take(
    storage: &Storage,
    service: &Value,
    want: &AddressWant,
    owner: Option<&Owner>,
    errors: &mut Errors,
) -> Result<Option<IpAddr>, Status> {
    let known = ranges(&storage.caches, want.family)?;
    match want.asked {
        Some(ip) if known.iter().any(|range| range.contains(ip)) => {
            take_this(storage, service, ip, &known, owner, errors).await
        }
        Some(ip) => {
            take_this(storage, service, ip, &latest_ranges(storage, want.family).await?, owner, errors).await
        }
        None => {
            let mut found = take_any(storage, &known, owner).await?;
            if found.is_none() {
                found = take_any(storage, &latest_ranges(storage, want.family).await?, owner).await?;
            }
            found.map(Some).ok_or_else(|| full(service))
        }
    }
}

/// The ranges with all that was acknowledged before: a range may have become ready a moment ago.
async fn latest_ranges(storage: &Storage, family: Family) -> Result<Vec<IpNetwork>, Status> {
    storage.caches.catch_up().await.map_err(store_error)?;
    ranges(&storage.caches, family)
}

fn full(service: &Value) -> Status {
    let name = meta::name(service);
    Status::internal(format!("failed to allocate a serviceIP for Service \"{name}\": range is full"))
}

async fn take_this(
    storage: &Storage,
    service: &Value,
    ip: IpAddr,
    ranges: &[IpNetwork],
    owner: Option<&Owner>,
    errors: &mut Errors,
) -> Result<Option<IpAddr>, Status> {
    let refusal = match ranges.iter().find(|range| range.contains(ip)) {
        None => "the provided network does not match the current range".to_owned(),
        Some(range) if !Span::of(range).contains(ip) => {
            format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")
        }
        Some(_) if !hold(storage, ip, owner).await? => "provided IP is already allocated".to_owned(),
        Some(_) => return Ok(Some(ip)),
    };
    let detail = format!("failed to allocate IP {ip}: {refusal}");
    errors.invalid(&Path::new("spec").child("clusterIPs"), &service["spec"]["clusterIPs"], &detail);
    Ok(None)
}

async fn take_any(
    storage: &Storage,
    ranges: &[IpNetwork],
    owner: Option<&Owner>,
) -> Result<Option<IpAddr>, Status> {
    for range in ranges {
        let start = rand::rng().random();
        for ip in Span::of(range).candidates(start) {
            if !is_held(&storage.caches, ip)? && hold(storage, ip, owner).await? {
                return Ok(Some(ip));
            }
        }
    }
    Ok(None)
}

fn is_held(caches: &Caches, ip: IpAddr) -> Result<bool, Status> {
    let (addresses, _) = kinds()?;
    let resource = caches.of(addresses);
    Ok(resource.is_some_and(|resource| resource.get(&key(addresses, "", &ip.to_string())).is_some()))
}

/// Allocates the address to `owner`; false if it is allocated already.
pub(crate) async fn hold(storage: &Storage, ip: IpAddr, owner: Option<&Owner>) -> Result<bool, Status> {
    let Some(owner) = owner else { return Ok(!is_held(&storage.caches, ip)?) };
    let (addresses, _) = kinds()?;
    let mut object = json!({
        "apiVersion": addresses.api_version(), "kind": addresses.kind,
        "metadata": {
            "name": ip.to_string(),
            "labels": {FAMILY: Family::of(ip).name(), MANAGED_BY.0: MANAGED_BY.1},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}},
    });
    stamp(&mut object);
    addresses.complete_new(&mut object);
    match storage.insert(addresses, &object).await {
        Ok(_) => Ok(true),
        Err(status) if status.reason == Reason::AlreadyExists => Ok(false),
        Err(status) => Err(status),
    }
}

/// Releases the address if `owner` has it.
pub(crate) async fn release(storage: &Storage, owner: &Owner, ip: IpAddr) -> Result<(), Status> {
    let (addresses, _) = kinds()?;
    let (store, at) = (storage.caches.store(), key(addresses, "", &ip.to_string()));
    let (Some(entry), _) = store.get(&at, None).await.map_err(store_error)? else { return Ok(()) };
    let object: Value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
    let parent = &object["spec"]["parentRef"];
    if parent["namespace"] != owner.namespace.as_str() || parent["name"] != owner.name.as_str() {
        return Ok(());
    }
    match store.delete(&at, Expect::Revision(entry.modified)).await {
        Ok(_) | Err(StoreError::NotFound | StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

/// An allocated address.
pub(crate) struct HeldAddress {
    pub(crate) ip: IpAddr,
    /// Of the Service.
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The creation time of the IPAddress.
    pub(crate) since: String,
}

/// The addresses that IPAddress objects of this allocator hold.
pub(crate) fn held(caches: &Caches) -> Result<Vec<HeldAddress>, Status> {
    let (addresses, _) = kinds()?;
    let all = caches.of(addresses).map(|resource| resource.list(&prefix(addresses))).unwrap_or_default();
    let of = |object: &Arc<crate::object::Object>| {
        let value = object.value();
        let parent = &value["spec"]["parentRef"];
        let ours =
            value["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1 && parent["resource"] == "services";
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ip = meta::name(&value).parse().ok().filter(|_| ours)?;
        Some(HeldAddress {
            ip,
            namespace: text(&parent["namespace"]),
            name: text(&parent["name"]),
            since: text(&value["metadata"]["creationTimestamp"]),
        })
    };
    Ok(all.iter().filter_map(of).collect())
}

/// Subscribes to changes of IPAddresses.
pub(crate) fn changes(caches: &Caches) -> Option<Changes> {
    let (addresses, _) = kinds().ok()?;
    Some(caches.of(addresses)?.subscribe())
}

/// The ranges of a family for new addresses, the default range first.
fn ranges(caches: &Caches, family: Family) -> Result<Vec<IpNetwork>, Status> {
    let (_, ranges) = kinds()?;
    let all = caches.of(ranges).map(|resource| resource.list(&prefix(ranges))).unwrap_or_default();
    let mut found: Vec<(bool, IpNetwork)> = Vec::new();
    for object in all {
        let object = object.value();
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if !ready || object["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
        let cidrs = cidrs.filter_map(|cidr| cidr.as_str()?.parse::<IpNetwork>().ok());
        let own = cidrs.filter(|cidr| Family::of(cidr.ip()) == family);
        found.extend(own.map(|cidr| (meta::name(&object) != DEFAULT_RANGE, cidr)));
    }
    found.sort_by_key(|(further, _)| *further);
    Ok(found.into_iter().map(|(_, cidr)| cidr).collect())
}

/// Creates the ServiceCIDR of the server's flags, or adds the second family that the flags gained.
pub(crate) async fn ensure_default_range(storage: &Storage, network: &ServiceNetwork) -> Result<(), Status> {
    let (_, ranges) = kinds()?;
    let cidrs: Vec<String> = network.cidrs.iter().map(ToString::to_string).collect();
    let ready = json!([{
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": now(),
    }]);
    let Ok(old) = storage.caches.get_or_404(ranges, "", DEFAULT_RANGE) else {
        let mut object = json!({
            "apiVersion": ranges.api_version(), "kind": ranges.kind, "metadata": {"name": DEFAULT_RANGE},
            "spec": {"cidrs": cidrs},
        });
        stamp(&mut object);
        ranges.complete_new(&mut object);
        object["status"] = json!({"conditions": ready});
        return match storage.insert(ranges, &object).await {
            // Another server of the cluster created it first.
            Err(status) if status.reason != Reason::AlreadyExists => Err(status),
            _ => Ok(()),
        };
    };
    let mut new = old.value();
    let stored = new["spec"]["cidrs"].clone();
    if stored == json!(cidrs) {
        return Ok(());
    }
    if stored.as_array().map(Vec::len) != Some(1) || cidrs.len() != 2 || stored[0] != cidrs[0].as_str() {
        tracing::warn!(%stored, flags = ?cidrs, "default ServiceCIDR differs from flags, kept");
        return Ok(());
    }
    new["spec"]["cidrs"] = json!(cidrs);
    storage.replace(ranges, &old, &new).await.map(drop)
}

/// The addresses of a range that can be allocated, as numbers.
struct Span {
    v6: bool,
    first: u128,
    last: u128,
    /// Where the upper part begins. The lower part is for requested addresses, while the upper has free ones (KEP-3070).
    upper: u128,
}

impl Span {
    fn of(range: &IpNetwork) -> Span {
        let (v6, base, bits) = match range.network() {
            IpAddr::V4(ip) => (false, u128::from(u32::from(ip)), 32 - u32::from(range.prefix())),
            IpAddr::V6(ip) => (true, u128::from(ip), 128 - u32::from(range.prefix())),
        };
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let offset = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        // Without the network address and, with IPv4, the broadcast address.
        let last = base.saturating_add(size - 1).saturating_sub(u128::from(!v6));
        Span { v6, first: base.saturating_add(1), last, upper: base.saturating_add(1 + offset) }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let number = match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        ip.is_ipv6() == self.v6 && (self.first..=self.last).contains(&number)
    }

    /// Every address once: the upper part from a random position on, then the lower part.
    fn candidates(&self, start: u128) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.v6;
        let address = move |number: u128| match u32::try_from(number) {
            Ok(number) if !v6 => IpAddr::V4(Ipv4Addr::from(number)),
            _ => IpAddr::V6(Ipv6Addr::from(number)),
        };
        let upper = self.upper.min(self.last.saturating_add(1));
        let parts = [(upper, self.last), (self.first, upper.saturating_sub(1))];
        let parts = parts.into_iter().filter(|(first, last)| first <= last);
        let rotated = parts.flat_map(move |(first, last)| {
            let from = first + start % (last - first).saturating_add(1);
            (from..=last).chain(first..from)
        });
        rotated.map(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(cidr: &str, start: u128) -> Vec<String> {
        Span::of(&cidr.parse().unwrap()).candidates(start).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn every_address_is_offered_once_and_the_lower_part_last() {
        for start in [0, 1, 77, u128::MAX] {
            let mut offered = all("10.0.0.0/24", start);
            assert_eq!(offered.len(), 254);
            let lower: Vec<String> = offered[254 - 16..].to_vec();
            assert!(
                lower.iter().all(|ip| ip.rsplit('.').next().unwrap().parse::<u8>().unwrap() <= 16),
                "{lower:?}"
            );
            offered.sort();
            offered.dedup();
            assert_eq!(offered.len(), 254);
        }
        assert_eq!(all("10.0.0.0/30", 0), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(all("fd00::/126", 0), ["fd00::1", "fd00::2", "fd00::3"]);
        assert!(all("10.0.0.0/31", 5).is_empty() && all("10.0.0.0/32", 5).is_empty());
        assert_eq!(Span::of(&"::/0".parse().unwrap()).candidates(7).take(2).count(), 2);
    }

    #[test]
    fn neither_the_network_nor_the_broadcast_address_is_given() {
        let span = Span::of(&"10.0.0.0/24".parse().unwrap());
        let contains = |ip: &str| span.contains(ip.parse().unwrap());
        assert!(contains("10.0.0.1") && contains("10.0.0.254"));
        assert!(!contains("10.0.0.0") && !contains("10.0.0.255") && !contains("fd00::1"));
    }
}
