//! The ledger in SQLite: the embedded one.

use std::path::Path;
use std::time::Duration;

use protocol::Job;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Arguments as _, ConnectOptions as _, SqlSafeStr, Sqlite};

use super::SqlLedger;
use super::migrations::{self, Step};
use super::record::Record;
use super::session::{Param, Pooled, Session};
use super::sql_ledger::{ACTION_LIMIT, CONNECT_LIMIT};
use crate::error::{BackendError, Result};
use crate::sql::sql_error;
use crate::store::may_write;

/// The ledger of one job in a SQLite file.
pub type SqliteLedger = SqlLedger<Sqlite>;

/// Connections that read while the one that writes is busy.
const READERS: u32 = 2;
/// How long a statement waits for another process that is writing to the file.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Pause before the file is opened once more, while another process changes its journal mode.
const OPEN_PAUSE: Duration = Duration::from_millis(20);

const MIGRATIONS: &[Step] = &[
    (1, "ledger", include_str!("../../../migrations/sqlite/0001_ledger.sql")),
    (2, "split", include_str!("../../../migrations/sqlite/0002_split.sql")),
    (3, "revisions", include_str!("../../../migrations/sqlite/0003_revisions.sql")),
    (4, "pause", include_str!("../../../migrations/sqlite/0004_pause.sql")),
    (5, "stuck", include_str!("../../../migrations/sqlite/0005_stuck.sql")),
    (6, "partition rows", include_str!("../../../migrations/sqlite/0006_partition_rows.sql")),
    (7, "since", include_str!("../../../migrations/sqlite/0007_since.sql")),
    (8, "throttle", include_str!("../../../migrations/sqlite/0008_throttle.sql")),
    (9, "synced", include_str!("../../../migrations/sqlite/0009_synced.sql")),
    (10, "append only", include_str!("../../../migrations/sqlite/0010_append_only.sql")),
    (11, "source throttle", include_str!("../../../migrations/sqlite/0011_source_throttle.sql")),
];

/// As the migrating library makes it.
const MIGRATIONS_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS _des_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);";

/// The SQL that [`migrate`](super::Ledger::migrate) runs on an empty database, for those who run
/// it themselves.
pub fn migrations_sql() -> String {
    migrations::script(MIGRATIONS, MIGRATIONS_TABLE, |digits| format!("x'{digits}'"))
}

impl SqliteLedger {
    /// Opens the file for one job, whose watermark is row `config_id`. With `create` a missing
    /// file is made, its directory is not.
    ///
    /// The file is put into WAL mode, in which a long read of a catalog in the same file does
    /// not hold up a commit, and every commit is synced to disk.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when the file is not there and is not to be made; other errors
    /// when it cannot be opened.
    pub async fn open(path: &Path, job: Job, config_id: i32, create: bool) -> Result<Self> {
        if !create {
            require_file(path)?;
        }
        let options = options(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        Self::open_with(path, job, config_id, options).await
    }

    /// Opens the file to look at it: what would change anything fails, and the file itself, its
    /// journal mode included, stays as it is.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when the file is not there; other errors when it cannot be
    /// opened.
    pub async fn open_read_only(path: &Path, job: Job, config_id: i32) -> Result<Self> {
        require_file(path)?;
        let options = options(path).create_if_missing(false).read_only(true);
        Self::open_with(path, job, config_id, options).await
    }

    /// Whether [`SqliteLedger::open`] could make the file at `path`. Makes nothing.
    ///
    /// # Errors
    /// When its directory is not there, or may not be written.
    pub fn check_may_be_made(path: &Path) -> Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if directory.is_dir() && may_write(directory) {
            return Ok(());
        }
        Err(BackendError::Denied {
            what: format!("the ledger ({}) cannot be made", describe(path)),
            cause: format!("{} is not a directory that this user may write", directory.display())
                .into(),
        })
    }

    async fn open_with(
        path: &Path,
        job: Job,
        config_id: i32,
        options: SqliteConnectOptions,
    ) -> Result<Self> {
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(CONNECT_LIMIT)
                .connect_lazy_with(options.clone())
        };
        let description = describe(path);
        let ledger = Self { writer: pool(1), reader: pool(READERS), job, config_id, description };
        ledger.first_connection().await?;
        Ok(ledger)
    }

    /// Opens the file, and so changes its journal mode where that is needed. SQLite does not wait
    /// for others who are about the same, as two processes on a new file are.
    async fn first_connection(&self) -> Result<()> {
        let what = format!("the ledger ({}) could not be opened", self.description);
        let deadline = tokio::time::Instant::now() + ACTION_LIMIT;
        loop {
            let error = match self.writer.acquire().await {
                Ok(_connection) => return Ok(()),
                Err(error) => sql_error(what.clone(), error),
            };
            if !error.is_retryable() || tokio::time::Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_LIMIT).disable_statement_logging()
}

fn describe(path: &Path) -> String {
    format!("SQLite file {}", path.display())
}

fn require_file(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(BackendError::NotFound { what: format!("there is no {}", describe(path)) })
}

fn arguments(params: &[Param<'_>]) -> sqlx::Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for param in params {
        let added = match param {
            Param::Int(value) => arguments.add(value),
            Param::Bool(value) => arguments.add(value),
            Param::Text(text) => arguments.add(*text),
            Param::OptText(text) => arguments.add(*text),
            Param::Texts(texts) => match serde_json::to_string(texts) {
                Ok(json) => arguments.add(json),
                Err(error) => Err(error.into()),
            },
            Param::Time(time) => arguments.add(time.as_micros()),
            Param::OptInt(value) => arguments.add(value),
            Param::OptTime(time) => arguments.add(time.map(|time| time.as_micros())),
            Param::Date(time) => arguments.add(time.to_string()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

impl Session for Pooled<Sqlite> {
    // Takes the one lock there is at once: a transaction that read first could not be sure of it.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const NOW: &'static str =
        "SELECT CAST(round(unixepoch('subsec') * 1000000.0) AS INTEGER) AS now";
    const TABLE_EXISTS: &'static str = "SELECT count(*) AS tables FROM sqlite_master \
        WHERE type IN ('table', 'view') AND name = $1 COLLATE NOCASE";
    const LOCK_LEASE: &'static str =
        "SELECT holder, epoch, expires_at FROM des_lease WHERE job = $1";
    // The transaction has the whole file locked already.
    const TRY_LOCK_LEASE: &'static str = Self::LOCK_LEASE;
    const WATERMARK: &'static str =
        "SELECT archived_until, lag_days FROM des_archive_config WHERE id = $1";
    const LOCK_WATERMARK: &'static str = Self::WATERMARK;
    const WATERMARK_EXTRAS: &'static str = "SELECT lower(name) AS name, 128 AS width \
        FROM pragma_table_info('des_archive_config') \
        WHERE lower(name) IN ('last_updated', 'updated_by')";
    const MIGRATION_LOCK: Option<&'static str> = None;
    const MIGRATIONS: &'static [Step] = MIGRATIONS;

    async fn lacks(&mut self, _upgrade: bool) -> Result<Vec<String>> {
        let select = "SELECT file FROM pragma_database_list WHERE name = 'main'";
        let Some(row) = self.fetch_optional(select, &[]).await? else { return Ok(Vec::new()) };
        let file = std::path::PathBuf::from(row.text("file")?);
        // The write-ahead log is made beside the file.
        let beside = file.parent().map(Path::to_owned);
        let places = std::iter::once(file).chain(beside);
        Ok(places
            .filter(|place| !may_write(place))
            .map(|place| format!("leave to write {}", place.display()))
            .collect())
    }

    /// SQLite has no server that could end another process's transaction; the lock is the process's,
    /// and goes with it.
    async fn end_stalled(&mut self, _job: &Job, _stalled: Duration) -> Result<u64> {
        Ok(0)
    }

    async fn execute(&mut self, sql: impl SqlSafeStr + Send, params: &[Param<'_>]) -> Result<u64> {
        let outcome = match arguments(params) {
            Ok(arguments) => sqlx::query_with(sql, arguments).execute(&mut *self.connection).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(sql_error(&*self.what, error)),
        }
    }

    async fn fetch(
        &mut self,
        sql: impl SqlSafeStr + Send,
        params: &[Param<'_>],
    ) -> Result<Vec<Record>> {
        let outcome = match arguments(params) {
            Ok(arguments) => {
                sqlx::query_with(sql, arguments).fetch_all(&mut *self.connection).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(rows) => Ok(rows.into_iter().map(Record::Sqlite).collect()),
            Err(error) => Err(sql_error(&*self.what, error)),
        }
    }
}
