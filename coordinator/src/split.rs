//! From a window to manifests: one scan, one sort, one pass that cuts and writes.

mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use backends::catalog::RowBatch;
use backends::ledger::NewPartition;
use backends::trace::Span;
use backends::{BackendError, Catalog, Store};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::{ManifestHeader, ManifestTotals, ManifestWriter};
use protocol::{
    ArchiveIdentity, ContentHash, PackSettings, PartitionId, Revision, Window, WindowKey, names,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::decide::partition_id;
use crate::partitions::{IndexLoad, PartitionLimits, cut};
use crate::remaining::{Difference, Remaining};
use crate::sabotage;
use crate::sort::{Sorted, Sorter, other_rows};
use crate::survey::Survey;

use write::write_all;

/// Batches of rows between the scan and the sorter.
const BATCHES_IN_FLIGHT: usize = 4;
/// Manifests that are being uploaded, to a store of which every answer takes its time.
const MANIFESTS_IN_FLIGHT: usize = 16;
/// What these take of memory, in KiB.
const MANIFESTS_KIB: u32 = 32 * 1024;

/// What splitting a window needs.
#[derive(Clone)]
pub(crate) struct Splitter {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Store,
    pub(crate) identity: ArchiveIdentity,
    pub(crate) settings: PackSettings,
    pub(crate) limits: PartitionLimits,
    pub(crate) sort_memory: usize,
    pub(crate) spool_dir: PathBuf,
    /// The span that it works under.
    pub(crate) trace: Span,
}

#[derive(Debug, PartialEq, Eq)]
struct FinishedManifest {
    partition: PartitionId,
    bytes: Vec<u8>,
    totals: ManifestTotals,
}

/// Manifests on their way to the store, and the memory that they may take there.
struct Finished {
    manifests: mpsc::Receiver<FinishedManifest>,
    memory: Arc<Semaphore>,
}

impl Finished {
    fn new(manifests: mpsc::Receiver<FinishedManifest>) -> Self {
        Self { manifests, memory: Arc::new(Semaphore::new(MANIFESTS_KIB as usize)) }
    }

    /// The next one, once there is room for it.
    async fn next(mut self) -> Option<((FinishedManifest, OwnedSemaphorePermit), Self)> {
        let manifest = self.manifests.recv().await?;
        let kib = u32::try_from(manifest.bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.memory).acquire_many_owned(kib.min(MANIFESTS_KIB)).await;
        // Nobody closes the semaphore.
        Some(((manifest, room.ok()?), self))
    }
}

/// A window, split.
pub(crate) struct Split {
    pub(crate) partitions: Vec<NewPartition>,
    /// What was found of a window that was settled before.
    pub(crate) difference: Difference,
}

impl Splitter {
    /// Reads the window's rows once and writes the manifests of its partitions, durably. Of a
    /// window that has been settled before, only the rows that are not in the archive; where these
    /// are known failures and nothing else, none, unless the pass is there to try them again.
    pub(crate) async fn split(
        &self,
        window: Window,
        revision: Revision,
        survey: Option<Survey>,
    ) -> Result<Split, BackendError> {
        let scan = self.trace.child("scan");
        let sorted = self.scan_and_sort(window).await?;
        drop(scan);
        let writing_manifests = self.trace.child("manifests");
        let key = WindowKey::new(window, revision);
        let (finished, to_upload) = mpsc::channel(1);
        let writer = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_manifests((window, revision), &sorted, survey.as_ref(), &finished)
        });
        let uploads = stream::unfold(Finished::new(to_upload), Finished::next)
            .map(|(manifest, room)| self.upload(key, manifest, room))
            .buffer_unordered(MANIFESTS_IN_FLIGHT)
            .try_collect::<BTreeMap<_, _>>();
        let (partitions, written) = tokio::join!(uploads, writing);
        let partitions: Vec<_> = partitions?.into_values().collect();
        let difference = written.map_err(|panicked| BackendError::Failed {
            what: format!("writing the manifests of the window that ends at {}", window.end()),
            cause: panicked.into(),
        })??;
        if !partitions.is_empty() {
            self.store.flush().await?;
        }
        let rows = partitions.iter().map(|partition| partition.rows.rows).sum();
        writing_manifests.note_count("partitions", partitions.len() as u64);
        writing_manifests.note_count("rows", rows);
        Ok(Split { partitions, difference })
    }

    async fn upload(
        &self,
        window: WindowKey,
        manifest: FinishedManifest,
        _room: OwnedSemaphorePermit,
    ) -> Result<(PartitionId, NewPartition), BackendError> {
        let hash = ContentHash::of(&manifest.bytes);
        let key = names::manifest(window, manifest.partition, hash);
        let size = manifest.bytes.len() as u64;
        self.store.put(&key, manifest.bytes.into()).await?;
        let rows = manifest.totals.rows;
        Ok((manifest.partition, NewPartition { manifest: key, manifest_size: size, rows }))
    }

    async fn scan_and_sort(&self, window: Window) -> Result<Sorted, BackendError> {
        let (batches, mut received) = mpsc::channel::<RowBatch>(BATCHES_IN_FLIGHT);
        let mut sorter = Sorter::new(self.settings.n_bits, self.sort_memory, &self.spool_dir);
        let sorting = tokio::task::spawn_blocking(move || {
            while let Some(batch) = received.blocking_recv() {
                for row in batch.iter() {
                    sorter.push(row)?;
                }
            }
            sorter.finish()
        });
        let (scanned, sorted) =
            tokio::join!(self.catalog.scan(sabotage::scanned(window), batches), sorting);
        let sorted = sorted.map_err(|panicked| BackendError::Failed {
            what: format!("sorting the window that ends at {}", window.end()),
            cause: panicked.into(),
        })?;
        // A sorter that failed made the scan end early, without an error of its own.
        let sorted = sorted.map_err(|error| self.spool_error(error))?;
        // A table that is not there, as while it is renamed, is no object of the archive that is lost.
        scanned.map_err(|error| match error {
            BackendError::NotFound { what } => {
                let cause = "no window can be read until it is there again".into();
                BackendError::Failed { what, cause }
            }
            other => other,
        })?;
        Ok(sorted)
    }

    fn write_manifests(
        &self,
        (window, revision): (Window, Revision),
        sorted: &Sorted,
        survey: Option<&Survey>,
        finished: &mpsc::Sender<FinishedManifest>,
    ) -> Result<Difference, BackendError> {
        let spool_error = |error| self.spool_error(error);
        let header = |number| ManifestHeader {
            archive: self.identity.archive.clone(),
            job: self.identity.job.clone(),
            window,
            revision,
            partition: partition_id(number),
            settings: self.settings,
        };
        let Some(survey) = survey else {
            let cuts = cut(sorted.loads(), self.limits);
            write_all(sorted, &cuts, &header, finished).map_err(spool_error)?;
            return Ok(Difference::default());
        };
        let (loads, difference) = self.compare(sorted, survey, &spool_error)?;
        let known = survey.rows(&self.store, self.settings.n_bits);
        let mut rows = Remaining::new(sorted.iter(1), known, &spool_error)?;
        let cuts = cut(&loads, self.limits);
        for (number, row_count) in cuts.iter().enumerate() {
            let header = header(number);
            let mut manifest = ManifestWriter::new(&header).map_err(spool_error)?;
            for _ in 0..*row_count {
                let Some((row, _)) = rows.next_row()? else {
                    return Err(spool_error(other_rows()));
                };
                manifest.push(&row.row).map_err(spool_error)?;
            }
            let (bytes, totals) = manifest.finish().map_err(spool_error)?;
            let manifest = FinishedManifest { partition: header.partition, bytes, totals };
            if finished.blocking_send(manifest).is_err() {
                // The upload failed, and says why itself.
                return Ok(difference);
            }
        }
        // Whether what was written are the rows that were scanned shows at their end.
        if !cuts.is_empty() && rows.next_row()?.is_some() {
            return Err(spool_error(other_rows()));
        }
        Ok(difference)
    }

    /// What remains of a window that was settled before: the load of every shard index, which is
    /// nothing where only known failures remain, and what was found.
    fn compare(
        &self,
        sorted: &Sorted,
        survey: &Survey,
        spool_error: &dyn Fn(std::io::Error) -> BackendError,
    ) -> Result<(Vec<IndexLoad>, Difference), BackendError> {
        let mut loads = vec![IndexLoad::default(); self.settings.n_bits.shard_count() as usize];
        let known = survey.rows(&self.store, self.settings.n_bits);
        let mut rows = Remaining::new(sorted.iter(1), known, spool_error)?;
        while let Some((row, _)) = rows.next_row()? {
            let load = &mut loads[usize::from(row.index.0)];
            load.rows += 1;
            load.row_bytes += row.row.heap_bytes() as u64;
        }
        let difference = rows.into_difference();
        let retried = if survey.retries { difference.failed } else { 0 };
        if difference.late + difference.lost + retried == 0 {
            loads.fill(IndexLoad::default());
        }
        Ok((loads, difference))
    }

    fn spool_error(&self, error: std::io::Error) -> BackendError {
        BackendError::Unavailable {
            what: format!("spooling rows in {}: see worker.spool_dir", self.spool_dir.display()),
            cause: error.into(),
        }
    }
}
