//! The metrics APIs: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`.
//!
//! In: a question. Out: numbers in thousandths, or upstream's words about why there are none.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::scales::{self, Scales, encoded, text};
use crate::controllers::horizontal_pod_autoscaler::error::AutoscalerError;
use crate::controllers::horizontal_pod_autoscaler::metric::{Answer, Measured, PodUsage, Question};
use crate::controllers::horizontal_pod_autoscaler::usage::{PodMetric, millis};

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// Of a metric that does not say it, as upstream assumes.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// PodMetrics of `metrics.k8s.io`.
#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// MetricValue of `custom.metrics.k8s.io`; version v1beta1 calls the seconds `window`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Named,
    timestamp: Option<Timestamp>,
    #[serde(alias = "window")]
    window_seconds: Option<i64>,
    value: String,
}

/// ExternalMetricValue of `external.metrics.k8s.io`.
#[derive(Deserialize)]
struct ExternalMetricValue {
    value: String,
}

/// Asks. `selector` selects the target's pods.
pub(super) async fn ask(
    client: &Client,
    scales: &Scales,
    namespace: &str,
    selector: &str,
    question: &Question,
) -> Answer {
    match question {
        Question::Resource { .. } => of_resources(client, namespace, selector).await,
        Question::Pods { metric, selector: of_metric } => {
            let path = format!("namespaces/{namespace}/pods/%2A/{}", encoded(metric));
            let query = query(&[("labelSelector", selector), ("metricLabelSelector", of_metric)]);
            let found: List<MetricValue> = custom(client, &path, &query).await?;
            let samples: BTreeMap<String, PodMetric> = found.items.into_iter().map(pod_metric).collect();
            match samples.is_empty() {
                true => Err("no metrics returned from custom metrics API".into()),
                false => Ok(Measured::Pods(samples)),
            }
        }
        Question::Object { object, metric, selector } => {
            of_object(client, scales, namespace, object, metric, selector).await
        }
        Question::External { metric, selector } => of_external(client, namespace, metric, selector).await,
    }
}

fn pod_metric(item: MetricValue) -> (String, PodMetric) {
    let window = item.window_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let sample = PodMetric {
        at: item.timestamp.unwrap_or(Timestamp::UNIX_EPOCH),
        window: window.map_or(DEFAULT_WINDOW, Duration::from_secs),
        value: millis(&item.value),
    };
    (item.described_object.name, sample)
}

async fn of_resources(client: &Client, namespace: &str, selector: &str) -> Answer {
    let query = query(&[("labelSelector", selector)]);
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods{query}");
    let found: List<PodMetrics> = get(client, &path)
        .await
        .map_err(|error| format!("unable to fetch metrics from resource metrics API: {}", text(error)))?;
    if found.items.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    Ok(Measured::Containers(found.items.into_iter().map(pod_usage).collect()))
}

fn pod_usage(item: PodMetrics) -> (String, PodUsage) {
    let containers = item.containers.into_iter().map(|container| {
        let usage = container.usage.into_iter().map(|(name, quantity)| (name, millis(&quantity)));
        (container.name, usage.collect())
    });
    // Go's form of a duration is one of those that jiff reads.
    let window: Option<SignedDuration> = item.window.parse().ok();
    let window = window.and_then(|window| Duration::try_from(window).ok()).unwrap_or(DEFAULT_WINDOW);
    let sample = PodMetric { at: item.timestamp, window, value: 0 };
    (item.metadata.name, PodUsage { sample, containers: containers.collect() })
}

async fn of_object(
    client: &Client,
    scales: &Scales,
    namespace: &str,
    object: &CrossVersionObjectReference,
    metric: &str,
    selector: &str,
) -> Answer {
    let unable = |error: AutoscalerError| {
        AutoscalerError(format!("unable to fetch metrics from custom metrics API: {error}"))
    };
    let api_version = object.api_version.as_deref().unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let (name, metric) = (encoded(&object.name), encoded(metric));
    // A metric of the namespace itself is asked for below the namespace, whatever the name is.
    let path = if group.is_empty() && object.kind == "Namespace" {
        format!("namespaces/{namespace}/metrics/{metric}")
    } else {
        let resources = scales.resources(group, &object.kind).await.map_err(unable)?;
        let resource = resources.into_iter().next();
        let resource = resource.ok_or_else(|| unable(scales::no_kind(group, &object.kind)))?;
        let plural = &resource.api.plural;
        let resource = if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") };
        format!("namespaces/{namespace}/{resource}/{name}/{metric}")
    };
    let found: List<MetricValue> =
        custom(client, &path, &query(&[("metricLabelSelector", selector)])).await?;
    match found.items.as_slice() {
        [one] => Ok(Measured::Value(millis(&one.value))),
        all => Err(unable(
            format!(
                "the custom metrics API server returned {} results when we asked for exactly one",
                all.len()
            )
            .into(),
        )),
    }
}

async fn of_external(client: &Client, namespace: &str, metric: &str, selector: &str) -> Answer {
    let query = query(&[("labelSelector", selector)]);
    let path = format!("/apis/{EXTERNAL}/v1beta1/namespaces/{namespace}/{}{query}", encoded(metric));
    let found: List<ExternalMetricValue> = get(client, &path).await.map_err(|error| {
        let mut why = text(error).0;
        if why == "the server could not find the requested resource" {
            why = format!("{why} (get {metric}.{EXTERNAL})");
        }
        format!("unable to fetch metrics from external metrics API: {why}")
    })?;
    if found.items.is_empty() {
        return Err("no metrics returned from external metrics API".into());
    }
    Ok(Measured::Values(found.items.iter().map(|item| millis(&item.value)).collect()))
}

/// Asks the preferred version of the custom metrics API.
async fn custom<T: DeserializeOwned>(client: &Client, path: &str, query: &str) -> Result<T, AutoscalerError> {
    let unable = |why: AutoscalerError| {
        AutoscalerError(format!("unable to fetch metrics from custom metrics API: {why}"))
    };
    let group: APIGroup = match get(client, &format!("/apis/{CUSTOM}")).await {
        Ok(group) => group,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(unable(format!("no custom metrics API ({CUSTOM}) registered").into()));
        }
        Err(error) => return Err(unable(text(error))),
    };
    let version = group.preferred_version.or_else(|| group.versions.into_iter().next());
    let version = version.map_or_else(|| format!("{CUSTOM}/v1beta1"), |version| version.group_version);
    get(client, &format!("/apis/{version}/{path}{query}")).await.map_err(|error| unable(text(error)))
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> kube::Result<T> {
    let request = Request::get(path).body(Vec::new());
    client
        .request(
            request.map_err(|error| {
                kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error))
            })?,
        )
        .await
}

/// `?a=b&c=d` of those that are not empty.
fn query(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_are_thousandths_with_their_windows() {
        let item = |window: &str| {
            let usage = json!({"cpu": "2500123n", "memory": "3Mi"});
            let item = json!({"metadata": {"name": "p"}, "timestamp": "2026-05-01T10:00:07Z", "window": window,
                "containers": [{"name": "main", "usage": usage}]});
            pod_usage(serde_json::from_value(item).unwrap()).1
        };
        for (text, millis) in [("10.25s", 10_250), ("15s", 15_000), ("1m0.5s", 60_500), ("850ms", 850)] {
            let PodUsage { sample, containers } = item(text);
            assert_eq!(sample.window, Duration::from_millis(millis), "{text}");
            assert_eq!(
                containers["main"],
                [("cpu".to_owned(), 3), ("memory".to_owned(), 3_145_728_000)].into()
            );
        }
    }

    #[test]
    fn both_versions_of_custom_metrics_are_read() {
        for window in ["window", "windowSeconds"] {
            let mut item = json!({"describedObject": {"kind": "Pod", "name": "p"}, "metricName": "m",
                "timestamp": "2026-05-01T10:00:07Z", "value": "1500m"});
            item[window] = 30.into();
            let (name, sample) = pod_metric(serde_json::from_value(item).unwrap());
            assert_eq!((&*name, sample.value, sample.window), ("p", 1_500, Duration::from_secs(30)));
        }
    }

    #[test]
    fn selectors_are_escaped_in_queries() {
        assert_eq!(
            query(&[("labelSelector", "a in (b,c)"), ("metricLabelSelector", "")]),
            "?labelSelector=a%20in%20%28b%2Cc%29"
        );
        assert_eq!(query(&[("labelSelector", "")]), "");
    }
}
