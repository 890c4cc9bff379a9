//! containerd's own event stream: which containers ended, without asking again and again.

use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Cri;

/// What happened in the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The stream began, or began again: what happened before is unknown.
    Connected,
    /// The process of this container or sandbox ended. The CRI learns of it by the same event, perhaps later.
    Exited(String),
}

const NAMESPACE: &str = "k8s.io";
const HELLO: &str = "/skep/subscribed";

/// Feeds `events` until `stop`. A lost stream is taken up again after a second.
pub async fn follow(cri: Cri, events: mpsc::Sender<RuntimeEvent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            result = stream(&cri, &events) => {
                if let Err(status) = result {
                    tracing::warn!(message = status.message(), "the runtime's event stream ended");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn stream(cri: &Cri, events: &mpsc::Sender<RuntimeEvent>) -> Result<(), tonic::Status> {
    let mut stream = subscribe(cri).await?;
    if events.send(RuntimeEvent::Connected).await.is_err() {
        return Ok(());
    }
    while let Some(envelope) = stream.message().await? {
        let Some(id) = envelope.event.and_then(|any| container_of(&envelope.topic, &any.value)) else {
            continue;
        };
        if events.send(RuntimeEvent::Exited(id)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Subscribes, and returns when the subscription is known to be in force: containerd answers the call only with its first
/// event, so one is published for that.
async fn subscribe(cri: &Cri) -> Result<tonic::Streaming<Envelope>, tonic::Status> {
    let filter = |topic: &str| format!("namespace=={NAMESPACE},topic==\"{topic}\"");
    let filters = ["/tasks/exit", HELLO].map(filter).to_vec();
    let mut client = EventsClient::new(cri.channel());
    let mut publisher = client.clone();
    let mut subscription = std::pin::pin!(client.subscribe(SubscribeRequest { filters }));
    loop {
        tokio::select! {
            answer = &mut subscription => return answer.map(tonic::Response::into_inner),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let event = containerd_client::to_any(&TaskOom { container_id: String::new() });
        let mut request = tonic::Request::new(PublishRequest { topic: HELLO.to_owned(), event: Some(event) });
        request
            .metadata_mut()
            .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
        publisher.publish(request).await?;
    }
}

/// The container that the event is about. An exec's exit is not its container's.
fn container_of(topic: &str, value: &[u8]) -> Option<String> {
    if topic != "/tasks/exit" {
        return None;
    }
    TaskExit::decode(value).ok().filter(|e| e.id == e.container_id).map(|e| e.container_id)
}
