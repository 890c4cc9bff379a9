//! One request: who, whether, what, then the handler.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use skep_api::{Kind, Reason, Status};

use crate::admission::Notes;
use crate::authn;
use crate::authz::Attributes;
use crate::body::{PROTOBUF, media_type};
use crate::call::Call;
use crate::handlers;
use crate::metrics::{InProgress, RequestLabels};
use crate::negotiate::respond_status;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::route::{Route, route, verb};
use crate::write::add_warnings;
use crate::{Inner, aggregate, audit, subresources};

pub(crate) async fn handle(State(server): State<Arc<Inner>>, request: Request) -> Response {
    match server.config.audit.clone() {
        Some(audit) => audit::around(audit, server, request).await,
        None => unaudited(server, request).await,
    }
}

pub(crate) async fn unaudited(server: Arc<Inner>, request: Request) -> Response {
    let (notes, started) = (Arc::new(Notes::default()), Instant::now());
    let (inner, mut asked) = (server.clone(), None);
    let mut response = match answer(server, request, &notes, &mut asked).await {
        Ok(response) => response,
        Err(status) => respond_status(&status),
    };
    let (warnings, annotations) = notes.take();
    add_warnings(response.headers_mut(), &warnings);
    if !annotations.is_empty() {
        response.extensions_mut().insert(audit::Annotations(annotations));
    }
    match asked {
        Some((asked, open)) => inner.metrics.record(asked, started.elapsed(), open, response),
        None => response,
    }
}

/// `asked` becomes what the request is for, counted as begun.
async fn answer(
    server: Arc<Inner>,
    request: Request,
    notes: &Arc<Notes>,
    asked: &mut Option<(RequestLabels, InProgress)>,
) -> Result<Response, Status> {
    let mut begin = |server: &Inner, what: RequestLabels| {
        let open = server.metrics.begin(&what);
        *asked = Some((what, open));
    };
    let identity = authn::authenticate(&server, &request)?;
    let query = Query::parse(request.uri());
    if let Some(backend) = server.aggregator.backend_of(request.uri().path()) {
        begin(&server, RequestLabels::remote(&RequestInfo::parse(request.method(), request.uri())));
        return aggregate::handle(&server, &identity, &backend, request).await;
    }
    match route(&server.caches.registry(), request.uri().path()) {
        Route::Other => {
            begin(&server, RequestLabels::path(request.method()));
            let path = request.uri().path().to_owned();
            let verb = request.method().as_str().to_lowercase();
            server.caches.access().check(&Attributes::path(&identity, &verb, &path))?;
            let (parts, _) = request.into_parts();
            handlers::other::handle(&server, &identity, &Request::from_parts(parts, ())).await
        }
        Route::Resource(target) => {
            let watching = query.is_true("watch");
            let applying = media_type(request.headers()) == handlers::apply::MEDIA_TYPE;
            begin(&server, RequestLabels::resource(request.method(), &target, watching, applying));
            let (parts, body) = (request.method().clone(), request.headers().clone());
            let notes = notes.clone();
            let call = Call { server, identity, target, method: parts, headers: body, query, notes };
            let attributes = call.attributes(verb(&call.method, &call.target, watching));
            call.server.caches.access().check(&attributes)?;
            if let Some(custom) = &call.target.kind.custom {
                custom.version.warning.iter().for_each(|warning| call.notes.warn(warning.clone()));
            }
            dispatch(call, request, watching).await
        }
    }
}

async fn dispatch(call: Call, request: Request, watching: bool) -> Result<Response, Status> {
    let target = &call.target;
    // Protobuf of made kinds there is none; options of a deletion may come in it.
    let writes = matches!(call.method, Method::POST | Method::PUT);
    if writes && target.kind.custom.is_some() && media_type(&call.headers) == PROTOBUF {
        return Err(Status::unsupported_media_type("application/json, application/yaml"));
    }
    if !target.subresource.is_empty() && !matches!(target.subresource.as_str(), "status") {
        return subresources::handle(call, request).await;
    }
    let verb = verb(&call.method, target, watching);
    let of_status = target.subresource == "status" && matches!(verb, "get" | "update" | "patch");
    if !of_status && !target.kind.verbs.contains(&verb) {
        return Err(not_allowed(&target.kind, verb));
    }
    match verb {
        "watch" => handlers::watch::handle(call).await,
        "list" if call.query.is_true("watch") => handlers::watch::handle(call).await,
        "list" => handlers::list::handle(call).await,
        "get" => handlers::get::handle(call).await,
        verb => {
            let body = crate::body::read(request.into_body()).await?;
            write(call, verb, body).await
        }
    }
}

/// What a kind does not do, or not any more.
fn not_allowed(kind: &Kind, verb: &str) -> Status {
    let terminating = kind.custom.as_ref().is_some_and(|custom| custom.definition.terminating);
    if terminating && verb == "create" {
        let why = "create not allowed while custom resource definition is terminating";
        return Status::new(Reason::MethodNotAllowed, why);
    }
    Status::method_not_supported(kind, verb)
}

async fn write(call: Call, verb: &str, body: Bytes) -> Result<Response, Status> {
    match verb {
        "create" => handlers::create::handle(call, body).await,
        "update" => handlers::update::handle(call, body).await,
        "patch" => handlers::patch::handle(call, body).await,
        "delete" => handlers::delete::handle(call, body).await,
        "deletecollection" => handlers::delete::handle_collection(call, body).await,
        _ => Err(Status::method_not_supported(&call.target.kind, verb)),
    }
}
