//! Maglev tables of backend sets to writes: a table is whole before a frontend leads packets to it.

use std::sync::Arc;

use skep_abi::{Backend, MAGLEV_MAX, MaglevKey};

use super::kernel::Kernel;
use crate::maglev;
use crate::write::Write;

/// Adds the pages of the set's table that the kernel does not hold yet; false if there is no room for them. Without a
/// table the set's backends are shared out evenly all the same, only that more flows move when they change.
pub(crate) fn plan(set: u32, backends: &[Backend], kernel: &Kernel, writes: &mut Vec<Write>) -> bool {
    let held = kernel.table(set).count();
    let more = maglev::page_count(backends).saturating_sub(held);
    if more > 0 && kernel.maps.maglev.len() + writes.len() + more > MAGLEV_MAX as usize {
        return false;
    }
    let pages = maglev::pages(backends).into_iter().zip(0..);
    writes.extend(pages.filter_map(|(page, number)| {
        let key = MaglevKey { set, page: number };
        let holds = kernel.maps.maglev.get(&key).is_some_and(|held| **held == page);
        (!holds).then(|| Write::PutMaglev(key, Arc::new(page)))
    }));
    true
}
