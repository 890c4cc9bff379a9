//! DefaultIngressClass: the class of an Ingress that names none.

use serde_json::Value;

use super::request::Request;
use super::storage::newest_default;

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn admit(request: &Request<'_>, ingress: &mut Value) {
    if !request.creates("networking.k8s.io", "ingresses")
        || !ingress["spec"]["ingressClassName"].is_null()
        || ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_string()
    {
        return;
    }
    let classes = request.list("networking.k8s.io", "v1", "ingressclasses", "");
    if let Some(name) = newest_default(classes.iter().map(|class| class.value()), &[DEFAULT]) {
        ingress["spec"]["ingressClassName"] = name.into();
    }
}
