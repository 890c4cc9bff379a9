//! Who may do what at the kubelet API: the API server everything; another client what the API server says of its token.
//!
//! In: the head of a request. Out: whether it goes on, or its refusal. Tokens are reviewed by TokenReview, permissions by
//! SubjectAccessReview on the node's subresources (KEP-2862).

mod permission;
mod reviews;

use http::request::Parts;
use http::{Response, StatusCode, header};
use kube::Client;

use super::answer::{Body, text};
pub(super) use permission::Permission;
use reviews::{Reviews, User};

/// Decides on requests of clients without the API server's certificate.
pub(crate) struct Access {
    node: String,
    reviews: Reviews,
}

impl Access {
    pub(crate) fn new(node: &str, client: Client) -> Access {
        Access { node: node.to_owned(), reviews: Reviews::new(client) }
    }

    /// Whether the request's token may do it; else the refusal.
    pub(super) async fn check(&self, head: &Parts) -> Result<(), Box<Response<Body>>> {
        let Some(token) = bearer(head) else { return Err(unauthorized()) };
        let user = match self.reviews.user(token).await {
            Ok(Some(user)) => user,
            Ok(None) => return Err(unauthorized()),
            Err(error) => {
                tracing::warn!(%error, "review token failed");
                return Err(unauthorized());
            }
        };
        let permission = Permission::of(&head.method, head.uri.path());
        for subresource in permission.subresources {
            match self.reviews.allows(&user, &self.node, permission.verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(user = user.name, subresource, %error, "review access failed");
                    return Err(unknown(&user, &permission, subresource));
                }
            }
        }
        Err(forbidden(&user, &permission))
    }
}

fn bearer(head: &Parts) -> Option<&str> {
    let (scheme, token) = head.headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthorized() -> Box<Response<Body>> {
    Box::new(text(StatusCode::UNAUTHORIZED, "Unauthorized"))
}

fn unknown(user: &User, permission: &Permission, subresource: &str) -> Box<Response<Body>> {
    let (user, verb) = (&user.name, permission.verb);
    let message =
        format!("Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})");
    Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, message))
}

fn forbidden(user: &User, permission: &Permission) -> Box<Response<Body>> {
    let (user, verb, all) = (&user.name, permission.verb, permission.subresources.join(" "));
    let message = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{all}])\n");
    Box::new(text(StatusCode::FORBIDDEN, message))
}
