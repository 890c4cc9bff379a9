//! The informers' events as changes to the planner's index.
//!
//! In: events of each kind that the index takes. Out: the engine's [`Message`]s. At the end of a list the index drops
//! what the list did not contain, so no object survives a deletion that the watch missed. Of an object that does not decode
//! the last version that did stays in force; a NetworkPolicy instead isolates all pods that it could select.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skep_api::decode::Unreadable;
use skep_api::watch::WatchEvent;
use skep_netplan::{Index, key_of};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::Message;
use crate::informers::{Events, Informers, Watched};
use crate::lenient::identity;

/// A change of an index.
pub(crate) type Change<I> = Box<dyn FnOnce(&mut I) + Send>;

/// A kind that an index takes.
pub(crate) trait Indexed<I>: Watched {
    fn apply(&self, index: &mut I);
    fn delete(key: &str, index: &mut I);
    /// Drops every object of the kind whose key is not in `listed`.
    fn keep(listed: &HashSet<Arc<str>>, index: &mut I);
    /// The change for an object that does not decode; `None`: its last version stays.
    fn unreadable(unreadable: Unreadable) -> Option<Change<I>>;
}

/// Who performs the changes of an index. Each answers whether it still does.
pub(crate) trait Performer<I>: Send {
    fn change(&self, change: Change<I>) -> impl Future<Output = bool> + Send;
    /// One more kind was listed completely.
    fn listed(&self) -> impl Future<Output = bool> + Send;
}

impl Performer<Index> for Sender<Message> {
    async fn change(&self, change: Change<Index>) -> bool {
        self.send(Message::index(change)).await.is_ok()
    }

    async fn listed(&self) -> bool {
        self.send(Message::Listed).await.is_ok()
    }
}

/// Implements [`Indexed`] for kinds by the methods of their index.
macro_rules! indexes {
    ($index:ty: $($kind:ty, $apply:ident, $delete:ident, $keep:ident, $unreadable:expr;)+) => {
        $(impl $crate::index_updates::Indexed<$index> for $kind {
            fn apply(&self, index: &mut $index) {
                index.$apply(self);
            }
            fn delete(key: &str, index: &mut $index) {
                index.$delete(key);
            }
            fn keep(listed: &std::collections::HashSet<std::sync::Arc<str>>, index: &mut $index) {
                index.$keep(listed);
            }
            fn unreadable(
                unreadable: skep_api::decode::Unreadable,
            ) -> Option<$crate::index_updates::Change<$index>> {
                $unreadable(unreadable)
            }
        })+
    };
}
pub(crate) use indexes;

macro_rules! indexed {
    ($($field:ident: $kind:ty, $apply:ident, $delete:ident, $keep:ident, $unreadable:expr;)+) => {
        /// How many kinds must be listed before the engine writes anything.
        pub const KINDS: usize = [$(stringify!($kind)),+].len();

        /// What the network engine subscribes to.
        pub struct Subscriptions {
            $($field: Events<$kind>,)+
        }

        impl Subscriptions {
            pub fn new(informers: &mut Informers) -> Self {
                Subscriptions { $($field: informers.$field.subscribe(),)+ }
            }

            /// Forwards all events until `stop`, the informers or the receiver end.
            pub(crate) fn forward(self, to: &Sender<Message>, stop: &CancellationToken) -> JoinSet<()> {
                let mut tasks = JoinSet::new();
                $({
                    let forwarding = forward(self.$field, to.clone());
                    tasks.spawn(until(stop.clone(), forwarding));
                })+
                tasks
            }
        }

        indexes! { Index: $($kind, $apply, $delete, $keep, $unreadable;)+ }
    };
}

indexed! {
    services: Service, apply_service, delete_service, keep_services, keep_last;
    endpoint_slices: EndpointSlice, apply_slice, delete_slice, keep_slices, keep_last;
    pods: Pod, apply_pod, delete_pod, keep_pods, keep_last;
    nodes: Node, apply_node, delete_node, keep_nodes, keep_last;
    namespaces: Namespace, apply_namespace, delete_namespace, keep_namespaces, keep_last;
    network_policies: NetworkPolicy, apply_policy, delete_policy, keep_policies, isolate;
}

/// The last version that decoded stays.
pub(crate) fn keep_last<I>(_: Unreadable) -> Option<Change<I>> {
    None
}

/// Fails closed: what the policy denies is not known.
fn isolate(unreadable: Unreadable) -> Option<Change<Index>> {
    let meta = identity(&unreadable);
    Some(Box::new(move |index: &mut Index| index.apply_unreadable_policy(&meta, &unreadable.error)))
}

pub(crate) async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await.unwrap_or_default()
}

/// Hands the changes to the performer until the events end or it is gone.
pub(crate) async fn forward<I: 'static, K: Indexed<I>>(mut events: Events<K>, to: impl Performer<I>) {
    let mut listed = HashSet::new();
    let mut listed_before = false;
    while let Some(event) = events.recv().await {
        let change: Change<I> = match event {
            WatchEvent::Init => {
                listed.clear();
                continue;
            }
            WatchEvent::InitKeep(unreadable) => {
                listed.insert(key_of(&identity(&unreadable)));
                match K::unreadable(unreadable) {
                    Some(change) => change,
                    None => continue,
                }
            }
            WatchEvent::InitApply(object) => {
                listed.insert(key_of(object.meta()));
                Box::new(move |index| object.apply(index))
            }
            WatchEvent::InitDone => {
                let listed = std::mem::take(&mut listed);
                if !to.change(Box::new(move |index| K::keep(&listed, index))).await {
                    return;
                }
                if !std::mem::replace(&mut listed_before, true) && !to.listed().await {
                    return;
                }
                continue;
            }
            WatchEvent::Apply(object) => Box::new(move |index| object.apply(index)),
            WatchEvent::Delete(object) => Box::new(move |index| K::delete(&key_of(object.meta()), index)),
            WatchEvent::DeleteUnreadable(unreadable) => {
                Box::new(move |index| K::delete(&key_of(&identity(&unreadable)), index))
            }
        };
        if !to.change(change).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    fn unreadable() -> Unreadable {
        Unreadable {
            namespace: "a".into(),
            name: "p".into(),
            error: "invalid type: integer `7`".into(),
            ..Unreadable::default()
        }
    }

    /// The index after the events, on an agent that has just started.
    async fn index_after(events: Vec<WatchEvent<Arc<NetworkPolicy>>>) -> Index {
        let (send, receive) = mpsc::channel(16);
        let (to, mut messages) = mpsc::channel(16);
        for event in events {
            send.send(event).await.unwrap();
        }
        drop(send);
        forward(receive, to).await;
        let mut index = Index::new("node-a");
        while let Some(message) = messages.recv().await {
            if let Message::Index(update, _) = message {
                update(&mut index);
            }
        }
        index
    }

    #[tokio::test]
    async fn a_policy_that_does_not_decode_is_a_problem_until_it_does_or_is_gone() {
        let problems = |index: &Index| index.problems().map(ToString::to_string).collect::<Vec<_>>();
        let first = || vec![WatchEvent::Init, WatchEvent::InitKeep(unreadable()), WatchEvent::InitDone];
        let found = problems(&index_after(first()).await);
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        assert!(problem.starts_with("NetworkPolicy a/p: object: it cannot be decoded"), "{problem}");

        let readable = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"podSelector": {}}});
        let readable: NetworkPolicy = serde_json::from_value(readable).unwrap();
        for solved in [WatchEvent::Apply(Arc::new(readable)), WatchEvent::DeleteUnreadable(unreadable())] {
            let events = first().into_iter().chain([solved]).collect();
            assert_eq!(problems(&index_after(events).await), Vec::<String>::new());
        }
    }
}
