//! Addresses and node ports of Services: each is given to one Service at a time.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;
use rand::Rng as _;
use serde_json::{Value, json};
use skep_api::field::Path;
use skep_api::{Errors, Kind, Status, find, meta};

use crate::cache::Caches;
use crate::config::ServiceNetwork;
use crate::object::prefix;

/// Random tries before the range is searched from its start.
const TRIES: usize = 64;

pub(crate) struct Allocator {
    network: ServiceNetwork,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    /// Protocol and number: a TCP and a UDP port may share one.
    ports: HashSet<(String, u16)>,
}

impl Allocator {
    /// Knows what the stored Services have.
    pub(crate) fn new(network: &ServiceNetwork, caches: &Caches) -> Allocator {
        let mut taken = Taken::default();
        if let Some(services) = find("", "v1", "services")
            && let Some(resource) = caches.of(services)
        {
            for service in resource.list(&prefix(services)) {
                let service = service.value();
                taken.addresses.extend(addresses(&service["spec"]));
                taken.ports.extend(node_ports(&service["spec"]));
            }
        }
        Allocator { network: network.clone(), taken: Mutex::new(taken) }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first address of the default range: the `kubernetes` Service's.
    pub(crate) fn first(&self) -> Option<IpAddr> {
        self.network.cidrs.first().and_then(|cidr| nth(cidr, 1))
    }

    /// Gives a Service what it lacks, or refuses what it asks for. `old` is what it was before an update.
    pub(crate) fn assign(&self, kind: &Kind, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if !is_service(kind) {
            return Ok(());
        }
        let mut errors = Errors::default();
        let old_spec = old.map_or(&Value::Null, |old| &old["spec"]);
        let mut taken = self.taken();
        let (had_addresses, had_ports) = (addresses(old_spec), node_ports(old_spec));
        let (mut new_addresses, mut new_ports) = (Vec::new(), Vec::new());
        self.assign_addresses(service, old_spec, &had_addresses, &taken, &mut new_addresses, &mut errors);
        self.assign_ports(service, old_spec, &had_ports, &taken, &mut new_ports, &mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid(kind, meta::name(service), &errors));
        }
        taken.addresses.extend(new_addresses);
        taken.ports.extend(new_ports);
        let (kept_addresses, kept_ports) = (addresses(&service["spec"]), node_ports(&service["spec"]));
        taken.addresses.retain(|ip| !had_addresses.contains(ip) || kept_addresses.contains(ip));
        taken.ports.retain(|port| !had_ports.contains(port) || kept_ports.contains(port));
        Ok(())
    }

    fn assign_addresses(
        &self,
        service: &mut Value,
        old: &Value,
        had: &[IpAddr],
        taken: &Taken,
        new: &mut Vec<IpAddr>,
        errors: &mut Errors,
    ) {
        let spec = &mut service["spec"];
        let path = Path::new("spec").child("clusterIPs");
        if spec["type"] == "ExternalName" {
            if let Some(fields) = spec.as_object_mut() {
                ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
                    .iter()
                    .for_each(|name| drop(fields.remove(*name)));
            }
            return;
        }
        let wanted = match (spec["clusterIP"].as_str(), old["clusterIP"].as_str()) {
            (None | Some(""), Some(old)) if !old.is_empty() => old.to_owned(),
            (wanted, _) => wanted.unwrap_or_default().to_owned(),
        };
        if wanted == "None" {
            spec["clusterIP"] = "None".into();
            spec["clusterIPs"] = json!(["None"]);
            let families = self.families(spec);
            spec["ipFamilies"] = families.iter().map(|v6| Value::from(family(*v6))).collect();
            return;
        }
        let mut given = Vec::new();
        for (i, v6) in self.families(spec).into_iter().enumerate() {
            let Some(cidr) = self.network.cidrs.iter().find(|cidr| cidr.is_ipv6() == v6) else { continue };
            let asked = if i == 0 {
                wanted.clone()
            } else {
                spec["clusterIPs"][i].as_str().unwrap_or_default().to_owned()
            };
            let kept =
                had.iter().find(|ip| ip.is_ipv6() == v6 && (asked.is_empty() || asked == ip.to_string()));
            let chosen = match (kept, asked.as_str()) {
                (Some(kept), _) => Some(*kept),
                (None, "") => free_address(cidr, &taken.addresses),
                (None, asked) => check_address(asked, cidr, taken, &path.index(i), errors),
            };
            match chosen {
                Some(ip) => given.push(ip),
                None if errors.is_empty() => {
                    errors.invalid(&path, &json!(asked), "failed to allocate IP: range is full")
                }
                None => {}
            }
        }
        let shown: Vec<String> = given.iter().map(ToString::to_string).collect();
        if let Some(first) = shown.first() {
            spec["clusterIP"] = first.as_str().into();
        }
        spec["ipFamilies"] = given.iter().map(|ip| Value::from(family(ip.is_ipv6()))).collect();
        spec["clusterIPs"] = json!(shown);
        new.extend(given.into_iter().filter(|ip| !had.contains(ip)));
    }

    /// The families that the Service gets addresses of: true for IPv6.
    fn families(&self, spec: &Value) -> Vec<bool> {
        let asked: Vec<bool> =
            spec["ipFamilies"].as_array().into_iter().flatten().map(|family| family == "IPv6").collect();
        let mut families = if asked.is_empty() {
            self.network.cidrs.first().map(IpNetwork::is_ipv6).into_iter().collect()
        } else {
            asked
        };
        let dual = matches!(spec["ipFamilyPolicy"].as_str(), Some("PreferDualStack" | "RequireDualStack"));
        if dual {
            for cidr in &self.network.cidrs {
                if !families.contains(&cidr.is_ipv6()) {
                    families.push(cidr.is_ipv6());
                }
            }
        } else {
            families.truncate(1);
        }
        families
    }

    fn assign_ports(
        &self,
        service: &mut Value,
        old: &Value,
        had: &[(String, u16)],
        taken: &Taken,
        new: &mut Vec<(String, u16)>,
        errors: &mut Errors,
    ) {
        let spec = &mut service["spec"];
        let wants = spec["type"] == "NodePort"
            || spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false;
        for (i, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            if !wants {
                if let Some(fields) = port.as_object_mut() {
                    fields.remove("nodePort");
                }
                continue;
            }
            let path = Path::new("spec").child("ports").index(i).child("nodePort");
            let before = old["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
            let asked = port["nodePort"]
                .as_u64()
                .filter(|n| *n != 0)
                .or_else(|| before.and_then(|old| old["nodePort"].as_u64()));
            let free = |number: u16, new: &Vec<(String, u16)>| {
                let key = (protocol.clone(), number);
                had.contains(&key) || !taken.ports.contains(&key) && !new.contains(&key)
            };
            let chosen = match asked {
                Some(number) => match u16::try_from(number) {
                    Ok(number) if !self.network.node_ports.contains(&number) => {
                        let (first, last) = (self.network.node_ports.start(), self.network.node_ports.end());
                        errors.invalid(&path, &json!(number), &format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
                        None
                    }
                    Ok(number) if !free(number, new) => {
                        errors.invalid(&path, &json!(number), "provided port is already allocated");
                        None
                    }
                    Ok(number) => Some(number),
                    Err(_) => None,
                },
                None => {
                    let random =
                        (0..TRIES).map(|_| rand::rng().random_range(self.network.node_ports.clone()));
                    let found =
                        random.chain(self.network.node_ports.clone()).find(|number| free(*number, new));
                    if found.is_none() {
                        errors.invalid(&path, &json!(0), "failed to allocate a nodePort: range is full");
                    }
                    found
                }
            };
            if let Some(number) = chosen {
                port["nodePort"] = number.into();
                if !had.contains(&(protocol.clone(), number)) {
                    new.push((protocol, number));
                }
            }
        }
    }

    /// Gives back what a Service had.
    pub(crate) fn release(&self, kind: &Kind, service: &Value) {
        if is_service(kind) {
            let mut taken = self.taken();
            for ip in addresses(&service["spec"]) {
                taken.addresses.remove(&ip);
            }
            for port in node_ports(&service["spec"]) {
                taken.ports.remove(&port);
            }
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn check_address(
    asked: &str,
    cidr: &IpNetwork,
    taken: &Taken,
    path: &Path,
    errors: &mut Errors,
) -> Option<IpAddr> {
    match asked.parse::<IpAddr>() {
        Ok(ip) if !cidr.contains(ip) => {
            errors.invalid(path, &json!(asked), &format!("failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is {cidr}"));
            None
        }
        Ok(ip) if taken.addresses.contains(&ip) => {
            errors.invalid(
                path,
                &json!(asked),
                &format!("failed to allocate IP {asked}: provided IP is already allocated"),
            );
            None
        }
        Ok(ip) => Some(ip),
        Err(_) => {
            errors.invalid(
                path,
                &json!(asked),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
            None
        }
    }
}

/// A free address: random, so that an address just given back is not soon somebody else's.
fn free_address(cidr: &IpNetwork, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let size = usable(cidr);
    let random = (0..TRIES).map(|_| rand::rng().random_range(1..=size));
    random.chain(1..=size).filter_map(|n| nth(cidr, n)).find(|ip| !taken.contains(ip))
}

/// How many addresses can be given: without the network's own and an IPv4 network's broadcast.
fn usable(cidr: &IpNetwork) -> u64 {
    let bits = u32::from(if cidr.is_ipv4() { 32 } else { 128 } - cidr.prefix());
    (1u64 << bits.min(20)).saturating_sub(2).max(1)
}

fn nth(cidr: &IpNetwork, n: u64) -> Option<IpAddr> {
    Some(match cidr.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(u32::try_from(n).ok()?)?)),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(u128::from(n))?)),
    })
}

fn addresses(spec: &Value) -> Vec<IpAddr> {
    let all = spec["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn node_ports(spec: &Value) -> Vec<(String, u16)> {
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let number = u16::try_from(port["nodePort"].as_u64()?).ok().filter(|number| *number != 0)?;
            Some((port["protocol"].as_str().unwrap_or("TCP").to_owned(), number))
        })
        .collect()
}
