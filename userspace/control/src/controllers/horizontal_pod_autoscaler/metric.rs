//! One metric of an autoscaler: what to ask for, and how many replicas the answer needs. PURE.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skep_api::quantity::Quantity as Amount;

use super::error::AutoscalerError;
use super::selector;
use super::usage::{Goal, PodMetric, PodMetrics, Pods, Proposal, Tolerances, ceil, millis};

/// A question to one of the metrics APIs. Selectors are in the form of queries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// Usage of a resource by the pods, by one container of each or by all.
    Resource {
        resource: String,
        container: String,
    },
    /// A custom metric of each pod.
    Pods {
        metric: String,
        selector: String,
    },
    /// A custom metric of one object.
    Object {
        object: CrossVersionObjectReference,
        metric: String,
        selector: String,
    },
    External {
        metric: String,
        selector: String,
    },
}

/// What the API answered; values are in thousandths.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// Of resources: the usage of each pod's containers, by resource.
    Containers(BTreeMap<String, PodUsage>),
    Pods(PodMetrics),
    Value(i64),
    Values(Vec<i64>),
}

/// The usage of a pod's containers at one time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodUsage {
    pub(crate) sample: PodMetric,
    /// By container and resource.
    pub(crate) containers: BTreeMap<String, BTreeMap<String, i64>>,
}

/// An answer, or upstream's words about why there is none.
pub(crate) type Answer = Result<Measured, AutoscalerError>;

/// What a metric asks of the cluster: the present replicas, and their pods.
pub(crate) struct Present<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) replicas: i32,
    /// Those that the target's status counts.
    pub(crate) status_replicas: i32,
    pub(crate) pods: Pods<'a>,
    pub(crate) tolerances: Tolerances,
}

/// A number of replicas that a metric needs, its name in messages, and its status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetricProposal {
    pub(crate) replicas: i32,
    pub(crate) name: String,
    pub(crate) status: MetricStatus,
}

/// Why a metric says nothing: the reason of the condition and Event, their text, and the text of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) error: String,
}

/// The question of a metric; `None`: its type is not known.
pub(crate) fn question(spec: &MetricSpec) -> Option<Result<Question, MetricFailure>> {
    let read = |selector: Option<&LabelSelector>, reason, what: &str| {
        selector::query(selector).map_err(|AutoscalerError(error)| MetricFailure {
            reason,
            error: format!("failed to get {what} metric value: {error}"),
            message: error,
        })
    };
    let MetricSpec { container_resource, external, object, pods, resource, type_: _ } = spec;
    Some(if let Some(source) = resource {
        Ok(Question::Resource { resource: source.name.clone(), container: String::new() })
    } else if let Some(source) = container_resource {
        Ok(Question::Resource { resource: source.name.clone(), container: source.container.clone() })
    } else if let Some(source) = pods {
        let metric = source.metric.name.clone();
        read(source.metric.selector.as_ref(), "FailedGetPodsMetric", "pods")
            .map(|selector| Question::Pods { metric, selector })
    } else if let Some(source) = object {
        let (object, metric) = (source.described_object.clone(), source.metric.name.clone());
        read(source.metric.selector.as_ref(), "FailedGetObjectMetric", "object")
            .map(|selector| Question::Object { object, metric, selector })
    } else if let Some(source) = external {
        let metric = source.metric.name.clone();
        let what = format!("{metric} external");
        read(source.metric.selector.as_ref(), "FailedGetExternalMetric", &what)
            .map(|selector| Question::External { metric, selector })
    } else {
        return None;
    })
}

/// The replicas that the answer to a metric's question needs.
pub(crate) fn propose(
    spec: &MetricSpec,
    answer: Answer,
    present: &Present<'_>,
) -> Result<MetricProposal, MetricFailure> {
    let MetricSpec { container_resource, external, object, pods, resource, type_ } = spec;
    let status = MetricStatus { type_: type_.clone(), ..MetricStatus::default() };
    if let Some(source) = resource {
        let found = of_resource(&source.name, "", &source.target, answer, present);
        let (replicas, current, name) = failing(found, "FailedGetResourceMetric", |error| {
            format!("failed to get {} resource metric value: {error}", source.name)
        })?;
        let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
        return Ok(MetricProposal { replicas, name, status: MetricStatus { resource, ..status } });
    }
    if let Some(source) = container_resource {
        let found = of_resource(&source.name, &source.container, &source.target, answer, present);
        let (replicas, current, name) = failing(found, "FailedGetContainerResourceMetric", |error| {
            format!("failed to get {} container metric value: {error}", source.container)
        })?;
        let container_resource = Some(ContainerResourceMetricStatus {
            name: source.name.clone(),
            container: source.container.clone(),
            current,
        });
        return Ok(MetricProposal { replicas, name, status: MetricStatus { container_resource, ..status } });
    }
    if let Some(source) = pods {
        let found = of_pods(&source.metric, &source.target, answer, present);
        let Proposal { replicas, usage, .. } = failing(found, "FailedGetPodsMetric", |error| {
            format!("failed to get pods metric value: {error}")
        })?;
        let metric = source.metric.clone();
        let name = format!("pods metric {}", metric.name);
        let pods = Some(PodsMetricStatus { current: average(usage), metric });
        return Ok(MetricProposal { replicas, name, status: MetricStatus { pods, ..status } });
    }
    if let Some(source) = object {
        let (described, metric) = (&source.described_object, &source.metric);
        let found = of_object(described, metric, &source.target, answer, present);
        let (replicas, current, name) = failing(found, "FailedGetObjectMetric", |error| {
            format!("failed to get object metric value: {error}")
        })?;
        let object =
            Some(ObjectMetricStatus { current, described_object: described.clone(), metric: metric.clone() });
        return Ok(MetricProposal { replicas, name, status: MetricStatus { object, ..status } });
    }
    if let Some(source) = external {
        let found = of_external(&source.metric, &source.target, answer, present);
        let (replicas, current, name) = failing(found, "FailedGetExternalMetric", |error| {
            format!("failed to get {} external metric value: {error}", source.metric.name)
        })?;
        let external = Some(ExternalMetricStatus { current, metric: source.metric.clone() });
        return Ok(MetricProposal { replicas, name, status: MetricStatus { external, ..status } });
    }
    let error = format!("unknown metric source type {type_:?}");
    Err(MetricFailure { reason: "InvalidMetricSourceType", message: error.clone(), error })
}

fn failing<T>(
    found: Result<T, AutoscalerError>,
    reason: &'static str,
    error: impl FnOnce(&str) -> String,
) -> Result<T, MetricFailure> {
    found.map_err(|AutoscalerError(message)| MetricFailure { reason, error: error(&message), message })
}

type Found = Result<(i32, MetricValueStatus, String), AutoscalerError>;

fn of_resource(
    resource: &str,
    container: &str,
    target: &MetricTarget,
    answer: Answer,
    present: &Present<'_>,
) -> Found {
    let (goal, what) = match (&target.average_value, target.average_utilization) {
        (Some(value), _) => (Goal::Average(millis(&value.0)), "usage"),
        (None, Some(percent)) => (Goal::Utilization { percent, resource, container }, "utilization"),
        (None, None) => {
            let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(why.into());
        }
    };
    let failed =
        |error: AutoscalerError| AutoscalerError(format!("failed to get {resource} {what}: {error}"));
    let unable = |error: AutoscalerError| {
        failed(format!("unable to get metrics for resource {resource}: {error}").into())
    };
    let metrics = match answer.map_err(unable)? {
        Measured::Containers(usages) => samples(usages, resource, container),
        other => return Err(unable(format!("unexpected answer {other:?}").into())),
    };
    let proposed = present.pods.replicas_for(metrics, present.replicas, &goal, resource, present.tolerances);
    let Proposal { replicas, usage, utilization } = proposed.map_err(failed)?;
    let name = match (goal, container) {
        (Goal::Average(_), _) => format!("{resource} resource"),
        (_, "") => format!("{resource} resource utilization (percentage of request)"),
        _ => format!("{resource} container resource utilization (percentage of request)"),
    };
    let current = MetricValueStatus {
        average_utilization: utilization,
        average_value: Some(amount(resource, usage)),
        value: None,
    };
    Ok((replicas, current, name))
}

/// The samples of pods of which every container that counts is known.
fn samples(usages: BTreeMap<String, PodUsage>, resource: &str, container: &str) -> PodMetrics {
    let sample = |(pod, PodUsage { sample, containers }): (String, PodUsage)| {
        let value = match container {
            "" => {
                let values = containers.values().map(|usage| usage.get(resource).copied());
                let values: Vec<i64> = values.collect::<Option<_>>().filter(|v: &Vec<i64>| !v.is_empty())?;
                values.iter().fold(0i64, |sum, value| sum.saturating_add(*value))
            }
            container => *containers.get(container)?.get(resource)?,
        };
        Some((pod, PodMetric { value, ..sample }))
    };
    usages.into_iter().filter_map(sample).collect()
}

fn of_pods(
    metric: &MetricIdentifier,
    target: &MetricTarget,
    answer: Answer,
    present: &Present<'_>,
) -> Result<Proposal, AutoscalerError> {
    let unable =
        |error: AutoscalerError| AutoscalerError(format!("unable to get metric {}: {error}", metric.name));
    let metrics = match answer.map_err(unable)? {
        Measured::Pods(metrics) => metrics,
        other => return Err(unable(format!("unexpected answer {other:?}").into())),
    };
    let goal = Goal::Average(target.average_value.as_ref().map_or(0, |value| millis(&value.0)));
    present.pods.replicas_for(metrics, present.replicas, &goal, "", present.tolerances)
}

fn of_object(
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
    target: &MetricTarget,
    answer: Answer,
    present: &Present<'_>,
) -> Found {
    let unable = |error: AutoscalerError| {
        let (kind, namespace, name) = (&object.kind, present.namespace, &object.name);
        AutoscalerError(format!("unable to get metric {}: {kind} on {namespace} {name}/{error}", metric.name))
    };
    let usage = |answer: Answer| match answer.map_err(unable)? {
        Measured::Value(value) => Ok(value),
        other => Err(unable(format!("unexpected answer {other:?}").into())),
    };
    match (target.type_.as_str(), &target.value, &target.average_value) {
        ("Value", Some(value), _) => {
            let usage = usage(answer)?;
            let ratio = usage as f64 / millis(&value.0) as f64;
            let replicas = present.pods.replicas_for_ratio(ratio, present.replicas, present.tolerances)?;
            Ok((replicas, value_status(usage), format!("{} metric {}", object.kind, metric.name)))
        }
        ("AverageValue", _, Some(value)) => {
            let failed = |error: AutoscalerError| {
                AutoscalerError(format!("failed to get {} object metric: {error}", metric.name))
            };
            let usage = usage(answer).map_err(failed)?;
            let (replicas, usage) = per_pod(usage, millis(&value.0), present);
            Ok((replicas, average(usage), external_name(metric)))
        }
        _ => {
            let why =
                "invalid object metric source: neither a value target nor an average value target was set";
            Err(why.into())
        }
    }
}

fn of_external(
    metric: &MetricIdentifier,
    target: &MetricTarget,
    answer: Answer,
    present: &Present<'_>,
) -> Found {
    let usage = |answer: Answer| {
        let unable = |error: AutoscalerError| {
            let selector = selector::shown(metric.selector.as_ref());
            let (namespace, name) = (present.namespace, &metric.name);
            AutoscalerError(format!("unable to get external metric {namespace}/{name}/{selector}: {error}"))
        };
        match answer.map_err(unable)? {
            Measured::Values(values) => Ok(values.iter().fold(0i64, |sum, v| sum.saturating_add(*v))),
            other => Err(unable(format!("unexpected answer {other:?}").into())),
        }
    };
    if let Some(value) = &target.average_value {
        let failed = |error: AutoscalerError| {
            AutoscalerError(format!("failed to get {} external metric: {error}", metric.name))
        };
        let usage = usage(answer).map_err(failed)?;
        let (replicas, usage) = per_pod(usage, millis(&value.0), present);
        return Ok((replicas, average(usage), external_name(metric)));
    }
    if let Some(value) = &target.value {
        let failed = |error: AutoscalerError| {
            AutoscalerError(format!("failed to get external metric {}: {error}", metric.name))
        };
        let usage = usage(answer).map_err(failed)?;
        let ratio = usage as f64 / millis(&value.0) as f64;
        let replicas = present.pods.replicas_for_ratio(ratio, present.replicas, present.tolerances);
        return Ok((replicas.map_err(failed)?, value_status(usage), external_name(metric)));
    }
    let why = "invalid external metric source: neither a value target nor an average value target was set";
    Err(why.into())
}

/// The replicas for a usage that is shared by all of them, and the share of each, rounded up.
fn per_pod(usage: i64, wanted: i64, present: &Present<'_>) -> (i32, i64) {
    let replicas = f64::from(present.status_replicas);
    let ratio = usage as f64 / (wanted as f64 * replicas);
    let wanted = match present.tolerances.contain(ratio) {
        true => present.status_replicas,
        false => ceil(usage as f64 / wanted as f64),
    };
    // A cast from f64 saturates.
    (wanted, (usage as f64 / replicas).ceil() as i64)
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, selector::shown(metric.selector.as_ref()))
}

fn average(millis: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(amount("", millis)), ..MetricValueStatus::default() }
}

fn value_status(millis: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(amount("", millis)), ..MetricValueStatus::default() }
}

/// Thousandths as a quantity; memory in whole bytes from 1024 on, as upstream rounds binary quantities up.
fn amount(resource: &str, millis: i64) -> Quantity {
    let amount = match resource {
        "memory" if millis >= 1_024_000 => {
            Amount::from_bytes(i128::from(millis).div_euclid(1_000) + i128::from(millis % 1_000 > 0))
        }
        _ => Amount::from_millis(millis.into()),
    };
    Quantity(amount.to_string())
}
