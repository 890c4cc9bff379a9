//! Rights that were not granted: escalation, impersonation, tokens, proxies.

mod addresses;
mod authorizers;
mod escalation;
mod impersonation;
mod in_force;
mod issuers;
mod nodes;
mod plugins;
mod reviewer;
mod token_secrets;
mod token_webhook;
mod tokens;

use anyhow::Result;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use skep_apiserver::{Audit, AuditPolicy, Config, Identity, LogOptions};
use skep_tests::api_server::TestApiServer;

/// Code and body of an answer; a body that is no JSON is a string.
type Answer = (u16, Value);

/// A server, with a client for an administrator.
struct World {
    server: TestApiServer,
    admin: Client,
}

impl World {
    async fn start() -> Result<World> {
        World::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Result<World> {
        let server = TestApiServer::start_with(change).await?;
        Ok(World { admin: server.client(), server })
    }

    /// A ServiceAccount, and a pod on a node that has this address.
    async fn create_pod(&self, name: &str, node: &str, ip: Option<&str>) -> Result<Value> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        // Each test needs one; a second is refused.
        post(&self.admin, "/api/v1/namespaces/default/serviceaccounts", account).await?;
        let pods = "/api/v1/namespaces/default/pods";
        let pod = self.create(pods, json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
        }));
        let pod = pod.await?;
        if let Some(ip) = ip {
            let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
            let path = format!("{pods}/{name}/status");
            let (code, answer) = send(&self.admin, Method::PATCH, &path, &[], Some(status)).await?;
            anyhow::ensure!(code == 200, "{answer}");
        }
        Ok(pod)
    }

    async fn create_node(&self, name: &str) -> Result<Value> {
        self.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
            .await
    }

    fn node(&self, name: &str) -> Client {
        self.server.client_of(Identity::new(format!("system:node:{name}"), &["system:nodes"]))
    }

    fn user(&self, name: &str) -> Client {
        self.server.client_of(Identity::new(name, &[]))
    }

    /// Creates an object as an administrator.
    async fn create(&self, path: &str, object: Value) -> Result<Value> {
        let (code, answer) = send(&self.admin, Method::POST, path, &[], Some(object)).await?;
        anyhow::ensure!(code == 201, "{code}: {answer}");
        Ok(answer)
    }

    /// Gives a user these rules in the whole cluster.
    async fn grant(&self, user: &str, rules: Value) -> Result<()> {
        let name = user.replace(':', ".");
        self.create(ROLES, cluster_role(&name, rules)).await?;
        self.create(BINDINGS, cluster_binding(&name, &name, user)).await?;
        Ok(())
    }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

fn cluster_role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn cluster_binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

/// Sends a request with these headers.
async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Result<Answer> {
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", content);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let response = client.send(request.body(Body::from(body))?).await?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
    Ok((code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}

async fn get(client: &Client, path: &str) -> Result<Answer> {
    send(client, Method::GET, path, &[], None).await
}

async fn post(client: &Client, path: &str, object: Value) -> Result<Answer> {
    send(client, Method::POST, path, &[], Some(object)).await
}

/// An audit log in a file.
fn audit(file: &std::path::Path, policy: &str) -> Result<Audit> {
    let policy = AuditPolicy::parse(policy).map_err(anyhow::Error::msg)?;
    let options =
        LogOptions { path: file.to_owned(), max_age: 0, max_backups: 0, max_size: 0, compress: false };
    Ok(Audit::new(policy, options)?)
}
