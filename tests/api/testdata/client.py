"""What people do with the Python client. Run with KUBECONFIG; an assertion that fails is a failure of the server."""

import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
NS = "default"


def fails(code, call):
    try:
        call()
    except ApiException as error:
        assert error.status == code, f"wanted {code}, got {error.status}: {error.body}"
        return error
    raise AssertionError(f"wanted {code}, got no error")


# Versions, discovery.
assert client.VersionApi().get_code().minor == "36"
assert any(group.name == "apps" for group in client.ApisApi().get_api_versions().groups)
assert any(one.name == "pods" for one in core.get_api_resources().resources)

# Create, read, list, patch in three forms, replace, delete.
made = core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"of": "test"}), data={"x": "1"}))
assert made.metadata.uid and made.metadata.resource_version
fails(409, lambda: core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"))))
fails(422, lambda: core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="A_"))))
fails(404, lambda: core.read_namespaced_config_map("nothing", NS))
assert core.patch_namespaced_config_map("a", NS, {"data": {"y": "2"}}).data == {"x": "1", "y": "2"}
assert core.patch_namespaced_config_map("a", NS, [{"op": "remove", "path": "/data/y"}]).data == {"x": "1"}
changed = core.read_namespaced_config_map("a", NS)
changed.data = {"z": "3"}
assert core.replace_namespaced_config_map("a", NS, changed).data == {"z": "3"}
fails(409, lambda: core.replace_namespaced_config_map("a", NS, changed))
assert [one.metadata.name for one in core.list_namespaced_config_map(NS, label_selector="of=test").items] == ["a"]

# Watch while another thread writes; the watch ends by its timeout.
seen, version = [], core.list_namespaced_config_map(NS).metadata.resource_version


def write():
    core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w")))
    core.patch_namespaced_config_map("w", NS, {"data": {"n": "1"}})
    core.delete_namespaced_config_map("w", NS)


writer = threading.Timer(0.2, write)
writer.start()
watcher = watch.Watch()
for event in watcher.stream(core.list_namespaced_config_map, NS, resource_version=version, timeout_seconds=60):
    seen.append((event["type"], event["object"].metadata.name))
    if event["type"] == "DELETED":
        watcher.stop()
writer.join()
assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen

# Pages.
for i in range(5):
    core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"page{i}", labels={"paged": "yes"})))
names, token = [], None
while True:
    page = core.list_namespaced_config_map(NS, label_selector="paged=yes", limit=2, _continue=token)
    names += [one.metadata.name for one in page.items]
    token = page.metadata._continue
    if not token:
        break
assert names == [f"page{i}" for i in range(5)], names
core.delete_collection_namespaced_config_map(NS, label_selector="paged=yes")
assert not core.list_namespaced_config_map(NS, label_selector="paged=yes").items

# A Deployment from YAML as people write it; its ReplicaSet; scale and status.
utils.create_from_dict(client.ApiClient(), {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
}, namespace=NS)
watcher = watch.Watch()
for event in watcher.stream(apps.list_namespaced_replica_set, NS, timeout_seconds=60):
    if event["object"].spec.replicas == 2:
        watcher.stop()
assert event["object"].metadata.owner_references[0].name == "web"
assert apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 3}}).spec.replicas == 3
assert apps.read_namespaced_deployment_status("web", NS).spec.replicas == 3
apps.delete_namespaced_deployment("web", NS, propagation_policy="Foreground")

# Server-side apply and the dynamic client.
maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"x": "1"}}
assert maps.server_side_apply(body=body, name="applied", namespace=NS, field_manager="one").data.x == "1"
body["data"]["x"] = "2"
try:
    maps.server_side_apply(body=body, name="applied", namespace=NS, field_manager="two")
    raise AssertionError("wanted a conflict")
except dynamic.exceptions.ConflictError:
    pass
assert maps.server_side_apply(body=body, name="applied", namespace=NS, field_manager="two", force_conflicts=True).data.x == "2"

# Access reviews, tokens, jobs, secrets.
review = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(
    spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods"))))
assert review.status.allowed
core.create_namespaced_service_account(NS, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
token = core.create_namespaced_service_account_token("robot", NS, client.AuthenticationV1TokenRequest(
    spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)))
assert token.status.token.count(".") == 2
secret = core.create_namespaced_secret(NS, client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"k": "v"}))
assert secret.data == {"k": "dg=="} and secret.type == "Opaque"
job = batch.create_namespaced_job(NS, client.V1Job(metadata=client.V1ObjectMeta(generate_name="job-"), spec=client.V1JobSpec(
    template=client.V1PodTemplateSpec(spec=client.V1PodSpec(restart_policy="Never", containers=[client.V1Container(name="c", image="i")])))))
assert job.metadata.name.startswith("job-") and job.spec.backoff_limit == 6
print("all done")
