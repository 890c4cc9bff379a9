//! Ingresses to objects of Gateway API. PURE. In: Ingresses, and the Services that they name by port names. Out: objects that serve the
//! same, and what of the Ingresses has no counterpart.
//!
//! An Ingress with an annotation that keeps requests out and has no counterpart is left out: its routes would be open.

mod annotations;
mod canaries;
mod gateways;
mod routes;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::Value;

use canaries::Canaries;
use gateways::Gateways;
use routes::Conversion;
pub use source::Note;
use source::{Ports, Source};

/// How Ingresses are converted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the Gateways.
    pub gateway_class: String,
    /// Routes are made also where an annotation that keeps requests out is lost.
    pub allow_open: bool,
}

/// What became of Ingresses.
#[derive(Debug, Default)]
pub struct Converted {
    /// In an order in which they can be applied.
    pub objects: Vec<Value>,
    pub notes: BTreeSet<Note>,
}

/// Converts Ingresses of any class.
pub fn convert(ingresses: &[Ingress], services: &[Service], options: &Options) -> Converted {
    let ports = Ports::of(services);
    let sources: Vec<Source<'_>> = ingresses.iter().map(Source::new).collect();
    let mut gateways = Gateways::new(&options.gateway_class);
    let (mut routes, mut notes) = (Vec::new(), BTreeSet::new());
    let canaries = Canaries::find(&sources, &ports, &mut notes);
    for source in sources.iter().filter(|source| !source.is("canary")) {
        let mut conversion = Conversion {
            ports: &ports,
            canaries: &canaries,
            gateways: &mut gateways,
            routes: &mut routes,
            notes: &mut notes,
        };
        conversion.add(source, options.allow_open);
    }
    notes.extend(canaries.unused());
    let mut objects = gateways.objects();
    objects.append(&mut routes);
    Converted { objects, notes }
}
