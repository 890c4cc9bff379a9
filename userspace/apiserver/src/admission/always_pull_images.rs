//! AlwaysPullImages: each pod pulls its images itself, so that an image on a node is no right of all its pods.

use serde_json::Value;

use super::optional::OptionalPlugin;
use super::request::Request;

pub(super) fn admit(request: &Request<'_>, object: &mut Value) {
    let is_pod =
        request.is_resource("", "pods") && ["", "ephemeralcontainers"].contains(&request.subresource());
    if !is_pod || !request.admission.runs(OptionalPlugin::AlwaysPullImages) {
        return;
    }
    let known = request.old.map(images).unwrap_or_default();
    if request.old.is_some() && images(object).iter().all(|image| known.contains(image)) {
        return;
    }
    for list in LISTS {
        for container in object["spec"][list].as_array_mut().into_iter().flatten() {
            container["imagePullPolicy"] = "Always".into();
        }
    }
    for volume in object["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        if volume["image"].is_object() {
            volume["image"]["pullPolicy"] = "Always".into();
        }
    }
}

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn images(pod: &Value) -> Vec<String> {
    let containers = LISTS.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    containers.filter_map(|container| container["image"].as_str().map(str::to_owned)).collect()
}
