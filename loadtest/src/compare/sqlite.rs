//! Both ways on SQLite, with no server at all.

use std::path::Path;
use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::{BATCH, Marking, Scene, Side, shard_of};
use crate::bench::embedded::Ground;
use crate::generate::{Row, catalog};

/// The log is kept whole, so that its length is what was written.
const WITH_STATUS: &str = "PRAGMA wal_autocheckpoint = 0; \
    ALTER TABLE files ADD COLUMN archived INTEGER NOT NULL DEFAULT 0; \
    ALTER TABLE files ADD COLUMN shard TEXT; \
    CREATE INDEX files_pending ON files (created_at) WHERE archived = 0; \
    PRAGMA wal_checkpoint(TRUNCATE)";
const NEXT: &str = "SELECT uid, created_at, file_location, size_bytes FROM files \
    WHERE archived = 0 ORDER BY created_at LIMIT ?";

/// Selects and marks all rows; nothing is packed here.
pub(super) async fn per_record(scene: &Scene<'_>, marking: Marking) -> anyhow::Result<Side> {
    let file = scene.dir.join("per-record.sqlite");
    catalog::sqlite(&file, scene.spec, &scene.root()).await?;
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .journal_mode(SqliteJournalMode::Wal)
        .disable_statement_logging();
    let mut connection = options.connect().await?;
    sqlx::raw_sql(WITH_STATUS).execute(&mut connection).await?;
    let before = bytes_of(&file);
    let began = Instant::now();
    let mut statements = 0;
    loop {
        let marked = mark_batch(&mut connection, marking).await?;
        statements += marked.1;
        if marked.0 < BATCH {
            break;
        }
    }
    let mark_seconds = began.elapsed().as_secs_f64();
    let log_bytes = bytes_of(&file.with_extension("sqlite-wal"));
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
    connection.close().await?;
    let growth_bytes = bytes_of(&file).saturating_sub(before);
    std::fs::remove_file(&file)?;
    Ok(Side {
        mark_seconds,
        statements: Some(statements),
        rows_written: Some(scene.spec.rows),
        log_bytes,
        growth_bytes,
        ..Side::default()
    })
}

async fn mark_batch(
    connection: &mut SqliteConnection,
    marking: Marking,
) -> anyhow::Result<(u64, u64)> {
    let mut transaction = connection.begin().await?;
    let found: Vec<(String, String, String, i64)> =
        sqlx::query_as(NEXT).bind(BATCH.cast_signed()).fetch_all(&mut *transaction).await?;
    let mut marks = Vec::new();
    for (uid, created_at, location, size) in found {
        let (created_at, size) = (created_at.parse()?, size.cast_unsigned());
        let row = Row { uid, created_at, location: location.into(), size };
        marks.push((shard_of(&row), row.uid));
    }
    let rows = marks.len() as u64;
    // BEGIN, SELECT and COMMIT.
    let mut statements = 3;
    match marking {
        Marking::Batched if rows > 0 => {
            let values = vec!["(?, ?)"; marks.len()].join(",");
            let sql = format!(
                "WITH marked (shard, uid) AS (VALUES {values}) UPDATE files SET archived = 1, \
                 shard = marked.shard FROM marked WHERE files.uid = marked.uid"
            );
            let mut update = sqlx::query(AssertSqlSafe(sql));
            for (shard, uid) in marks {
                update = update.bind(shard).bind(uid);
            }
            update.execute(&mut *transaction).await?;
            statements += 1;
        }
        Marking::Batched => {}
        Marking::OneByOne => {
            for (shard, uid) in marks {
                sqlx::query("UPDATE files SET archived = 1, shard = ? WHERE uid = ?")
                    .bind(shard)
                    .bind(uid)
                    .execute(&mut *transaction)
                    .await?;
            }
            statements += rows;
        }
    }
    transaction.commit().await?;
    Ok((rows, statements))
}

/// What the `des migrate` that ran on this ground left: its log is its ledger's, which is all that
/// it wrote.
pub(super) fn watermark(ground: &Ground, pack_seconds: f64) -> Side {
    Side { pack_seconds, log_bytes: ground.ledger_bytes(), ..Side::default() }
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |it| it.len())
}
