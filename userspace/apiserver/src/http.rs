//! One request: who, whether, what, then the handler.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use skep_api::{Kind, Reason, Status};

use crate::admission::Notes;
use crate::authn::{self, Identity};
use crate::authz::Attributes;
use crate::body::{PROTOBUF, media_type};
use crate::handlers;
use crate::metrics::{Asked, Open};
use crate::negotiate::{respond, respond_status};
use crate::request_info::RequestInfo;
use crate::route::{Route, Target, route, verb};
use crate::write::add_warnings;
use crate::{Inner, aggregate, audit, subresources};

/// A request to a resource, authorised.
pub(crate) struct Call {
    pub(crate) server: Arc<Inner>,
    pub(crate) identity: Identity,
    pub(crate) target: Target,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    /// What admission has to say, whatever the answer is.
    pub(crate) notes: Arc<Notes>,
}

/// Query parameters, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Query {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is there, with a value or none.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()), Some("true" | "1"))
    }
}

/// In queries a plus is a space.
pub(crate) fn percent_decode(text: &str, query: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if query => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let digits: Option<u8> = rest.next_two().and_then(|two| {
                    std::str::from_utf8(&two).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
                });
                match digits {
                    Some(decoded) => {
                        out.push(decoded);
                        bytes.nth(1);
                    }
                    None => out.push(byte),
                }
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The next two bytes of an iterator, if there are as many.
trait TwoBytes {
    fn next_two(self) -> Option<[u8; 2]>;
}

impl TwoBytes for std::str::Bytes<'_> {
    fn next_two(mut self) -> Option<[u8; 2]> {
        Some([self.next()?, self.next()?])
    }
}

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
        Some((asked, open)) => inner.metrics.answered(asked, started.elapsed(), open, response),
        None => response,
    }
}

/// `asked` becomes what the request is for, counted as begun.
async fn answer(
    server: Arc<Inner>,
    request: Request,
    notes: &Arc<Notes>,
    asked: &mut Option<(Asked, Open)>,
) -> Result<Response, Status> {
    let mut begin = |server: &Inner, what: Asked| {
        let open = server.metrics.begin(&what);
        *asked = Some((what, open));
    };
    let identity = authn::authenticate(&server, &request)?;
    let query = Query::parse(request.uri());
    if let Some(backend) = server.aggregator.backend_of(request.uri().path()) {
        begin(&server, Asked::remote(&RequestInfo::parse(request.method(), request.uri())));
        return aggregate::handle(&server, &identity, &backend, request).await;
    }
    match route(&server.caches.registry(), request.uri().path()) {
        Route::Other => {
            begin(&server, Asked::path(request.method()));
            let path = request.uri().path().to_owned();
            let verb = request.method().as_str().to_lowercase();
            server.caches.access().check(&Attributes::path(&identity, &verb, &path))?;
            let (parts, _) = request.into_parts();
            handlers::other::handle(&server, &identity, &Request::from_parts(parts, ())).await
        }
        Route::Resource(target) => {
            let watching = query.is_true("watch");
            let applying = media_type(request.headers()) == handlers::apply::MEDIA_TYPE;
            begin(&server, Asked::resource(request.method(), &target, watching, applying));
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

impl Call {
    pub(crate) fn attributes<'a>(&'a self, verb: &'a str) -> Attributes<'a> {
        let attributes = Attributes::resource(&self.identity, verb, &self.target);
        if attributes.name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
            return Attributes { name: self.selected_name(), ..attributes };
        }
        attributes
    }

    /// A collection narrowed to one name counts as a request for that object: who may read it may also watch it.
    fn selected_name(&self) -> &str {
        let terms = self.query.get("fieldSelector").unwrap_or_default().split(',');
        let mut names = terms.filter_map(|term| term.strip_prefix("metadata.name="));
        names.next().unwrap_or_default().trim_start_matches('=')
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

/// A plain text answer.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = respond(code, body.into());
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
