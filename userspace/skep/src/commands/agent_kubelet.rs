//! Flags of `skep agent` that a kubelet has under the same names.

use std::path::PathBuf;
use std::time::Duration;

use skep_node::AgentConfig;
use skep_node::images::ProviderSettings;
use skep_node::shutdown::{PeriodsError, ShutdownSettings};

use super::duration;

#[derive(clap::Args)]
pub(crate) struct KubeletArguments {
    /// Folder of static pods' manifests, which run whether or not there is an API server [default: none]
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// How long a shutdown of the node waits for its pods, by systemd-logind [default: 0s, it does not wait]
    #[arg(long, value_parser = duration, default_value = "0s", hide_default_value = true)]
    shutdown_grace_period: Duration,
    /// The part of it that critical pods have, after all others have ended [default: 0s]
    #[arg(long, value_parser = duration, default_value = "0s", hide_default_value = true)]
    shutdown_grace_period_critical_pods: Duration,
    /// Answer queries of the node's logs by the journal: /logs/?query=UNIT
    #[arg(long)]
    enable_system_log_query: bool,
    /// File or folder with the CredentialProviderConfig of programs that give credentials for image pulls
    #[arg(long, requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,
    /// Folder of these programs
    #[arg(long, requires = "image_credential_provider_config")]
    image_credential_provider_bin_dir: Option<PathBuf>,
}

impl KubeletArguments {
    pub(super) fn apply(&self, config: &mut AgentConfig) -> Result<(), PeriodsError> {
        let KubeletArguments {
            pod_manifest_path,
            enable_system_log_query,
            shutdown_grace_period,
            shutdown_grace_period_critical_pods,
            image_credential_provider_config,
            image_credential_provider_bin_dir,
        } = self;
        config.static_pods.clone_from(pod_manifest_path);
        config.system_logs.query = *enable_system_log_query;
        config.credential_providers = image_credential_provider_config
            .clone()
            .zip(image_credential_provider_bin_dir.clone())
            .map(|(config, programs)| ProviderSettings { config, programs });
        config.shutdown =
            ShutdownSettings::new(*shutdown_grace_period, *shutdown_grace_period_critical_pods)?;
        Ok(())
    }
}
