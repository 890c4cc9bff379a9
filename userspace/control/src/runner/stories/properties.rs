//! Properties of Deployments and ReplicaSets, whatever lags or is lost.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use proptest::prelude::*;
use serde_json::json;

use super::{active, deployment, image, ready, sim, web};
use crate::cache::{Key, Kind};
use crate::controllers::pods;
use crate::runner::sim::{Fate, Sim};

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Happening {
    Deliver(usize),
    Decide,
    Perform(Fate),
    /// A kubelet acts on the nth pod.
    Kubelet(usize, bool),
    Roll(u32),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..6_usize).prop_map(Happening::Deliver),
        4 => Just(Happening::Decide),
        4 => prop_oneof![
            6 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::NeverSent)
        ].prop_map(Happening::Perform),
        6 => (0..40_usize, prop::bool::weighted(0.9)).prop_map(|(n, r)| Happening::Kubelet(n, r)),
        1 => (1..5_u32).prop_map(Happening::Roll),
        2 => (1..2000_u64).prop_map(Happening::Wait),
    ]
}

fn happen(sim: &mut Sim, happening: Happening) {
    match happening {
        Happening::Deliver(n) => sim.deliver(n),
        Happening::Decide => sim.decide(),
        Happening::Perform(fate) => sim.perform(fate),
        Happening::Kubelet(n, ready) => {
            let pods = sim.pods();
            if let Some(pod) = pods.get(n % pods.len().max(1)) {
                // A pod that was ready stays so: what is lost otherwise is not the controllers' doing.
                sim.kubelet(&Key::of(&pod.metadata), "node-1", ready || pods::ready(pod));
            }
        }
        Happening::Roll(version) => drop(sim.patch(Kind::Deployment, &web(), image(version))),
        Happening::Wait(ms) => sim.advance(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn a_rolling_update_keeps_its_bounds_whatever_lags_or_is_lost(
        replicas in 1..8_i32, surge in 0..4_i32, unavailable in 0..4_i32,
        happenings in prop::collection::vec(happening(), 50..400),
    ) {
        let (surge, unavailable) = if surge + unavailable == 0 { (1, 0) } else { (surge, unavailable) };
        let mut sim = sim();
        let mut d = deployment(replicas, "0", "0");
        d.spec.as_mut().unwrap().strategy = serde_json::from_value(json!({
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
        })).unwrap();
        sim.create(d);
        sim.settle();
        let (most, least) = ((replicas + surge) as usize, (replicas - unavailable).max(0) as usize);
        for happening in happenings {
            happen(&mut sim, happening.clone());
            prop_assert!(active(&sim) <= most, "{} pods after {happening:?}", active(&sim));
            prop_assert!(ready(&sim) >= least, "{} ready after {happening:?}", ready(&sim));
        }
        sim.advance(Duration::from_secs(2000));
        sim.settle();
        prop_assert_eq!(ready(&sim), replicas as usize, "it ends whole");
    }

    #[test]
    fn a_set_never_creates_a_pod_twice(
        replicas in 1..20_i32, happenings in prop::collection::vec(happening(), 20..200),
    ) {
        let mut sim = sim();
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            },
        })).unwrap();
        sim.create(set);
        for happening in happenings {
            happen(&mut sim, happening);
            prop_assert!(sim.pods().len() <= replicas as usize);
        }
        sim.advance(Duration::from_secs(2000));
        sim.settle();
        prop_assert_eq!(sim.creates, 1 + replicas as usize);
    }
}
