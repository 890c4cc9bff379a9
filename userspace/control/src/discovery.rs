//! The resources that the server serves now, in the version that it prefers.

use std::sync::Arc;

use kube::core::discovery::{ApiCapabilities, ApiResource, Scope};
use kube::{Client, Discovery};

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

    /// "pods" or "deployments.apps".
    pub(crate) fn title(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }
}

/// Asks the server: two requests if it serves aggregated discovery, else one for each group.
pub(crate) async fn discover(client: &Client) -> kube::Result<Vec<Resource>> {
    let aggregated = Discovery::new(client.clone()).run_aggregated().await;
    // A server without aggregated discovery answers in the older form, which reads as an empty list.
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
