//! Flags of `skep server` that say what all users may do.

use std::path::PathBuf;

use anyhow::Result;
use ipnetwork::IpNetwork;
use skep_apiserver::{AccessRules, OptionalPlugin};

use super::authentication::AuthenticationFlags;

#[derive(clap::Args)]
pub(super) struct AccessFlags {
    /// Serve requests without a credential, as system:anonymous [default: true, or as the authentication configuration says]
    #[arg(long, value_name = "BOOL")]
    anonymous_auth: Option<bool>,
    #[command(flatten)]
    authentication: AuthenticationFlags,
    /// File with an apiserver.config.k8s.io AuthorizationConfiguration: Node, RBAC and webhooks in the order in which they are
    /// asked; followed while the server runs [default: Node, RBAC]
    #[arg(long, value_name = "FILE")]
    authorization_config: Option<PathBuf>,
    /// Admission plugins to run in addition to those that always run: AlwaysPullImages, DenyServiceExternalIPs,
    /// EventRateLimit, PodNodeSelector
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    disable_admission_plugins: Vec<String>,
    /// Network from which Services may take external IPs, beside LoadBalancerPools; may be repeated [default: none]
    #[arg(long = "service-external-ip-range", value_name = "CIDR")]
    external_ip_ranges: Vec<IpNetwork>,
}

impl AccessFlags {
    pub(super) fn rules(&self) -> Result<AccessRules> {
        let plugins =
            OptionalPlugin::selected(&self.enable_admission_plugins, &self.disable_admission_plugins)?;
        Ok(AccessRules {
            anonymous: self.anonymous_auth,
            plugins,
            external_ips: self.external_ip_ranges.clone(),
            issuers: self.authentication.issuers()?,
            token_webhook: self.authentication.token_webhook(),
            authorization: self.authorization_config.clone(),
        })
    }
}
