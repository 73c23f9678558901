//! Which files of a pass are archived: those of its manifests, but for those that failed.

use std::collections::HashSet;

use backends::ledger::WindowRecord;
use backends::{BackendError, Ledger, Store};
use protocol::certificate::PartitionRef;
use protocol::{Certificate, Row, Timestamp};

use crate::known::{in_row_order, read_manifest};
use crate::survey::read_certificates;

/// A row as the catalog tells it.
type Told = (String, Timestamp, Option<String>);

/// A committed pass, as far as it matters which of its files are archived.
pub(super) struct PassToSync {
    /// Its partitions, in row order.
    pub(super) partitions: Vec<PartitionRef>,
    /// Files that it could not archive, or that the window's last pass says are not in the archive.
    not_archived: HashSet<Told>,
}

/// Rows of a partition.
pub(super) struct ReadRows {
    /// Those that are archived, each once, in the order of `created_at` and uid.
    pub(super) archived: Vec<Row>,
    /// How many are not.
    pub(super) failed: u64,
}

impl PassToSync {
    /// Reads the pass's certificate, and that of the last committed pass over its window, which says
    /// what is not in the archive now. Memory: a certificate at a time.
    ///
    /// # Errors
    /// When one is gone, or is not of this pass.
    pub(super) async fn read(
        ledger: &dyn Ledger,
        store: &Store,
        record: &WindowRecord,
    ) -> Result<Self, BackendError> {
        let end = record.window.end();
        let just_before = end.saturating_add_micros(-1);
        let passes = ledger.committed_windows(Some(just_before), Some(end), u32::MAX).await?;
        let own = certificate(store, record).await?;
        let mut not_archived = told(&own);
        let partitions = in_row_order(&own.partitions).into();
        drop(own);
        if let Some(last) = passes.last().filter(|last| last.key() != record.key()) {
            not_archived.extend(told(&certificate(store, last).await?));
        }
        Ok(Self { partitions, not_archived })
    }

    /// The rows of one of its partitions. Memory: the partition's rows.
    ///
    /// # Errors
    /// When the manifest is gone or damaged.
    pub(super) async fn rows(
        &self,
        store: &Store,
        partition: &PartitionRef,
    ) -> Result<ReadRows, BackendError> {
        let mut archived = read_manifest(store, partition).await?;
        let all = archived.len();
        archived.retain(|row| {
            !self.not_archived.contains(&(row.uid.clone(), row.created_at(), row.location.clone()))
        });
        let failed = (all - archived.len()) as u64;
        archived.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        archived.dedup_by(|a, b| key(a) == key(b));
        Ok(ReadRows { archived, failed })
    }
}

fn key(row: &Row) -> (i64, &str, Option<&str>) {
    (row.created_at_micros, &row.uid, row.location.as_deref())
}

fn told(certificate: &Certificate) -> HashSet<Told> {
    let failures = certificate.failures.iter();
    failures.map(|row| (row.uid.clone(), row.created_at, row.location.clone())).collect()
}

async fn certificate(store: &Store, record: &WindowRecord) -> Result<Certificate, BackendError> {
    let read = read_certificates(store, std::slice::from_ref(record)).await?.pop();
    read.filter(|it| it.key() == record.key() && it.window == record.window).ok_or_else(|| {
        BackendError::Invalid {
            what: format!(
                "the ledger's certificate of {} revision {} is not of that pass in {store}: run \
                 `des verify`",
                record.window, record.revision
            ),
        }
    })
}
