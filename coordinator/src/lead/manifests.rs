//! Manifests of open windows that are gone or damaged. Nothing of such a window is committed, and the
//! catalog still has its rows: it is planned anew, under the same end and revision.
//!
//! The same rows give the same manifests, so that what was packed already is found by its receipts.
//! Where the catalog has other rows by now, the manifests have other names, and what comes of the
//! old ones answers nothing that anybody awaits.

use std::time::Duration;

use backends::ledger::PartitionRecord;
use backends::{BackendError, Store};
use protocol::manifest::ManifestReader;
use protocol::{ContentHash, PartitionId, WindowKey, names};
use tracing::warn;

use super::Leader;
use crate::service::Event;
use crate::survey::MAX_MANIFEST_BYTES;

/// How long the leader waits for a manifest that it looks at.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// Class of what is recorded of a partition whose manifest is gone.
const MANIFEST: &str = "manifest";

impl Leader<'_> {
    /// Has the window planned anew when this manifest of it is gone or damaged.
    pub(super) async fn check_manifest(
        &mut self,
        window: WindowKey,
        partition: &PartitionRecord,
    ) -> Result<bool, BackendError> {
        let Some(why) = what_is_wrong(&self.it.store, &partition.manifest).await? else {
            return Ok(false);
        };
        self.plan_anew(window, partition.partition, &why).await?;
        Ok(true)
    }

    /// Has an open window planned anew. Until it is, nothing of it is published, and no answer
    /// about it is awaited.
    pub(super) async fn plan_anew(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        why: &str,
    ) -> Result<(), BackendError> {
        let Some(open) = self.flight.windows.get_mut(&window) else { return Ok(()) };
        open.to_be_planned_anew = true;
        warn!(window = %window.end, revision = window.revision, partition,
            trace_id = self.trace_id(window), "the window is planned anew: {why}");
        let told = format!("{why}; the window is planned anew from the catalog");
        self.it.ledger.note_trouble(&self.lease, window, partition, (MANIFEST, &told)).await?;
        self.tell(Event::Waiting { reason: told });
        Ok(())
    }
}

/// Why this manifest cannot be used; `None` for one that is as its name says, and where the store
/// does not answer or refuses, which says nothing about the manifest.
async fn what_is_wrong(store: &Store, manifest: &str) -> Result<Option<String>, BackendError> {
    let got = tokio::time::timeout(CHECK_LIMIT, store.get(manifest, MAX_MANIFEST_BYTES)).await;
    let Ok(got) = got else { return Ok(None) };
    let bytes = match got {
        Ok(bytes) => bytes,
        Err(error) if error.is_lost_or_damaged() => {
            return Ok(Some(format!("its manifest cannot be read: {error}")));
        }
        Err(_says_nothing_about_it) => return Ok(None),
    };
    let expected = names::content_hash(manifest);
    let checking = tokio::task::spawn_blocking(move || {
        let is_sound = expected == Some(ContentHash::of(&bytes));
        is_sound && ManifestReader::new(&bytes).is_ok()
    });
    let is_sound = checking.await.map_err(|panicked| BackendError::Failed {
        what: format!("checking {manifest}"),
        cause: panicked.into(),
    })?;
    let damaged = || format!("its manifest {manifest} is damaged: its bytes are others");
    Ok((!is_sound).then(damaged))
}
