//! The CustomResourceDefinitions of Gateway API, as `cargo xtask gen-api --gateway-api` takes them from the public release: schemas,
//! defaults and rules, without prose. PURE.
//!
//! `definitions.jsonl` has a value on each line. `{"$": N}` stands for the value of line N, counted from 0, which comes before its first
//! use; a line `{"crd": ...}` is a definition.

use serde_json::Value;

const FACTS: &str = include_str!("definitions.jsonl");
/// The annotation that names the release.
const VERSION: &str = "/metadata/annotations/gateway.networking.k8s.io~1bundle-version";

/// All definitions.
pub fn definitions() -> Vec<Value> {
    let (mut shared, mut found) = (Vec::new(), Vec::new());
    for line in FACTS.lines() {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else { continue };
        expand(&mut value, &shared);
        match value.get_mut("crd") {
            Some(definition) => found.push(definition.take()),
            None => shared.push(value),
        }
    }
    found
}

fn expand(value: &mut Value, shared: &[Value]) {
    match value {
        Value::Object(map) => {
            let line = map.get("$").and_then(Value::as_u64).filter(|_| map.len() == 1);
            let line = line.and_then(|line| usize::try_from(line).ok());
            match line.and_then(|line| shared.get(line)) {
                Some(known) => *value = known.clone(),
                None => map.values_mut().for_each(|value| expand(value, shared)),
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| expand(value, shared)),
        _ => {}
    }
}

/// Whether a definition of the cluster should be replaced: it names an older release. One that names none is somebody's own.
pub fn is_older(existing: &Value, wanted: &Value) -> bool {
    let release = |definition: &Value| -> Option<Vec<u32>> {
        let text = definition.pointer(VERSION)?.as_str()?.strip_prefix('v')?;
        let numbers = text.split('-').next()?.split('.');
        numbers.map(|number| number.parse().ok()).collect()
    };
    match (release(existing), release(wanted)) {
        (Some(existing), Some(wanted)) => existing < wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_a_definition_without_prose() {
        let all = definitions();
        let names: Vec<&str> = all.iter().filter_map(|crd| crd["spec"]["names"]["kind"].as_str()).collect();
        assert_eq!(
            names,
            [
                "BackendTLSPolicy",
                "GatewayClass",
                "Gateway",
                "GRPCRoute",
                "HTTPRoute",
                "ListenerSet",
                "ReferenceGrant",
                "TCPRoute",
                "TLSRoute",
                "UDPRoute"
            ]
        );
        for crd in &all {
            let text = crd.to_string();
            assert!(!text.contains("\"$\":") && !text.contains("\"description\":\""), "{}", &text[..80]);
            assert!(is_older(&with_version("v1.5.9"), crd), "{}", &text[..80]);
        }
    }

    fn with_version(version: &str) -> Value {
        json!({"metadata": {"annotations": {"gateway.networking.k8s.io/bundle-version": version}}})
    }

    #[test]
    fn only_an_older_release_is_replaced() {
        let ours = with_version("v1.6.1");
        for (version, older) in
            [("v1.6.0", true), ("v1.6.1", false), ("v1.10.0", false), ("v1.6.0-rc.1", true), ("x", false)]
        {
            assert_eq!(is_older(&with_version(version), &ours), older, "{version}");
        }
        assert!(!is_older(&json!({}), &ours));
    }
}
