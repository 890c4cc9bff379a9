//! Removes images that no container uses when their disk fills up.
//!
//! In: the images, the containers, how full the disk is. Out: images removed, the longest unused ones first. Images that the
//! node imported from its own folder stay: they could not be pulled again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use k8s_openapi::api::core::v1::Pod;

use super::settings::ImageSettings;
use crate::context::NodeContext;
use crate::eviction::pressure::Observations;
use crate::eviction::signals::Signal;

const COLLECT_INTERVAL: SignedDuration = SignedDuration::from_secs(300);

/// An image, as the collector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    id: String,
    bytes: u64,
    first_seen: Timestamp,
    last_used: Timestamp,
}

pub(crate) struct ImageCollector {
    settings: ImageSettings,
    /// Names of images that stay.
    kept: BTreeSet<String>,
    /// When each image was seen first and used last, by id.
    seen: BTreeMap<String, (Timestamp, Timestamp)>,
    due: Timestamp,
}

impl ImageCollector {
    pub(crate) fn new(settings: ImageSettings, kept: BTreeSet<String>) -> ImageCollector {
        ImageCollector { settings, kept, seen: BTreeMap::new(), due: Timestamp::MIN }
    }

    /// Every few minutes: notes which images are in use, and removes others when the disk is too full.
    pub(crate) async fn collect_if_due(
        &mut self,
        context: &NodeContext,
        observations: &Observations,
        now: Timestamp,
    ) {
        if now < self.due {
            return;
        }
        self.due = now.checked_add(COLLECT_INTERVAL).unwrap_or(Timestamp::MAX);
        let unused = self.unused(context, now).await;
        let Some(disk) = observations.get(&Signal::ImageFs).filter(|disk| disk.capacity > 0) else { return };
        let used = disk.capacity.saturating_sub(disk.available);
        let percent = |percent: u8| disk.capacity / 100 * i64::from(percent);
        if self.settings.high_percent >= 100 || used < percent(self.settings.high_percent) {
            return;
        }
        let to_free = u64::try_from(used - percent(self.settings.low_percent)).unwrap_or(0);
        let chosen = choose(unused, to_free, self.settings.min_age, now);
        let freed = self.remove(context, chosen).await;
        if freed < to_free {
            let text = format!(
                "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."
            );
            context.events.node(&context.node, true, "FreeDiskSpaceFailed", text);
        }
    }

    /// Removes every image that no container uses.
    pub(crate) async fn collect_all(&mut self, context: &NodeContext, now: Timestamp) {
        let unused = self.unused(context, now).await;
        self.remove(context, unused).await;
    }

    /// Images that may go.
    async fn unused(&mut self, context: &NodeContext, now: Timestamp) -> Vec<Image> {
        let (Ok(images), Ok(mut used)) = (context.cri.images().await, context.cri.used_images().await) else {
            return Vec::new();
        };
        used.extend(context.pods().iter().flat_map(image_volumes));
        let ids: BTreeSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.seen.retain(|id, _| ids.contains(id.as_str()));
        let mut unused = Vec::new();
        for image in &images {
            let names: Vec<&String> = image.repo_tags.iter().chain(&image.repo_digests).collect();
            let in_use = used.contains(&image.id) || names.iter().any(|name| used.contains(*name));
            let times = self.seen.entry(image.id.clone()).or_insert((now, Timestamp::MIN));
            if in_use {
                times.1 = now;
            } else if !image.pinned && !names.iter().any(|name| self.kept.contains(&super::normalize(name))) {
                let (first_seen, last_used) = *times;
                unused.push(Image { id: image.id.clone(), bytes: image.size, first_seen, last_used });
            }
        }
        unused
    }

    /// The bytes of the images that went.
    async fn remove(&mut self, context: &NodeContext, images: Vec<Image>) -> u64 {
        let mut freed: u64 = 0;
        for image in images {
            match context.cri.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = image.id, bytes = image.bytes, "unused image removed");
                    freed = freed.saturating_add(image.bytes);
                }
                Err(error) => tracing::warn!(image = image.id, %error, "remove image failed"),
            }
        }
        freed
    }
}

/// The images that the pod has as volumes.
fn image_volumes(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let references = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_ref());
    references.map(|reference| super::normalize(reference)).collect()
}

/// The images to remove for so many bytes: those that were unused for longest, and of those that never were used the oldest.
fn choose(mut unused: Vec<Image>, to_free: u64, min_age: SignedDuration, now: Timestamp) -> Vec<Image> {
    unused.retain(|image| now.duration_since(image.first_seen) >= min_age);
    unused.sort_by(|a, b| (a.last_used, a.first_seen, &a.id).cmp(&(b.last_used, b.first_seen, &b.id)));
    let mut freed: u64 = 0;
    unused
        .into_iter()
        .take_while(|image| {
            let wanted = freed < to_free;
            freed = freed.saturating_add(image.bytes);
            wanted
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_images_go_until_enough_is_free() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).expect("in range");
        let image = |id: &str, first: i64, last: i64| Image {
            id: id.into(),
            bytes: 10,
            first_seen: at(first),
            last_used: at(last),
        };
        let all = || vec![image("new", 190, 0), image("b", 0, 50), image("c", 0, 100), image("a", 0, 20)];
        for (to_free, expected) in [(0, ""), (1, "a"), (10, "a"), (11, "ab"), (1000, "abc")] {
            let chosen = choose(all(), to_free, SignedDuration::from_secs(120), at(200));
            let ids: String = chosen.into_iter().map(|image| image.id).collect();
            assert_eq!(ids, expected, "{to_free}");
        }
    }
}
