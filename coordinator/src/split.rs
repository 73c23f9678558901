//! From a window to manifests: one scan, one sort, one pass that cuts and writes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use backends::ledger::NewPartition;
use backends::{BackendError, Catalog, Store};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::{ManifestHeader, ManifestTotals, ManifestWriter};
use protocol::{
    ArchiveIdentity, ContentHash, PackSettings, PartitionId, Revision, Row, Window, WindowKey,
    names,
};
use tokio::sync::mpsc;

use crate::decide::partition_id;
use crate::partitions::{IndexLoad, PartitionLimits, cut};
use crate::sort::{Sorted, SortedRow, Sorter};
use crate::survey::{Settled, SettledRows};

/// Batches of rows between the scan and the sorter.
const BATCHES_IN_FLIGHT: usize = 4;
/// Finished manifests that wait for their upload or are being uploaded.
const MANIFESTS_IN_FLIGHT: usize = 4;

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
}

struct FinishedManifest {
    partition: PartitionId,
    bytes: Vec<u8>,
    totals: ManifestTotals,
}

impl Splitter {
    /// Reads the window's rows once and writes the manifests of its partitions, durably. Of a
    /// window that has been settled before, only the rows that are not in the archive; where these
    /// are known failures and nothing else, none, since trying again is not asked for.
    pub(crate) async fn split(
        &self,
        window: Window,
        revision: Revision,
        settled: Option<Settled>,
    ) -> Result<Vec<NewPartition>, BackendError> {
        let sorted = self.scan_and_sort(window).await?;
        let key = WindowKey::new(window, revision);
        let (finished, to_upload) = mpsc::channel(1);
        let writer = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_manifests(window, revision, &sorted, settled, &finished)
        });
        let uploads = stream::unfold(
            to_upload,
            |mut receiver: mpsc::Receiver<FinishedManifest>| async move {
                receiver.recv().await.map(|manifest| (manifest, receiver))
            },
        )
        .map(|manifest| self.upload(key, manifest))
        .buffered(MANIFESTS_IN_FLIGHT)
        .try_collect::<Vec<_>>();
        let (partitions, written) = tokio::join!(uploads, writing);
        let partitions = partitions?;
        written.map_err(|panicked| BackendError::Failed {
            what: format!("writing the manifests of the window that ends at {}", window.end()),
            cause: panicked.into(),
        })??;
        if !partitions.is_empty() {
            self.store.flush().await?;
        }
        Ok(partitions)
    }

    async fn upload(
        &self,
        window: WindowKey,
        manifest: FinishedManifest,
    ) -> Result<NewPartition, BackendError> {
        let hash = ContentHash::of(&manifest.bytes);
        let key = names::manifest(window, manifest.partition, hash);
        let size = manifest.bytes.len() as u64;
        self.store.put(&key, manifest.bytes.into()).await?;
        Ok(NewPartition { manifest: key, manifest_size: size, rows: manifest.totals.rows })
    }

    async fn scan_and_sort(&self, window: Window) -> Result<Sorted, BackendError> {
        let (batches, mut received) = mpsc::channel::<Vec<Row>>(BATCHES_IN_FLIGHT);
        let mut sorter = Sorter::new(self.settings.n_bits, self.sort_memory, &self.spool_dir);
        let sorting = tokio::task::spawn_blocking(move || {
            while let Some(batch) = received.blocking_recv() {
                for row in batch {
                    sorter.push(row)?;
                }
            }
            sorter.finish()
        });
        let (scanned, sorted) = tokio::join!(self.catalog.scan(window, batches), sorting);
        let sorted = sorted.map_err(|panicked| BackendError::Failed {
            what: format!("sorting the window that ends at {}", window.end()),
            cause: panicked.into(),
        })?;
        // A sorter that failed made the scan end early, without an error of its own.
        let sorted = sorted.map_err(|error| self.spool_error(error))?;
        scanned?;
        Ok(sorted)
    }

    fn write_manifests(
        &self,
        window: Window,
        revision: Revision,
        sorted: &Sorted,
        settled: Option<Settled>,
        finished: &mpsc::Sender<FinishedManifest>,
    ) -> Result<(), BackendError> {
        let unsettled = match &settled {
            Some(settled) => Some(self.loads_of(sorted, settled)?),
            None => None,
        };
        let cuts = cut(unsettled.as_deref().unwrap_or_else(|| sorted.loads()), self.limits);
        let mut rows = self.remaining(sorted, settled.as_ref())?;
        for (number, row_count) in cuts.into_iter().enumerate() {
            let header = ManifestHeader {
                archive: self.identity.archive.clone(),
                job: self.identity.job.clone(),
                window,
                revision,
                partition: partition_id(number),
                settings: self.settings,
            };
            let mut manifest =
                ManifestWriter::new(&header).map_err(|error| self.spool_error(error))?;
            for _ in 0..row_count {
                let Some(row) = rows.next_row()? else { break };
                manifest.push(&row.row).map_err(|error| self.spool_error(error))?;
            }
            let (bytes, totals) = manifest.finish().map_err(|error| self.spool_error(error))?;
            let manifest = FinishedManifest { partition: header.partition, bytes, totals };
            if finished.blocking_send(manifest).is_err() {
                // The upload failed, and says why itself.
                return Ok(());
            }
        }
        Ok(())
    }

    fn loads_of(&self, sorted: &Sorted, settled: &Settled) -> Result<Vec<IndexLoad>, BackendError> {
        let mut loads = vec![IndexLoad::default(); self.settings.n_bits.shard_count() as usize];
        let mut rows = self.remaining(sorted, Some(settled))?;
        let mut worth_it = !settled.damaged().is_empty();
        while let Some(row) = rows.next_row()? {
            let load = &mut loads[usize::from(row.index.0)];
            load.rows += 1;
            load.row_bytes += row.row.heap_bytes() as u64;
            worth_it = worth_it || !settled.has_failed(&row.row);
        }
        if !worth_it {
            loads.fill(IndexLoad::default());
        }
        Ok(loads)
    }

    fn remaining<'a>(
        &'a self,
        sorted: &'a Sorted,
        settled: Option<&Settled>,
    ) -> Result<Remaining<'a>, BackendError> {
        let rows = sorted.iter().map_err(|error| self.spool_error(error))?;
        let settled = settled.map(|settled| settled.rows(&self.store, self.settings.n_bits));
        let mut remaining = Remaining {
            splitter: self,
            rows,
            next_row: None,
            settled,
            next_settled: None,
            ready: VecDeque::new(),
        };
        remaining.advance()?;
        remaining.advance_settled()?;
        Ok(remaining)
    }

    fn spool_error(&self, error: std::io::Error) -> BackendError {
        BackendError::Unavailable {
            what: format!("spooling rows in {}: see worker.spool_dir", self.spool_dir.display()),
            cause: error.into(),
        }
    }
}

/// Rows in row order, without those that are settled: a difference of two sorted streams. Of rows
/// with the same uid and created_at as many are taken away as are settled, those with a settled
/// location first.
struct Remaining<'a> {
    splitter: &'a Splitter,
    rows: crate::sort::SortedIter<'a>,
    next_row: Option<SortedRow>,
    settled: Option<SettledRows>,
    next_settled: Option<SortedRow>,
    ready: VecDeque<SortedRow>,
}

impl Remaining<'_> {
    fn next_row(&mut self) -> Result<Option<SortedRow>, BackendError> {
        let key = |row: &SortedRow| (row.index, row.fingerprint, row.row.created_at_micros);
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some(first) = self.next_row.as_ref().map(key) else { return Ok(None) };
            let mut settled = Vec::new();
            while let Some(row) = self.next_settled.take_if(|row| key(row) <= first) {
                if key(&row) == first {
                    settled.push(row.row.location);
                }
                self.advance_settled()?;
            }
            while let Some(row) = self.next_row.take_if(|row| key(row) == first) {
                self.ready.push_back(row);
                self.advance()?;
            }
            self.ready.retain(|row| {
                let same = settled.iter().position(|location| *location == row.row.location);
                same.map(|at| settled.swap_remove(at)).is_none()
            });
            // The catalog may say today that a file lies elsewhere.
            self.ready.drain(..settled.len().min(self.ready.len()));
        }
    }

    fn advance(&mut self) -> Result<(), BackendError> {
        let next = self.rows.next_row();
        self.next_row = next.map_err(|error| self.splitter.spool_error(error))?;
        Ok(())
    }

    fn advance_settled(&mut self) -> Result<(), BackendError> {
        self.next_settled = match &mut self.settled {
            Some(settled) => settled.next_row()?,
            None => None,
        };
        Ok(())
    }
}
