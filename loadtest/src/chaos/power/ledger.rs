//! What a SQLite ledger says after a cut, read from a copy, so that looking changes nothing.

use std::path::Path;

use anyhow::Context as _;
use protocol::{Timestamp, Window, WindowKey};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::super::watch::Commit;

/// The ledger, as far as the judge asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct LedgerState {
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) origin: Option<Timestamp>,
    pub(crate) commits: Vec<Commit>,
    /// Receipts that were accepted, with the manifests that they are for.
    pub(crate) receipts: Vec<(String, String)>,
    /// Manifests of every partition.
    pub(crate) manifests: Vec<String>,
    /// Failed rows that are not resolved: uid and reason.
    pub(crate) errors: Vec<(String, String)>,
}

/// Reads the ledger at `path`; nothing where there is none, or none of its tables yet.
pub(crate) async fn read(path: &Path) -> anyhow::Result<LedgerState> {
    let copies = tempfile::tempdir()?;
    let copy = copies.path().join("ledger.sqlite");
    if !path.exists() {
        return Ok(LedgerState::default());
    }
    std::fs::copy(path, &copy)?;
    let log = |path: &Path| path.with_extension("sqlite-wal");
    if log(path).exists() {
        std::fs::copy(log(path), log(&copy))?;
    }
    let options = SqliteConnectOptions::new().filename(&copy).disable_statement_logging();
    let mut connection = options.connect().await.context("the ledger cannot be opened")?;
    let state = read_all(&mut connection).await.context("the ledger cannot be read")?;
    connection.close().await?;
    Ok(state)
}

async fn read_all(connection: &mut SqliteConnection) -> anyhow::Result<LedgerState> {
    let whole: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut *connection).await?;
    anyhow::ensure!(whole == "ok", "it is damaged: {whole}");
    let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'des_looks'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(LedgerState::default());
    }
    let watermark: Option<String> =
        sqlx::query_scalar("SELECT archived_until FROM des_archive_config")
            .fetch_optional(&mut *connection)
            .await?;
    let origin: Option<i64> = sqlx::query_scalar("SELECT origin FROM des_archives")
        .fetch_optional(&mut *connection)
        .await?;
    let windows =
        "SELECT * FROM des_windows WHERE state = 'committed' ORDER BY window_end, revision";
    let windows = sqlx::query(windows).fetch_all(&mut *connection).await?;
    let partitions = "SELECT manifest, receipt FROM des_partitions";
    let partitions = sqlx::query(partitions).fetch_all(&mut *connection).await?;
    let errors = "SELECT uid, reason FROM des_migration_errors WHERE resolved_at IS NULL";
    let errors = sqlx::query(errors).fetch_all(&mut *connection).await?;
    let mut state = LedgerState {
        watermark: watermark.map(|text| text.parse()).transpose()?,
        origin: origin.map(time).transpose()?,
        commits: windows.iter().map(commit).collect::<anyhow::Result<_>>()?,
        ..LedgerState::default()
    };
    for row in partitions {
        let manifest: String = row.try_get("manifest")?;
        let receipt: Option<String> = row.try_get("receipt")?;
        state.receipts.extend(receipt.map(|receipt| (receipt, manifest.clone())));
        state.manifests.push(manifest);
    }
    for row in errors {
        state.errors.push((row.try_get("uid")?, row.try_get("reason")?));
    }
    Ok(state)
}

fn commit(row: &SqliteRow) -> anyhow::Result<Commit> {
    let (start, end) = (time(row.try_get("window_start")?)?, time(row.try_get("window_end")?)?);
    let window = Window::new(start, end)?;
    let certificate: String = row.try_get("certificate")?;
    let count = |column: &str| anyhow::Ok(u64::try_from(row.try_get::<i64, _>(column)?)?);
    Ok(Commit {
        window,
        key: WindowKey::new(window, u16::try_from(row.try_get::<i64, _>("revision")?)?),
        // A single process leads at a time here, and its certificates are all there is to go by.
        lease_epoch: protocol::names::parse_certificate(&certificate).map_or(0, |it| it.epoch),
        certificate,
        files_archived: count("files_archived")?,
        files_failed: count("files_failed")?,
    })
}

fn time(micros: i64) -> anyhow::Result<Timestamp> {
    Timestamp::from_micros(micros).context("a time is out of range")
}
