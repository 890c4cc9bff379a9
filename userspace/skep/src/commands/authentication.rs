//! The flags that say whose tokens are accepted, with kube-apiserver's names. Those of one issuer stand for an
//! AuthenticationConfiguration.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use skep_apiserver::{IssuerSource, TokenWebhookOptions};

use super::duration;

#[derive(clap::Args)]
pub(super) struct AuthenticationFlags {
    /// File with an apiserver.config.k8s.io AuthenticationConfiguration: issuers of tokens, and anonymous requests; followed
    /// while the server runs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url", "oidc_client_id"])]
    authentication_config: Option<PathBuf>,
    /// URL of an OpenID issuer whose tokens are accepted
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The audience of its tokens
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    oidc_client_id: Option<String>,
    /// CA of the issuer's server, PEM [default: the system's]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim with the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    oidc_username_claim: String,
    /// Prefix of users' names; `-`: none [default: the issuer's URL and `#`, and none for the claim `email`]
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url")]
    oidc_username_prefix: Option<String>,
    /// Claim with the user's groups [default: no groups]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    oidc_groups_claim: Option<String>,
    /// Prefix of groups' names
    #[arg(long, value_name = "PREFIX", requires = "oidc_groups_claim")]
    oidc_groups_prefix: Option<String>,
    /// Algorithms that its tokens may be signed with: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "RS256")]
    oidc_signing_algs: Vec<String>,
    /// A claim that a token must have with this value; may be repeated
    #[arg(long = "oidc-required-claim", value_name = "CLAIM=VALUE", requires = "oidc_issuer_url")]
    oidc_required_claims: Vec<String>,
    /// Kubeconfig of a webhook that is asked about tokens which nothing else accepts
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReview that the webhook gets
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    authentication_token_webhook_version: String,
    /// How long the webhook's answers stay good
    #[arg(long, default_value = "2m", value_parser = duration)]
    authentication_token_webhook_cache_ttl: Duration,
}

impl AuthenticationFlags {
    pub(super) fn issuers(&self) -> Result<IssuerSource> {
        if let Some(file) = &self.authentication_config {
            return Ok(IssuerSource::File(file.clone()));
        }
        let Some(url) = &self.oidc_issuer_url else { return Ok(IssuerSource::None) };
        let ca = match &self.oidc_ca_file {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
            }
            None => String::new(),
        };
        let mut mappings = json!({
            "username": {"claim": self.oidc_username_claim, "prefix": self.username_prefix(url)},
        });
        if let Some(claim) = &self.oidc_groups_claim {
            let prefix = self.oidc_groups_prefix.as_deref().unwrap_or_default();
            mappings["groups"] = json!({"claim": claim, "prefix": prefix});
        }
        let mut rules = Vec::new();
        for required in &self.oidc_required_claims {
            match required.split_once('=') {
                Some((claim, value)) => rules.push(json!({"claim": claim, "requiredValue": value})),
                None => bail!("--oidc-required-claim {required:?} is not CLAIM=VALUE"),
            }
        }
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": url, "audiences": [self.oidc_client_id], "certificateAuthority": ca},
                "claimMappings": mappings,
                "claimValidationRules": rules,
            }],
        });
        Ok(IssuerSource::Flags { config: config.to_string(), algorithms: self.oidc_signing_algs.clone() })
    }

    fn username_prefix(&self, url: &str) -> String {
        match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
            _ if self.oidc_username_claim == "email" => String::new(),
            _ => format!("{url}#"),
        }
    }

    pub(super) fn token_webhook(&self) -> Option<TokenWebhookOptions> {
        let kubeconfig = self.authentication_token_webhook_config_file.clone()?;
        Some(TokenWebhookOptions {
            kubeconfig,
            version: self.authentication_token_webhook_version.clone(),
            cache_ttl: self.authentication_token_webhook_cache_ttl,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: AuthenticationFlags,
    }

    fn config(arguments: &[&str]) -> serde_json::Value {
        let all = ["skep", "--oidc-issuer-url=https://i", "--oidc-client-id=a"].iter().chain(arguments);
        let flags = Command::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).flags;
        match flags.issuers() {
            Ok(IssuerSource::Flags { config, .. }) => serde_json::from_str(&config).unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_of_one_issuer_have_upstreams_prefixes() {
        let prefix =
            |arguments: &[&str]| config(arguments)["jwt"][0]["claimMappings"]["username"]["prefix"].clone();
        assert_eq!(prefix(&[]), "https://i#");
        assert_eq!(prefix(&["--oidc-username-prefix=-"]), "");
        assert_eq!(prefix(&["--oidc-username-prefix=p:"]), "p:");
        assert_eq!(prefix(&["--oidc-username-claim=email"]), "");
        let groups = config(&["--oidc-groups-claim=g"]);
        assert_eq!(groups["jwt"][0]["claimMappings"]["groups"], json!({"claim": "g", "prefix": ""}));
        let rules = config(&["--oidc-required-claim=a=b=c"]);
        assert_eq!(rules["jwt"][0]["claimValidationRules"], json!([{"claim": "a", "requiredValue": "b=c"}]));
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for arguments in [
            &["--oidc-issuer-url=https://i"][..],
            &["--oidc-client-id=a"],
            &["--oidc-groups-claim=g"],
            &["--oidc-issuer-url=https://i", "--oidc-client-id=a", "--authentication-config=f"],
            &["--authentication-token-webhook-version=v2"],
        ] {
            let all = ["skep"].iter().chain(arguments);
            assert!(Command::try_parse_from(all).is_err(), "{arguments:?}");
        }
    }
}
