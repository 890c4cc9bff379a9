//! Writing back what was read changes nothing: neither by update nor by apply.

use http::Method;
use serde_json::Value;
use skep_tests::api_server::TestApiServer;
use skep_tests::fidelity::cases::{self, NAMESPACE, resource};
use skep_tests::fidelity::run::{delete, escaped};
use skep_tests::fidelity::target::Target;

const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test(flavor = "multi_thread")]
async fn writing_back_what_was_read_changes_nothing() {
    let server = TestApiServer::start().await.unwrap();
    let target = Target::new(server.client());
    let (mut found, mut count) = (Vec::new(), 0);
    for group in cases::groups().unwrap() {
        group.prepare(&target).await.unwrap();
        let resources = target.resources().await.unwrap();
        for object in group.objects().unwrap() {
            let at = resource(&resources, &object).unwrap();
            let collection = at.collection(NAMESPACE);
            let created = target.send_json(Method::POST, &collection, &object).await.unwrap();
            if !created.succeeded() {
                continue;
            }
            count += 1;
            let name = created.body["metadata"]["name"].as_str().unwrap().to_owned();
            for changed in changes(&target, &format!("{collection}/{}", escaped(&name))).await {
                found.push(format!("{changed}: {object}"));
            }
            delete(&target, &collection, &name).await.unwrap();
        }
    }
    assert!(count > 400, "only {count} objects were created");
    assert!(found.is_empty(), "{} writes changed something\n{}", found.len(), found.join("\n"));
}

/// The ways of writing back that change the object.
async fn changes(target: &Target, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let before = target.get(path).await.unwrap();
    let mut check = |way: &str, answer: skep_tests::fidelity::answer::Answer| {
        if !answer.succeeded() {
            found.push(format!("{way} is refused: {} {}", answer.code, answer.message()));
        } else if answer.resource_version() != before.resource_version() {
            found.push(format!("{way}: {} is now {}", before.body, answer.body));
        }
    };
    check("update", target.send_json(Method::PUT, path, &before.body).await.unwrap());
    if let Some(change) = applied_again(target, path, before.body).await {
        found.push(change);
    }
    found
}

/// Applies the object twice. The first apply makes its manager the owner of every field; the second has nothing to change.
async fn applied_again(target: &Target, path: &str, mut object: Value) -> Option<String> {
    for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    let path = format!("{path}?fieldManager=back&force=true");
    let text = serde_json::to_vec(&object).unwrap();
    let first = target.send(Method::PATCH, &path, APPLY, text.clone()).await.unwrap();
    let second = target.send(Method::PATCH, &path, APPLY, text).await.unwrap();
    // As upstream, an apply refuses items with equal keys, which a create takes.
    if first.message().contains("duplicate entries for key") {
        return None;
    }
    if !first.succeeded() || !second.succeeded() {
        return Some(format!("apply is refused: {} {}", first.message(), second.message()));
    }
    (first.resource_version() != second.resource_version())
        .then(|| format!("the second apply: {} is now {}", first.body, second.body))
}
