//! Writes that the kernel refuses for ever: all else converges, and everything once it no longer does.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use skep_abi::{Addr, Backend, ServiceKey};
use skep_netplan::{Observed, Write};

use crate::{
    Resolved, carry_out, carry_out_except, collect, content, event, local_addr, perform, planner, resolve,
};

/// Writes that fail for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refused {
    Route(u8),
    Cluster(u8),
    Backend(u8),
    Frontend(u8),
    Maglev,
    Ranges,
    Class(u8),
    VerdictMaps,
    Generation,
    LocalPod(u8),
}

fn refused() -> impl Strategy<Value = Refused> {
    prop_oneof![
        (0u8..3).prop_map(Refused::Route),
        (0u8..3).prop_map(Refused::Cluster),
        (0u8..6).prop_map(Refused::Backend),
        (0u8..3).prop_map(Refused::Frontend),
        Just(Refused::Maglev),
        Just(Refused::Ranges),
        (0u8..6).prop_map(Refused::Class),
        Just(Refused::VerdictMaps),
        Just(Refused::Generation),
        (0u8..3).prop_map(Refused::LocalPod),
    ]
}

impl Refused {
    fn covers(self, write: &Write) -> bool {
        let is = |addr: &Addr, octets: [u8; 4]| *addr == Addr::from(IpAddr::from(octets));
        match (self, write) {
            (Refused::Route(n), Write::PutRoute { cidr, .. }) => {
                cidr.network() == IpAddr::from([10, 244, n, 0])
            }
            (Refused::Cluster(n), Write::PutCluster { addr, .. }) => {
                is(addr, [10, 244, n, 0]) || is(addr, [10, 86, 0, n])
            }
            (Refused::Backend(n), Write::PutBackends(_, page)) => {
                page.backends.iter().any(|backend| is(&backend.addr, [10, 0, 1, n]))
            }
            (
                Refused::Frontend(n),
                Write::PutService(ServiceKey { addr, .. }, _) | Write::PutOtherPorts(addr, _),
            ) => is(addr, [10, 96, 0, n + 1]),
            (Refused::Maglev, Write::PutMaglev(..)) => true,
            (Refused::Ranges, Write::PutRange { .. }) => true,
            (Refused::Class(n), Write::PutClass { addr, .. }) => is(addr, [10, 0, 0, n]),
            (Refused::VerdictMaps, Write::CreateVerdictMap { .. }) => true,
            (Refused::Generation, Write::SetGeneration(_)) => true,
            (Refused::LocalPod(n), Write::PutPod(addr, _)) => *addr == Addr::from(local_addr(n)),
            _ => false,
        }
    }

    fn is_policy(self) -> bool {
        matches!(self, Refused::Class(_) | Refused::VerdictMaps | Refused::Generation | Refused::LocalPod(_))
    }

    /// Whether it can stand in the way of a frontend with this wanted answer.
    fn touches(self, key: &ServiceKey, wanted: &Resolved) -> bool {
        let is_backend =
            |n| wanted.backends.iter().any(|b| b.addr == Addr::from(IpAddr::from([10, 0, 1, n])));
        match self {
            Refused::Backend(n) => is_backend(n),
            Refused::Frontend(n) => key.addr == Addr::from(IpAddr::from([10, 96, 0, n + 1])),
            Refused::Maglev => key.scope.is_external(),
            Refused::Ranges => wanted.ranges.is_some(),
            _ => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_fails_for_ever_holds_up_nothing_else(
        rounds in vec((vec(event(), 1..6), any::<bool>()), 1..8), refused in refused()
    ) {
        let (mut sound, mut troubled) = (planner(Observed::default()), planner(Observed::default()));
        for planner in [&mut sound, &mut troubled] {
            planner.synced();
        }
        for (events, garbage) in &rounds {
            for (planner, refused) in [(&mut sound, None), (&mut troubled, Some(refused))] {
                events.iter().for_each(|event| perform(planner, event));
                let fails = |write: &Write| refused.is_some_and(|refused| refused.covers(write));
                carry_out_except(planner, fails, |maps, write| {
                    for key in maps.services.keys() {
                        let is_whole = |got: Resolved| got.has_whole_table && !got.backends.contains(&Backend::default());
                        assert!(resolve(maps, key).is_some_and(is_whole), "after {write:?}: {key:?} is half");
                    }
                });
                if *garbage {
                    collect(planner, fails);
                }
            }
        }
        let (services, verdicts, ..) = content(sound.kernel());
        for (key, wanted) in &services {
            if !refused.touches(key, wanted.as_ref().unwrap()) {
                prop_assert_eq!(&resolve(troubled.kernel(), key), wanted, "{:?}", key);
            }
        }
        let gone = troubled.kernel().services.keys().find(|key| !services.contains_key(*key));
        prop_assert_eq!(gone, None);
        if !refused.is_policy() {
            prop_assert_eq!(&content(troubled.kernel()).1, &verdicts);
        }
        let without = |maps: &Observed| {
            let (mut routes, mut cluster) = (maps.routes.clone(), maps.cluster.clone());
            routes.retain(|cidr, via| !refused.covers(&Write::PutRoute { cidr: *cidr, via: *via }));
            cluster.retain(|(prefix_bits, addr)| {
                !refused.covers(&Write::PutCluster { prefix_bits: *prefix_bits, addr: *addr })
            });
            (routes, cluster, maps.unreachable.clone())
        };
        prop_assert_eq!(without(troubled.kernel()), without(sound.kernel()));

        // And once it no longer fails, everything is as if it never had.
        for _ in 0..2 {
            carry_out(&mut troubled, usize::MAX, |_, _| {});
            collect(&mut troubled, |_| false);
        }
        prop_assert_eq!(troubled.failures().next(), None);
        prop_assert_eq!(content(troubled.kernel()), content(sound.kernel()));
    }
}
