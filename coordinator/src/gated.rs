//! For tests: a catalog that answers only once it is let, and a ledger of an archive beside it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backends::catalog::{CatalogReport, LoadCheck, RangeCount, RowBatch, Unplaceable};
use backends::ledger::{ArchiveRecord, AuditEntry, SqliteLedger, WatermarkRow};
use backends::{BackendError, Catalog, Ledger as _};
use protocol::{NBits, Timestamp, Window};
use tokio::sync::{Semaphore, mpsc};

/// A catalog whose answers wait for permits of their gates. It has seven rows.
pub(crate) struct GatedCatalog {
    /// For telling the time.
    pub(crate) clock: Semaphore,
    /// For counting.
    pub(crate) counting: Semaphore,
    /// How often it was asked for the time.
    pub(crate) asked: AtomicU64,
}

impl GatedCatalog {
    /// With so many answers that are let through.
    pub(crate) fn new(clock: usize, counting: usize) -> Self {
        let (clock, counting) = (Semaphore::new(clock), Semaphore::new(counting));
        Self { clock, counting, asked: AtomicU64::new(0) }
    }
}

fn never<T>() -> Result<T, BackendError> {
    Err(BackendError::Invalid { what: "this catalog is not asked for that".to_owned() })
}

#[async_trait]
impl Catalog for GatedCatalog {
    async fn now(&self) -> Result<Timestamp, BackendError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.clock.acquire().await.expect("it stays open").forget();
        Ok(crate::board::now())
    }

    async fn count_files(
        &self,
        _after: Option<Timestamp>,
        _until: Option<Timestamp>,
    ) -> Result<u64, BackendError> {
        self.counting.acquire().await.expect("it stays open").forget();
        Ok(7)
    }

    async fn oldest_after(&self, _: Option<Timestamp>) -> Result<Option<Timestamp>, BackendError> {
        never()
    }

    async fn count(
        &self,
        _after: Option<Timestamp>,
        _until: Option<Timestamp>,
    ) -> Result<RangeCount, BackendError> {
        never()
    }

    async fn unplaceable(&self) -> Result<Unplaceable, BackendError> {
        never()
    }

    async fn scan(&self, _: Window, _: mpsc::Sender<RowBatch>) -> Result<(), BackendError> {
        never()
    }

    async fn oldest_transaction(&self) -> Result<Option<Timestamp>, BackendError> {
        never()
    }

    async fn measure(&self, _: LoadCheck<'_>) -> Result<f64, BackendError> {
        never()
    }

    async fn inspect(&self) -> Result<CatalogReport, BackendError> {
        never()
    }
}

/// The ledger of an archive whose watermark stands at the beginning of 2024.
pub(crate) async fn ledger_in(directory: &Path) -> SqliteLedger {
    let job = "files".parse().expect("a job");
    let path = directory.join("ledger.sqlite");
    let ledger = SqliteLedger::open(&path, job, 1, true).await.expect("a ledger");
    ledger.migrate().await.expect("its tables");
    let begin = "2024-01-01".parse().expect("a date");
    let archive = ArchiveRecord {
        archive: "a".parse().expect("an id"),
        n_bits: NBits::new(4).expect("bits"),
        origin: begin,
        settled_until: begin,
    };
    let audit = AuditEntry {
        actor: "test".to_owned(),
        action: "init".to_owned(),
        from: None,
        to: None,
        reason: None,
    };
    let watermark = WatermarkRow { archived_until: begin, lag_days: 7 };
    ledger.register(&archive, watermark, &audit).await.expect("an archive");
    ledger
}
