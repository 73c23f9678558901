//! Opens what stands behind the ports.
//!
//! Ports come as trait objects and futures boxed, so that drivers are compiled here, once: a future that
//! is not boxed, and a trait object that is made elsewhere, have their code compiled again in the crate
//! that awaits or makes it (`docs/decisions/0028-boxed-between-crates.md`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::Job;

use crate::catalog::{
    ArchivedColumn, CatalogTable, Mark, PostgresArchivedColumn, PostgresCatalog,
    SqliteArchivedColumn, SqliteCatalog,
};
use crate::error::Result;
use crate::ledger::{PostgresLedger, SqliteLedger};
use crate::queue::{InProcessQueue, RabbitQueue, RabbitSettings};
use crate::{Catalog, Ledger, TaskQueue};

/// As [`PostgresCatalog::connect`].
pub fn postgres_catalog(url: &str, table: CatalogTable) -> BoxFuture<'_, Result<Arc<dyn Catalog>>> {
    Box::pin(async move { Ok(Arc::new(PostgresCatalog::connect(url, table).await?) as _) })
}

/// As [`SqliteCatalog::open`].
pub fn sqlite_catalog(path: &Path, table: CatalogTable) -> BoxFuture<'_, Result<Arc<dyn Catalog>>> {
    Box::pin(async move { Ok(Arc::new(SqliteCatalog::open(path, table).await?) as _) })
}

/// As [`PostgresArchivedColumn::connect`].
pub fn postgres_archived_column(
    url: &str,
    table: CatalogTable,
    mark: Mark,
) -> BoxFuture<'_, Result<Arc<dyn ArchivedColumn>>> {
    Box::pin(
        async move { Ok(Arc::new(PostgresArchivedColumn::connect(url, table, mark).await?) as _) },
    )
}

/// As [`SqliteArchivedColumn::open`].
pub fn sqlite_archived_column(
    path: &Path,
    table: CatalogTable,
    mark: Mark,
) -> BoxFuture<'_, Result<Arc<dyn ArchivedColumn>>> {
    Box::pin(async move { Ok(Arc::new(SqliteArchivedColumn::open(path, table, mark).await?) as _) })
}

/// As [`PostgresLedger::connect`].
pub fn postgres_ledger(
    url: &str,
    job: Job,
    config_id: i32,
    lease_ttl: Duration,
) -> BoxFuture<'_, Result<Arc<dyn Ledger>>> {
    Box::pin(async move {
        Ok(Arc::new(PostgresLedger::connect(url, job, config_id, lease_ttl).await?) as _)
    })
}

/// As [`SqliteLedger::open`].
pub fn sqlite_ledger(
    path: &Path,
    job: Job,
    config_id: i32,
    create: bool,
) -> BoxFuture<'_, Result<Arc<dyn Ledger>>> {
    Box::pin(
        async move { Ok(Arc::new(SqliteLedger::open(path, job, config_id, create).await?) as _) },
    )
}

/// As [`SqliteLedger::open_read_only`].
pub fn sqlite_ledger_to_read(
    path: &Path,
    job: Job,
    config_id: i32,
) -> BoxFuture<'_, Result<Arc<dyn Ledger>>> {
    Box::pin(
        async move { Ok(Arc::new(SqliteLedger::open_read_only(path, job, config_id).await?) as _) },
    )
}

/// As [`RabbitQueue::connect`].
pub fn rabbit_queue(settings: RabbitSettings) -> BoxFuture<'static, Result<Arc<dyn TaskQueue>>> {
    Box::pin(async move { Ok(Arc::new(RabbitQueue::connect(settings).await?) as _) })
}

/// As [`InProcessQueue::new`].
pub fn in_process_queue() -> Arc<dyn TaskQueue> {
    Arc::new(InProcessQueue::new())
}
