//! Rights that nobody granted: escalation, impersonation, tokens, proxies.

mod escalation;
mod impersonation;

use anyhow::Result;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use skep_apiserver::Identity;
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
        let server = TestApiServer::start().await?;
        Ok(World { admin: server.client(), server })
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
