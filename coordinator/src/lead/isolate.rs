//! Isolating what a partition fails on: two halves supersede it, then halves of these, down to the
//! row, which is given up.

use std::time::Instant;

use backends::BackendError;
use backends::ledger::{AcceptedReceipt, NewPart, PartitionRecord};
use protocol::manifest::{ManifestReader, RowRange};
use protocol::row::RowDefect;
use protocol::{ContentHash, FailedRow, FailureReason, Receipt, RowRef, Tally, WindowKey, names};
use tracing::warn;

use super::Leader;
use super::waits::{Waits, What};
use crate::attempts::{Verdict, attempt_number};
use crate::decide::{Expected, accepted, check_receipt};
use crate::metrics;
use crate::survey::MAX_MANIFEST_BYTES;

/// Class of what is recorded of a part before its first attempt.
const SPLIT: &str = "split";

/// What came of isolating; the error is the store's, and keeps nothing but its window.
type Isolated = Result<(), BackendError>;

impl Leader<'_> {
    /// Splits partitions that used up their attempts, and gives up what cannot be split. What is
    /// to be done follows from the ledger alone, so that a successor goes on with it.
    pub(super) async fn settle_used_up(&mut self) -> Result<(), BackendError> {
        let settings = &self.it.settings;
        let (limits, failures) = (settings.attempts, settings.failures);
        let now = Instant::now();
        let waits = |waits: &Waits, key| waits.is_waiting(What::Isolate(key), now);
        while let Some((key, partition, verdict)) =
            self.flight.used_up(limits, failures, |key| waits(&self.waits, key))
        {
            let isolated = match verdict {
                Verdict::TryAgain => break,
                Verdict::Split => self.split(key, &partition).await?,
                Verdict::GiveUp => self.give_up(key, &partition).await?,
            };
            match isolated {
                Ok(()) => self.done(What::Isolate(key), key.end).await?,
                // Without its manifest nobody can tell which rows these are.
                Err(error)
                    if error.is_lost_or_damaged()
                        && self.check_manifest(key, &partition).await? => {}
                Err(error) => {
                    self.wait_out(What::Isolate(key), key.end, error).await?;
                }
            }
        }
        Ok(())
    }

    async fn split(
        &mut self,
        key: WindowKey,
        partition: &PartitionRecord,
    ) -> Result<Isolated, BackendError> {
        let number = partition.partition;
        let Some(halves) = whole(partition).halves() else { return Ok(Ok(())) };
        let history = history(partition);
        warn!(window = %key.end, partition = number, rows = partition.rows.rows,
            trace_id = self.trace_id(key), "split into two, since it {history}");
        let count = move |tallies: &mut [Tally; 2], position, row: RowRef<'_>| {
            for (half, tally) in halves.iter().zip(tallies) {
                if half.contains(position) {
                    tally.count(row.uid, row.created_at());
                }
            }
        };
        let rows = match self.gather(partition, [Tally::default(); 2], count).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let part = |at: usize| NewPart { first_row: halves[at].first, rows: rows[at] };
        let why = format!("a part of partition {number}, which {history}");
        let ledger = &self.it.ledger;
        let parts = [part(0), part(1)];
        // False: it was accepted or split meanwhile, under another lease. The ledger tells.
        ledger.split_partition(&self.lease, key, number, &parts, (SPLIT, &why)).await?;
        metrics::split();
        let records = ledger.partitions(key).await?;
        if let Some(window) = self.flight.windows.get_mut(&key) {
            window.refresh(records);
        }
        Ok(Ok(()))
    }

    /// Writes and accepts a receipt that lists every row as failed.
    async fn give_up(
        &mut self,
        key: WindowKey,
        partition: &PartitionRecord,
    ) -> Result<Isolated, BackendError> {
        let (accepted, receipt) = match self.receipt_of_none(key, partition).await {
            Ok(Some(given_up)) => given_up,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        metrics::given_up();
        self.accept(key, partition.partition, accepted, Some(receipt)).await.map(Ok)
    }

    /// Writes the receipt of a partition that is given up; `None` where its window is gone.
    async fn receipt_of_none(
        &self,
        key: WindowKey,
        partition: &PartitionRecord,
    ) -> Result<Option<(AcceptedReceipt, Receipt)>, BackendError> {
        let Some(window) = self.flight.windows.get(&key) else { return Ok(None) };
        let (window, revision) = (window.record.window, window.record.revision);
        let range = whole(partition);
        let history = history(partition);
        warn!(window = %key.end, partition = partition.partition, rows = range.rows,
            trace_id = self.trace_id(key), "given up, since it {history}");
        let why = format!("its partition {history}");
        let list = move |failures: &mut Vec<FailedRow>, position, row: RowRef<'_>| {
            if range.contains(position) {
                failures.push(given_up(row, &why));
            }
        };
        let failures = self.gather(partition, Vec::new(), list).await?;
        let identity = &self.it.identity;
        let mut receipt = Receipt {
            version: Receipt::VERSION,
            archive: identity.archive.clone(),
            job: identity.job.clone(),
            window,
            revision,
            partition: partition.partition,
            manifest_hash: manifest_hash(partition)?,
            range: partition.range(),
            attempt: attempt_number(partition),
            worker: self.it.id.clone(),
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            shards: Vec::new(),
            big_files: Vec::new(),
            failures,
        };
        receipt.failed = receipt.tally_of_failures();
        let bytes = receipt.encode();
        let hash = ContentHash::of(&bytes);
        let name = names::receipt(key, partition.partition, receipt.manifest_hash, hash);
        // The same checks as of a worker's receipt: what is wrong with ours must not be accepted
        // either.
        let expected = Expected { identity, window, revision, partition };
        let receipt = check_receipt(&name, &bytes, expected).map_err(|why| {
            let what = format!("the coordinator's own receipt {name}: {why}; please report this");
            BackendError::Invalid { what }
        })?;
        let size = bytes.len() as u64;
        self.it.store.put(&name, bytes.into()).await?;
        self.it.store.flush().await?;
        Ok(Some((accepted(&name, size, &receipt), receipt)))
    }

    /// Shows every row of a partition's manifest to `see`, with its position and what was gathered
    /// so far, on a thread that may take its time.
    async fn gather<T: Send + 'static>(
        &self,
        partition: &PartitionRecord,
        mut gathered: T,
        see: impl Fn(&mut T, u64, RowRef<'_>) + Send + 'static,
    ) -> Result<T, BackendError> {
        let key = partition.manifest.clone();
        let hash = manifest_hash(partition)?;
        let bytes = self.it.store.get(&key, MAX_MANIFEST_BYTES).await?;
        let reading = tokio::task::spawn_blocking(move || {
            let invalid = |why: String| BackendError::Invalid { what: format!("{key}: {why}") };
            if ContentHash::of(&bytes) != hash {
                let why = "its bytes are not those that its name stands for";
                return Err(invalid(why.to_owned()));
            }
            ManifestReader::new(&bytes)
                .and_then(|reader| reader.visit(|position, row| see(&mut gathered, position, row)))
                .map_err(|error| invalid(error.to_string()))?;
            Ok(gathered)
        });
        reading.await.map_err(|panicked| BackendError::Failed {
            what: format!("reading {}", partition.manifest),
            cause: panicked.into(),
        })?
    }
}

/// The manifest's rows that the partition holds.
fn whole(partition: &PartitionRecord) -> RowRange {
    partition.range().unwrap_or(RowRange { first: 0, rows: partition.rows.rows })
}

fn manifest_hash(partition: &PartitionRecord) -> Result<ContentHash, BackendError> {
    names::content_hash(&partition.manifest).ok_or_else(|| BackendError::Invalid {
        what: format!("{} in the ledger is not the name of a manifest", partition.manifest),
    })
}

fn given_up(row: RowRef<'_>, why: &str) -> FailedRow {
    row.failed(row.defect.map_or(FailureReason::GaveUp, RowDefect::reason), why.to_owned())
}

/// What a partition went through and what it was told last, for a person.
fn history(partition: &PartitionRecord) -> String {
    let (attempts, interruptions) = (partition.attempts, partition.interruptions);
    let (class, detail) = partition.trouble.clone().unwrap_or_default();
    format!(
        "failed in {attempts} attempts and was interrupted {interruptions} times, at last: {class}: \
         {detail}"
    )
}
