//! A user acts as another only with a right to each part of that user.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{World, get, send};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const ACCOUNT: &str = "system:serviceaccount:kube-system:priv";

/// The role that the requester has, headers, and the code of the answer.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);

/// Code, and the user info or the message.
async fn who(client: &kube::Client, headers: &[(&str, &str)]) -> Result<(u16, Value)> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (code, answer) = send(client, Method::POST, REVIEWS, headers, Some(review)).await?;
    let shown = if code == 201 { &answer["status"]["userInfo"] } else { &answer["message"] };
    Ok((code, shown.clone()))
}

fn rule(group: &str, resources: &[&str], names: &[&str], verb: &str) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": [verb], "resourceNames": names})
}

#[tokio::test]
async fn each_part_of_an_impersonated_user_needs_its_right() -> Result<()> {
    let world = World::start().await?;
    let authentication = "authentication.k8s.io";
    for (user, rule) in [
        ("of-users", rule("", &["users"], &[], "impersonate")),
        ("of-accounts", rule("", &["serviceaccounts"], &[], "impersonate")),
        ("of-core-uids", rule("", &["users", "uids", "userextras/scopes"], &[], "impersonate")),
        ("of-uids", rule(authentication, &["uids"], &["1"], "impersonate")),
        ("of-extras", rule(authentication, &["userextras/scopes"], &["view"], "impersonate")),
        ("of-groups", rule("", &["groups"], &["dev"], "impersonate")),
    ] {
        world.grant(user, json!([rule])).await?;
        if ["of-uids", "of-extras", "of-groups"].contains(&user) {
            let users = json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]);
            let name = format!("{user}-users");
            world.create(super::ROLES, super::cluster_role(&name, users)).await?;
            world.create(super::BINDINGS, super::cluster_binding(&name, &name, user)).await?;
        }
    }
    let (jane, priv_account) = (("impersonate-user", "jane"), ("impersonate-user", ACCOUNT));
    let (uid, scope) = (("impersonate-uid", "1"), ("impersonate-extra-scopes", "view"));
    let (dev, masters) = (("impersonate-group", "dev"), ("impersonate-group", "system:masters"));
    let rows: &[Row] = &[
        ("of-users", &[jane], 201),
        ("of-users", &[priv_account], 403),
        ("of-accounts", &[priv_account], 201),
        ("of-accounts", &[jane], 403),
        ("of-users", &[jane, uid], 403),
        ("of-core-uids", &[jane, uid], 403),
        ("of-core-uids", &[jane, scope], 403),
        ("of-uids", &[jane, uid], 201),
        ("of-uids", &[jane, ("impersonate-uid", "2")], 403),
        ("of-extras", &[jane, scope], 201),
        ("of-extras", &[jane, ("impersonate-extra-scopes", "edit")], 403),
        ("of-extras", &[jane, ("impersonate-extra-other", "view")], 403),
        ("of-groups", &[jane, dev], 201),
        ("of-groups", &[jane, dev, masters], 403),
        ("of-users", &[uid], 400),
        ("of-users", &[scope], 400),
        ("of-users", &[dev], 400),
    ];
    let mut wrong = Vec::new();
    for (user, headers, wanted) in rows {
        let (code, shown) = who(&world.user(user), headers).await?;
        if code != *wanted {
            wrong.push(format!("{user} {headers:?}: {code} {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (_, refused) = who(&world.user("of-users"), &[priv_account]).await?;
    let wanted = "serviceaccounts \"priv\" is forbidden: User \"of-users\" cannot impersonate resource \"serviceaccounts\" \
        in API group \"\" in the namespace \"kube-system\"";
    assert_eq!(refused, wanted);
    Ok(())
}

#[tokio::test]
async fn an_impersonated_user_is_what_the_headers_say() -> Result<()> {
    let world = World::start().await?;
    let headers = [
        ("impersonate-user", "jane"),
        ("impersonate-uid", "1"),
        ("impersonate-group", "dev"),
        ("impersonate-extra-example.com%2fscopes", "a"),
        ("impersonate-extra-example.com%2fscopes", "b"),
    ];
    let (_, user) = who(&world.admin, &headers).await?;
    let extra = json!({"example.com/scopes": ["a", "b"]});
    let groups = json!(["dev", "system:authenticated"]);
    assert_eq!(user, json!({"username": "jane", "uid": "1", "groups": groups, "extra": extra}));
    let (_, account) = who(&world.admin, &[("impersonate-user", ACCOUNT)]).await?;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    assert_eq!(account["groups"], json!(groups));
    Ok(())
}

/// The roles of `edit` allow it to act as the accounts of its namespace.
#[tokio::test]
async fn an_editor_acts_as_the_accounts_of_its_namespace_only() -> Result<()> {
    let world = World::start().await?;
    let binding = json!({
        "apiVersion": super::RBAC, "kind": "RoleBinding", "metadata": {"name": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregate-to-edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "dev"}],
    });
    world.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await?;
    let dev = world.user("dev");
    let (code, _) = who(&dev, &[("impersonate-user", "system:serviceaccount:default:builder")]).await?;
    assert_eq!(code, 201);
    let (code, _) = who(&dev, &[("impersonate-user", ACCOUNT)]).await?;
    assert_eq!(code, 403);
    Ok(())
}

/// KEP-5284: a right to a user together with a right to a verb, and to no more.
#[tokio::test]
async fn constrained_impersonation_allows_only_its_verbs() -> Result<()> {
    let world = World::start().await?;
    let rules = json!([
        rule("authentication.k8s.io", &["users"], &["jane"], "impersonate:user-info"),
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["impersonate-on:user-info:list"]},
    ]);
    world.grant("deputy", rules).await?;
    world
        .grant("jane", json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["list"]}]))
        .await?;
    let deputy = world.user("deputy");
    let jane = [("impersonate-user", "jane")];
    let list = |resource: &'static str| {
        let deputy = deputy.clone();
        async move { send(&deputy, Method::GET, &format!("/api/v1/{resource}"), &jane, None).await }
    };
    assert_eq!(list("pods").await?.0, 200);
    assert_eq!(list("secrets").await?.0, 403);
    assert_eq!(get(&deputy, "/api/v1/pods").await?.0, 403);
    assert_eq!(who(&deputy, &jane).await?.0, 403);
    Ok(())
}
