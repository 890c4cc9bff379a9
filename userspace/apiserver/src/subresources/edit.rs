//! Shared steps of subresources: read the body, change the object behind, answer.

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use skep_api::kinds::Part;
use skep_api::{Kind, Status, apply, meta};

use crate::admission::Shape;
use crate::body;
use crate::body_checks::{check_identity, check_kind, check_part, check_preconditions, check_schema};
use crate::call::Call;
use crate::field_manager::as_writer;
use crate::handlers::apply::{configuration, report_duplicates};
use crate::handlers::patch::{Form, decode};
use crate::negotiate::{respond_object, respond_value, view};
use crate::object::Object;
use crate::write::Writer;
use crate::write_options::{Options, Write};

/// Get, update or patch of a subresource that is a part of its object. `change` copies the part into the object.
pub(super) async fn part(
    writer: &Writer,
    call: Call,
    request: Request,
    change: fn(&Kind, &mut Value, &Value) -> Result<(), Status>,
) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, None)?;
    if call.method == Method::GET {
        let object = writer.storage.latest(kind, &call.target.namespace, &call.target.name).await?;
        return Ok(respond_object(StatusCode::OK, view, kind, &object));
    }
    if !matches!(call.method, Method::PUT | Method::PATCH) {
        return Err(Status::method_not_supported(kind, call.method.as_str()));
    }
    let options = Options::parse(&call)?;
    let bytes = body::read(request.into_body()).await?;
    let wanted = Wanted::read(&call, &bytes)?;
    wanted.report_duplicates(&call, &bytes, &options)?;
    let stored = edit(writer, &call, Part::Whole, &options, |old| {
        let mut from = match &wanted {
            Wanted::Whole(object) => object.clone(),
            Wanted::Patch(form, patch) => form.apply(kind, old.clone(), patch)?,
            Wanted::Apply(config) => {
                let force = call.query.is_true("force");
                as_writer(&call, |writer| apply::apply(kind, old, config, writer, force))?
            }
        };
        check_kind(kind, &mut from)?;
        check_schema(&call, kind, &mut from, Vec::new(), &options)?;
        check_identity(&call, &mut from)?;
        let mut new = old.clone();
        change(kind, &mut new, &from)?;
        if let Some(revision) = from["metadata"].get("resourceVersion") {
            meta::of_mut(&mut new).insert("resourceVersion".into(), revision.clone());
        }
        if options.applied {
            take_managers(&mut new, &mut from);
        }
        Ok(new)
    })
    .await?;
    Ok(respond_object(StatusCode::OK, view, kind, &stored))
}

/// Moves the managers of one object to another.
fn take_managers(new: &mut Value, from: &mut Value) {
    match meta::of_mut(from).remove("managedFields") {
        Some(managers) => drop(meta::of_mut(new).insert("managedFields".into(), managers)),
        None => drop(meta::of_mut(new).remove("managedFields")),
    }
}

/// The body of a write.
pub(super) enum Wanted {
    Whole(Value),
    Patch(Form, Value),
    /// A configuration of server-side apply.
    Apply(Value),
}

impl Wanted {
    /// Reads the body of an update or patch.
    pub(super) fn read(call: &Call, bytes: &Bytes) -> Result<Wanted, Status> {
        Ok(match Write::of(call) {
            Write::Apply => Wanted::Apply(configuration(bytes)?),
            Write::Patch => Wanted::Patch(Form::of(call)?, decode(bytes)?),
            _ => Wanted::Whole(body::decode(&call.headers, bytes)?),
        })
    }

    /// Reports the fields that a configuration has twice.
    pub(super) fn report_duplicates(
        &self,
        call: &Call,
        bytes: &Bytes,
        options: &Options,
    ) -> Result<(), Status> {
        match self {
            Wanted::Apply(_) => report_duplicates(call, bytes, options),
            _ => Ok(()),
        }
    }
}

/// Changes the whole object behind a subresource, whatever part of it the change concerns.
pub(super) async fn edit(
    writer: &Writer,
    call: &Call,
    part: Part,
    options: &Options,
    change: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Object, Status> {
    let kind = &call.target.kind;
    let change = |old: &Object, before: &Value| {
        let new = change(before)?;
        check_preconditions(kind, &new, old)?;
        Ok(new)
    };
    writer.guaranteed_update(call, kind, part, options, change).await
}

/// The answer to a posted subresource.
pub(super) fn success() -> Response {
    respond_value(
        StatusCode::CREATED,
        &serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

/// The body of a POST, an object of this kind.
pub(super) async fn posted(call: &Call, request: Request, shape: Shape) -> Result<Value, Status> {
    if call.method != Method::POST {
        return Err(Status::method_not_supported(&call.target.kind, call.method.as_str()));
    }
    let bytes = body::read(request.into_body()).await?;
    let mut object = body::decode_optional(&call.headers, &bytes)?;
    check_part(shape, &mut object)?;
    Ok(object)
}
