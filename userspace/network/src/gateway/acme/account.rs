//! The account at the authority. Its key is in a Secret of the system's namespace, one for each directory.

use std::sync::Arc;

use instant_acme::{Account, AccountCredentials, NewAccount};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use skep_abi::StableHasher;
use tokio::sync::Mutex;

use super::http::AcmeHttp;
use super::settings::AcmeSettings;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "skep.io/acme-account";
const CREDENTIALS: &str = "credentials.json";

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("account: {0}")]
    Acme(#[from] instant_acme::Error),
    #[error("Secret {NAMESPACE}/{0}: {1}")]
    Api(String, #[source] Box<kube::Error>),
    #[error("Secret {NAMESPACE}/{0} has no {CREDENTIALS} of an account")]
    Unreadable(String),
}

/// The account, once it was needed.
pub(super) struct Accounts {
    client: kube::Client,
    settings: Arc<AcmeSettings>,
    pub(super) http: AcmeHttp,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    account: Option<Account>,
    /// The authority does not know the account of the Secret any more.
    is_lost: bool,
}

impl Accounts {
    pub(super) fn new(client: kube::Client, settings: Arc<AcmeSettings>) -> Accounts {
        let http = AcmeHttp::new(settings.tls.clone());
        Accounts { client, settings, http, known: Mutex::default() }
    }

    /// The account of the Secret, or a new one that is written to it.
    pub(super) async fn get(&self) -> Result<Account, AccountError> {
        let mut known = self.known.lock().await;
        if let Some(account) = &known.account {
            return Ok(account.clone());
        }
        let name = secret_name(&self.settings.directory);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let failed = |error| AccountError::Api(name.clone(), Box::new(error));
        let stored = secrets.get_opt(&name).await.map_err(failed)?;
        let account = match stored {
            Some(secret) if !known.is_lost => self.load(&name, &secret).await?,
            stored => {
                let (account, credentials) = self.create().await?;
                let version = stored.and_then(|secret| secret.metadata.resource_version);
                let secret = self.secret(&name, &credentials, version.clone())?;
                let written = match version {
                    None => secrets.create(&PostParams::default(), &secret).await,
                    Some(_) => secrets.replace(&name, &PostParams::default(), &secret).await,
                };
                written.map_err(failed)?;
                tracing::info!(
                    secret = name,
                    directory = self.settings.directory,
                    "registered an ACME account"
                );
                account
            }
        };
        *known = Known { account: Some(account.clone()), is_lost: false };
        Ok(account)
    }

    /// The authority does not know the account: the next call makes another one.
    pub(super) async fn lose(&self) {
        *self.known.lock().await = Known { account: None, is_lost: true };
    }

    async fn create(&self) -> Result<(Account, AccountCredentials), AccountError> {
        let contact: Vec<&str> = self.settings.contacts.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        Ok(builder.create(&new, self.settings.directory.clone(), None).await?)
    }

    async fn load(&self, name: &str, secret: &Secret) -> Result<Account, AccountError> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(CREDENTIALS));
        let credentials = bytes.and_then(|bytes| serde_json::from_slice(&bytes.0).ok());
        let credentials = credentials.ok_or_else(|| AccountError::Unreadable(name.to_owned()))?;
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        Ok(builder.from_credentials(credentials).await?)
    }

    fn secret(
        &self,
        name: &str,
        credentials: &AccountCredentials,
        version: Option<String>,
    ) -> Result<Secret, AccountError> {
        let credentials = serde_json::to_vec(credentials).map_err(instant_acme::Error::Json)?;
        let directory = self.settings.directory.clone().into_bytes();
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(
                [
                    (CREDENTIALS.to_owned(), ByteString(credentials)),
                    ("directory".to_owned(), ByteString(directory)),
                ]
                .into(),
            ),
            ..Secret::default()
        })
    }
}

fn secret_name(directory: &str) -> String {
    format!("skep-acme-account-{:016x}", StableHasher::new().text(directory).finish())
}
