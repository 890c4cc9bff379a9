//! `/healthz`, `/livez`, `/readyz`: all checks, or one. `?verbose` lists each result, `?exclude` skips a check.

use std::fmt::Write as _;

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::negotiate::text;
use crate::query::Query;
use crate::state::Inner;

/// The checks under upstream's names. `etcd` is the store, whichever it is.
const CHECKS: [&str; 4] = ["ping", "etcd", "poststarthook/rbac/bootstrap-roles", "informer-sync"];

const KINDS: [&str; 3] = ["healthz", "livez", "readyz"];

/// Of the server's own checks the others always pass: it does not listen before its caches are filled and its roles exist.
async fn is_good(server: &Inner, check: &str) -> bool {
    match check {
        "etcd" => server.storage.caches.store().revision().await.is_ok(),
        "informer-sync" => server.storage.caches.applied() > 0,
        name => server.config.neighbours.iter().all(|part| part.check_name() != name || part.is_ready()),
    }
}

/// The checks of an endpoint.
fn checks_of(server: &Inner, which: &str) -> Vec<&'static str> {
    let neighbours = server.config.neighbours.iter().map(|part| part.check_name());
    let only_ready = |name: &&str| which == "readyz" || CHECKS.contains(name) && *name != "informer-sync";
    CHECKS.into_iter().chain(neighbours).filter(only_ready).collect()
}

/// Runs a check and records its result in the metrics.
async fn check(server: &Inner, which: &'static str, name: &'static str) -> bool {
    let good = is_good(server, name).await;
    server.metrics.record_check(name, which, good);
    good
}

/// Runs every check, to update the metrics.
pub(super) async fn check_all(server: &Inner) {
    for which in KINDS {
        for name in checks_of(server, which) {
            check(server, which, name).await;
        }
    }
}

/// The answer to `/<which>` or `/<which>/<check>`.
pub(super) async fn handle(server: &Inner, query: &Query, which: &str, only: &str) -> Response {
    let kind = KINDS.into_iter().find(|kind| *kind == which).unwrap_or("healthz");
    let mut chosen = checks_of(server, which);
    chosen.retain(|name| only.is_empty() || *name == only);
    if chosen.is_empty() {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let (mut out, mut healthy) = (String::new(), true);
    for name in chosen {
        if let Some(at) = excluded.iter().position(|excluded| *excluded == name) {
            excluded.remove(at);
            let _ = writeln!(out, "[+]{name} excluded: ok");
        } else if check(server, kind, name).await {
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
    let which = if only.is_empty() { which.to_owned() } else { format!("{which}/{only}") };
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
