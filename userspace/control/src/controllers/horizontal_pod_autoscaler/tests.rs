//! Decisions on autoscalers, by tables of pods, samples and wanted replicas, and by the rounds of one autoscaler.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::metric::{Measured, PodUsage, question};
use super::usage::{Goal, PodMetric, PodMetrics};
use super::*;

const NOW: &str = "2026-05-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn at(seconds: i64) -> Now {
    let wall = Timestamp::from_second(now().as_second() + seconds).unwrap();
    Now { wall, steady: wall }
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() - seconds).unwrap()
}

/// A pod `p0`, `p1`, ... that requests a core; its phase, whether it is ready and since when, when it started.
fn pod(name: &str, phase: &str, ready: &str, changed: i64, started: i64) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
        "spec": {"containers": [
            {"name": "main", "resources": {"requests": {"cpu": "600m", "memory": "1Ki"}}},
            {"name": "helper", "resources": {"requests": {"cpu": "400m", "memory": "1Ki"}}}]},
        "status": {"phase": phase, "startTime": ago(started).to_string(),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": ago(changed).to_string()}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn ready(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|index| pod(&format!("p{index}"), "Running", "True", 600, 900)).collect()
}

fn sample(value: i64) -> PodMetric {
    PodMetric { at: ago(5), window: Duration::from_secs(10), value }
}

fn samples(values: &[i64]) -> PodMetrics {
    values.iter().enumerate().map(|(index, value)| (format!("p{index}"), sample(*value))).collect()
}

const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

fn cpu(percent: i32) -> Goal<'static> {
    Goal::Utilization { percent, resource: "cpu", container: "" }
}

/// What it shows, the pods, their usage, the goal, the present replicas and the wanted ones.
type UsageCase = (&'static str, Vec<Arc<Pod>>, Vec<i64>, Goal<'static>, i32, i32);

#[test]
fn replicas_follow_the_usage_of_ready_pods() {
    let pending = |name| pod(name, "Pending", "False", 10, 10);
    let with = |mut pods: Vec<Arc<Pod>>, more: Vec<Arc<Pod>>| {
        pods.extend(more);
        pods
    };
    let cases: Vec<UsageCase> = vec![
        ("up", ready(3), vec![300, 500, 700], cpu(30), 3, 5),
        ("within the tolerance", ready(3), vec![1010, 1030, 1020], cpu(100), 3, 3),
        ("down", ready(5), vec![100, 300, 500, 250, 250], cpu(50), 5, 3),
        ("a value instead of a share", ready(3), vec![20_000, 10_000, 30_000], Goal::Average(15_000), 3, 4),
        ("a missing sample damps a fall", ready(4), vec![400, 400, 400], cpu(100), 4, 3),
        ("a missing sample damps a rise", ready(3), vec![1_000, 1_000], cpu(60), 3, 3),
        ("missing ones use nothing on a rise", ready(2), vec![1_000], cpu(60), 2, 2),
        (
            "pods that wait count as idle on a rise",
            with(ready(1), vec![pending("w0"), pending("w1")]),
            vec![3_000],
            cpu(30),
            3,
            10,
        ),
        (
            "pods that wait do not count on a fall",
            with(ready(2), vec![pending("w")]),
            vec![100, 100],
            cpu(50),
            3,
            1,
        ),
        (
            "failed pods do not count",
            with(ready(2), vec![pod("f", "Failed", "False", 1, 1)]),
            vec![500, 500],
            cpu(50),
            2,
            2,
        ),
    ];
    for (what, pods, values, goal, current, wanted) in cases {
        let pods = Pods { all: &pods, now: now() };
        let found = pods.replicas_for(samples(&values), current, &goal, "cpu", TOLERANCES).unwrap();
        assert_eq!(found.replicas, wanted, "{what}");
    }
}

#[test]
fn cpu_samples_of_pods_that_start_do_not_count() {
    let counts = |pod: Arc<Pod>, metric: PodMetric, resource: &str| {
        let all = [ready(1), vec![pod]].concat();
        let mut metrics = samples(&[500]);
        metrics.insert("new".to_owned(), metric);
        let pods = Pods { all: &all, now: now() };
        // The new pod uses all of its request; the other one half.
        let found = pods.replicas_for(metrics, 2, &cpu(50), resource, TOLERANCES).unwrap();
        found.utilization == Some(75)
    };
    let new = |ready, changed, started| pod("new", "Running", ready, changed, started);
    let busy = sample(1_000);
    for (what, pod, metric, resource, wanted) in [
        ("long ready", new("True", 600, 900), busy, "cpu", true),
        ("starts and is not ready", new("False", 60, 60), busy, "cpu", false),
        ("ready for less than the window", new("True", 12, 60), busy, "cpu", false),
        ("ready for the whole window", new("True", 16, 60), busy, "cpu", true),
        ("never ready in its first half minute", new("False", 880, 900), busy, "cpu", false),
        ("was ready, and is not any more", new("False", 100, 900), busy, "cpu", true),
        ("memory counts at once", new("False", 60, 60), busy, "memory", true),
    ] {
        assert_eq!(counts(pod, metric, resource), wanted, "{what}");
    }
}

#[test]
fn what_cannot_be_computed_says_why() {
    let pods = ready(2);
    let pods = Pods { all: &pods, now: now() };
    let error =
        |metrics, goal: &Goal<'_>| pods.replicas_for(metrics, 2, goal, "cpu", TOLERANCES).unwrap_err();
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(error(PodMetrics::new(), &cpu(50)), none.into());
    let gpu = Goal::Utilization { percent: 50, resource: "gpu", container: "" };
    assert_eq!(error(samples(&[1]), &gpu), "missing request for gpu in container main of Pod p0".into());
    let other = Goal::Utilization { percent: 50, resource: "cpu", container: "other" };
    assert_eq!(error(samples(&[1]), &other), "container other not found in Pod p0".into());
    let nothing = Pods { all: &[], now: now() };
    let found = nothing.replicas_for(samples(&[1]), 2, &cpu(50), "cpu", TOLERANCES);
    assert_eq!(found.unwrap_err().0, "no pods returned by selector while calculating replica count");
}

#[test]
fn a_pods_own_requests_come_first() {
    let mut pod = Pod::clone(&ready(1)[0]);
    let own: k8s_openapi::api::core::v1::ResourceRequirements =
        serde_json::from_value(json!({"requests": {"cpu": "2"}})).unwrap();
    pod.spec.as_mut().unwrap().resources = Some(own);
    let all = [Arc::new(pod)];
    let pods = Pods { all: &all, now: now() };
    let utilization =
        |goal: Goal<'_>| pods.replicas_for(samples(&[600]), 1, &goal, "cpu", TOLERANCES).unwrap().utilization;
    assert_eq!(utilization(cpu(50)), Some(30));
    let main = Goal::Utilization { percent: 50, resource: "cpu", container: "main" };
    assert_eq!(utilization(main), Some(100), "a named container has its own request");
}

/// An autoscaler of 2 to 10 replicas.
fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "u"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn target(replicas: i32) -> Target {
    Target { replicas, status_replicas: replicas, selector: "app=web".to_owned() }
}

/// Every pod uses that many thousandths of a core, in its first container.
fn used(pods: usize, millis: i64) -> Answer {
    let usage = |index| {
        let of = |cpu| BTreeMap::from([("cpu".to_owned(), cpu), ("memory".to_owned(), 2_048_000)]);
        let containers = BTreeMap::from([("main".to_owned(), of(millis)), ("helper".to_owned(), of(0))]);
        (format!("p{index}"), PodUsage { sample: sample(0), containers })
    };
    Ok(Measured::Containers((0..pods).map(usage).collect()))
}

/// The rounds of one autoscaler, whose target always takes the size that it is given.
struct Story {
    object: HorizontalPodAutoscaler,
    replicas: i32,
    history: History,
}

impl Story {
    fn new(replicas: i32, spec: Value) -> Story {
        Story { object: autoscaler(spec), replicas, history: History::default() }
    }

    /// A round at a second of the story.
    fn round(&mut self, second: i64, answers: Vec<Answer>) -> Decision {
        let (target, pods) = (target(self.replicas), ready(usize::try_from(self.replicas).unwrap()));
        let answers = answers.into_iter().map(Ok).collect();
        let now = at(second);
        let round = Round::new(&self.object, now);
        let mut decision = round.decide(&target, &pods, &[], answers, &mut self.history);
        if let Some((replicas, _)) = decision.rescale.clone() {
            let behavior = self.object.spec.behavior.clone();
            self.history.scaled(behavior.as_ref(), self.replicas, replicas, now.steady);
            decision.rescaled(self.replicas, 0, Ok(()), now.wall);
            self.replicas = replicas;
        }
        self.object.status = Some(decision.status.clone());
        decision
    }

    /// Rounds of which each sees the same usage of every pod.
    fn loaded(&mut self, second: i64, millis: i64) -> i32 {
        let pods = usize::try_from(self.replicas).unwrap();
        self.round(second, vec![used(pods, millis)]);
        self.replicas
    }
}

/// `True ValidMetricFound` of a condition.
fn condition<'a>(decision: &'a Decision, type_: &str) -> (&'a str, &'a str, &'a str) {
    let mut conditions = decision.status.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == type_).unwrap();
    (&found.status, found.reason.as_deref().unwrap(), found.message.as_deref().unwrap())
}

fn events(decision: &Decision) -> Vec<(&str, &str)> {
    decision.events.iter().map(|event| (event.reason, event.message.as_str())).collect()
}

#[test]
fn a_busy_target_grows_and_says_so() {
    let mut story = Story::new(2, json!({}));
    let decision = story.round(0, vec![used(2, 1_000)]);
    assert_eq!(story.replicas, 4);
    let reason = "cpu resource utilization (percentage of request) above target";
    assert_eq!(events(&decision), [("SuccessfulRescale", &*format!("New size: 4; reason: {reason}"))]);
    let able = "the HPA controller was able to update the target scale to 4";
    assert_eq!(condition(&decision, "AbleToScale"), ("True", "SucceededRescale", able));
    let found = "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)";
    assert_eq!(condition(&decision, "ScalingActive"), ("True", "ValidMetricFound", found));
    let range = "the desired count is within the acceptable range";
    assert_eq!(condition(&decision, "ScalingLimited"), ("False", "DesiredWithinRange", range));
    let status = serde_json::to_value(&decision.status).unwrap();
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageUtilization": 100, "averageValue": "1"}}}])
    );
    assert_eq!(status["lastScaleTime"], NOW);
}

#[test]
fn growth_is_at_most_doubling_and_ends_at_the_maximum() {
    let mut story = Story::new(2, json!({}));
    assert_eq!(story.loaded(0, 5_000), 4, "doubled");
    assert_eq!(story.loaded(15, 5_000), 8);
    let decision = story.round(30, vec![used(8, 5_000)]);
    assert_eq!(story.replicas, 10);
    let why = "the desired replica count is more than the maximum replica count";
    assert_eq!(condition(&decision, "ScalingLimited"), ("True", "TooManyReplicas", why));
}

#[test]
fn a_fall_waits_for_five_minutes() {
    let mut story = Story::new(8, json!({}));
    assert_eq!(story.loaded(0, 500), 8);
    let decision = story.round(15, vec![used(8, 100)]);
    assert_eq!((story.replicas, condition(&decision, "AbleToScale").1), (8, "ScaleDownStabilized"));
    assert_eq!(story.loaded(300, 100), 8);
    assert_eq!(story.loaded(316, 100), 2);
}

#[test]
fn numbers_out_of_the_bounds_are_mended_without_metrics() {
    for (replicas, wanted, why) in [
        (1, 2, "Current number of replicas below Spec.MinReplicas"),
        (12, 10, "Current number of replicas above Spec.MaxReplicas"),
    ] {
        let mut story = Story::new(replicas, json!({}));
        assert!(!Round::new(&story.object, at(0)).needs_metrics(&target(replicas)));
        let decision = story.round(0, Vec::new());
        assert_eq!(story.replicas, wanted);
        assert_eq!(
            events(&decision),
            [("SuccessfulRescale", &*format!("New size: {wanted}; reason: {why}"))]
        );
    }
    let mut story = Story::new(0, json!({}));
    let decision = story.round(0, Vec::new());
    let why = "scaling is disabled since the replica count of the target is zero";
    assert_eq!(condition(&decision, "ScalingActive"), ("False", "ScalingDisabled", why));
    assert_eq!(story.replicas, 0);
}

#[test]
fn behaviour_limits_the_speed_of_both_directions() {
    let rules = json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min",
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}}});
    let mut story = Story::new(4, rules);
    let busy = |story: &mut Story, second| story.loaded(second, 5_000);
    assert_eq!(busy(&mut story, 0), 6, "half of four");
    let decision = story.round(15, vec![used(6, 5_000)]);
    assert_eq!(story.replicas, 6, "the period is not over");
    assert_eq!(condition(&decision, "ScalingLimited").1, "ScaleUpLimit");
    assert_eq!(busy(&mut story, 61), 9);
    assert_eq!(busy(&mut story, 122), 10);
    // The policy of the smaller change: a tenth, rounded towards a change.
    assert_eq!(story.loaded(200, 10), 9);
    let decision = story.round(215, vec![used(9, 10)]);
    assert_eq!((story.replicas, condition(&decision, "ScalingLimited").1), (9, "ScaleDownLimit"));
    assert_eq!(story.loaded(261, 10), 8);
}

#[test]
fn a_direction_can_be_disabled_and_a_rise_can_wait() {
    let rules = json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}});
    let mut story = Story::new(4, rules);
    assert_eq!(story.loaded(0, 500), 4);
    let decision = story.round(15, vec![used(4, 1_000)]);
    assert_eq!((story.replicas, condition(&decision, "AbleToScale").1), (4, "ScaleUpStabilized"));
    assert_eq!(story.loaded(76, 1_000), 8);
    assert_eq!(story.loaded(200, 10), 8, "never down");
}

#[test]
fn tolerances_differ_by_direction() {
    let rules = json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "tolerance": "0",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "tolerance": "0.5",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}});
    let mut story = Story::new(4, rules);
    assert_eq!(story.loaded(0, 510), 5, "two per cent over the goal");
    assert_eq!(story.loaded(15, 260), 5, "nearly half of it");
    assert_eq!(story.loaded(30, 240), 3);
}

fn two_metrics() -> Value {
    json!({"metrics": [
        {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
            "target": {"type": "AverageValue", "averageValue": "30"}}},
        {"type": "Object", "object": {"describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"},
            "metric": {"name": "requests"}, "target": {"type": "Value", "value": "2k"}}}]})
}

#[test]
fn the_largest_of_several_metrics_wins() {
    let mut story = Story::new(3, two_metrics());
    let decision =
        story.round(0, vec![Ok(Measured::Values(vec![60_000, 90_000])), Ok(Measured::Value(4_000_000))]);
    // The queue needs five, the requests are twice the goal.
    assert_eq!(story.replicas, 6);
    assert_eq!(events(&decision)[0].1, "New size: 6; reason: Ingress metric requests above target");
    let status = serde_json::to_value(&decision.status).unwrap();
    let current = |at: usize, field: &str| status["currentMetrics"][at][field]["current"].clone();
    assert_eq!(current(0, "external"), json!({"averageValue": "50"}));
    assert_eq!(current(1, "object"), json!({"value": "4k"}));
}

#[test]
fn a_metric_that_fails_prevents_a_fall_and_no_rise() {
    let failed = || Err("unable to fetch metrics from external metrics API: gone".into());
    let mut story = Story::new(3, two_metrics());
    let decision = story.round(0, vec![failed(), Ok(Measured::Value(1_000_000))]);
    assert_eq!(story.replicas, 3);
    let shown =
        "&LabelSelector{MatchLabels:map[string]string{q: a,},MatchExpressions:[]LabelSelectorRequirement{},}";
    let inner = format!(
        "failed to get queue external metric: unable to get external metric a/queue/{shown}: unable to fetch metrics from external metrics API: gone"
    );
    let all = format!(
        "invalid metrics (1 invalid out of 2), first error is: failed to get queue external metric value: {inner}"
    );
    assert_eq!(
        events(&decision),
        [("FailedGetExternalMetric", &*inner), ("FailedComputeMetricsReplicas", &*all)]
    );
    let message = format!("the HPA was unable to compute the replica count: {inner}");
    assert_eq!(condition(&decision, "ScalingActive"), ("False", "FailedGetExternalMetric", &*message));

    let decision = story.round(15, vec![failed(), Ok(Measured::Value(4_000_000))]);
    assert_eq!((story.replicas, condition(&decision, "ScalingActive").1), (6, "ValidMetricFound"));
}

#[test]
fn containers_are_measured_alone() {
    let metrics = json!({"metrics": [{"type": "ContainerResource", "containerResource": {"name": "cpu",
        "container": "helper", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    let mut story = Story::new(4, metrics);
    let decision = story.round(400, vec![used(4, 5_000)]);
    let status = serde_json::to_value(&decision.status).unwrap();
    let current = &status["currentMetrics"][0]["containerResource"]["current"];
    assert_eq!(current["averageUtilization"], 0, "the other container's load is not its own");
    assert_eq!(story.replicas, 4, "a lower number waits");
}

#[test]
fn memory_is_shown_in_binary_units() {
    let metrics = json!({"metrics": [{"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "4Ki"}}}]});
    let mut story = Story::new(2, metrics);
    let decision = story.round(0, vec![used(2, 1)]);
    let status = serde_json::to_value(&decision.status).unwrap();
    assert_eq!(status["currentMetrics"][0]["resource"]["current"], json!({"averageValue": "4Ki"}));
}

#[test]
fn a_selector_must_be_there_and_be_the_only_one() {
    let object = autoscaler(json!({}));
    let decide = |selector: &str, rivals: &[Key]| {
        let target = Target { selector: selector.to_owned(), ..target(3) };
        Round::new(&object, at(0)).decide(&target, &ready(3), rivals, Vec::new(), &mut History::default())
    };
    let decision = decide("", &[]);
    assert_eq!(events(&decision)[0], ("SelectorRequired", "selector is required"));
    assert_eq!(condition(&decision, "ScalingActive").2, "the HPA target's scale is missing a selector");
    let rivals = [Key::new("a", "other"), Key::new("a", "web")];
    let decision = decide("app=web", &rivals);
    let why = "pods by selector app=web are controlled by multiple HPAs: [{other a} {web a}]";
    assert_eq!(condition(&decision, "ScalingActive"), ("False", "AmbiguousSelector", why));
    assert_eq!(decision.rescale, None);
}

#[test]
fn autoscalers_of_the_same_pods_are_found() {
    let keys = [Key::new("a", "one"), Key::new("a", "two"), Key::new("a", "three")];
    let selectors =
        ["app=web", "app in (web,api)", "app=api"].map(|text| LabelSelector::parse(text).unwrap());
    assert_eq!(rivals(&ready(1), keys.iter().zip(&selectors)), [keys[0].clone(), keys[1].clone()]);
    assert_eq!(rivals(&[], keys.iter().zip(&selectors)), []);
}

#[test]
fn failures_of_the_scale_are_conditions() {
    let object = autoscaler(json!({}));
    let decision = Round::new(&object, at(0)).without_target(&"deployments.apps \"web\" not found".into());
    let why =
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found";
    assert_eq!(condition(&decision, "AbleToScale"), ("False", "FailedGetScale", why));
    let (target, mut history) = (target(1), History::default());
    let mut decision = Round::new(&object, at(0)).decide(&target, &ready(1), &[], Vec::new(), &mut history);
    decision.rescaled(1, 1, Err("no".into()), now());
    assert_eq!(condition(&decision, "AbleToScale").1, "FailedUpdateScale");
    let why = "New size: 2; reason: Current number of replicas below Spec.MinReplicas; error: no";
    assert_eq!(events(&decision), [("FailedRescale", why)]);
    assert_eq!(decision.status.desired_replicas, 1);
}

#[test]
fn questions_carry_the_selectors_of_metrics() {
    let object = autoscaler(two_metrics());
    let specs = object.spec.metrics.unwrap();
    let Some(Ok(metric::Question::External { metric, selector })) = question(&specs[0]) else { panic!() };
    assert_eq!((&*metric, &*selector), ("queue", "q=a"));
    let expressions = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
        {"key": "a", "operator": "NotIn", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
    let selector_of = serde_json::from_value(expressions).unwrap();
    assert_eq!(selector::query(Some(&selector_of)).unwrap(), "a notin (x,y),b=1,!c");
}
