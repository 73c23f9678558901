//! A connection to the file: opened for one operation, closed after it.
//!
//! Opening a file is cheap, and a connection that is not shared can be interrupted: SQLite's own
//! work has no end of its own while it looks for a row, so that a session that nobody waits for
//! any more is stopped from within.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::time::timeout;

use crate::catalog::sql_error::meaning;
use crate::error::Result;

/// How long a writer may hold the file before we give up on it, for now.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// For the end of a session whose work has been stopped.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Steps of SQLite's machine between two looks at whether to go on: some tens of microseconds.
const STEPS_PER_LOOK: i32 = 10_000;

/// How the file is opened.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .busy_timeout(BUSY_LIMIT)
        .disable_statement_logging()
}

/// A connection within one read transaction, which sees one state of the file.
pub(super) struct Session {
    pub(super) connection: SqliteConnection,
    unwanted: Unwanted,
}

/// Tells SQLite to stop. Also when dropped.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Session {
    /// Opens the file. Waits as long as opening a file takes.
    pub(super) async fn open(options: &SqliteConnectOptions, database: &str) -> Result<Self> {
        let failed = |error| meaning(&format!("{database}: opening the file"), error);
        let mut connection = SqliteConnection::connect_with(options).await.map_err(failed)?;
        let unwanted = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&unwanted);
        connection
            .lock_handle()
            .await
            .map_err(failed)?
            .set_progress_handler(STEPS_PER_LOOK, move || !watched.load(Ordering::Relaxed));
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(failed)?;
        Ok(Self { connection, unwanted: Unwanted(unwanted) })
    }

    /// Stops what still runs, and closes; the transaction is over then.
    pub(super) async fn close(self) {
        drop(self.unwanted);
        let _ = timeout(CLOSE_LIMIT, self.connection.close()).await;
    }
}
