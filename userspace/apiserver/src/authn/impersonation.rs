//! Impersonation: a requester who acts as another user, by the `Impersonate-*` headers.
//!
//! Two ways, as upstream. Constrained (KEP-5284): `impersonate:MODE` on the user and `impersonate-on:MODE:VERB` on the
//! request. Legacy: `impersonate` on the user, for all requests. Every header is authorised; none is ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use skep_api::Status;
use skep_api::names::{NameForm, name_problem};

use super::token::{NODE_NAME, account_groups};
use crate::authz::{Attributes, NODES, SUPERUSERS};
use crate::cache::Caches;
use crate::identity::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED};
use crate::live_authorizer::{LiveAuthorizer, forbidden};
use crate::query::percent_decode;
use crate::request_info::RequestInfo;

const GROUP: &str = "authentication.k8s.io";
const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUPS: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user that the headers name, as they name it; `None` without such headers.
pub(crate) fn wanted_user(headers: &HeaderMap) -> Result<Option<Identity>, Status> {
    let present = |name: &str| name.starts_with("impersonate-");
    if !headers.keys().any(|name| present(name.as_str())) {
        return Ok(None);
    }
    let text = |value: &http::HeaderValue| {
        let text = std::str::from_utf8(value.as_bytes());
        text.map(str::to_owned).map_err(|_| Status::bad_request("an Impersonate header is not UTF-8"))
    };
    let first = |name: &str| headers.get(name).map(text).transpose().map(Option::unwrap_or_default);
    let groups = headers.get_all(GROUPS).iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            extra.entry(percent_decode(key, false)).or_default().push(text(value)?);
        }
    }
    let wanted = Identity { user: first(USER)?, uid: first(UID)?, groups, extra };
    if !wanted.user.is_empty() {
        return Ok(Some(wanted));
    }
    if only_named(&wanted) {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {wanted:?} without impersonating a user name")))
}

/// The user as whom the request is handled: the requester, or the one whom he may impersonate.
pub(crate) async fn impersonated(
    caches: &Caches,
    headers: &HeaderMap,
    info: &RequestInfo<'_>,
    requester: Arc<Identity>,
) -> Result<Arc<Identity>, Status> {
    let Some(wanted) = wanted_user(headers)? else { return Ok(requester) };
    let check = Check { authorizer: caches.authorizer(), requester: &requester };
    // On the heap: few requests impersonate.
    Box::pin(check.user(&wanted, info)).await.map(Arc::new)
}

/// Kinds of users with rights of their own. Each constrained mode but `user-info` allows a name and nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The node on which the requesting account's pod runs.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Users that are neither nodes nor service accounts.
    UserInfo,
    Legacy,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        }
    }

    fn applies(self, wanted: &Identity, requester: &Identity) -> bool {
        let node = node_of(&wanted.user);
        match self {
            Mode::AssociatedNode => {
                let own = requester.extra.get(NODE_NAME).filter(|own| own.len() == 1);
                only_named(wanted)
                    && account_of(&requester.user).is_some()
                    && node.is_some_and(|node| own.is_some_and(|own| own[0] == node))
            }
            Mode::ArbitraryNode => only_named(wanted) && node.is_some(),
            Mode::ServiceAccount => only_named(wanted) && account_of(&wanted.user).is_some(),
            Mode::UserInfo => node.is_none() && account_of(&wanted.user).is_none(),
            Mode::Legacy => true,
        }
    }
}

struct Check<'a> {
    authorizer: &'a LiveAuthorizer,
    requester: &'a Identity,
}

impl Check<'_> {
    async fn user(&self, wanted: &Identity, info: &RequestInfo<'_>) -> Result<Identity, Status> {
        match self.constrained(wanted, info).await {
            Some(user) => Ok(user),
            None => self.whole_user(wanted, Mode::Legacy).await,
        }
    }

    /// The user in the first constrained mode that allows it.
    async fn constrained(&self, wanted: &Identity, info: &RequestInfo<'_>) -> Option<Identity> {
        let modes = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo];
        for mode in modes.into_iter().filter(|mode| mode.applies(wanted, self.requester)) {
            let verb = format!("impersonate-on:{}:{}", mode.name(), info.verb);
            let on = Attributes { verb: &verb, ..info.attributes(self.requester) };
            if self.authorizer.allows(&on).await
                && let Ok(user) = self.whole_user(wanted, mode).await
            {
                return Some(user);
            }
        }
        None
    }

    /// Authorises each part of the user; completes its groups.
    async fn whole_user(&self, wanted: &Identity, mode: Mode) -> Result<Identity, Status> {
        let (verb, mut actual) = (mode.verb(), wanted.clone());
        // Names and groups were of the core group, before there was another.
        let legacy_group = if mode == Mode::Legacy { "" } else { GROUP };
        let (account, node) = (account_of(&wanted.user), node_of(&wanted.user));
        let part =
            |group, resource, name| Attributes { verb: &verb, group, resource, name, ..self.attributes() };
        let named = match (account, node.filter(|_| mode != Mode::Legacy)) {
            (Some((namespace, name)), _) => {
                if wanted.groups.is_empty() {
                    actual.groups = account_groups(namespace);
                }
                Attributes { namespace, ..part(legacy_group, "serviceaccounts", name) }
            }
            (_, Some(_)) => {
                actual.groups = vec![NODES.to_owned()];
                // An associated node is any that the account's pods run on.
                let name = if mode == Mode::AssociatedNode { "*" } else { node.unwrap_or_default() };
                part(legacy_group, "nodes", name)
            }
            _ => part(legacy_group, "users", &wanted.user),
        };
        self.authorizer.check(&named).await?;
        if !wanted.uid.is_empty() {
            self.authorizer.check(&part(GROUP, "uids", &wanted.uid)).await?;
        }
        for group in &wanted.groups {
            let attributes = part(legacy_group, "groups", group.as_str());
            if mode != Mode::Legacy && (group.is_empty() || group == SUPERUSERS) {
                let why = format!("impersonating the {group} group is not allowed");
                return Err(forbidden(&attributes, &why));
            }
            self.authorizer.check(&attributes).await?;
        }
        for (key, values) in &wanted.extra {
            for value in values {
                let attributes = Attributes { subresource: key, ..part(GROUP, "userextras", value.as_str()) };
                if mode != Mode::Legacy && (key.is_empty() || value.is_empty()) {
                    return Err(forbidden(
                        &attributes,
                        "impersonating an empty string in extra is not allowed",
                    ));
                }
                self.authorizer.check(&attributes).await?;
            }
        }
        complete_groups(&mut actual);
        Ok(actual)
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes { version: "v1", ..Attributes::of(self.requester) }
    }
}

/// Adds the group of all users who are, or are not, authenticated.
fn complete_groups(user: &mut Identity) {
    let has = |group: &str| user.groups.iter().any(|own| own == group);
    let missing = match user.user == ANONYMOUS {
        true => Some(UNAUTHENTICATED).filter(|group| !has(group)),
        false => Some(AUTHENTICATED).filter(|group| !has(group) && !has(UNAUTHENTICATED)),
    };
    user.groups.extend(missing.map(str::to_owned));
}

fn only_named(user: &Identity) -> bool {
    user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty()
}

/// Namespace and name, if the user is a service account.
fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let is = |name, form| name_problem(name, form).is_none();
    (is(namespace, NameForm::Label) && is(name, NameForm::Subdomain)).then_some((namespace, name))
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| name_problem(name, NameForm::Subdomain).is_none())
}
