//! `watch`: a stream of changes, one line each.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use rand::Rng as _;
use serde_json::{Value, json};
use skep_api::{KindRef, Status, conversion};
use skep_store::Revision;
use tokio::time::{Instant, Sleep};

use super::list::{Selection, parse_number};
use crate::cache::{Change, ChangeKind, Changes, Trigger};
use crate::call::Call;
use crate::convert;
use crate::negotiate::{View, is_yaml_preferred, render, table_of, view};
use crate::object::Object;
use crate::perishable::Perishable;
use crate::stored::{Storage, store_error};

/// The interval of bookmarks of an idle watch.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// The least default timeout of a watch, as upstream's --min-request-timeout. Clients then watch again.
const MIN_TIMEOUT_SECONDS: u64 = 1_800;
/// A year. A clock has an end, and the client's number may be beyond it.
const MAX_TIMEOUT_SECONDS: u64 = 365 * 86_400;
/// Lines that are ready together are sent together, up to about this size.
const PIECE_BYTES: usize = 16 << 10;

pub(crate) async fn handle(storage: &Storage, call: Call) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, call.query.get("includeObject"))?;
    if is_yaml_preferred(&call.headers) {
        return Err(Status::not_acceptable("application/json"));
    }
    let selection = Selection::of(kind, &call.target.namespace, &call.query)?.named(&call.target.name);
    let trigger = selection.trigger(kind, &call.target.namespace);
    let seconds = parse_number(&call.query, "timeoutSeconds")?
        .unwrap_or_else(|| MIN_TIMEOUT_SECONDS + rand::rng().random_range(0..MIN_TIMEOUT_SECONDS))
        .min(MAX_TIMEOUT_SECONDS);
    let bookmarks = call.query.is_true("allowWatchBookmarks");
    let wanted = parse_number(&call.query, "resourceVersion")?;
    let initial = call.query.is_true("sendInitialEvents");
    if initial && call.query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Status::invalid_option(
            "resourceVersionMatch",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let mut stream = Stream {
        storage: storage.clone(),
        kind: kind.clone(),
        view,
        selection,
        waiting: VecDeque::new(),
        earlier: None,
        changes: None,
        deadline: Instant::now() + Duration::from_secs(seconds),
        pause: Box::pin(tokio::time::sleep(BOOKMARK_INTERVAL.min(Duration::from_secs(seconds)))),
        bookmarks,
        columns_sent: false,
        last: 0,
    };
    stream.start(wanted, initial, trigger).await?;
    let pieces = futures::stream::unfold(stream, |mut stream| async move {
        let piece = stream.next_piece().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), stream))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Stream {
    storage: Storage,
    kind: KindRef,
    view: View,
    selection: Selection,
    /// Lines to send next, or parts of them.
    waiting: VecDeque<Bytes>,
    /// To send before new changes. Lines are made of it as the client takes them.
    earlier: Option<Perishable<Earlier>>,
    changes: Option<Changes>,
    deadline: Instant,
    /// Until the next bookmark or the deadline. Reused: a timer for each event would cost more than the event.
    pause: Pin<Box<Sleep>>,
    bookmarks: bool,
    columns_sent: bool,
    last: Revision,
}

/// What a watch sends before new changes.
enum Earlier {
    /// The objects at the start, and then a bookmark with their revision if the client wants it.
    Objects(std::vec::IntoIter<Arc<Object>>, Option<Revision>),
    /// The changes since the client's revision.
    Changes(std::vec::IntoIter<Arc<Change>>),
}

enum Item {
    Object(Arc<Object>),
    Bookmark(Revision),
    Change(Arc<Change>),
}

impl Earlier {
    fn next(&mut self) -> Option<Item> {
        match self {
            Earlier::Objects(objects, bookmark) => match objects.next() {
                Some(object) => Some(Item::Object(object)),
                None => bookmark.take().map(Item::Bookmark),
            },
            Earlier::Changes(changes) => changes.next().map(Item::Change),
        }
    }
}

impl Stream {
    async fn start(
        &mut self,
        wanted: Option<Revision>,
        initial: bool,
        trigger: Trigger,
    ) -> Result<(), Status> {
        let resource = self.storage.caches.of(&self.kind).ok_or_else(Status::no_such_path)?;
        match wanted {
            // From a revision on, without the objects that the client has already.
            Some(after) if after != 0 && !initial => match resource.watch(after, trigger) {
                Ok((missed, changes)) => {
                    self.last = after;
                    if !missed.is_empty() {
                        self.earlier = Some(Perishable::new(Earlier::Changes(missed.into_iter())));
                    }
                    self.changes = Some(changes);
                }
                Err(gone) => self.waiting.push_back(expired(after, gone.oldest)),
            },
            _ => {
                let revision = match wanted {
                    Some(at) if at != 0 => self.storage.caches.wait_for(at).await.map_err(store_error)?,
                    Some(_) => self.storage.caches.applied(),
                    None => self.storage.caches.catch_up().await.map_err(store_error)?,
                };
                let (objects, changes) = resource.list_and_watch(&self.selection.prefix, trigger);
                let objects = convert::all(&self.storage.webhooks, &self.kind, objects).await?;
                self.last = revision;
                let selected = |object: &Arc<Object>| self.selection.selects(object);
                let objects: Vec<_> = objects.into_iter().filter(selected).collect();
                let bookmark = (initial && self.bookmarks).then_some(revision);
                self.earlier = Some(Perishable::new(Earlier::Objects(objects.into_iter(), bookmark)));
                self.changes = Some(changes);
            }
        }
        Ok(())
    }

    /// The lines that are ready, at least one; `None` ends the response. A large object is a piece of its own.
    async fn next_piece(&mut self) -> Option<Bytes> {
        let first = self.next().await?;
        if first.len() >= PIECE_BYTES || !self.make_ready().await {
            return Some(first);
        }
        let mut piece = Vec::from(first);
        while piece.len() < PIECE_BYTES && self.make_ready().await {
            let Some(line) = self.waiting.pop_front_if(|line| line.len() < PIECE_BYTES) else { break };
            piece.extend_from_slice(&line);
        }
        Some(piece.into())
    }

    /// Makes lines of what is ready. Whether there are any.
    async fn make_ready(&mut self) -> bool {
        while self.waiting.is_empty() {
            if self.earlier.is_some() {
                self.take_earlier().await;
                continue;
            }
            let Some(change) = self.changes.as_mut().and_then(|changes| changes.try_recv().ok()) else {
                return false;
            };
            self.take(change).await;
        }
        true
    }

    async fn take_earlier(&mut self) {
        let Some(next) = self.earlier.as_ref().map(|earlier| earlier.with(Earlier::next)) else { return };
        match next {
            Some(Some(Item::Object(object))) => self.push_line(ChangeKind::Added.name(), &object),
            Some(Some(Item::Change(change))) => self.take(change).await,
            Some(Some(Item::Bookmark(revision))) => {
                let annotations = json!({"k8s.io/initial-events-end": "true"});
                let line = self.bookmark(revision, &annotations);
                self.waiting.push_back(line);
            }
            Some(None) => self.earlier = None,
            // The client was too slow.
            None => {
                (self.earlier, self.changes) = (None, None);
                self.waiting.push_back(expired(self.last, self.last + 1));
            }
        }
    }

    /// The next line; `None` ends the response.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while self.waiting.is_empty() && self.earlier.is_some() {
                self.take_earlier().await;
            }
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            let changes = self.changes.as_mut()?;
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => self.take(change).await,
                    // The client was too slow, or the cache was reset. The client lists again.
                    None => {
                        self.changes = None;
                        self.waiting.push_back(expired(self.last, self.last + 1));
                    }
                },
                () = &mut self.pause => {
                    let now = Instant::now();
                    let over = now >= self.deadline;
                    self.pause.as_mut().reset(self.deadline.min(now + BOOKMARK_INTERVAL));
                    if self.bookmarks {
                        // With an empty queue, everything up to this revision was sent.
                        let applied = self.storage.caches.applied();
                        if self.changes.as_ref().is_some_and(Changes::is_drained) {
                            self.last = self.last.max(applied);
                        }
                        self.waiting.push_back(self.bookmark(self.last, &Value::Null));
                    }
                    if over {
                        self.changes = None;
                    }
                }
            }
        }
    }

    async fn take(&mut self, change: Arc<Change>) {
        if let Err(status) = self.push(change).await {
            (self.earlier, self.changes) = (None, None);
            let error = status.to_value().to_string();
            self.waiting.push_back(crate::cache::line("ERROR", error.as_bytes()));
        }
    }

    /// Queues the line of a change, if the watch selects it.
    async fn push(&mut self, change: Arc<Change>) -> Result<(), Status> {
        if change.revision() <= self.last {
            return Ok(());
        }
        self.last = change.revision();
        if !change.object.key.starts_with(&self.selection.prefix) {
            return Ok(());
        }
        let change = convert::change(&self.storage.webhooks, &self.kind, change).await?;
        let Some(kind) = self.selection.event(&change) else { return Ok(()) };
        match self.view {
            View::Whole if !conversion::is_needed(&self.kind) => change.push_line(kind, &mut self.waiting),
            _ => self.push_line(kind.name(), &change.object),
        }
        Ok(())
    }

    fn push_line(&mut self, kind: &str, object: &Object) {
        let body = match self.view {
            View::Table(rows) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let value = object.value();
                let revision = value["metadata"]["resourceVersion"].clone();
                Bytes::from(table_of(&self.kind, rows, &revision, [value].into_iter(), columns).to_string())
            }
            view => render(view, &self.kind, object),
        };
        crate::cache::push_line(kind, body, &mut self.waiting);
    }

    fn bookmark(&self, revision: Revision, annotations: &Value) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if !annotations.is_null() {
            metadata["annotations"] = annotations.clone();
        }
        let (kind, api_version) = match self.view {
            View::Whole => (&*self.kind.kind, self.kind.api_version()),
            View::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            View::Table(_) => ("Table", "meta.k8s.io/v1".to_owned()),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if let View::Table(_) = self.view {
            object["columnDefinitions"] = json!([]);
            object["rows"] = json!([]);
        }
        crate::cache::line("BOOKMARK", object.to_string().as_bytes())
    }
}

/// The error event after which a client lists again.
fn expired(after: Revision, oldest: Revision) -> Bytes {
    let status = Status::expired(format!("too old resource version: {after} ({oldest})"));
    crate::cache::line("ERROR", status.to_value().to_string().as_bytes())
}
