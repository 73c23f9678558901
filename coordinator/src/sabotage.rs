//! Wrongs that a build with the feature `sabotage` can be told to do, where one line does not do.
//! `loadtest chaos --judge` must catch every one of them.

use backends::ledger::AcceptedReceipt;
use backends::sabotage::is;
use backends::{BackendError, Store};
use futures::TryStreamExt;
use protocol::message::{Outcome, TaskResult};
use protocol::{Window, WindowKey, names};

use crate::flight::{Flight, OpenPartition, OpenWindow};

/// Whether certificates are written whatever their sums.
pub(crate) fn adds_up_anyhow() -> bool {
    is("commit_incomplete") || is("outcome_counted_twice")
}

/// Whether a window is complete enough for a coordinator that does not count its partitions.
pub(crate) fn is_nearly_complete(window: &OpenWindow) -> bool {
    let open = window.partitions.iter().filter(|open| open.record.accepted.is_none()).count();
    is("commit_incomplete") && open == 1 && window.partitions.len() > 1
}

/// Counts a partition a second time when its outcome comes a second time.
pub(crate) fn count_twice(flight: &mut Flight, outcome: &Outcome) {
    if !is("outcome_counted_twice") {
        return;
    }
    let address = &outcome.address;
    let key = WindowKey::new(address.window, address.revision);
    let Some(window) = flight.windows.get_mut(&key) else { return };
    let twice = window
        .partitions
        .iter()
        .find(|open| open.record.partition == address.partition && open.record.accepted.is_some())
        .map(|open| open.record.clone());
    window.partitions.extend(twice.map(OpenPartition::new));
}

/// What a message claims to have been done, believed.
pub(crate) fn believed(outcome: &Outcome) -> Option<AcceptedReceipt> {
    match &outcome.result {
        TaskResult::Done { receipt, receipt_size } if is("counts_from_message") => {
            Some(AcceptedReceipt {
                receipt: receipt.clone(),
                receipt_size: *receipt_size,
                files_failed: 0,
            })
        }
        _ => None,
    }
}

/// The stretch that is scanned for a window: without its last second, for one who counts days from
/// midnight to midnight.
pub(crate) fn scanned(window: Window) -> Window {
    if !is("midnight_excluded") {
        return window;
    }
    Window::new(window.start(), window.end().saturating_add_micros(-1_000_000)).unwrap_or(window)
}

/// What a coordinator does that does not notice that another leads: it writes a manifest.
pub(crate) async fn write_without_the_lease(store: &Store) -> Result<(), BackendError> {
    if is("stalled_leader_writes") {
        let manifests: Vec<_> = store.list(names::MANIFESTS).try_collect().await?;
        if let Some(last) = manifests.into_iter().map(|object| object.key).max() {
            store.put(&last, "other rows".into()).await?;
        }
    }
    Ok(())
}
