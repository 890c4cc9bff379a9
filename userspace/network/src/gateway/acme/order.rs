//! One order, from its names to a chain (RFC 8555, 7.4).

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use skep_gateway::acme::{Challenge, ChallengeKind, Failure, Pace, Wanted};
use skep_gateway::certificate::{Certificate, CertificateError};

use super::account::{AccountError, Accounts};
use super::challenges::{Answers, Published};

/// Authorities look from several networks, one after the other.
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(120);
const ISSUE_TIMEOUT: Duration = Duration::from_secs(120);
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// Of an Event.
const MAX_ERROR_CHARS: usize = 600;
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// What was issued. It is not printed.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Acme(#[from] Error),
    #[error("{0} is not offered for {1}")]
    NoChallenge(&'static str, String),
    #[error("the challenges could not be published")]
    Unpublished,
    /// Each name with what its authority says.
    #[error("{0}")]
    Invalid(String),
    #[error("make the request: {0}")]
    Request(#[from] rcgen::Error),
    #[error("what was issued does not serve: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the authority does not finish the order")]
    Timeout,
}

/// Orders a certificate.
pub(super) async fn obtain(
    accounts: &Accounts,
    published: &Published,
    pace: &Pace,
    wanted: &Wanted,
) -> Result<Issued, Failure> {
    let ordered = tokio::time::timeout(ORDER_TIMEOUT, order(accounts, published, pace, wanted)).await;
    let error = match ordered.unwrap_or(Err(OrderError::Timeout)) {
        Ok(issued) => return Ok(issued),
        Err(error) => error,
    };
    let kind = match &error {
        OrderError::Acme(Error::Api(problem))
        | OrderError::Account(AccountError::Acme(Error::Api(problem))) => {
            problem.r#type.as_deref().unwrap_or_default()
        }
        _ => "",
    };
    if kind == NO_ACCOUNT {
        accounts.lose().await;
    }
    let retry_at = accounts.http.retry_at(jiff::Timestamp::now().as_second());
    let text = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
    Err(Failure { error: text, is_rate_limit: kind == RATE_LIMITED, retry_at })
}

async fn order(
    accounts: &Accounts,
    published: &Published,
    pace: &Pace,
    wanted: &Wanted,
) -> Result<Issued, OrderError> {
    let account: Account = accounts.get().await?;
    let names: Vec<Identifier> = wanted.names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    if order.state().status == OrderStatus::Pending {
        let answers = answer(&mut order, published, wanted.challenge).await?;
        tokio::time::sleep(pace.propagation).await;
        validate(&mut order, wanted.challenge).await?;
        drop(answers);
    }
    let key = KeyPair::generate()?;
    let mut params =
        CertificateParams::new(wanted.names.iter().map(|name| name.to_string()).collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&RetryPolicy::new().timeout(ISSUE_TIMEOUT)).await?;
    let key = key.serialize_pem();
    Certificate::parse(chain.as_bytes(), key.as_bytes())?;
    Ok(Issued { chain, key })
}

fn type_of(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http => ChallengeType::Http01,
        ChallengeKind::TlsAlpn => ChallengeType::TlsAlpn01,
    }
}

/// Publishes what answers the challenges of names that are not validated yet.
async fn answer(
    order: &mut Order,
    published: &Published,
    kind: ChallengeKind,
) -> Result<Answers, OrderError> {
    let mut challenges = Vec::new();
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let Some(challenge) = authorization.challenge(type_of(kind)) else {
            return Err(OrderError::NoChallenge(kind.name(), host));
        };
        let key_authorization = challenge.key_authorization().as_str().into();
        let token = challenge.token.clone();
        challenges
            .push((token, Challenge { kind, host: host.to_ascii_lowercase().into(), key_authorization }));
    }
    published.add(challenges).await.ok_or(OrderError::Unpublished)
}

/// Asks the authority to look, and waits for what it finds.
async fn validate(order: &mut Order, kind: ChallengeKind) -> Result<(), OrderError> {
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(type_of(kind))
        {
            challenge.set_ready().await?;
        }
    }
    match order.poll_ready(&RetryPolicy::new().timeout(VALIDATION_TIMEOUT)).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) | Err(Error::Api(_)) => {
            let failures = failures(order).await;
            Err(OrderError::Invalid(failures))
        }
        Err(error) => Err(error.into()),
    }
}

/// What the authority says about the names that it did not validate.
async fn failures(order: &mut Order) -> String {
    let mut found = Vec::new();
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        let host = authorization.identifier().to_string();
        match authorization.refresh().await {
            Ok(state) => {
                let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
                found.extend(errors.map(|problem| format!("{host}: {problem}")));
            }
            Err(error) => found.push(format!("{host}: {error}")),
        }
    }
    match found.is_empty() {
        true => "the authority did not validate the names".to_owned(),
        false => found.join("; "),
    }
}
