//! What the machine has left: memory, disks and process numbers.

use std::path::Path;
use std::sync::Arc;

use super::pressure::Observations;
use super::signals::{Observation, Signal};
use crate::context::NodeContext;
use crate::register::machine;

pub(super) async fn observe(context: &Arc<NodeContext>) -> Observations {
    let images = context.cri.image_folder().await.ok().flatten();
    let root = context.root.clone();
    let observed = tokio::task::spawn_blocking(move || {
        let images = images.as_deref().map(Path::new).filter(|path| path.exists()).unwrap_or(&root);
        let mut all = Observations::new();
        let mut add = |signal, found: Option<(i64, i64)>| {
            all.extend(found.map(|(capacity, available)| (signal, Observation { available, capacity })));
        };
        add(Signal::Memory, machine::memory());
        add(Signal::NodeFs, machine::disk(&root));
        add(Signal::NodeFsInodes, machine::inodes(&root));
        add(Signal::ImageFs, machine::disk(images));
        add(Signal::ImageFsInodes, machine::inodes(images));
        add(Signal::Pids, machine::process_numbers());
        all
    });
    observed.await.unwrap_or_default()
}
