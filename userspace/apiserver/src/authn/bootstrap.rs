//! Bootstrap tokens: `id.secret`, kept as Secrets `bootstrap-token-<id>` in kube-system.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use skep_api::find;

use crate::cache::Caches;
use crate::identity::{AUTHENTICATED, Identity};

const GROUP: &str = "system:bootstrappers";

pub(super) fn identity(caches: &Caches, token: &str) -> Option<Identity> {
    let (id, secret) = token.split_once('.')?;
    if id.len() != 6 || secret.len() != 16 {
        return None;
    }
    let kind = find("", "v1", "secrets")?;
    let stored = caches.get_or_404(kind, "kube-system", &format!("bootstrap-token-{id}")).ok()?.value();
    if stored["type"] != "bootstrap.kubernetes.io/token" || !stored["metadata"]["deletionTimestamp"].is_null()
    {
        return None;
    }
    let field = |name: &str| decoded(&stored["data"][name]);
    let same = field("token-secret").is_some_and(|wanted| {
        aws_lc_rs::constant_time::verify_slices_are_equal(wanted.as_bytes(), secret.as_bytes()).is_ok()
    });
    let expired = field("expiration")
        .is_some_and(|at| at.parse::<Timestamp>().map_or(true, |at| at <= Timestamp::now()));
    let usable = field("usage-bootstrap-authentication").as_deref() == Some("true");
    if !same || expired || !usable || field("token-id").as_deref() != Some(id) {
        return None;
    }
    let mut groups = vec![GROUP.to_owned(), AUTHENTICATED.to_owned()];
    if let Some(extra) = field("auth-extra-groups") {
        groups.extend(
            extra.split(',').filter(|group| group.starts_with("system:bootstrappers:")).map(str::to_owned),
        );
    }
    Some(Identity { user: format!("system:bootstrap:{id}"), groups, ..Identity::default() })
}

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok()
}
