//! Both ways on PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{BATCH, Marking, N_BITS, Scene, Side, shard_of};
use crate::bench::fleet::{Database, execute};
use crate::generate::Row;
use crate::generate::catalog::{connect, postgres};
use crate::measure::child::run;

/// What such a system adds to the table of files: the status, the shard, and an index that finds
/// what is left to do.
const WITH_STATUS: [&str; 3] = [
    "ALTER TABLE files ADD COLUMN archived boolean NOT NULL DEFAULT false, ADD COLUMN shard text",
    "CREATE INDEX files_pending ON files (created_at) WHERE NOT archived",
    "VACUUM (FREEZE, ANALYZE) files",
];
const NEXT: &str = "SELECT uid, created_at, file_location, size_bytes FROM files \
    WHERE NOT archived ORDER BY created_at LIMIT $1";

/// Selects and marks all rows; nothing is packed here.
pub(super) async fn per_record(scene: &Scene<'_>, marking: Marking) -> anyhow::Result<Side> {
    let database = Database::make(scene.servers).await?;
    postgres(&database.url, "files", scene.spec, &scene.root()).await?;
    let mut connection = connect(&database.url).await?;
    for statement in WITH_STATUS {
        execute(&mut connection, statement).await?;
    }
    execute(&mut connection, "CHECKPOINT").await?;
    let before = Before::look(&mut connection).await?;
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
    let log_bytes = before.log_since(&mut connection).await?;
    let (dead, written) = tuples(&mut connection).await?;
    let growth_bytes = table_bytes(&mut connection).await? - before.table_bytes;
    let before_vacuum = Before::look(&mut connection).await?;
    let began = Instant::now();
    execute(&mut connection, "VACUUM files").await?;
    let vacuum = (began.elapsed().as_secs_f64(), before_vacuum.log_since(&mut connection).await?);
    connection.close().await?;
    database.remove().await?;
    Ok(Side {
        mark_seconds,
        statements: Some(statements),
        rows_written: Some(written),
        log_bytes,
        dead_tuples: Some(dead),
        growth_bytes,
        vacuum: Some(vacuum),
        pack_seconds: 0.0,
    })
}

/// One transaction: the next rows, and their marks. How many, and with how many statements.
async fn mark_batch(connection: &mut PgConnection, marking: Marking) -> anyhow::Result<(u64, u64)> {
    let mut transaction = connection.begin().await?;
    let found: Vec<(String, sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc>, String, i64)> =
        sqlx::query_as(NEXT).bind(BATCH.cast_signed()).fetch_all(&mut *transaction).await?;
    let (mut uids, mut shards) = (Vec::new(), Vec::new());
    for (uid, created_at, location, size) in found {
        let created_at = protocol::Timestamp::from_chrono(created_at).context("a time")?;
        let row = Row { uid, created_at, location: location.into(), size: size.cast_unsigned() };
        shards.push(shard_of(&row));
        uids.push(row.uid);
    }
    let rows = uids.len() as u64;
    // BEGIN, SELECT and COMMIT.
    let mut statements = 3;
    match marking {
        Marking::Batched => {
            sqlx::query(
                "UPDATE files SET archived = true, shard = marked.shard \
                 FROM unnest($1::text[], $2::text[]) AS marked (uid, shard) \
                 WHERE files.uid = marked.uid",
            )
            .bind(uids)
            .bind(shards)
            .execute(&mut *transaction)
            .await?;
            statements += 1;
        }
        Marking::OneByOne => {
            for (uid, shard) in uids.into_iter().zip(shards) {
                sqlx::query("UPDATE files SET archived = true, shard = $2 WHERE uid = $1")
                    .bind(uid)
                    .bind(shard)
                    .execute(&mut *transaction)
                    .await?;
            }
            statements += rows;
        }
    }
    transaction.commit().await?;
    Ok((rows, statements))
}

/// `des migrate`, whole: catalog and ledger in PostgreSQL.
pub(super) async fn watermark(scene: &Scene<'_>) -> anyhow::Result<Side> {
    let database = Database::make(scene.servers).await?;
    postgres(&database.url, "files", scene.spec, &scene.root()).await?;
    let archive = scene.dir.join("archive-postgres");
    let config = scene.dir.join("postgres.yaml");
    let text = serde_json::json!({
        "database": { "url": database.url, "size_column": "size_bytes" },
        "packer": { "output_dir": archive, "n_bits": N_BITS },
        "watermark": { "config_db_url": database.url },
        "worker": { "spool_dir": scene.dir },
        "coordinator": { "spool_dir": scene.dir },
    });
    std::fs::write(&config, text.to_string())?;
    let des = |words: &[&str]| {
        run(std::process::Command::new(scene.des).args(words).arg("--config").arg(&config))
    };
    if archive.exists() {
        std::fs::remove_dir_all(&archive)?;
    }
    des(&["init"])?;
    let mut connection = connect(&database.url).await?;
    // Every statement of des is counted in the server's log; there are few.
    let name = database.url.rsplit('/').next().unwrap_or_default();
    execute(&mut connection, &format!("ALTER DATABASE {name} SET log_statement = 'all'")).await?;
    execute(&mut connection, "CHECKPOINT").await?;
    let log = server_log(&mut connection).await?;
    let logged = std::fs::metadata(&log).map_or(0, |log| log.len());
    let before = Before::look(&mut connection).await?;
    let written_before = tuples(&mut connection).await?.1;
    rustix::fs::sync();
    let ran = des(&["migrate", "--mode", "single", "--output", "json"])?;
    let result: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    anyhow::ensure!(result["files_archived"].as_u64() == Some(scene.spec.rows), "{result}");
    let log_bytes = before.log_since(&mut connection).await?;
    let statements = statements_since(&log, logged);
    // Sessions hand in their counters when they end; des's have.
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let (dead, written) = tuples(&mut connection).await?;
    let growth_bytes = table_bytes(&mut connection).await?.saturating_sub(before.table_bytes);
    connection.close().await?;
    database.remove().await?;
    std::fs::remove_dir_all(&archive)?;
    Ok(Side {
        pack_seconds: ran.seconds,
        mark_seconds: 0.0,
        statements,
        rows_written: Some(written - written_before),
        log_bytes,
        dead_tuples: Some(dead),
        growth_bytes,
        vacuum: None,
    })
}

/// Where things stood.
struct Before {
    log: i64,
    table_bytes: u64,
}

impl Before {
    async fn look(connection: &mut PgConnection) -> anyhow::Result<Self> {
        Ok(Self { log: position(connection).await?, table_bytes: table_bytes(connection).await? })
    }

    async fn log_since(&self, connection: &mut PgConnection) -> anyhow::Result<u64> {
        Ok(u64::try_from(position(connection).await? - self.log)?)
    }
}

async fn position(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

async fn table_bytes(connection: &mut PgConnection) -> anyhow::Result<u64> {
    let sql = "SELECT pg_total_relation_size('files')";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(bytes.cast_unsigned())
}

/// Dead tuples of the table of files, and rows written to any table since they were made, but for
/// the load of the table of files itself.
async fn tuples(connection: &mut PgConnection) -> anyhow::Result<(u64, u64)> {
    // A session's own counters are handed in when it is asked to, at the end of a transaction.
    execute(connection, "SELECT pg_stat_force_next_flush()").await?;
    let sql = "SELECT coalesce(sum(n_dead_tup) FILTER (WHERE relname = 'files'), 0)::bigint, \
        coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint \
        + coalesce(sum(n_tup_ins) FILTER (WHERE relname <> 'files'), 0)::bigint \
        FROM pg_stat_user_tables";
    let (dead, written): (i64, i64) =
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await?;
    Ok((dead.cast_unsigned(), written.cast_unsigned()))
}

/// The log of the server that `./test` started, beside its data.
async fn server_log(connection: &mut PgConnection) -> anyhow::Result<PathBuf> {
    let directory: String = sqlx::query_scalar("SHOW data_directory").fetch_one(connection).await?;
    Ok(Path::new(&directory).with_file_name("log"))
}

/// Statements that were logged beyond so many bytes; `None` where the log cannot be read.
fn statements_since(log: &Path, from: u64) -> Option<u64> {
    let bytes = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(bytes.get(usize::try_from(from).ok()?..)?).into_owned();
    let is_one =
        |line: &&str| line.contains("LOG:  statement: ") || line.contains("LOG:  execute ");
    let count = text.lines().filter(is_one).count() as u64;
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_in_the_log_and_their_details_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let text = "before\n1 LOG:  statement: BEGIN\n1 LOG:  execute sqlx_s_1: SELECT\n2\n\
            1 DETAIL:  parameters: $1 = 'x'\n";
        std::fs::write(&log, text).expect("a log");
        assert_eq!(statements_since(&log, 7), Some(2));
        assert_eq!(statements_since(&dir.path().join("none"), 0), None);
    }
}
