//! Writes what was issued to its Secret, which nothing else may have made.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use skep_gateway::acme::{DIRECTORY_ANNOTATION, Owner, Stored, Wanted};

use super::order::Issued;

const SECRET_TYPE: &str = "kubernetes.io/tls";
/// What was issued is not lost while the API server restarts.
const ATTEMPTS: usize = 20;
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// Why a certificate did not come into its Secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("the Secret was made by others while its certificate was ordered; it is not replaced")]
    Foreign,
    #[error("write the Secret: {0}")]
    Api(#[from] Box<kube::Error>),
}

/// Creates the Secret or replaces its content; other labels and annotations stay.
pub(super) async fn store(
    client: &kube::Client,
    directory: &str,
    wanted: &Wanted,
    issued: Issued,
) -> Result<Secret, WriteError> {
    let (namespace, name) = wanted.secret.split_once('/').unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut attempts = 0;
    loop {
        match store_once(&secrets, name, directory, wanted, &issued).await {
            Err(WriteError::Api(error)) if attempts < ATTEMPTS && is_passing(&error) => {
                attempts += 1;
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            stored => return stored,
        }
    }
}

fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 409 | 429 | 500..),
        _ => true,
    }
}

async fn store_once(
    secrets: &Api<Secret>,
    name: &str,
    directory: &str,
    wanted: &Wanted,
    issued: &Issued,
) -> Result<Secret, WriteError> {
    let existing = secrets.get_opt(name).await.map_err(Box::new)?;
    let params = PostParams { field_manager: Some("skep-acme".to_owned()), ..PostParams::default() };
    let written = match existing {
        None => secrets.create(&params, &fill(Secret::default(), name, directory, wanted, issued)).await,
        Some(existing) if Stored::parse(Some(&existing)) == Stored::Foreign => {
            return Err(WriteError::Foreign);
        }
        Some(existing) => {
            secrets.replace(name, &params, &fill(existing, name, directory, wanted, issued)).await
        }
    };
    Ok(written.map_err(Box::new)?)
}

fn fill(mut secret: Secret, name: &str, directory: &str, wanted: &Wanted, issued: &Issued) -> Secret {
    let ObjectMeta { annotations, owner_references, .. } = &mut secret.metadata;
    annotations.get_or_insert_default().insert(DIRECTORY_ANNOTATION.to_owned(), directory.to_owned());
    let references = owner_references.get_or_insert_default();
    for owner in &wanted.owners {
        if !references.iter().any(|reference| reference.uid == owner.uid) {
            references.push(reference(owner));
        }
    }
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.managed_fields = None;
    secret.type_ = Some(SECRET_TYPE.to_owned());
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    // A staple is of the certificate before.
    secret.data = Some(
        [("tls.crt".to_owned(), bytes(&issued.chain)), ("tls.key".to_owned(), bytes(&issued.key))].into(),
    );
    secret
}

fn reference(owner: &Owner) -> OwnerReference {
    OwnerReference {
        api_version: owner.api_version.to_owned(),
        kind: owner.kind.to_owned(),
        name: owner.key.split_once('/').unwrap_or_default().1.to_owned(),
        uid: owner.uid.clone(),
        ..OwnerReference::default()
    }
}
