//! `list`: joins the cached bytes of objects.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use skep_api::selector::{FieldSelector, LabelSelector};
use skep_api::{Kind, Reason, Status, conversion};
use skep_store::Revision;

use super::list_body::respond_items;
use crate::cache::{Change, ChangeKind, Trigger};
use crate::call::Call;
use crate::convert;
use crate::negotiate::{View, partial, render_value, respond_large, table_of, view};
use crate::object::{Object, prefix};
use crate::query::Query;
use crate::stored::{Storage, store_error};

/// Objects that are parsed on a thread of the runtime; it takes a few milliseconds. Pages of clients are not larger.
const MAX_PARSED_INLINE: usize = 512;
/// The same for their bytes: some objects have as many as a thousand others.
const MAX_BYTES_PARSED_INLINE: usize = 1 << 20;

/// The objects that a list, a watch or a `deletecollection` selects.
pub(crate) struct Selection {
    /// The prefix of their keys: that of the kind, or of the kind in one namespace.
    pub(crate) prefix: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn of(kind: &Kind, namespace: &str, query: &Query) -> Result<Selection, Status> {
        let bad = |error: skep_api::selector::BadSelector| Status::bad_request(error.0);
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields =
            FieldSelector::parse(kind, query.get("fieldSelector").unwrap_or_default()).map_err(bad)?;
        let prefix =
            if namespace.is_empty() { prefix(kind) } else { format!("{}{namespace}/", prefix(kind)) };
        Ok(Selection { prefix, labels, fields })
    }

    /// Those of them with a name; an empty name selects all.
    pub(crate) fn named(mut self, name: &str) -> Selection {
        if !name.is_empty() {
            self.fields.require("metadata.name", name);
        }
        self
    }

    /// The index under which a watch of these objects is registered.
    pub(crate) fn trigger(&self, kind: &Kind, namespace: &str) -> Trigger {
        Trigger::of(kind, namespace, &self.fields)
    }

    pub(crate) fn selects(&self, object: &Object) -> bool {
        (self.labels.is_empty() || self.labels.matches(&object.selectable))
            && (self.fields.is_empty() || self.fields.matches(&object.selectable))
    }

    /// How a watcher of these objects sees a change; `None` if not at all.
    pub(crate) fn event(&self, change: &Change) -> Option<ChangeKind> {
        if !change.object.key.starts_with(&self.prefix) {
            return None;
        }
        let before = change.previous.as_ref().is_some_and(|object| self.selects(object));
        let after = change.kind != ChangeKind::Deleted && self.selects(&change.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(ChangeKind::Added),
            (true, true) => Some(ChangeKind::Modified),
            (true, false) => Some(ChangeKind::Deleted),
        }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// The position of the next page: its revision, and the last key before it.
struct Continue {
    /// `None`: the present one. The list is inconsistent then: its earlier pages are of a revision that has expired.
    revision: Option<Revision>,
    after: String,
}

/// The `rv` of a token without a revision.
const PRESENT: i64 = -1;
/// Upstream's text (inconsistentContinue).
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
     a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
     results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
     deleted between the time the first chunk was returned and now may show up in the list.";

impl Continue {
    fn parse(token: &str) -> Result<Continue, Status> {
        let bad = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let after = value["start"].as_str().ok_or_else(bad)?.to_owned();
        let revision =
            if value["rv"] == PRESENT { None } else { Some(value["rv"].as_u64().ok_or_else(bad)?) };
        Ok(Continue { revision, after })
    }

    fn token(&self) -> String {
        let revision = self.revision.map_or(json!(PRESENT), Into::into);
        URL_SAFE_NO_PAD
            .encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after}).to_string())
    }
}

pub(crate) async fn handle(storage: &Storage, call: Call) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, call.query.get("includeObject"))?;
    let selection = Selection::of(kind, &call.target.namespace, &call.query)?;
    let limit: usize = parse_number(&call.query, "limit")?.unwrap_or(0) as usize;
    let page = match call.query.get("continue") {
        Some(token) => continued_page(storage, &call, &selection, limit, Continue::parse(token)?).await?,
        None => present_page(storage, &call, &selection, limit).await?,
    };
    if view == View::Whole && !conversion::is_needed(kind) {
        return Ok(respond_items(
            &call.headers,
            page.head(&kind.list_kind(), &kind.api_version()),
            page.objects,
        ));
    }
    let (headers, kind) = (call.headers, kind.clone());
    let bytes: usize = page.objects.iter().map(|object| object.bytes.len()).sum();
    if page.objects.len() <= MAX_PARSED_INLINE && bytes <= MAX_BYTES_PARSED_INLINE {
        return Ok(respond_large(&headers, page.body(&kind, view)));
    }
    // These forms parse every object. A long list must not block the runtime's threads.
    let response = tokio::task::spawn_blocking(move || respond_large(&headers, page.body(&kind, view)));
    response.await.map_err(Status::internal)
}

pub(crate) fn parse_number(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    let number = query.get(name).map(str::parse::<u64>).transpose();
    number.map_err(|_| Status::bad_request(format!("{name}: Invalid value: must be a non-negative integer")))
}

struct Page {
    objects: Vec<Arc<Object>>,
    revision: Revision,
    next: Option<Continue>,
    remaining: Option<u64>,
}

/// The first page, from the cache.
async fn present_page(
    storage: &Storage,
    call: &Call,
    selection: &Selection,
    limit: usize,
) -> Result<Page, Status> {
    let wanted = parse_number(&call.query, "resourceVersion")?;
    let exact = call.query.get("resourceVersionMatch") == Some("Exact");
    let caches = &storage.caches;
    let revision = match wanted {
        Some(0) => caches.applied(),
        Some(at) if exact => {
            return past_page(storage, call, selection, limit, at, "").await;
        }
        Some(at) => {
            let now = caches.catch_up().await.map_err(store_error)?;
            if at > now {
                return Err(Status::timeout(format!("Too large resource version: {at}, current: {now}"))
                    .with_details(json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1})));
            }
            now
        }
        None => caches.catch_up().await.map_err(store_error)?,
    };
    let resource = caches.of(&call.target.kind).ok_or_else(Status::no_such_path)?;
    // The cache may be newer by now: the list is at least as new as the revision in its metadata.
    Page::cut(storage, call, resource.list(&selection.prefix), selection, limit, revision).await
}

/// The page after another one. Err: 410 when its revision has expired, with a token that goes on at the present one.
async fn continued_page(
    storage: &Storage,
    call: &Call,
    selection: &Selection,
    limit: usize,
    from: Continue,
) -> Result<Page, Status> {
    let revision = match from.revision {
        Some(revision) => revision,
        None => storage.caches.catch_up().await.map_err(store_error)?,
    };
    let page = past_page(storage, call, selection, limit, revision, &from.after).await;
    page.map_err(|status| match status.reason {
        Reason::Expired => {
            let rest = Continue { revision: None, after: from.after };
            Status::expired(INCONSISTENT).with_continue(rest.token())
        }
        _ => status,
    })
}

/// A page at an older revision: from the cache if it has all changes since then, else from the store.
async fn past_page(
    storage: &Storage,
    call: &Call,
    selection: &Selection,
    limit: usize,
    revision: Revision,
    after: &str,
) -> Result<Page, Status> {
    let caches = &storage.caches;
    let resource = caches.of(&call.target.kind).ok_or_else(Status::no_such_path)?;
    let present = caches.catch_up().await.map_err(store_error)?;
    if revision < present {
        // A revision that the store has dropped has expired, also for a quiet kind whose cache still has it.
        caches.store().get(&selection.prefix, Some(revision)).await.map_err(store_error)?;
    }
    if revision <= present
        && let Some(mut objects) = resource.list_at(&selection.prefix, revision)
    {
        let done = objects.partition_point(|object| &*object.key <= after);
        objects.drain(..done);
        return Page::cut(storage, call, objects, selection, limit, revision).await;
    }
    stored_page(storage, call, selection, limit, revision, after).await
}

/// A page at an older revision, from the store.
async fn stored_page(
    storage: &Storage,
    call: &Call,
    selection: &Selection,
    limit: usize,
    revision: Revision,
    after: &str,
) -> Result<Page, Status> {
    let kind = &call.target.kind;
    let mut after = (!after.is_empty()).then(|| after.to_owned());
    let (mut objects, mut remaining) = (Vec::new(), None);
    loop {
        let range = storage
            .caches
            .store()
            .range(&selection.prefix, after.as_deref(), limit, Some(revision))
            .await
            .map_err(store_error)?;
        after = range.entries.last().map(|entry| entry.key.to_string());
        let found = range.entries.iter().map(|entry| Object::from_entry(kind, entry));
        let found = found.filter(|object| object.unreadable.is_none()).map(Arc::new).collect();
        let found = convert::all(&storage.webhooks, kind, found).await?;
        objects.extend(found.into_iter().filter(|object| selection.selects(object)));
        if !range.more {
            return Ok(Page { objects, revision, next: None, remaining: None });
        }
        if limit != 0 && objects.len() >= limit {
            if selection.is_everything() {
                let store = storage.caches.store();
                let count = store.count(&selection.prefix, after.as_deref(), Some(revision)).await;
                remaining = Some(count.map_err(store_error)?);
            }
            break;
        }
    }
    let next = Some(Continue { revision: Some(revision), after: after.unwrap_or_default() });
    Ok(Page { objects, revision, next, remaining })
}

impl Page {
    /// The first `limit` of these objects that are selected.
    async fn cut(
        storage: &Storage,
        call: &Call,
        mut objects: Vec<Arc<Object>>,
        selection: &Selection,
        limit: usize,
        revision: Revision,
    ) -> Result<Page, Status> {
        if !selection.is_everything() {
            objects = convert::all(&storage.webhooks, &call.target.kind, objects).await?;
            objects.retain(|object| selection.selects(object));
        }
        let (mut next, mut remaining) = (None, None);
        if limit != 0 && objects.len() > limit {
            remaining = selection.is_everything().then_some((objects.len() - limit) as u64);
            objects.truncate(limit);
            let after = objects.last().map(|object| object.key.to_string()).unwrap_or_default();
            next = Some(Continue { revision: Some(revision), after });
        }
        let objects = convert::all(&storage.webhooks, &call.target.kind, objects).await?;
        Ok(Page { objects, revision, next, remaining })
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.token().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }

    /// The text of a list before its items.
    fn head(&self, kind: &str, api_version: &str) -> String {
        let metadata = self.metadata();
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[")
    }

    fn body(&self, kind: &Kind, view: View) -> Bytes {
        let stored = || self.objects.iter().map(|object| object.value());
        let values = || stored().map(|value| render_value(View::Whole, kind, value));
        match view {
            View::Whole => {
                let items: Vec<Value> = values().collect();
                let (kind, api_version) = (kind.list_kind(), kind.api_version());
                let list = json!({"kind": kind, "apiVersion": api_version, "metadata": self.metadata(), "items": items});
                Bytes::from(list.to_string())
            }
            View::Metadata => {
                let mut out = self.head("PartialObjectMetadataList", "meta.k8s.io/v1").into_bytes();
                for (at, object) in self.objects.iter().enumerate() {
                    out.extend_from_slice(if at == 0 { b"" } else { b"," });
                    out.extend_from_slice(&partial(kind, object));
                }
                out.extend_from_slice(b"]}");
                Bytes::from(out)
            }
            View::Table(rows) => {
                let mut table = table_of(kind, rows, &Value::Null, stored(), true);
                table["metadata"] = self.metadata();
                Bytes::from(table.to_string())
            }
        }
    }
}
