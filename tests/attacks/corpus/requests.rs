//! The hostile requests: objects by schema, mutated patches, queries, headers, bodies and paths.

use std::fmt::{Display, Formatter};

use anyhow::Result;
use http::Request;
use kube::client::Body;
use serde_json::{Value, json};

use super::generate::{Random, nested, object};
use super::schema::{Collection, Schemas};

/// Objects of each kind.
const OBJECTS: usize = 22;
/// Patches of each content type.
const PATCHES: usize = 60;
/// Objects of these groups decide about other requests: they are sent as a dry run.
const DECIDING_GROUPS: [&str; 4] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// One request and how its answer is read.
pub(super) struct Hostile {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Where a created object is deleted again.
    pub(super) collection: Option<String>,
    /// The answer is a watch.
    pub(super) endless: bool,
}

impl Hostile {
    fn new(method: &'static str, path: impl Into<String>) -> Hostile {
        Hostile {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            collection: None,
            endless: false,
        }
    }

    fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Hostile {
        self.body = body.into();
        self.header("content-type", kind)
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Hostile {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn http(&self) -> Result<Request<Body>> {
        let mut request = Request::builder().method(self.method).uri(&self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        Ok(request.body(Body::from(self.body.clone()))?)
    }
}

impl Display for Hostile {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(3_000).collect();
        write!(out, "{} {} {:?} {body}", self.method, self.path, self.headers)
    }
}

pub(super) fn all(schemas: &Schemas<'_>, namespace: &str) -> Vec<Hostile> {
    let mut requests = objects(schemas, namespace);
    requests.extend(patches(schemas, namespace));
    requests.extend(queries(namespace));
    requests.extend(bodies(namespace));
    requests.extend(headers(namespace));
    requests.extend(subresources(namespace));
    requests
}

fn objects(schemas: &Schemas<'_>, namespace: &str) -> Vec<Hostile> {
    let mut requests = Vec::new();
    for (index, collection) in schemas.collections().iter().enumerate() {
        for variant in 0..OBJECTS {
            let mut random = Random::new((index * OBJECTS + variant) as u64 + 1);
            // From valid but extreme to nonsense in every second field.
            let hostility = [0, 0, 0, 40, 20, 10, 4, 2][variant % 8];
            let name = format!("h-{index}-{variant}");
            let object = object(schemas, collection, &name, hostility, &mut random);
            requests.push(create(collection, namespace, &object));
        }
    }
    requests
}

fn create(collection: &Collection, namespace: &str, object: &Value) -> Hostile {
    let path = collection.path.replace("{namespace}", namespace);
    let stored = !DECIDING_GROUPS.contains(&collection.group.as_str());
    let url = if stored { path.clone() } else { format!("{path}?dryRun=All") };
    let mut request = Hostile::new("POST", url).body("application/json", object.to_string());
    request.collection = stored.then_some(path);
    request
}

fn patches(schemas: &Schemas<'_>, namespace: &str) -> Vec<Hostile> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/probe");
    let collections = schemas.collections();
    let mut requests = Vec::new();
    for (of_type, kind) in PATCH_TYPES.iter().enumerate() {
        for variant in 0..PATCHES {
            let mut random = Random::new((of_type * PATCHES + variant) as u64 + 1_000_003);
            let body = if of_type == 0 {
                operations(&mut random)
            } else {
                object(schemas, random.pick(&collections), "probe", 3, &mut random)
            };
            let url = format!("{path}?fieldManager=hostile&force={}", of_type == 3);
            requests.push(Hostile::new("PATCH", url).body(kind, body.to_string()));
        }
    }
    let deep = nested(json!(1), 60).to_string();
    let doubling: Vec<Value> = (0..12)
        .map(|_| json!({"op": "copy", "from": "/data", "path": format!("/data{}", "/a".repeat(60))}))
        .collect();
    let front: Vec<Value> =
        (0..9_000).map(|_| json!({"op": "add", "path": "/metadata/finalizers/0", "value": "a/b"})).collect();
    let finalizers: Vec<String> = (0..60_000).map(|number| format!("a.io/f{number}")).collect();
    requests.push(Hostile::new("PATCH", path.clone()).body(PATCH_TYPES[1], deep));
    requests.push(Hostile::new("PATCH", path.clone()).body(PATCH_TYPES[0], json!(doubling).to_string()));
    requests.push(Hostile::new("PATCH", path.clone()).body(PATCH_TYPES[0], json!(front).to_string()));
    let strategic =
        json!({"metadata": {"finalizers": finalizers, "$setElementOrder/finalizers": finalizers}});
    requests.push(
        Hostile::new("PATCH", format!("{path}?dryRun=All")).body(PATCH_TYPES[2], strategic.to_string()),
    );
    requests
}

fn operations(random: &mut Random) -> Value {
    let paths = [
        "",
        "/",
        "/data",
        "/data/a",
        "/data/-",
        "/metadata/labels",
        "/metadata/finalizers/0",
        "/~2",
        "/data/a/b/c",
    ];
    let names = ["add", "remove", "replace", "move", "copy", "test", "nonsense"];
    let values = [json!(null), json!({"a": "b"}), json!([]), json!("x"), json!(-1)];
    let one = |random: &mut Random| {
        json!({
            "op": random.pick(&names), "path": random.pick(&paths), "from": random.pick(&paths),
            "value": random.pick(&values),
        })
    };
    let length = 1 + random.below(6);
    (0..length).map(|_| one(random)).collect()
}

fn queries(namespace: &str) -> Vec<Hostile> {
    let numbers = ["-1", "0", "1", "9223372036854775807", "18446744073709551615", "1e9", "", "x", "1.5"];
    let texts = [
        "",
        "=",
        "a%20in%20(",
        "!",
        "a%20in%20(b),,",
        "metadata.name=",
        "%00",
        "a=b=c",
        "spec.nodeName!=x",
        "%2e%2e",
    ];
    let base = format!("/api/v1/namespaces/{namespace}/pods");
    let get = |query: String| Hostile::new("GET", format!("{base}?{query}"));
    let mut requests = Vec::new();
    for number in numbers {
        for name in ["limit", "timeoutSeconds", "resourceVersion", "continue"] {
            requests.push(get(format!("{name}={number}")));
        }
        requests.push(get(format!("resourceVersion={number}&resourceVersionMatch=Exact&limit={number}")));
        let mut watch = get(format!("watch=1&timeoutSeconds={number}&resourceVersion=0"));
        watch.endless = true;
        requests.push(watch);
    }
    for text in texts {
        for name in
            ["labelSelector", "fieldSelector", "continue", "watch", "dryRun", "fieldManager", "pretty"]
        {
            let mut request = get(format!("{name}={text}"));
            request.endless = name == "watch";
            requests.push(request);
        }
    }
    let values: Vec<String> = (0..6_000).map(|number| format!("v{number}")).collect();
    requests.push(get(format!("labelSelector=a%20in%20({})", values.join(","))));
    let long = [
        "//",
        "/api//v1",
        "/api/v1/namespaces/%2e%2e/pods",
        "/apis/apps/v1/x/y/z/w/v/u",
        "/%ff%fe",
        "/api/v1/pods/%00",
    ];
    requests.extend(long.map(|path| Hostile::new("GET", path)));
    requests.push(Hostile::new("GET", format!("/{}", "a/".repeat(3_000))));
    requests
}

fn bodies(namespace: &str) -> Vec<Hostile> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let json = "application/json";
    let yaml = "application/yaml";
    let protobuf = "application/vnd.kubernetes.protobuf";
    let mut anchors = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 8].join(", ");
        anchors.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let all: Vec<(&str, Vec<u8>)> = vec![
        (json, b"{".to_vec()),
        (json, b"[]".to_vec()),
        (json, b"null".to_vec()),
        (json, b"\xff\xfe".to_vec()),
        (json, b"{\"kind\":\"ConfigMap\",\"kind\":\"Pod\"}".to_vec()),
        (json, "[".repeat(100_000).into_bytes()),
        (json, nested(json!(1), 120).to_string().into_bytes()),
        (json, vec![b' '; 4 << 20]),
        (yaml, anchors.into_bytes()),
        (yaml, "- ".repeat(50_000).into_bytes()),
        (yaml, b"a: b: c".to_vec()),
        (protobuf, b"k8s\0".to_vec()),
        (protobuf, b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()),
        (protobuf, [b"k8s\0".as_slice(), &[0x12; 60_000]].concat()),
        ("text/html", b"<html>".to_vec()),
        ("", b"{}".to_vec()),
    ];
    all.into_iter().map(|(kind, body)| Hostile::new("POST", path.clone()).body(kind, body)).collect()
}

fn headers(namespace: &str) -> Vec<Hostile> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let all: [(&'static str, &str); 12] = [
        ("accept", ""),
        ("accept", ",;,;q=x"),
        ("accept", "application/json;as=Nonsense;v=v9;g=x"),
        ("accept", table),
        ("authorization", "Bearer "),
        ("authorization", "Bearer a.b.c"),
        ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),
        ("authorization", "Basic Og=="),
        ("impersonate-user", ""),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "x"),
        ("if-none-match", "\"\""),
    ];
    all.iter().map(|(name, value)| Hostile::new("GET", path.clone()).header(name, *value)).collect()
}

fn subresources(namespace: &str) -> Vec<Hostile> {
    let core = format!("/api/v1/namespaces/{namespace}");
    let apps = format!("/apis/apps/v1/namespaces/{namespace}");
    let paths = [
        format!("{core}/pods/x/binding"),
        format!("{core}/pods/x/eviction"),
        format!("{core}/pods/x/status"),
        format!("{core}/pods/x/resize"),
        format!("{core}/pods/x/ephemeralcontainers"),
        format!("{core}/serviceaccounts/default/token"),
        format!("{core}/configmaps/probe/scale"),
        format!("{apps}/deployments/x/scale"),
        format!("/api/v1/namespaces/{namespace}/finalize"),
        "/api/v1/nodes/x/proxy/".to_owned(),
        "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(),
        "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(),
    ];
    let bodies = [
        json!({}),
        json!({"spec": "x"}),
        json!({"spec": {"replicas": 1e300}}),
        json!({"target": 7}),
        json!([1]),
    ];
    let mut requests = Vec::new();
    for path in &paths {
        for body in &bodies {
            for method in ["POST", "PUT", "PATCH"] {
                let kind = if method == "PATCH" { PATCH_TYPES[1] } else { "application/json" };
                requests.push(Hostile::new(method, path.clone()).body(kind, body.to_string()));
            }
        }
    }
    requests
}
