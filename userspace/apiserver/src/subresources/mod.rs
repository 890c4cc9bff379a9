//! Subresources other than `status`.

mod approval;
mod binding;
mod edit;
mod eviction;
mod finalize;
mod log;
mod pod_resize;
pub(crate) mod proxy;
mod scale;
mod token;

use axum::extract::Request;
use axum::response::Response;
use skep_api::Status;

use crate::call::Call;
use crate::state::Inner;

/// Whether another process answers a request to this subresource.
pub(crate) fn is_proxied(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

pub(crate) async fn handle(server: &Inner, call: Call, request: Request) -> Result<Response, Status> {
    match call.target.subresource.as_str() {
        "scale" => scale::handle(&server.writer, call, request).await,
        "binding" => binding::handle(&server.writer, call, request).await,
        "eviction" => eviction::handle(&server.writer, call, request).await,
        "token" => token::handle(server, call, request).await,
        "finalize" => finalize::handle(&server.writer, call, request).await,
        "approval" => approval::handle(&server.writer, call, request).await,
        "ephemeralcontainers" | "resize" => pod_resize::handle(&server.writer, call, request).await,
        name if is_proxied(name) => proxy::handle(server, call, request).await,
        _ => Err(Status::no_such_path()),
    }
}
