//! The addresses of a cluster's pods with what policies read of them, kept from one compile to the next.
//!
//! In: endpoints, address by address. Out: addresses in their order, each with its template. A cluster has few templates: pods of
//! one deployment differ in their addresses alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skep_abi::Addr;

use crate::model::Endpoint;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// With the number of the template.
    addrs: BTreeMap<Addr, u32>,
    templates: Vec<Template>,
    numbers: HashMap<TemplateKey, u32>,
    /// Numbers of templates that no address has.
    free: Vec<u32>,
}

/// The addresses of namespace, labels and ports in memory: endpoints share equal values. Those that do not are of two templates.
type TemplateKey = [usize; 3];

#[derive(Clone, Debug)]
struct Template {
    /// One of the endpoints. Its values are kept, so that no others can have their addresses in memory.
    endpoint: Endpoint,
    /// How many peers have it.
    uses: usize,
}

impl Peers {
    /// The address has this endpoint now; `None`: no endpoint.
    pub fn set(&mut self, addr: Addr, endpoint: Option<&Endpoint>) {
        let number = endpoint.map(|endpoint| self.acquire(endpoint));
        let before = match number {
            Some(number) => self.addrs.insert(addr, number),
            None => self.addrs.remove(&addr),
        };
        if let Some(before) = before {
            self.release(before);
        }
    }

    fn acquire(&mut self, endpoint: &Endpoint) -> u32 {
        let key = key_of(endpoint);
        let number = *self.numbers.entry(key).or_insert_with(|| match self.free.pop() {
            Some(number) => number,
            None => self.templates.len() as u32,
        });
        match self.templates.get_mut(number as usize) {
            Some(template) if template.uses > 0 => template.uses += 1,
            Some(template) => *template = Template { endpoint: endpoint.clone(), uses: 1 },
            None => self.templates.push(Template { endpoint: endpoint.clone(), uses: 1 }),
        }
        number
    }

    fn release(&mut self, number: u32) {
        let Some(template) = self.templates.get_mut(number as usize) else { return };
        template.uses -= 1;
        if template.uses == 0 {
            self.numbers.remove(&key_of(&template.endpoint));
            self.free.push(number);
        }
    }

    /// Addresses in their order, each with the number of its template.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Addr, u32)> + '_ {
        self.addrs.iter().map(|(addr, number)| (*addr, *number))
    }

    pub(crate) fn len(&self) -> usize {
        self.addrs.len()
    }

    /// Numbers of templates are less than this.
    pub(crate) fn template_count(&self) -> usize {
        self.templates.len()
    }

    /// An endpoint of the template.
    pub(crate) fn template(&self, number: u32) -> Option<&Endpoint> {
        self.templates.get(number as usize).map(|template| &template.endpoint)
    }
}

/// The last endpoint of an address counts.
impl<'e> FromIterator<&'e Endpoint> for Peers {
    fn from_iter<I: IntoIterator<Item = &'e Endpoint>>(endpoints: I) -> Self {
        let mut peers = Peers::default();
        for endpoint in endpoints {
            endpoint.addrs.iter().for_each(|addr| peers.set(*addr, Some(endpoint)));
        }
        peers
    }
}

fn key_of(endpoint: &Endpoint) -> TemplateKey {
    let Endpoint { namespace, labels, ports, addrs: _ } = endpoint;
    [namespace.as_ptr().addr(), Arc::as_ptr(labels).addr(), ports.as_ptr().addr()]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::select::Labels;

    fn addr(number: u32) -> Addr {
        Addr::from(std::net::IpAddr::V4(Ipv4Addr::from(number)))
    }

    #[test]
    fn a_template_is_one_while_any_address_has_it_and_then_its_number_is_used_again() {
        let endpoint = |namespace: &str| Endpoint {
            namespace: namespace.into(),
            labels: Arc::new(Labels::default()),
            ports: Arc::new([]),
            addrs: Arc::default(),
        };
        let (a, b, c) = (endpoint("a"), endpoint("b"), endpoint("c"));
        let mut peers = Peers::default();
        peers.set(addr(1), Some(&a));
        peers.set(addr(2), Some(&a));
        peers.set(addr(3), Some(&b));
        assert_eq!(peers.iter().collect::<Vec<_>>(), [(addr(1), 0), (addr(2), 0), (addr(3), 1)]);
        // One address takes the other's template, and again its own.
        peers.set(addr(1), Some(&b));
        peers.set(addr(1), Some(&b));
        peers.set(addr(2), None);
        peers.set(addr(2), None);
        peers.set(addr(4), Some(&c));
        assert_eq!(peers.iter().collect::<Vec<_>>(), [(addr(1), 1), (addr(3), 1), (addr(4), 0)]);
        assert_eq!((peers.template(0), peers.template(1)), (Some(&c), Some(&b)));
        assert_eq!((peers.template_count(), peers.len()), (2, 3));
    }
}
