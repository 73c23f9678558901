//! A connection to the file: opened for one operation on a thread that may block, closed after it.
//!
//! Opening a file is cheap, and a connection that is not shared can be interrupted: SQLite's own
//! work has no end of its own while it looks for a row, so that a session that nobody waits for
//! any more is stopped from within.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio_util::sync::CancellationToken;

use crate::error::{BackendError, Result};

use super::failure::meaning;

/// How long a writer may hold the file before we give up on it, for now.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at whether to go on: some tens of microseconds.
const STEPS_PER_LOOK: i32 = 10_000;
/// What a connection keeps of the file in memory, in KiB. An upper bound, filled as pages are read
/// and given back with the connection: reading by an index comes back to most pages many times.
const CACHE_KIB: i64 = 64 * 1024;

/// The file, and what a person calls it.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// `the catalog in /data/files.db`.
    pub(super) database: String,
}

/// A connection within one read transaction, which sees one state of the file.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// Set when nobody waits any more.
    pub(super) unwanted: CancellationToken,
}

impl Session {
    /// Opens the file. Waits as long as opening a file takes.
    ///
    /// No memory mapping: a file that is cut short under us is to be an error, not a signal.
    fn open(file: &File, unwanted: CancellationToken) -> Result<Self> {
        let failed = |error| meaning(&format!("{}: opening the file", file.database), error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file.path, flags).map_err(failed)?;
        let watched = unwanted.clone();
        connection
            .progress_handler(STEPS_PER_LOOK, Some(move || watched.is_cancelled()))
            .and_then(|()| connection.busy_timeout(BUSY_LIMIT))
            .and_then(|()| {
                connection.execute_batch(&format!(
                    "PRAGMA query_only = 1; PRAGMA mmap_size = 0; \
                     PRAGMA cache_size = -{CACHE_KIB}; BEGIN"
                ))
            })
            .map_err(failed)?;
        Ok(Self { connection, unwanted })
    }
}

/// Does `work` in a session of its own, on a thread that may block. The session is over when this
/// returns. It is stopped when `unwanted` is cancelled, or this is dropped.
pub(super) async fn within<T: Send + 'static>(
    file: &File,
    unwanted: CancellationToken,
    work: impl FnOnce(&Session) -> Result<T> + Send + 'static,
) -> Result<T> {
    let opened = file.clone();
    let watched = unwanted.clone();
    let _stop_when_dropped = unwanted.drop_guard();
    let done = tokio::task::spawn_blocking(move || work(&Session::open(&opened, watched)?));
    done.await.unwrap_or_else(|error| {
        Err(BackendError::Failed {
            what: format!("{}: reading the file", file.database),
            cause: error.into(),
        })
    })
}
