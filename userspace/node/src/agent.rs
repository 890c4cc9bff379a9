//! The agent's main loop.
//!
//! In: pods of this node from the API server and from files, events of the runtime, changed ConfigMaps and Secrets. Out: one worker for
//! each pod, messages to them, a checkpoint of each pod on disk.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skep_api::watch::WatchEvent;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Events;
use crate::context::NodeContext;
use crate::cri::events::{self, RuntimeEvent};
use crate::eviction::Eviction;
use crate::names;
use crate::objects::ObjectKey;
use crate::static_pods::{self, Statics};
use crate::worker::{self, Handle, Message};

/// How often every pod is observed even without events of the runtime, in case one was lost.
const RELIST_INTERVAL: Duration = Duration::from_secs(180);
const CHECKPOINT: &str = "pod.json";

pub(crate) struct Agent {
    pub(crate) context: Arc<NodeContext>,
    /// The pods of this node.
    pub(crate) pods: Events<Pod>,
    /// All static pods, whenever they change.
    pub(crate) statics: mpsc::Receiver<Vec<Arc<Pod>>>,
    /// ConfigMaps and Secrets that changed.
    pub(crate) changes: mpsc::UnboundedReceiver<ObjectKey>,
    /// Pods that the node ends.
    pub(crate) evictions: mpsc::Receiver<Eviction>,
    pub(crate) stop: CancellationToken,
}

struct Pods {
    context: Arc<NodeContext>,
    workers: HashMap<String, Handle>,
    statics: Statics,
    /// The uids of a list that is not complete yet.
    listed: HashSet<String>,
    /// The generation on disk, by uid.
    checkpoints: HashMap<String, Option<i64>>,
    forget: mpsc::UnboundedSender<String>,
    stop: CancellationToken,
}

impl Agent {
    /// Runs until stopped.
    pub(crate) async fn run(mut self) {
        let (forget, mut forgotten) = mpsc::unbounded_channel();
        let (sender, mut runtime) = mpsc::channel(64);
        tokio::spawn(events::follow(self.context.cri.clone(), sender, self.stop.clone()));
        let mut pods = Pods {
            context: self.context.clone(),
            workers: HashMap::new(),
            statics: Statics::default(),
            listed: HashSet::new(),
            checkpoints: HashMap::new(),
            forget,
            stop: self.stop.clone(),
        };
        pods.load_checkpoints().await;
        if let Some(set) = self.statics.recv().await {
            pods.adopt_statics(set).await;
        }
        let mut relist = tokio::time::interval(RELIST_INTERVAL);
        relist.tick().await;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(event) = self.pods.recv() => pods.apply(event).await,
                Some(set) = self.statics.recv() => pods.set_statics(set),
                Some(event) = runtime.recv() => pods.runtime_changed(event),
                Some(key) = self.changes.recv() => {
                    pods.send(|handle| handle.uses(&key), || Message::ObjectChanged);
                }
                Some(uid) = forgotten.recv() => {
                    pods.forget(&uid);
                }
                Some(Eviction { uid, why }) = self.evictions.recv() => {
                    if let Some(handle) = pods.workers.get(&uid) {
                        let _ = handle.messages.send(Message::Failed(why));
                    }
                }
                _ = relist.tick() => pods.send(|_| true, || Message::RuntimeChanged),
            }
        }
    }
}

impl Pods {
    async fn apply(&mut self, event: WatchEvent<Arc<Pod>>) {
        match event {
            WatchEvent::Init => {
                self.listed.clear();
                self.context.mirrors.list_begins();
            }
            // The pod goes on as it was; after a start of the agent its checkpoint says how.
            WatchEvent::InitKeep(unreadable) => drop(self.listed.insert(unreadable.uid)),
            WatchEvent::InitApply(pod) => {
                self.listed.insert(names::of(&pod).2);
                self.update(pod).await;
            }
            WatchEvent::InitDone => {
                self.context.mirrors.list_complete();
                self.list_complete().await;
            }
            WatchEvent::Apply(pod) => self.update(pod).await,
            WatchEvent::Delete(pod) => self.gone(&names::of(&pod).2),
            WatchEvent::DeleteUnreadable(unreadable) => self.gone(&unreadable.uid),
        }
    }

    fn gone(&self, uid: &str) {
        self.context.mirrors.gone(uid);
        if let Some(handle) = self.workers.get(uid) {
            let _ = handle.messages.send(Message::Gone);
        }
    }

    async fn update(&mut self, pod: Arc<Pod>) {
        let (_, _, uid) = names::of(&pod);
        if uid.is_empty() {
            return;
        }
        if static_pods::is_mirror(&pod) {
            return self.context.mirrors.show(&pod);
        }
        let pod = static_pods::from_api(pod);
        self.checkpoint(&uid, &pod).await;
        match self.workers.get(&uid) {
            Some(handle) => drop(handle.messages.send(Message::Pod(pod))),
            None => self.spawn(pod),
        }
    }

    fn spawn(&mut self, pod: Arc<Pod>) {
        let (_, _, uid) = names::of(&pod);
        let handle = worker::spawn(self.context.clone(), pod, self.forget.clone(), self.stop.clone());
        self.workers.insert(uid, handle);
    }

    /// The list is complete: pods that it does not contain were deleted. Pods of the runtime and folders that it does not
    /// contain and that have no worker are left over from an earlier agent.
    async fn list_complete(&mut self) {
        for (uid, handle) in &self.workers {
            if !self.listed.contains(uid) && !self.statics.has(uid) {
                let _ = handle.messages.send(Message::Gone);
            }
        }
        for identity in self.context.cri.pods().await.unwrap_or_default() {
            if !self.workers.contains_key(&identity.uid) && !self.listed.contains(&identity.uid) {
                self.spawn(Arc::new(worker::orphan(&identity)));
                if let Some(handle) = self.workers.get(&identity.uid) {
                    let _ = handle.messages.send(Message::Gone);
                }
            }
        }
        for uid in self.context.volumes.known_pods() {
            if !self.workers.contains_key(&uid)
                && !self.listed.contains(&uid)
                && let Err(error) = self.context.volumes.clean_up(&self.context.cri, &uid).await
            {
                tracing::warn!(uid, %error, "remove left-over pod folder failed");
            }
        }
    }

    /// The first set. Pods of an earlier set that still run end before others take their names.
    async fn adopt_statics(&mut self, set: Vec<Arc<Pod>>) {
        self.statics.set(set);
        for identity in self.context.cri.pods().await.unwrap_or_default() {
            let orphan = Arc::new(worker::orphan(&identity));
            if self.statics.is_older(&orphan) && !self.workers.contains_key(&identity.uid) {
                self.statics.begin(&orphan);
                self.spawn(orphan);
                self.gone(&identity.uid);
            }
        }
        self.start_statics();
    }

    fn set_statics(&mut self, set: Vec<Arc<Pod>>) {
        for uid in self.statics.set(set) {
            self.gone(&uid);
        }
        self.start_statics();
    }

    fn start_statics(&mut self) {
        for pod in self.statics.startable() {
            self.statics.begin(&pod);
            self.context.mirrors.begin(&pod);
            self.spawn(pod);
        }
    }

    /// Nothing of the pod is left.
    fn forget(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.checkpoints.remove(uid);
        if self.statics.end(uid) {
            self.context.mirrors.end(uid);
            self.start_statics();
        }
    }

    fn runtime_changed(&self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Connected => self.send(|_| true, || Message::ExitsMissed),
            RuntimeEvent::Exited(id) => {
                match self.context.owner(&id).and_then(|uid| self.workers.get(&uid)) {
                    Some(handle) => drop(handle.messages.send(Message::Exited(id))),
                    // It ended while its worker read a list from before it was made: one of them owns it.
                    None => self.send(|_| true, || Message::Exited(id.clone())),
                }
            }
        }
    }

    fn send(&self, chosen: impl Fn(&Handle) -> bool, message: impl Fn() -> Message) {
        for handle in self.workers.values().filter(|h| chosen(h)) {
            let _ = handle.messages.send(message());
        }
    }

    fn checkpoint_file(&self, uid: &str) -> PathBuf {
        self.context.volumes.pod_folder(uid).join(CHECKPOINT)
    }

    /// Writes the pod to disk: an agent that starts without the API server runs the pods that it finds there.
    async fn checkpoint(&mut self, uid: &str, pod: &Pod) {
        let generation = pod.metadata.generation;
        if pod.metadata.deletion_timestamp.is_some() || self.checkpoints.get(uid) == Some(&generation) {
            return;
        }
        let file = self.checkpoint_file(uid);
        let write = async {
            if let Some(folder) = file.parent() {
                tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
            }
            let fresh = file.with_extension("json.new");
            // The environment of its containers is no other user's matter.
            let mut options = tokio::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&fresh).await?.write_all(&serde_json::to_vec(pod)?).await?;
            tokio::fs::rename(&fresh, &file).await
        };
        match write.await {
            Ok(()) => drop(self.checkpoints.insert(uid.to_owned(), generation)),
            Err(error) => tracing::warn!(uid, %error, "write pod checkpoint failed"),
        }
    }

    async fn load_checkpoints(&mut self) {
        for uid in self.context.volumes.known_pods() {
            let Ok(bytes) = tokio::fs::read(self.checkpoint_file(&uid)).await else { continue };
            match serde_json::from_slice::<Pod>(&bytes) {
                Ok(pod) if names::of(&pod).2 == uid => {
                    // Before new pods come: what these have is not theirs to take.
                    if let Some(grant) = worker::recorded(&self.context.volumes.pod_folder(&uid)).await {
                        self.context.allocations.adopt(&uid, &pod, Some(grant));
                    }
                    self.checkpoints.insert(uid, pod.metadata.generation);
                    self.spawn(Arc::new(pod));
                }
                _ => tracing::warn!(uid, "read pod checkpoint failed"),
            }
        }
    }
}
