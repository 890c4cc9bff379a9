//! A new object.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use rand::Rng as _;
use serde_json::Value;
use skep_api::kinds::Part;
use skep_api::{Kind, Reason, Status, conversion, meta};

use crate::admission::Request;
use crate::call::Call;
use crate::negotiate::view;
use crate::object::{Object, key};
use crate::write::{self, Options, check_kind, check_place, check_schema, respond_object};
use crate::{admission, allocate, body, managers, review};

/// Characters of generated names: none that make words or look alike, as upstream's.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Upstream's limit of a generated name's base, so that the suffix fits.
const BASE_MAX: usize = 58;
/// Generated names that are tried before the client is told.
const TRIES: usize = 8;

pub(crate) async fn handle(mut call: Call, bytes: Bytes) -> Result<Response, Status> {
    let kind = &call.target.kind.clone();
    if !call.target.name.is_empty() {
        return Err(Status::method_not_supported(kind, "POST"));
    }
    let options = Options::parse(&call.query)?;
    let view = view(&call.headers, None)?;
    let mut object = body::decode(&call.headers, &bytes)?;
    check_kind(kind, &mut object)?;
    let warnings = check_schema(kind, &mut object, body::text(&call.headers, &bytes), &options)?;
    if let Some(answer) = review::answer(&call, &object)? {
        return Ok(answer);
    }
    check_place(&call, &mut object)?;
    object = conversion::to_storage_kind(&mut call.target.kind, object);
    let stored = create(&call, object, &options).await?;
    Ok(respond_object(StatusCode::CREATED, view, kind, &stored, &warnings))
}

/// Prepares, admits, validates and stores.
pub(crate) async fn create(call: &Call, mut object: Value, options: &Options) -> Result<Object, Status> {
    let kind = &call.target.kind;
    write::stamp(&mut object);
    let base = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    if !meta::name(&object).is_empty() || base.is_empty() {
        return create_named(call, object, options).await;
    }
    for attempt in 1.. {
        let mut new = object.clone();
        meta::of_mut(&mut new).insert("name".into(), generate(&base).into());
        match create_named(call, new, options).await {
            Err(status) if status.reason == Reason::AlreadyExists && attempt < TRIES => {}
            result => return result,
        }
    }
    Err(Status::already_exists(kind, &base))
}

async fn create_named(call: &Call, mut object: Value, options: &Options) -> Result<Object, Status> {
    let kind = &call.target.kind;
    kind.prepare_create(&mut object);
    if !options.applied {
        managers::track(call, &Value::Null, &mut object, Part::Main);
    }
    let request = Request::create(call, options.dry_run);
    if admission::mutate(&request, &mut object).await? {
        kind.prepare_create(&mut object);
    }
    let reservation = allocate::reserve(&call.server, kind, &mut object, None, options.dry_run).await?;
    let stored = store(&request, &object).await;
    if let Some(reservation) = reservation {
        reservation.end(stored.is_ok()).await;
    }
    stored
}

/// Validates and stores an object that is complete.
async fn store(request: &Request<'_>, object: &Value) -> Result<Object, Status> {
    let (call, kind) = (request.call, &request.call.target.kind);
    let errors = write::judged(kind, || kind.validate_create(object));
    if !errors.is_empty() {
        return Err(Status::invalid(kind, meta::name(object), &errors));
    }
    kind.warnings(object).into_iter().for_each(|warning| call.notes.warn(warning));
    let charge = admission::validate(request, object).await?;
    if request.dry_run {
        return dry(call, kind, object);
    }
    let stored = write::insert(&call.server, kind, object).await;
    if stored.is_err() {
        charge.refund(&call.server).await;
    }
    stored
}

fn dry(call: &Call, kind: &Kind, object: &Value) -> Result<Object, Status> {
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    if write::find(&call.server, kind, namespace, name).is_ok() {
        return Err(Status::already_exists(kind, name));
    }
    let entry = skep_store::Entry {
        key: key(kind, namespace, name).into(),
        value: crate::object::to_stored(object),
        created: 0,
        modified: 0,
    };
    Ok(Object::from_entry(kind, &entry))
}

pub(crate) fn generate(base: &str) -> String {
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    let end = base.char_indices().nth(BASE_MAX).map_or(base.len(), |(at, _)| at);
    base[..end].chars().chain(suffix).collect()
}
