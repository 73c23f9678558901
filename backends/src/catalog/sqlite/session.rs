//! A connection to the file: opened for one operation on a thread that may block, closed after it.
//!
//! Opening a file is cheap, and a connection that is not shared can be interrupted: SQLite's own
//! work has no end of its own while it looks for a row, so that a session that nobody waits for
//! any more is stopped from within.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{BackendError, Result};

use super::failure::meaning;

/// How long a writer may hold the file before we give up on it, for now.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at whether to go on: some tens of microseconds.
const STEPS_PER_LOOK: i32 = 10_000;
/// What a connection keeps of the file in memory, in KiB: an upper bound, filled as pages are read and
/// given back with the connection.
const CACHE_KIB: i64 = 4 * 1024;
/// The same while a window is scanned: reading by an index comes back to most pages many times.
const SCAN_CACHE_KIB: i64 = 64 * 1024;

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
    fn open(file: &File, cache_kib: i64, unwanted: CancellationToken) -> Result<Self> {
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
                     PRAGMA cache_size = -{cache_kib}; BEGIN"
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
    let (session, _stop_when_dropped) = session(file, CACHE_KIB, unwanted, work);
    let done = tokio::task::spawn_blocking(session).await;
    done.unwrap_or_else(|error| Err(failed(file, error)))
}

/// `work` in a session of its own, wherever that is run, and what stops it when dropped.
fn session<T>(
    file: &File,
    cache_kib: i64,
    unwanted: CancellationToken,
    work: impl FnOnce(&Session) -> Result<T> + Send + 'static,
) -> (impl FnOnce() -> Result<T> + Send + 'static, DropGuard) {
    let (opened, watched) = (file.clone(), unwanted.clone());
    let session = move || work(&Session::open(&opened, cache_kib, watched)?);
    (session, unwanted.drop_guard())
}

fn failed(file: &File, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendError {
    BackendError::Failed {
        what: format!("{}: reading the file", file.database),
        cause: cause.into(),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread on which windows are scanned, one after the other. What SQLite's cache gave back the
/// allocator keeps for the thread that had it: scanned on ever other threads, a catalog would take its
/// memory once for each of them.
pub(super) struct ScanThread {
    jobs: mpsc::Sender<Job>,
}

impl ScanThread {
    /// Starts it; it ends with this, or with the job that it is at then.
    pub(super) fn start(file: &File) -> Result<Self> {
        let (jobs, due) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("sqlite-scan".to_owned());
        let started = thread.spawn(move || due.iter().for_each(|job| job()));
        started.map_err(|error| failed(file, error))?;
        Ok(Self { jobs })
    }

    /// As [`within`], on this thread.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        file: &File,
        unwanted: CancellationToken,
        work: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (session, _stop_when_dropped) = session(file, SCAN_CACHE_KIB, unwanted, work);
        let done = self.run(session).await;
        done.unwrap_or_else(|| Err(failed(file, "it panicked")))
    }

    /// `None` when `work` panics.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (told, done) = oneshot::channel();
        let runtime = Handle::current();
        let job = move || {
            let _entered = runtime.enter();
            // Whoever waits is told by the channel's end.
            let _told = catch_unwind(AssertUnwindSafe(work)).map(|done| told.send(done));
        };
        self.jobs.send(Box::new(job)).ok()?;
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn scans_share_a_thread_that_outlives_a_panic() {
        let file = File { path: PathBuf::from("files.db"), database: "the catalog".to_owned() };
        let thread = ScanThread::start(&file).expect("a thread");
        let first = thread.run(|| std::thread::current().id()).await.expect("an answer");
        assert_ne!(first, std::thread::current().id());
        assert_eq!(thread.run(|| panic!("as it may")).await, None::<()>);
        assert_eq!(thread.run(|| std::thread::current().id()).await, Some(first));
        let nothing = thread.within(&file, CancellationToken::new(), |_session| Ok(())).await;
        assert!(nothing.is_err(), "there is no such file");
    }
}
