//! What is attached to listeners: rules by host, so that a change of a route makes the rules of its hosts again and no others. PURE.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::http_rules::HostlessRule;
use super::listeners::GatewayListeners;
use super::objects::{Key, RouteKey};
use super::routing::RouteResult;
use crate::config::{Routes, StreamRoute};
use crate::routing::{HostPattern, RouteTable, Rule};

/// Indexes of a Gateway and of its listener.
pub(super) type Place = (usize, usize);

/// What the rules of a route are made to.
pub(super) enum Made {
    Rules(Vec<HostlessRule>),
    Stream(Streams),
    /// The route is not accepted.
    Nothing,
}

/// Where connections of a route go. `None`: it has no rule.
pub(super) struct Streams {
    /// What is passed on as it is.
    pub(super) as_is: Option<Arc<StreamRoute>>,
    /// What is said inside TLS that ends here.
    pub(super) inside: Option<Arc<StreamRoute>>,
}

#[derive(Default)]
pub(super) struct Attached {
    rules: BTreeMap<Place, ListenerRules>,
    streams: BTreeMap<Place, Vec<(HostPattern, Arc<StreamRoute>)>>,
}

#[derive(Default)]
struct ListenerRules {
    routes: Arc<Routes>,
    /// Routes that have rules for a host, the oldest first.
    with_host: HashMap<HostPattern, BTreeSet<(i64, Key, &'static str)>>,
}

impl Attached {
    pub(super) fn routes(&self, place: &Place) -> Arc<Routes> {
        self.rules.get(place).map(|rules| rules.routes.clone()).unwrap_or_default()
    }

    /// By host, the oldest first.
    pub(super) fn streams(&self, place: &Place) -> &[(HostPattern, Arc<StreamRoute>)] {
        self.streams.get(place).map_or(&[], Vec::as_slice)
    }

    /// `places`: for [`Attached::link`].
    pub(super) fn attach(
        &mut self,
        route: &RouteResult,
        gateways: &mut [GatewayListeners],
        places: &mut BTreeSet<(Place, HostPattern)>,
    ) {
        if matches!(route.made, Made::Nothing) {
            return;
        }
        for attachment in route.parents.iter().flat_map(|parent| &parent.attachments) {
            let place = (attachment.gateway, attachment.listener);
            gateways[place.0].listeners[place.1].attached += 1;
            for host in &attachment.hosts {
                match &route.made {
                    Made::Rules(_) => {
                        let rules = self.rules.entry(place).or_default();
                        let of_host = rules.with_host.entry(host.clone()).or_default();
                        of_host.insert((route.created, route.key.clone(), route.kind));
                        places.insert((place, host.clone()));
                    }
                    Made::Stream(Streams { as_is, inside }) => {
                        let is_read = gateways[place.0].listeners[place.1].reads();
                        let stream = if is_read { inside } else { as_is };
                        let all = self.streams.entry(place).or_default();
                        all.extend(stream.iter().map(|stream| (host.clone(), stream.clone())));
                    }
                    Made::Nothing => {}
                }
            }
        }
    }

    /// Undoes [`Attached::attach`] of a route that has rules.
    pub(super) fn detach(
        &mut self,
        route: &RouteResult,
        gateways: &mut [GatewayListeners],
        places: &mut BTreeSet<(Place, HostPattern)>,
    ) {
        if !matches!(route.made, Made::Rules(_)) {
            return;
        }
        for attachment in route.parents.iter().flat_map(|parent| &parent.attachments) {
            let place = (attachment.gateway, attachment.listener);
            gateways[place.0].listeners[place.1].attached -= 1;
            let Some(rules) = self.rules.get_mut(&place) else { continue };
            for host in &attachment.hosts {
                if let Some(of_host) = rules.with_host.get_mut(host) {
                    of_host.remove(&(route.created, route.key.clone(), route.kind));
                    if of_host.is_empty() {
                        rules.with_host.remove(host);
                    }
                }
                places.insert((place, host.clone()));
            }
        }
    }

    /// Makes the rules of a host again. `all`: with those that are attached there.
    pub(super) fn link(&mut self, place: Place, host: &HostPattern, all: &BTreeMap<RouteKey, RouteResult>) {
        let Some(ListenerRules { routes, with_host }) = self.rules.get_mut(&place) else { return };
        let mut rules = Vec::new();
        for (_, key, kind) in with_host.get(host).into_iter().flatten() {
            let Some(Made::Rules(of_route)) = all.get(&(*kind, key.clone())).map(|route| &route.made) else {
                continue;
            };
            rules.extend(of_route.iter().map(|(path, conditions, route)| Rule {
                host: host.clone(),
                path: path.clone(),
                conditions: conditions.clone(),
                target: route.clone(),
            }));
        }
        let routes = Arc::make_mut(routes);
        routes.remove(host);
        routes.absorb(RouteTable::compile(rules, []));
    }
}
