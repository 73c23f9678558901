//! Source files and their catalog, the same in every run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use protocol::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const FILES_PER_DIRECTORY: u64 = 1_000;
/// Sizes are spread evenly around their mean of 3,500 bytes.
const SMALLEST_BYTES: u64 = 500;
const SPREAD_BYTES: u64 = 6_000;
/// Of 100 files so many are JSON; the others are incompressible.
const JSON_PERCENT: u64 = 70;
/// Old enough for any lag.
const FIRST_DAY: &str = "2024-06-01T00:00:00Z";
const MICROS_PER_DAY: u64 = 86_400_000_000;

/// What was made.
pub(crate) struct Made {
    files: u64,
    bytes: u64,
}

impl Made {
    /// Mean size of a file in bytes.
    pub(crate) const fn mean(&self) -> u64 {
        self.bytes / if self.files == 0 { 1 } else { self.files }
    }
}

/// Makes `files` below `dir/files`, and `dir/catalog.sqlite` with a row for each, over `days`.
pub(crate) fn make(dir: &Path, files: u64, days: u64) -> anyhow::Result<Made> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    let first: Timestamp = FIRST_DAY.parse()?;
    for number in 0..files {
        let folder = dir.join("files").join(format!("{:05}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let mut random = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
        let mut next = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let size = SMALLEST_BYTES + next() % SPREAD_BYTES;
        let after = 1 + next() % (days.max(1) * MICROS_PER_DAY);
        let is_json = next() % 100 < JSON_PERCENT;
        let content = if is_json { json(number, size, next) } else { noise(size, next) };
        let path = folder.join(format!("{number:08}.{}", if is_json { "json" } else { "bin" }));
        std::fs::write(&path, &content).with_context(|| path.display().to_string())?;
        bytes += content.len() as u64;
        let created_at = first.saturating_add_micros(i64::try_from(after)?);
        rows.push((format!("document-{number:010}"), created_at, path, content.len()));
    }
    write_catalog(&dir.join("catalog.sqlite"), &rows)?;
    Ok(Made { files, bytes })
}

fn noise(size: u64, mut next: impl FnMut() -> u64) -> Vec<u8> {
    (0..size.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect()
}

fn json(number: u64, size: u64, mut next: impl FnMut() -> u64) -> Vec<u8> {
    const NOTES: [&str; 8] =
        ["morning", "invoice", "customer", "river", "station", "answer", "quiet", "paper"];
    let mut text = format!("{{\"document\":{number},\"lines\":[");
    while (text.len() as u64) < size {
        let (sku, price) = (next() % 1_000_000, next() % 100_000);
        let (quantity, note) = (next() % 100, NOTES[usize::from(next().to_le_bytes()[0] % 8)]);
        let line = write!(
            text,
            "{{\"sku\":\"{sku:06}\",\"quantity\":{quantity},\"cents\":{price},\"note\":\"{note}\"}},"
        );
        line.unwrap_or_default();
    }
    text.push_str("{}]}\n");
    text.into_bytes()
}

type CatalogRow = (String, Timestamp, std::path::PathBuf, usize);

fn write_catalog(path: &Path, rows: &[CatalogRow]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .disable_statement_logging();
        let mut catalog = options.connect().await?;
        sqlx::raw_sql(
            "CREATE TABLE files (uid TEXT PRIMARY KEY, created_at TEXT NOT NULL, \
             file_location TEXT NOT NULL, size_bytes INTEGER NOT NULL); \
             CREATE INDEX files_created_at ON files (created_at);",
        )
        .execute(&mut catalog)
        .await?;
        let mut load = catalog.begin().await?;
        for (uid, created_at, path, size) in rows {
            sqlx::query("INSERT INTO files VALUES (?, ?, ?, ?)")
                .bind(uid)
                .bind(created_at.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
                .bind(path.to_string_lossy().into_owned())
                .bind(i64::try_from(*size)?)
                .execute(&mut *load)
                .await?;
        }
        load.commit().await?;
        catalog.close().await?;
        Ok(())
    })
}
