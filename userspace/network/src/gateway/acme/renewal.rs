//! When authorities suggest to renew certificates (RFC 9773).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{CertificateIdentifier, Error};
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use skep_abi::StableHasher;

use super::account::{AccountError, Accounts};

/// Between two questions about a certificate.
const MIN_INTERVAL: Duration = Duration::from_secs(600);
const MAX_INTERVAL: Duration = Duration::from_secs(86_400);
const RETRY_INTERVAL: Duration = Duration::from_secs(3_600);

/// Suggestions by Secret.
#[derive(Default)]
pub(super) struct Renewals(HashMap<Arc<str>, Renewal>);

struct Renewal {
    leaf: CertificateDer<'static>,
    /// In seconds since 1970.
    at: Option<i64>,
    ask_at: i64,
    is_asking: bool,
}

/// A certificate to ask about.
pub(super) struct Question {
    pub(super) secret: Arc<str>,
    leaf: CertificateDer<'static>,
}

/// What the authority says.
pub(super) struct Suggestion {
    question: Question,
    at: Option<i64>,
    ask_after: Duration,
}

impl Renewals {
    /// A Secret as it is now.
    pub(super) fn take(&mut self, key: &Arc<str>, secret: Option<&Secret>) {
        let data = secret.and_then(|secret| secret.data.as_ref()?.get("tls.crt"));
        let leaf = data.and_then(|data| CertificateDer::pem_slice_iter(&data.0).next()?.ok());
        match leaf {
            None => drop(self.0.remove(key)),
            Some(leaf) if self.0.get(key).is_some_and(|known| known.leaf == leaf) => {}
            Some(leaf) => {
                self.0.insert(key.clone(), Renewal { leaf, at: None, ask_at: 0, is_asking: false });
            }
        }
    }

    pub(super) fn at(&self, key: &str) -> Option<i64> {
        self.0.get(key)?.at
    }

    /// The question that is due; otherwise when it is, in seconds since 1970.
    pub(super) fn ask(&mut self, key: &Arc<str>, now: i64) -> Result<Question, Option<i64>> {
        let renewal = self.0.get_mut(key).filter(|renewal| !renewal.is_asking).ok_or(None)?;
        if renewal.ask_at > now {
            return Err(Some(renewal.ask_at));
        }
        renewal.is_asking = true;
        Ok(Question { secret: key.clone(), leaf: renewal.leaf.clone() })
    }

    pub(super) fn answered(&mut self, suggestion: Suggestion, now: i64) {
        let Suggestion { question, at, ask_after } = suggestion;
        let Some(renewal) = self.0.get_mut(&question.secret).filter(|known| known.leaf == question.leaf)
        else {
            return;
        };
        renewal.is_asking = false;
        renewal.at = at.or(renewal.at);
        renewal.ask_at = now + i64::try_from(ask_after.as_secs()).unwrap_or(i64::MAX);
    }

    pub(super) fn keep(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| is_wanted(key));
    }
}

/// Asks. An authority that suggests nothing leaves it at two thirds of the lifetime.
pub(super) async fn ask(accounts: Arc<Accounts>, question: Question) -> Suggestion {
    let (at, ask_after) = match suggestion(&accounts, &question).await {
        Ok((at, after)) => (Some(at), after.clamp(MIN_INTERVAL, MAX_INTERVAL)),
        Err(AskError::Unsupported) => (None, MAX_INTERVAL),
        Err(AskError::Failed(error)) => {
            tracing::debug!(secret = %question.secret, error, "ask when to renew a certificate failed");
            (None, RETRY_INTERVAL)
        }
    };
    Suggestion { question, at, ask_after }
}

enum AskError {
    Unsupported,
    Failed(String),
}

async fn suggestion(accounts: &Accounts, question: &Question) -> Result<(i64, Duration), AskError> {
    let id = CertificateIdentifier::try_from(&question.leaf).map_err(|_| AskError::Unsupported)?;
    let failed = |error: AccountError| AskError::Failed(error.to_string());
    let account = accounts.get().await.map_err(failed)?;
    let (info, after) = account.renewal_info(&id).await.map_err(|error| match error {
        Error::Unsupported(_) => AskError::Unsupported,
        error => AskError::Failed(error.to_string()),
    })?;
    let window = info.suggested_window;
    let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
    // The same time in the window at each question, and another one for each certificate.
    let point = StableHasher::new().bytes(&question.leaf).finish();
    let length = u64::try_from(end - start).unwrap_or_default().max(1);
    Ok((start + i64::try_from(point % length).unwrap_or_default(), after))
}
