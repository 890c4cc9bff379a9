//! Which resources the server has now, in the version it prefers.

use std::sync::Arc;

use kube::{
    Client, Discovery,
    core::discovery::{ApiCapabilities, ApiResource, Scope},
};

/// One resource of the server.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) api: Arc<ApiResource>,
    pub(crate) namespaced: bool,
    capabilities: Arc<ApiCapabilities>,
}

impl Resource {
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.capabilities.supports_operation(v))
    }

    /// As "pods" or "deployments.apps".
    pub(crate) fn title(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }
}

/// Asks the server; two requests where it aggregates its answer, one a group where it does not.
pub(crate) async fn discover(client: &Client) -> kube::Result<Vec<Resource>> {
    let aggregated = Discovery::new(client.clone()).run_aggregated().await;
    // A server that does not aggregate answers in the older form, which reads as an empty list.
    let discovery = match aggregated {
        Ok(discovery) if discovery.groups().next().is_some() => discovery,
        _ => Discovery::new(client.clone()).run().await?,
    };
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    Ok(resources
        .map(|(api, capabilities)| Resource {
            api: Arc::new(api),
            namespaced: capabilities.scope == Scope::Namespaced,
            capabilities: Arc::new(capabilities),
        })
        .collect())
}
