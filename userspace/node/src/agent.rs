//! The agent's main loop: pods of this node from the API, events from the runtime, one worker a pod.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Events;
use crate::context::NodeContext;
use crate::cri::events::{self, RuntimeEvent};
use crate::names;
use crate::objects::ObjectKey;
use crate::worker::{self, Handle, Message};

/// The runtime's events are reliable while the stream lives; this is the net under them.
const RELIST: Duration = Duration::from_secs(180);
const CHECKPOINT: &str = "pod.json";

pub(crate) struct Agent {
    pub(crate) context: Arc<NodeContext>,
    /// The pods of this node.
    pub(crate) pods: Events<Pod>,
    /// ConfigMaps and Secrets that changed.
    pub(crate) changes: mpsc::UnboundedReceiver<ObjectKey>,
    pub(crate) stop: CancellationToken,
}

struct Pods {
    context: Arc<NodeContext>,
    workers: HashMap<String, Handle>,
    /// Pods of a list that has not ended yet.
    listed: HashSet<String>,
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
            listed: HashSet::new(),
            checkpoints: HashMap::new(),
            forget,
            stop: self.stop.clone(),
        };
        pods.load_checkpoints().await;
        let mut relist = tokio::time::interval(RELIST);
        relist.tick().await;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(event) = self.pods.recv() => pods.apply(event).await,
                Some(event) = runtime.recv() => pods.runtime(event),
                Some(key) = self.changes.recv() => {
                    pods.tell(|handle| handle.uses(&key), || Message::ObjectChanged);
                }
                Some(uid) = forgotten.recv() => {
                    pods.workers.remove(&uid);
                    pods.checkpoints.remove(&uid);
                }
                _ = relist.tick() => pods.tell(|_| true, || Message::RuntimeChanged),
            }
        }
    }
}

impl Pods {
    async fn apply(&mut self, event: Event<Arc<Pod>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(names::of(&pod).2);
                self.pod(pod).await;
            }
            Event::InitDone => self.listed().await,
            Event::Apply(pod) => self.pod(pod).await,
            Event::Delete(pod) => {
                if let Some(handle) = self.workers.get(&names::of(&pod).2) {
                    let _ = handle.messages.send(Message::Gone);
                }
            }
        }
    }

    async fn pod(&mut self, pod: Arc<Pod>) {
        let (_, _, uid) = names::of(&pod);
        if uid.is_empty() {
            return;
        }
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

    /// The list is whole: what is not on it is no more.
    async fn listed(&mut self) {
        for (uid, handle) in &self.workers {
            if !self.listed.contains(uid) {
                let _ = handle.messages.send(Message::Gone);
            }
        }
        for identity in self.context.cri.pods().await.unwrap_or_default() {
            if !self.workers.contains_key(&identity.uid) {
                self.spawn(Arc::new(worker::orphan(&identity)));
                if let Some(handle) = self.workers.get(&identity.uid) {
                    let _ = handle.messages.send(Message::Gone);
                }
            }
        }
        for uid in self.context.volumes.known_pods() {
            if !self.workers.contains_key(&uid)
                && let Err(error) = self.context.volumes.clean_up(&uid).await
            {
                tracing::warn!(uid, %error, "left-over folder of a pod");
            }
        }
    }

    fn runtime(&self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Connected => self.tell(|_| true, || Message::ExitsMissed),
            RuntimeEvent::Exited(id) => {
                let owner = self.context.owner(&id).and_then(|uid| self.workers.get(&uid));
                if let Some(handle) = owner {
                    let _ = handle.messages.send(Message::Exited(id));
                }
            }
        }
    }

    fn tell(&self, chosen: impl Fn(&Handle) -> bool, message: impl Fn() -> Message) {
        for handle in self.workers.values().filter(|h| chosen(h)) {
            let _ = handle.messages.send(message());
        }
    }

    fn checkpoint_file(&self, uid: &str) -> PathBuf {
        self.context.volumes.pod_folder(uid).join(CHECKPOINT)
    }

    /// Keeps the pod on disk, so that an agent that starts while the API server is away knows what to run.
    async fn checkpoint(&mut self, uid: &str, pod: &Pod) {
        let generation = pod.metadata.generation;
        if pod.metadata.deletion_timestamp.is_some() || self.checkpoints.get(uid) == Some(&generation) {
            return;
        }
        let file = self.checkpoint_file(uid);
        let write = async {
            if let Some(folder) = file.parent() {
                tokio::fs::create_dir_all(folder).await?;
            }
            let fresh = file.with_extension("json.new");
            tokio::fs::write(&fresh, serde_json::to_vec(pod)?).await?;
            tokio::fs::rename(&fresh, &file).await
        };
        match write.await {
            Ok(()) => drop(self.checkpoints.insert(uid.to_owned(), generation)),
            Err(error) => tracing::warn!(uid, %error, "pod not kept on disk"),
        }
    }

    async fn load_checkpoints(&mut self) {
        for uid in self.context.volumes.known_pods() {
            let Ok(bytes) = tokio::fs::read(self.checkpoint_file(&uid)).await else { continue };
            match serde_json::from_slice::<Pod>(&bytes) {
                Ok(pod) if names::of(&pod).2 == uid => {
                    self.checkpoints.insert(uid, pod.metadata.generation);
                    self.spawn(Arc::new(pod));
                }
                _ => tracing::warn!(uid, "unreadable pod on disk"),
            }
        }
    }
}
