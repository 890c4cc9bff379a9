//! Flags of `skep server` that say what all users may do.

use anyhow::Result;
use ipnetwork::IpNetwork;
use skep_apiserver::{AccessRules, OptionalPlugin};

#[derive(clap::Args)]
pub(super) struct AccessFlags {
    /// Serve requests without a credential, as system:anonymous
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    anonymous_auth: bool,
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
        })
    }
}
