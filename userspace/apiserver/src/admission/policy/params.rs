//! The parameters of a policy: the objects that a binding names or selects.

use serde_json::Value;
use skep_api::selector::LabelSelector;

use crate::admission::request::Request;
use crate::object::prefix;

/// The policy is evaluated once for each; null if the policy has no parameters.
pub(super) fn of(
    request: &Request<'_>,
    kind: Option<&(String, String)>,
    reference: &Value,
) -> Result<Vec<Value>, String> {
    let Some((api_version, name)) = kind.filter(|_| reference.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let caches = &request.admission.storage.caches;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = caches.registry().find_kind(group, version, name);
    let kind = kind.ok_or_else(|| format!("paramKind kind `{api_version}, Kind={name}` not known"))?;
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let namespace = match (kind.namespaced(), text("namespace")) {
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "") if request.namespace().is_empty() => {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => request.namespace(),
        (true, namespace) => namespace,
    };
    let params: Vec<Value> = match (text("name"), &reference["selector"]) {
        ("", Value::Null) => return Err("one of name or selector must be provided".to_owned()),
        ("", selector) => {
            let selector = LabelSelector::from_object(selector).map_err(|error| error.to_string())?;
            let selector = selector.unwrap_or_default();
            let mut within = prefix(&kind);
            if !namespace.is_empty() {
                within = format!("{within}{namespace}/");
            }
            let all = caches.of(&kind).map(|objects| objects.list(&within)).unwrap_or_default();
            all.iter()
                .filter(|object| selector.matches(&object.selectable))
                .map(|object| object.value())
                .collect()
        }
        (name, Value::Null) => {
            caches.get_or_404(&kind, namespace, name).into_iter().map(|object| object.value()).collect()
        }
        _ => return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned()),
    };
    if params.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(params)
}
