//! The catalog of generated files, in SQLite or PostgreSQL. Rows are made while they are loaded.

use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::Context as _;
use protocol::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::{Row, Spec, tell};

/// Rows of one INSERT.
const ROWS_A_STATEMENT: u64 = 200;
/// Of one piece of a COPY.
const PIECE_BYTES: usize = 256 * 1024;

/// Makes `file` anew, a SQLite database with the table `files`.
pub(crate) async fn sqlite(file: &Path, spec: &Spec, root: &Path) -> anyhow::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _not_there = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .disable_statement_logging();
    let mut connection =
        options.connect().await.with_context(|| format!("cannot make {}", file.display()))?;
    sqlx::raw_sql(
        "CREATE TABLE files (uid TEXT PRIMARY KEY, created_at TEXT NOT NULL, \
         file_location TEXT NOT NULL, size_bytes INTEGER NOT NULL)",
    )
    .execute(&mut connection)
    .await?;
    let mut load = connection.begin().await?;
    let mut first = 0;
    while first < spec.rows {
        let last = (first + ROWS_A_STATEMENT).min(spec.rows);
        let values = vec!["(?, ?, ?, ?)"; usize::try_from(last - first)?].join(",");
        let sql = format!("INSERT INTO files VALUES {values}");
        let mut insert = sqlx::query(AssertSqlSafe(sql));
        for number in first..last {
            let Row { uid, created_at, location, size } = spec.row(root, number);
            insert = insert
                .bind(uid)
                .bind(text_of(created_at))
                .bind(location.to_string_lossy().into_owned())
                .bind(size.cast_signed());
        }
        insert.execute(&mut *load).await?;
        tell(last, spec.rows, "rows loaded");
        first = last;
    }
    load.commit().await?;
    sqlx::raw_sql("CREATE INDEX files_created_at ON files (created_at)")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// Whether `table` is there in PostgreSQL and has rows.
pub(crate) async fn has_rows(url: &str, table: &str) -> anyhow::Result<bool> {
    let mut connection = connect(url).await?;
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(&mut connection)
        .await?;
    let has_rows = match is_there {
        true => {
            let sql = format!("SELECT EXISTS (SELECT FROM {table})");
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await?
        }
        false => false,
    };
    connection.close().await?;
    Ok(has_rows)
}

/// Makes `table` anew in PostgreSQL, in one transaction: whoever reads it meanwhile sees all rows of
/// before or all of now, and never none. It is vacuumed, so that nothing writes to it later on, and
/// autovacuum leaves it alone, so that whoever does is found.
pub(crate) async fn postgres(
    url: &str,
    table: &str,
    spec: &Spec,
    root: &Path,
) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    let mut load = connection.begin().await?;
    let make = format!(
        "DROP TABLE IF EXISTS {table}; \
         CREATE TABLE {table} (uid text NOT NULL, created_at timestamptz NOT NULL, \
           file_location text NOT NULL, size_bytes bigint NOT NULL) \
           WITH (autovacuum_enabled = off)"
    );
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *load).await?;
    let mut copy = load.copy_in_raw(&format!("COPY {table} FROM STDIN")).await?;
    let mut piece = String::with_capacity(PIECE_BYTES + 1_024);
    for number in 0..spec.rows {
        let Row { uid, created_at, location, size } = spec.row(root, number);
        let (time, location) = (text_of(created_at), location.display());
        // Nothing that is generated needs escaping.
        writeln!(piece, "{uid}\t{time}\t{location}\t{size}")?;
        if piece.len() >= PIECE_BYTES {
            copy.send(piece.as_bytes()).await?;
            piece.clear();
        }
        tell(number, spec.rows, "rows loaded");
    }
    copy.send(piece.as_bytes()).await?;
    copy.finish().await?;
    for statement in [
        format!("ALTER TABLE {table} ADD PRIMARY KEY (uid)"),
        format!("CREATE INDEX ON {table} (created_at)"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *load).await?;
    }
    load.commit().await?;
    let vacuum = format!("VACUUM (FREEZE, ANALYZE) {table}");
    sqlx::raw_sql(AssertSqlSafe(vacuum)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// A connection that logs no statements.
pub(crate) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url).context("the database's URL")?;
    Ok(options.disable_statement_logging().connect().await?)
}

fn text_of(time: Timestamp) -> String {
    time.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sqlite_catalog_has_every_row() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("catalog.sqlite");
        let spec = Spec::usual(ROWS_A_STATEMENT * 2 + 7, 1);
        for _anew in 0..2 {
            sqlite(&file, &spec, Path::new("/data")).await.expect("a catalog");
        }
        let options = SqliteConnectOptions::new().filename(&file);
        let mut connection = options.connect().await.expect("it opens");
        let (rows, bytes): (i64, i64) =
            sqlx::query_as("SELECT count(*), sum(size_bytes) FROM files")
                .fetch_one(&mut connection)
                .await
                .expect("an answer");
        let expected: u64 = (0..spec.rows).map(|n| spec.row(Path::new("/data"), n).size).sum();
        assert_eq!((rows.cast_unsigned(), bytes.cast_unsigned()), (spec.rows, expected));
    }
}
