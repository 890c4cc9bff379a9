//! containerd's event stream.
//!
//! In: containerd's events service. Out: [`RuntimeEvent`]s, so that the agent does not poll for exits.

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
    /// The stream began, or began again: earlier events may be lost.
    Connected,
    /// The process of this container or sandbox ended. The CRI processes the same event, perhaps later.
    Exited(String),
}

const NAMESPACE: &str = "k8s.io";
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the confirming event is published until the subscription answers.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(100);
/// The topic of the event that confirms the subscription.
const CONFIRM_TOPIC: &str = "/skep/subscribed";

/// Sends `events` until `stop`. A lost stream is opened again after a second.
pub async fn follow(cri: Cri, events: mpsc::Sender<RuntimeEvent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            result = stream(&cri, &events) => {
                if let Err(status) = result {
                    tracing::warn!(error = status.message(), "event stream of the runtime failed");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
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

/// Subscribes, and returns when the subscription is in force. containerd answers the call only with its first event, so
/// this publishes one.
async fn subscribe(cri: &Cri) -> Result<tonic::Streaming<Envelope>, tonic::Status> {
    let filter = |topic: &str| format!("namespace=={NAMESPACE},topic==\"{topic}\"");
    let filters = ["/tasks/exit", CONFIRM_TOPIC].map(filter).to_vec();
    let mut client = EventsClient::new(cri.channel());
    let mut publisher = client.clone();
    let mut subscription = std::pin::pin!(client.subscribe(SubscribeRequest { filters }));
    loop {
        tokio::select! {
            answer = &mut subscription => return answer.map(tonic::Response::into_inner),
            () = tokio::time::sleep(CONFIRM_INTERVAL) => {}
        }
        let event = containerd_client::to_any(&TaskOom { container_id: String::new() });
        let mut request =
            tonic::Request::new(PublishRequest { topic: CONFIRM_TOPIC.to_owned(), event: Some(event) });
        request
            .metadata_mut()
            .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
        publisher.publish(request).await?;
    }
}

/// The container that exited. The exit of an exec is not the exit of its container.
fn container_of(topic: &str, value: &[u8]) -> Option<String> {
    if topic != "/tasks/exit" {
        return None;
    }
    TaskExit::decode(value).ok().filter(|e| e.id == e.container_id).map(|e| e.container_id)
}
