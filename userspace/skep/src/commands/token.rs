//! `skep token`: bootstrap tokens, with which machines join.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::kubeconfig::client_from_file;
use crate::pki::ca_hash;

#[derive(clap::Subcommand)]
pub(crate) enum Token {
    /// Create a token and print the commands that join with it
    Create(Create),
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// An administrator's kubeconfig
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skep/server/admin.kubeconfig")]
    kubeconfig: PathBuf,
    /// Lifetime of the token, such as 24h
    #[arg(long, default_value = "24h", value_parser = super::duration)]
    ttl: Duration,
    /// Output format
    #[arg(long, value_enum, default_value = "command")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Command,
    Json,
}

pub(crate) async fn run(token: Token) -> Result<()> {
    match token {
        Token::Create(create) => self::create(create).await,
    }
}

async fn create(arguments: Create) -> Result<()> {
    let Create { kubeconfig, ttl, output } = arguments;
    let (config, client) = client_from_file(&kubeconfig).await?;
    let (server, ca) = cluster(&config).with_context(|| {
        format!("{} has no server or no certificate-authority-data", kubeconfig.display())
    })?;
    let ca_hash = ca_hash(&ca).context("the kubeconfig's CA is not a PEM certificate")?;
    let (id, secret) = (random(6)?, random(16)?);
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    let created = secrets.create(&PostParams::default(), &bootstrap_secret(&id, &secret, ttl)?).await;
    created.context("create the token")?;
    match output {
        // The token goes into a file: every user of a machine can read command lines.
        Output::Command => println!(
            "install -D -m 600 /dev/stdin /etc/skep/token <<'END'\n{id}.{secret}\nEND\n\
             skep agent --node $(hostname) --server {server} --token-file /etc/skep/token --ca-hash {ca_hash}"
        ),
        Output::Json => {
            let json = serde_json::json!({
                "server": server, "token": format!("{id}.{secret}"), "ca_hash": ca_hash,
            });
            println!("{json}");
        }
    }
    Ok(())
}

/// The current context's server and CA.
fn cluster(config: &kube::config::Kubeconfig) -> Option<(String, String)> {
    use base64::Engine;
    let name = config.current_context.as_ref()?;
    let context = config.contexts.iter().find(|context| context.name == *name)?.context.as_ref()?;
    let cluster = config.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    let ca = match &cluster.certificate_authority_data {
        Some(data) => base64::engine::general_purpose::STANDARD.decode(data).ok()?,
        None => std::fs::read(cluster.certificate_authority.as_ref()?).ok()?,
    };
    Some((cluster.server.clone()?, String::from_utf8(ca).ok()?))
}

/// The Secret of a bootstrap token, in the format of the API.
fn bootstrap_secret(id: &str, secret: &str, ttl: Duration) -> Result<Secret> {
    let expires = Timestamp::now().checked_add(ttl).context("--ttl is too long")?;
    let expires = Timestamp::from_second(expires.as_second())?;
    let data = [
        ("token-id", id.to_owned()),
        ("token-secret", secret.to_owned()),
        ("expiration", expires.to_string()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
        ("description", "created by `skep token create`".to_owned()),
    ];
    Ok(Secret {
        metadata: ObjectMeta { name: Some(format!("bootstrap-token-{id}")), ..ObjectMeta::default() },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        string_data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..Secret::default()
    })
}

/// A random text of lower-case letters and digits, uniformly distributed.
fn random(length: usize) -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; length];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        anyhow::bail!("reading random numbers failed");
    }
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_format_of_the_api() {
        let (id, secret) = (random(6).unwrap(), random(16).unwrap());
        let good = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        assert!(id.len() == 6 && secret.len() == 16 && good(&id) && good(&secret));
        let created = bootstrap_secret(&id, &secret, Duration::from_secs(60)).unwrap();
        assert_eq!(created.metadata.name, Some(format!("bootstrap-token-{id}")));
    }

    #[test]
    fn tokens_are_random() {
        assert_ne!(random(16).unwrap(), random(16).unwrap());
    }
}
