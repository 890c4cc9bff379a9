//! Everything below an object but its status.

mod approval;
mod binding;
mod eviction;
mod finalize;
mod pod_parts;
pub(crate) mod proxy;
mod scale;
mod token;

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::Value;
use skep_api::kinds::Part;
use skep_api::{Status, meta};

use crate::body;
use crate::call::Call;
use crate::handlers::patch::{Form, decode};
use crate::handlers::update::{TRIES, check_preconditions};
use crate::negotiate::{respond_value, view};
use crate::object::Object;
use crate::write::{self, Options, respond_object};

pub(crate) async fn handle(call: Call, request: Request) -> Result<Response, Status> {
    match call.target.subresource.as_str() {
        "scale" => scale::handle(call, request).await,
        "binding" => binding::handle(call, request).await,
        "eviction" => eviction::handle(call, request).await,
        "token" => token::handle(call, request).await,
        "finalize" => finalize::handle(call, request).await,
        "approval" => approval::handle(call, request).await,
        "ephemeralcontainers" | "resize" => pod_parts::handle(call, request).await,
        "log" | "exec" | "attach" | "portforward" | "proxy" => proxy::handle(call, request).await,
        _ => Err(Status::no_such_path()),
    }
}

/// Get, update or patch of a subresource that is a part of its object: `change` takes the part over into the object.
async fn part(
    call: Call,
    request: Request,
    change: fn(&mut Value, &Value) -> Result<(), Status>,
) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, None)?;
    if call.method == Method::GET {
        let object =
            write::find_latest(&call.server, kind, &call.target.namespace, &call.target.name).await?;
        return Ok(respond_object(StatusCode::OK, view, kind, &object, &Vec::new()));
    }
    let options = Options::parse(&call.query)?;
    let bytes = body::read(request.into_body()).await?;
    let wanted = match call.method {
        Method::PUT => Wanted::Whole(body::decode(&call.headers, &bytes)?),
        Method::PATCH => Wanted::Patch(Form::of(&call)?, decode(&bytes)?),
        _ => return Err(Status::method_not_supported(kind, call.method.as_str())),
    };
    let stored = edit(&call, &options, |old| {
        let from = match &wanted {
            Wanted::Whole(object) => object.clone(),
            Wanted::Patch(form, patch) => form.apply(kind, old.clone(), patch)?,
        };
        let mut new = old.clone();
        change(&mut new, &from)?;
        if let Some(revision) = from["metadata"].get("resourceVersion") {
            meta::of_mut(&mut new).insert("resourceVersion".into(), revision.clone());
        }
        Ok(new)
    })
    .await?;
    Ok(respond_object(StatusCode::OK, view, kind, &stored, &Vec::new()))
}

enum Wanted {
    Whole(Value),
    Patch(Form, Value),
}

/// Changes an object until the store takes it or the change refuses.
async fn edit(
    call: &Call,
    options: &Options,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Object, Status> {
    let (kind, target) = (&call.target.kind, &call.target);
    for attempt in 1.. {
        let old = write::find_latest(&call.server, kind, &target.namespace, &target.name).await?;
        let new = change(&old.value())?;
        check_preconditions(kind, &new, &old)?;
        match write::update(call, &old, new, Part::Whole, options).await {
            Err(status) if status.is_stale() && attempt < TRIES => {}
            result => return result,
        }
    }
    Err(Status::stale(kind, &target.name))
}

fn success() -> Response {
    respond_value(
        StatusCode::CREATED,
        &serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

async fn posted(call: &Call, request: Request) -> Result<Value, Status> {
    if call.method != Method::POST {
        return Err(Status::method_not_supported(&call.target.kind, call.method.as_str()));
    }
    let bytes = body::read(request.into_body()).await?;
    body::decode_optional(&call.headers, &bytes)
}
