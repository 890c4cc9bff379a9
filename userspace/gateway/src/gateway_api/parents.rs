//! Routes and their parents: to which listeners a route attaches. PURE.

use super::conditions::{Condition, Fault};
use super::grants::namespace_of;
use super::hosts::{common, pattern};
use super::kinds::{GROUP, ParentRef};
use super::listeners::{GatewayListeners, Owner};
use super::objects::{Key, Objects};
use crate::routing::HostPattern;

/// Where a route attaches: index of the Gateway, of its listener, and the hosts that both have.
pub(super) struct Attachment {
    pub(super) gateway: usize,
    pub(super) listener: usize,
    pub(super) hosts: Vec<HostPattern>,
}

/// What a parent of ours says about a route.
pub(super) struct ParentVerdict {
    pub(super) parent: ParentRef,
    pub(super) accepted: Result<(), Fault>,
    pub(super) attachments: Vec<Attachment>,
}

/// A route's part that decides where it attaches.
pub(super) struct RouteHead<'a> {
    pub(super) key: &'a Key,
    pub(super) kind: &'static str,
    pub(super) parents: &'a [ParentRef],
    pub(super) hostnames: &'a [String],
}

impl Objects {
    /// One verdict for each parent that is ours.
    pub(super) fn attach(&self, route: &RouteHead<'_>, gateways: &[GatewayListeners]) -> Vec<ParentVerdict> {
        let own = route.parents.iter().filter_map(|parent| {
            let (gateway, owner) = find(parent, namespace_of(route.key), gateways)?;
            let (accepted, attachments) = match self.attachments(route, parent, gateways, gateway, &owner) {
                Ok(attachments) => (Ok(()), attachments),
                Err(fault) => (Err(fault), Vec::new()),
            };
            Some(ParentVerdict { parent: parent.clone(), accepted, attachments })
        });
        own.collect()
    }

    fn attachments(
        &self,
        route: &RouteHead<'_>,
        parent: &ParentRef,
        gateways: &[GatewayListeners],
        at: usize,
        owner: &Owner,
    ) -> Result<Vec<Attachment>, Fault> {
        let named = gateways[at].listeners.iter().enumerate().filter(|(_, listener)| {
            listener.owner == *owner
                && parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name)
                && parent.port.is_none_or(|port| port == listener.spec.port)
        });
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            return Err(Fault::new("NoMatchingParent", "the parent has no such listener"));
        }
        let home = namespace_of(owner.key());
        let allowed: Vec<_> = named
            .into_iter()
            .filter(|(_, listener)| {
                let routes = listener.spec.allowed_routes.as_ref();
                let namespaces = routes.and_then(|routes| routes.namespaces.as_ref());
                listener.kinds.contains(&route.kind)
                    && self.selects(namespaces, "Same", home, namespace_of(route.key))
            })
            .collect();
        if allowed.is_empty() {
            return Err(Fault::new(
                "NotAllowedByListeners",
                "no listener allows routes of this kind and namespace",
            ));
        }
        let mut attachments = Vec::new();
        for (listener, found) in allowed {
            let hosts = match route.hostnames {
                [] => vec![found.host.clone()],
                all => all.iter().filter_map(|host| common(&found.host, &pattern(host))).collect(),
            };
            if !hosts.is_empty() {
                attachments.push(Attachment { gateway: at, listener, hosts });
            }
        }
        match attachments.is_empty() {
            true => Err(Fault::new("NoMatchingListenerHostname", "no listener has a hostname of the route")),
            false => Ok(attachments),
        }
    }
}

/// The Gateway of ours that a parent is, or whose ListenerSet it is.
fn find(parent: &ParentRef, home: &str, gateways: &[GatewayListeners]) -> Option<(usize, Owner)> {
    if parent.group.as_deref().is_some_and(|group| group != GROUP) {
        return None;
    }
    let key: Key = format!("{}/{}", parent.namespace.as_deref().unwrap_or(home), parent.name).into();
    match parent.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => {
            let at = gateways.iter().position(|gateway| gateway.key == key)?;
            Some((at, Owner::Gateway(key)))
        }
        "ListenerSet" => {
            let at = gateways.iter().position(|gateway| {
                gateway.sets.iter().any(|(set, _, verdict)| *set == key && verdict.is_ok())
            })?;
            Some((at, Owner::ListenerSet(key)))
        }
        _ => None,
    }
}

impl ParentVerdict {
    pub(super) fn conditions(
        &self,
        route: &Result<(), Fault>,
        resolved: &Result<(), Fault>,
    ) -> Vec<Condition> {
        let accepted = self.accepted.clone().and(route.clone());
        vec![Condition::of("Accepted", &accepted), Condition::of("ResolvedRefs", resolved)]
    }
}
