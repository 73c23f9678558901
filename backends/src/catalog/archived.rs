//! The one thing that writes the customer's table: a column that says which files are archived, for
//! those who cannot do without a status per file. It has a connection of its own, with a right that
//! nothing else of des has.

use async_trait::async_trait;
use protocol::Row;

use crate::error::Result;

/// The most rows that one statement or transaction sets.
pub const MAX_MARKED_AT_ONCE: usize = 50_000;

/// Which column, and what archived rows have in it. The name is taken as those of
/// [`CatalogTable`](super::CatalogTable) are; the value is a text that the database reads as the
/// column's type: `true`, `1`, `archived`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The column.
    pub column: String,
    /// What archived rows have in it.
    pub value: String,
}

/// A column of the catalog's table that says which files are archived.
#[async_trait]
pub trait ArchivedColumn: Send + Sync {
    /// What is set to what, for a person and for the ledger: `public.files.archived = true`.
    fn target(&self) -> &str;

    /// Sets the column, in one transaction, in those rows of the table that have uid, `created_at`
    /// and location of one of `rows`, no two of them alike and at most [`MAX_MARKED_AT_ONCE`], and
    /// have another value in it;
    /// returns how many there were. Nothing else of a row is changed.
    ///
    /// # Errors
    /// `Unavailable` also when a row is locked by others for longer than ten seconds: nothing of the
    /// batch is set then.
    async fn mark(&self, rows: &[Row]) -> Result<u64>;

    /// How many rows [`mark`](Self::mark) would set.
    async fn count_unmarked(&self, rows: &[Row]) -> Result<u64>;
}
