//! PodNodeSelector: an annotation of a namespace says on which nodes its pods may run.

use std::collections::BTreeMap;

use serde_json::Value;
use skep_api::Status;

use super::optional::OptionalPlugin;
use super::request::Request;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// Adds the namespace's selector to the pod's; a pod that contradicts it is refused.
pub(super) fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    if !request.creates("", "pods") || !request.admission.runs(OptionalPlugin::PodNodeSelector) {
        return Ok(());
    }
    let namespace = request.get("", "v1", "namespaces", "", request.namespace()).map(|found| found.value());
    let text = namespace.as_ref().and_then(|found| found["metadata"]["annotations"][ANNOTATION].as_str());
    let wanted = parse(text.unwrap_or_default());
    let wanted = wanted.map_err(|bad| request.forbidden(object, bad.to_string()))?;
    let selector = &object["spec"]["nodeSelector"];
    if wanted.iter().any(|(key, value)| selector[key].as_str().is_some_and(|own| own != value)) {
        let why = "pod node label selector conflicts with its namespace node label selector";
        return Err(request.forbidden(object, why));
    }
    for (key, value) in wanted {
        object["spec"]["nodeSelector"][key] = value.into();
    }
    Ok(())
}

/// A term that is no `key=value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid selector: [{0}]")]
struct BadTerm(String);

/// `key=value` pairs, separated by commas.
fn parse(text: &str) -> Result<BTreeMap<String, String>, BadTerm> {
    let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
    let pair = |term: &str| {
        let (key, value) = term.split_once('=').ok_or_else(|| BadTerm(term.to_owned()))?;
        Ok((key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
    };
    terms.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_pairs() {
        let pairs = [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into();
        assert_eq!(parse("a=b, c="), Ok(pairs));
        assert_eq!(parse(""), Ok(BTreeMap::new()));
        assert!(parse("a").is_err());
    }
}
