//! Asks the server for objects that we wrote and that a later list did not show.

use futures::{StreamExt, stream};
use kube::Client;

use crate::cache::{Answer, Key, Kind};
use crate::requests;

const MAX_CONCURRENT_REQUESTS: usize = 32;

/// Objects that the server did not answer for are left out; the next list decides about them.
pub(super) async fn confirm(client: Client, keys: Vec<(Kind, Key)>) -> Vec<Answer> {
    stream::iter(keys)
        .map(|(kind, key)| {
            let client = client.clone();
            async move {
                match requests::get(&client, kind, &key).await {
                    Ok(object) => Some(Answer::Written(object)),
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        Some(Answer::Missing { kind, key })
                    }
                    Err(error) => {
                        tracing::debug!(kind = kind.name(), %key, %error, "get written object failed");
                        None
                    }
                }
            }
        })
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .filter_map(|answer| async move { answer })
        .collect()
        .await
}
