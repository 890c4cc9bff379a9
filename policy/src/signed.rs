//! Every address of an endpoint with its signature.
//!
//! In: the classifier, the peers, the local pods. Out: the signatures that occur, and prefix to class. The pods of one template have
//! equal signatures, but for addresses that rules name, so that little is done for each address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{Addr, CLASS_OTHER};

use crate::classify::{Classifier, Signature};
use crate::entries::Prefix;
use crate::model::{Endpoint, Local};
use crate::peers::Peers;
use crate::select::{Labels, Selector};

/// See the module.
pub(crate) struct Signed {
    signatures: Vec<Signature>,
    /// Sorted by address, with the position of the signature.
    addrs: Vec<(Addr, u32)>,
}

impl Signed {
    pub(crate) fn new(
        classifier: &Classifier,
        namespaces: &BTreeMap<Arc<str>, Arc<Labels>>,
        peers: &Peers,
        local: &[Local<'_>],
    ) -> Signed {
        let mut signer = Signer::new(classifier, namespaces);
        let own =
            local.iter().flat_map(|local| local.endpoint.addrs.iter().map(|addr| (*addr, local.endpoint)));
        let own: BTreeMap<Addr, &Endpoint> = own.collect();
        let mut own = own.into_iter().peekable();
        let mut addrs = Vec::with_capacity(peers.len() + own.len());
        let mut walk = classifier.networks().walk();
        let mut of_template: Vec<Option<u32>> = vec![None; peers.template_count()];
        let mut in_network: HashMap<(u32, u32), u32> = HashMap::new();
        for (addr, template) in peers.iter() {
            while let Some((own, endpoint)) = own.next_if(|(own, _)| *own < addr) {
                addrs.push((own, signer.sign(endpoint, walk.at(own))));
            }
            let network = walk.at(addr);
            if let Some((_, endpoint)) = own.next_if(|(own, _)| *own == addr) {
                addrs.push((addr, signer.sign(endpoint, network)));
                continue;
            }
            let known = match network {
                None => of_template.get(template as usize).copied().flatten(),
                Some(network) => in_network.get(&(template, network)).copied(),
            };
            let (None, Some(endpoint)) = (known, peers.template(template)) else {
                addrs.extend(known.map(|signature| (addr, signature)));
                continue;
            };
            let signature = signer.sign(endpoint, network);
            match (network, of_template.get_mut(template as usize)) {
                (Some(network), _) => drop(in_network.insert((template, network), signature)),
                (None, Some(known)) => *known = Some(signature),
                (None, None) => {}
            }
            addrs.push((addr, signature));
        }
        addrs.extend(own.map(|(own, endpoint)| (own, signer.sign(endpoint, walk.at(own)))));
        Signed { signatures: signer.signatures(), addrs }
    }

    pub(crate) fn used(&self) -> BTreeSet<Signature> {
        let mut is_used = vec![false; self.signatures.len()];
        for (_, number) in &self.addrs {
            if let Some(is_used) = is_used.get_mut(*number as usize) {
                *is_used = true;
            }
        }
        let used = self.signatures.iter().zip(is_used).filter(|(_, is_used)| *is_used);
        used.map(|(signature, _)| signature.clone()).collect()
    }

    /// Prefix to class, where shorter prefixes do not give the same. All signatures have their class.
    pub(crate) fn entries(&self, classifier: &Classifier) -> BTreeMap<Prefix, u32> {
        let classes: Vec<Option<u32>> =
            self.signatures.iter().map(|signature| classifier.ids.get(signature).copied()).collect();
        let networks = classifier.prefix_entries();
        let mut walk = classifier.networks().walk_around();
        let mut around = |addr: Addr| match walk.at(addr) {
            Some(network) => networks.get(network as usize).map(|(_, class)| *class),
            None => Some(CLASS_OTHER),
        };
        let pods = self.addrs.iter().filter_map(|(addr, number)| {
            let class = *classes.get(*number as usize)?;
            (class != around(*addr)).then_some(((128, *addr), class?))
        });
        let mut entries: BTreeMap<Prefix, u32> = pods.collect();
        // A network of one address does not override what the pod with that address is.
        let is_pod = |addr: &Addr| self.addrs.binary_search_by_key(addr, |(addr, _)| *addr).is_ok();
        let others = networks.iter().filter(|((bits, addr), _)| *bits < 128 || !is_pod(addr));
        entries.extend(others.copied());
        entries
    }
}

/// Numbers signatures, each once.
struct Signer<'a> {
    classifier: &'a Classifier,
    namespaces: &'a BTreeMap<Arc<str>, Arc<Labels>>,
    /// The selectors for each namespace, see [`Classifier::selectors_of`].
    selectors: HashMap<Arc<str>, Vec<(&'a Selector, &'a [u32])>>,
    numbers: HashMap<Signature, u32>,
}

impl<'a> Signer<'a> {
    fn new(classifier: &'a Classifier, namespaces: &'a BTreeMap<Arc<str>, Arc<Labels>>) -> Self {
        Signer { classifier, namespaces, selectors: HashMap::new(), numbers: HashMap::new() }
    }

    fn sign(&mut self, endpoint: &Endpoint, network: Option<u32>) -> u32 {
        let Signer { classifier, namespaces, selectors, numbers } = self;
        let namespace = &endpoint.namespace;
        let selectors = selectors
            .entry(namespace.clone())
            .or_insert_with(|| classifier.selectors_of(namespace, namespaces));
        let next = numbers.len() as u32;
        *numbers.entry(classifier.signature(selectors, endpoint, network)).or_insert(next)
    }

    /// All of them, by number.
    fn signatures(self) -> Vec<Signature> {
        let mut numbered: Vec<(Signature, u32)> = self.numbers.into_iter().collect();
        numbered.sort_unstable_by_key(|(_, number)| *number);
        numbered.into_iter().map(|(signature, _)| signature).collect()
    }
}
