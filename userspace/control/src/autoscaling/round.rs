//! One look at an autoscaler: asks its target's scale and the metrics, performs the decision, writes the status and Events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use skep_api::selector::LabelSelector;

use super::scales::Scales;
use super::{metrics, scales};
use crate::action::{Action, Record};
use crate::cache::{Key, Kind};
use crate::clock::Now;
use crate::controllers::horizontal_pod_autoscaler::behavior::History;
use crate::controllers::horizontal_pod_autoscaler::metric::{Answer, MetricFailure, question};
use crate::controllers::horizontal_pod_autoscaler::{self as core, AutoscalerEvent, Decision, PodLabels};
use crate::events::Recorder;
use crate::guard::caught_async;
use crate::hub::ViewReader;
use crate::{meta, requests};

/// What all rounds use.
pub(super) struct Shared {
    client: Client,
    view: ViewReader,
    scales: Scales,
    recorder: Recorder,
    /// The selectors of the targets' pods, as of the last round of each autoscaler.
    selectors: Mutex<HashMap<Key, LabelSelector>>,
}

impl Shared {
    pub(super) fn new(client: Client, view: ViewReader) -> Shared {
        Shared {
            scales: Scales::new(client.clone()),
            client,
            view,
            recorder: Recorder::default(),
            selectors: Mutex::default(),
        }
    }

    /// The autoscaler is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.selectors().remove(key);
    }

    fn selectors(&self) -> MutexGuard<'_, HashMap<Key, LabelSelector>> {
        self.selectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods of the namespace that the selector selects.
    fn pods(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<Pod>> {
        self.view.with_view(|view| {
            let pods = view.pods.in_namespace(namespace).map(|(_, pod)| pod);
            pods.filter(|pod| selector.matches(&PodLabels(pod))).cloned().collect()
        })
    }

    /// Remembers the autoscaler's selector; returns all autoscalers that select one of the pods.
    fn rivals(&self, key: &Key, selector: LabelSelector, pods: &[Arc<Pod>]) -> Vec<Key> {
        let mut selectors = self.selectors();
        selectors.insert(key.clone(), selector);
        let of_namespace = selectors.iter().filter(|(other, _)| other.namespace == key.namespace);
        core::rivals(pods, of_namespace)
    }
}

pub(super) struct Round {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) history: History,
}

/// The end of a round.
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) history: History,
}

impl Round {
    /// A panic ends this round only; what was remembered is forgotten.
    pub(super) async fn run(mut self) -> Done {
        if let Err(error) = caught_async(self.look()).await {
            tracing::error!(autoscaler = %self.key, %error, "round of an autoscaler failed; it is retried");
            self.history = History::default();
        }
        Done { key: self.key, uid: self.uid, history: self.history }
    }

    async fn look(&mut self) {
        let shared = self.shared.clone();
        let object = shared.view.with_view(|view| view.autoscalers.get(&self.key).cloned());
        let Some(object) = object.filter(|object| !meta::terminating(&object.metadata)) else { return };
        let spec = &object.spec;
        let round = core::Round::new(&object, Now::read());
        let found = shared.scales.get(&self.key.namespace, &spec.scale_target_ref).await;
        let mut found = match found {
            Ok(found) => found,
            Err(error) => return self.write(&object, round.without_target(&error)).await,
        };
        let target = found.target();
        let (mut pods, mut rivals, mut usable) = (Vec::new(), Vec::new(), false);
        if let Some(selector) =
            LabelSelector::parse(&target.selector).ok().filter(|selector| !selector.is_empty())
        {
            pods = shared.pods(&self.key.namespace, &selector);
            rivals = shared.rivals(&self.key, selector, &pods);
            usable = rivals.len() <= 1;
        }
        let answers = match usable && round.needs_metrics(&target) {
            true => self.ask(&object, &target.selector).await,
            false => Vec::new(),
        };
        let mut decision = round.decide(&target, &pods, &rivals, answers, &mut self.history);
        if let Some((replicas, reason)) = decision.rescale.clone() {
            let result = shared.scales.set(&mut found, replicas).await;
            let now = Now::read();
            match &result {
                Ok(()) => {
                    self.history.scaled(spec.behavior.as_ref(), target.replicas, replicas, now.steady);
                    tracing::info!(autoscaler = %self.key, from = target.replicas, to = replicas, reason, "target rescaled");
                }
                Err(error) => {
                    tracing::info!(autoscaler = %self.key, to = replicas, %error, "rescale target failed");
                }
            }
            let before = object.status.as_ref().map_or(0, |status| status.desired_replicas);
            decision.rescaled(target.replicas, before, result, now.wall);
        }
        self.write(&object, decision).await;
    }

    /// The answers of the metrics APIs, one for each metric.
    async fn ask(
        &self,
        object: &HorizontalPodAutoscaler,
        selector: &str,
    ) -> Vec<Result<Answer, MetricFailure>> {
        let specs = object.spec.metrics.as_deref().unwrap_or_default();
        let namespace = &*self.key.namespace;
        let answers = specs.iter().map(|spec| async move {
            match question(spec) {
                Some(Ok(question)) => {
                    let shared = &self.shared;
                    Ok(metrics::ask(&shared.client, &shared.scales, namespace, selector, &question).await)
                }
                Some(Err(failure)) => Err(failure),
                // The decision says that the type is not known.
                None => Ok(Err("".into())),
            }
        });
        join_all(answers).await
    }

    async fn write(&self, object: &HorizontalPodAutoscaler, decision: Decision) {
        let Decision { status, mut events, rescale: _ } = decision;
        let client = &self.shared.client;
        let kind = Kind::HorizontalPodAutoscaler;
        if object.status.as_ref() != Some(&status)
            && let Action::Patch { key, patch, .. } =
                Action::patch_status(kind, self.key.clone(), object.status.as_ref(), &status)
            && let Err(error) = requests::patch(client, kind, &key, &patch, "status").await
        {
            let message = scales::text(error).0;
            tracing::info!(autoscaler = %self.key, error = message, "write status of autoscaler failed");
            events.push(AutoscalerEvent { warning: true, reason: "FailedUpdateStatus", message });
        }
        for AutoscalerEvent { warning, reason, message } in events {
            let uid = meta::uid(&object.metadata).to_owned();
            let record = Record { kind, key: self.key.clone(), uid, warning, reason, message };
            self.shared.recorder.record(client, "horizontal-pod-autoscaler", &record).await;
        }
    }
}
