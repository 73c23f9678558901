//! The customer's table of files: read, never written, but for [`ArchivedColumn`] where an operator
//! asks for it.

use async_trait::async_trait;
use protocol::{Timestamp, Window};
use tokio::sync::mpsc;

use crate::error::{BackendError, Result};

mod archived;
mod batch;
mod names;
pub mod postgres;
mod sql_error;
pub mod sqlite;

pub use archived::{ArchivedColumn, MAX_MARKED_AT_ONCE, Mark};
pub use batch::RowBatch;
pub use postgres::{PostgresArchivedColumn, PostgresCatalog};
pub use sqlite::{SqliteArchivedColumn, SqliteCatalog};

/// Rows handed over at once by [`Catalog::scan`]: enough to make the channel cheap, few enough
/// to keep memory flat.
pub const SCAN_BATCH_ROWS: usize = 1_024;
/// The most bytes of rows ([`RowBatch::heap_bytes`]) handed over at once, whatever their number.
pub const SCAN_BATCH_BYTES: usize = 1024 * 1024;

/// Which table, and which of its columns. Names are taken as they stand and quoted; the table
/// may be qualified with a schema (`schema.table`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// The table.
    pub table: String,
    /// The column that holds the file's key.
    pub uid: String,
    /// The column that holds the file's date.
    pub created_at: String,
    /// The column that holds the file's path.
    pub location: String,
    /// The column that holds the file's size in bytes, if there is one.
    pub size: Option<String>,
}

/// The catalog, as one window after the other needs it.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The database's clock.
    async fn now(&self) -> Result<Timestamp>;

    /// The smallest `created_at` after `after` (of all rows when `None`) of the rows that a
    /// window can hold.
    async fn oldest_after(&self, after: Option<Timestamp>) -> Result<Option<Timestamp>>;

    /// Number of rows (and bytes, with a size column) with `created_at` in `(after, until]`,
    /// unbounded where `None`; rows with a NULL uid are not counted.
    async fn count(&self, after: Option<Timestamp>, until: Option<Timestamp>)
    -> Result<RangeCount>;

    /// The number that [`count`](Self::count) answers, alone: without sizes to sum, an index may
    /// be all that has to be read.
    async fn count_files(&self, after: Option<Timestamp>, until: Option<Timestamp>) -> Result<u64>;

    /// Rows that no window can ever hold.
    async fn unplaceable(&self) -> Result<Unplaceable>;

    /// Reads the window's rows once, in no particular order, with one statement, and hands them
    /// over in batches of at most [`SCAN_BATCH_ROWS`] and about [`SCAN_BATCH_BYTES`]. Memory is
    /// bounded by the channel and a batch. The statement's transaction is over when this returns.
    /// Returns early, without error, when the receiver is gone.
    ///
    /// # Errors
    /// Also when a row's `created_at` is not in the form that the adapter found the table to be
    /// in; the message names the row.
    async fn scan(&self, window: Window, batches: mpsc::Sender<RowBatch>) -> Result<()>;

    /// When the oldest transaction began that is open on the database and could still write rows
    /// below a boundary; `None` when there is none, or the kind of database cannot say.
    ///
    /// # Errors
    /// `Denied` where some are hidden from this user, or from this server: then nobody knows which
    /// is the oldest. The message says what to do.
    async fn oldest_transaction(&self) -> Result<Option<Timestamp>>;

    /// Asks how busy the database is, in a session that only reads, within a few seconds.
    ///
    /// # Errors
    /// Also when what is asked cannot be seen with this user's privileges, or the database knows
    /// nothing of the kind; the message says what to do.
    async fn measure(&self, check: LoadCheck<'_>) -> Result<f64>;

    /// Looks at what the table is like, for `--check` and at start.
    ///
    /// # Errors
    /// When the table or a column is missing, a column's type cannot be used, or the texts of
    /// `created_at` are not in one sortable form; the message says which, with an example row.
    async fn inspect(&self) -> Result<CatalogReport>;
}

/// What [`Catalog::measure`] can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadCheck<'a> {
    /// The largest number in the first column of what this query answers, at most a thousand rows
    /// of it; true is 1, NULL and no row at all are 0.
    Query(&'a str),
    /// By how many seconds the slowest standby is behind; on a standby, its own delay.
    ReplicationLag,
    /// Sessions of clients that are at work or in a transaction, on the whole server, without our
    /// own.
    ActiveConnections,
}

/// Rows of a query of [`LoadCheck::Query`] that are looked at.
const LOAD_ROWS: usize = 1_000;

/// The answer to [`LoadCheck::Query`], from the texts of the first column.
fn largest(action: &str, answers: impl Iterator<Item = Option<String>>) -> Result<f64> {
    let mut largest: f64 = 0.0;
    for text in answers.flatten() {
        let number = match text.trim() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            other => other.parse().ok().filter(|number: &f64| !number.is_nan()),
        };
        largest = largest.max(number.ok_or_else(|| BackendError::Invalid {
            what: format!(
                "{action}: it answers {text:?} in its first column, which is no number; of a length \
                 of time use extract(epoch FROM ...)"
            ),
        })?);
    }
    Ok(largest)
}

/// The query as a part of another one.
fn bare(query: &str) -> &str {
    query.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace())
}

/// Answer of [`Catalog::count`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeCount {
    /// Number of rows.
    pub files: u64,
    /// Sum of the size column (NULLs as 0); `None` without a size column.
    pub bytes: Option<u64>,
}

/// Answer of [`Catalog::unplaceable`]: rows that no window can hold. A row with several of these
/// is counted under the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unplaceable {
    /// Rows with a NULL uid.
    pub null_uid: u64,
    /// Rows with a NULL created_at.
    pub null_created_at: u64,
    /// Rows whose created_at is infinite or outside the years 0001 to 9999.
    pub out_of_range: u64,
}

impl Unplaceable {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.null_uid + self.null_created_at + self.out_of_range
    }
}

/// Answer of [`Catalog::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogReport {
    /// The database and its version, for a person.
    pub server: String,
    /// Type of the uid column, as the database calls it.
    pub uid_type: String,
    /// Type of the created_at column, and the form of its texts where it holds texts.
    pub created_at_type: String,
    /// Whether some index begins with created_at. Without one, every window reads the whole table.
    pub created_at_indexed: bool,
    /// Whether the session may write the table, which it does not need to.
    pub writable: bool,
    /// The session's statement timeout, if one is set, in milliseconds.
    pub statement_timeout_millis: Option<u64>,
}
