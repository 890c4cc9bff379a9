//! Files that are refused, with upstream's messages.

use serde_json::{Value, json};

use super::*;

const RESERVED: &str = "https://kubernetes.default.svc";

/// The error for an AuthenticationConfiguration with this content; empty if it is valid.
fn authentication(content: &Value) -> String {
    let mut file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"});
    merge(&mut file, content);
    let error = AuthenticationConfig::parse(&file.to_string(), RESERVED).err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    text.strip_prefix("invalid authentication configuration: ").unwrap_or(&text).to_owned()
}

/// The error for one issuer that is valid but for this change.
fn issuer(change: &Value) -> String {
    let mut issuer = json!({
        "issuer": {"url": "https://issuer-url", "audiences": ["a"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    });
    merge(&mut issuer, change);
    authentication(&json!({"jwt": [issuer]}))
}

/// The error for an AuthorizationConfiguration with these authorizers.
fn authorization(authorizers: &Value) -> String {
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": authorizers,
    });
    AuthorizationConfig::parse(&file.to_string()).err().map(|error| error.to_string()).unwrap_or_default()
}

/// The error for one webhook that is valid but for this change.
fn webhook(change: &Value) -> String {
    let mut webhook = json!({
        "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/proc/self/stat"},
    });
    merge(&mut webhook, change);
    authorization(&json!([{"type": "Webhook", "name": "w", "webhook": webhook}]))
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

/// The error for two issuers, of which the second has this change.
fn second(change: &Value) -> String {
    let mut second = json!({
        "issuer": {"url": "https://b", "audiences": ["a"], "discoveryURL": "https://d"},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    });
    let mut first = second.clone();
    first["issuer"]["url"] = "https://a".into();
    merge(&mut second, change);
    authentication(&json!({"jwt": [first, second]}))
}

/// Compares the errors of a story's configurations with those that it has.
fn check(story: &str) {
    let mut failed = Vec::new();
    for block in story.split("\n\n").filter(|block| !block.starts_with('#')) {
        let mut lines = block.trim().lines();
        let (what, content) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
        let content: Value = serde_json::from_str(content).unwrap();
        let found = match what {
            "authentication" => authentication(&content),
            "issuer" => issuer(&content),
            "second" => second(&content),
            "authorization" => authorization(&content),
            "webhook" => webhook(&content),
            other => panic!("{other}"),
        };
        let wanted: Vec<&str> = lines.map(|line| line.strip_prefix("> ").unwrap()).collect();
        if found != wanted.join("\n") {
            failed.push(format!("{what} {content}\n{found}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn files_about_authentication_are_refused_in_upstreams_words() {
    check(include_str!("testdata/authentication.txt"));
    let many: Vec<Value> = (0..65).map(|_| json!({})).collect();
    assert_eq!(authentication(&json!({"jwt": many})), "jwt: Too many: 65: must have at most 64 items");
    assert_eq!(AuthenticationConfig::parse("", RESERVED).unwrap_err().to_string(), "empty config data");
    let twice =
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: []\njwt: []\n";
    assert_eq!(
        AuthenticationConfig::parse(twice, RESERVED).unwrap_err().to_string(),
        "strict decoding error: yaml: unmarshal errors:\n  line 4: key \"jwt\" already set in map"
    );
}

#[test]
fn files_about_authorization_are_refused_in_upstreams_words() {
    check(include_str!("testdata/authorization.txt"));
    let many: Vec<Value> =
        (0..65).map(|at| json!({"expression": format!("request.user == '{at}'")})).collect();
    let many = json!({"matchConditions": many, "matchConditionSubjectAccessReviewVersion": "v1"});
    assert_eq!(webhook(&many), "authorizers[0].matchConditions: Too many: 65: must have at most 64 items");
    let named = authorization(&json!([{"type": "Webhook", "name": "A", "webhook": {}}]));
    let wanted = "[authorizers[0].name: Invalid value: \"A\": authorizer name is invalid: a lowercase RFC 1123 subdomain";
    assert!(named.starts_with(wanted), "{named}");
}

#[test]
fn anonymous_requests_are_served_where_the_file_says() {
    let text = "{\"kind\":\"AuthenticationConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"anonymous\":{\"enabled\":true,\"conditions\":[{\"path\":\"/livez\"}]}}";
    let anonymous = AuthenticationConfig::parse(text, RESERVED).unwrap().anonymous.unwrap();
    assert!(anonymous.allows("/livez") && !anonymous.allows("/livez/") && !anonymous.allows("/api"));
    assert!(Anonymous::everywhere(true).allows("/api") && !Anonymous::everywhere(false).allows("/livez"));
}
