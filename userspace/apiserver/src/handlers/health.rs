//! `/healthz`, `/livez`, `/readyz`: all checks, or one of them; `?verbose` tells each, `?exclude` leaves some out.

use std::fmt::Write as _;

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::Inner;
use crate::http::{Query, text};

/// What can be asked, under upstream's names. The store is `etcd`, whichever it is.
const CHECKS: [&str; 4] = ["ping", "etcd", "poststarthook/rbac/bootstrap-roles", "informer-sync"];

/// The server does not listen before its caches are filled and its roles are made.
async fn is_good(server: &Inner, check: &str) -> bool {
    match check {
        "etcd" => server.caches.store().revision().await.is_ok(),
        "informer-sync" => server.caches.applied() > 0,
        _ => true,
    }
}

/// The answer to `/<which>` or `/<which>/<check>`.
pub(super) async fn handle(server: &Inner, query: &Query, which: &str, check: &str) -> Response {
    let all = CHECKS.iter().copied().filter(|name| which == "readyz" || *name != "informer-sync");
    let chosen: Vec<&str> = all.filter(|name| check.is_empty() || *name == check).collect();
    if chosen.is_empty() {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let (mut out, mut healthy) = (String::new(), true);
    for name in chosen {
        if let Some(at) = excluded.iter().position(|excluded| *excluded == name) {
            excluded.remove(at);
            let _ = writeln!(out, "[+]{name} excluded: ok");
        } else if is_good(server, name).await {
            let _ = writeln!(out, "[+]{name} ok");
        } else {
            healthy = false;
            let _ = writeln!(out, "[-]{name} failed: reason withheld");
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("\"{name}\"")).collect();
        let names = names.join(",");
        let _ = writeln!(out, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    let which = if check.is_empty() { which.to_owned() } else { format!("{which}/{check}") };
    let mut response = if !healthy {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("{out}{which} check failed\n"))
    } else if query.has("verbose") {
        text(StatusCode::OK, format!("{out}{which} check passed\n"))
    } else {
        text(StatusCode::OK, "ok")
    };
    let sniffing = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(sniffing, HeaderValue::from_static("nosniff"));
    response
}
