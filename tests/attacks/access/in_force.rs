//! Rights are in force when the write that gives or takes them is answered.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{BINDINGS, ROLES, World, cluster_binding, cluster_role, get, send};

const ROUNDS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_counts_for_the_next_request_and_so_does_its_deletion() -> Result<()> {
    let world = World::start().await?;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
    world.create(ROLES, cluster_role("reader", rules)).await?;
    let jane = world.user("jane");
    for round in 0..ROUNDS {
        world.create(BINDINGS, cluster_binding("jane", "reader", "jane")).await?;
        let (code, answer) = get(&jane, "/api/v1/configmaps").await?;
        ensure!(code == 200, "round {round}: {answer}");
        let binding = format!("{BINDINGS}/jane");
        let (code, answer) = send(&world.admin, Method::DELETE, &binding, &[], None::<Value>).await?;
        ensure!(code == 200, "{answer}");
        let (code, answer) = get(&jane, "/api/v1/configmaps").await?;
        ensure!(code == 403, "round {round}: {answer}");
    }
    Ok(())
}
