//! A table of files to be read as a catalog, whatever the database.

use std::collections::BTreeMap;
use std::time::Duration;

use backends::Catalog;
use backends::catalog::{ArchivedColumn, CatalogTable, Mark};
use protocol::{Row, Timestamp, Window};
use tokio::sync::mpsc;

/// Generous: nothing here takes seconds unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The table, and what its columns are.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// As the database has them.
    pub(crate) table: &'static str,
    pub(crate) uid: &'static str,
    pub(crate) created_at: &'static str,
    pub(crate) location: &'static str,
    pub(crate) integer_uid: bool,
    pub(crate) with_size: bool,
    pub(crate) indexed: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            table: "files",
            uid: "uid",
            created_at: "created_at",
            location: "file_location",
            integer_uid: false,
            with_size: true,
            indexed: false,
        }
    }
}

impl Shape {
    /// How an operator would name it.
    pub(crate) fn names(&self) -> CatalogTable {
        CatalogTable {
            table: self.table.to_owned(),
            uid: self.uid.to_owned(),
            created_at: self.created_at.to_owned(),
            location: self.location.to_owned(),
            size: self.with_size.then(|| "size_bytes".to_owned()),
        }
    }
}

/// A row to insert.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) uid: Option<String>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) location: Option<String>,
    pub(crate) size: Option<i64>,
}

/// A row with everything that it should have.
pub(crate) fn file(uid: &str, created_at: &str) -> File {
    File {
        uid: Some(uid.to_owned()),
        created_at: Some(at(created_at)),
        location: Some(format!("/data/{uid}")),
        size: Some(10),
    }
}

/// One database with one table.
pub(crate) trait Fixture: Sized {
    /// A database of its own, with an empty table. `created_at` keeps microseconds.
    async fn create(shape: Shape) -> Self;
    /// Adds rows.
    async fn insert(&self, files: &[File]);
    /// Adds `rows` rows named by their number from 1, whose `created_at` is that number of seconds
    /// after 2024-12-01T00:00:00Z, each with a location of `location_bytes`.
    async fn fill(&self, rows: u32, location_bytes: u32);
    /// The adapter, with these names.
    async fn open(&self, names: CatalogTable) -> backends::error::Result<Box<dyn Catalog>>;
    /// Runs SQL that both databases read.
    async fn run(&self, sql: &str);
    /// The first column of all rows.
    async fn texts(&self, sql: &str) -> Vec<String>;
    /// The column that says which files are archived.
    async fn column(
        &self,
        names: CatalogTable,
        mark: Mark,
    ) -> backends::error::Result<Box<dyn ArchivedColumn>>;
    /// Removes the database.
    async fn remove(self);
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

pub(crate) fn window(start: &str, end: &str) -> Window {
    Window::new(at(start), at(end)).expect("a window")
}

/// A window that holds whatever a window can hold.
pub(crate) fn widest() -> Window {
    Window::new(Timestamp::MIN, at("9999-12-31T23:59:59Z")).expect("a window")
}

/// All rows of a window.
pub(crate) async fn scan(
    catalog: &dyn Catalog,
    window: Window,
) -> backends::error::Result<Vec<Row>> {
    let (sender, mut receiver) = mpsc::channel::<backends::catalog::RowBatch>(1);
    let collect = async {
        let mut rows = Vec::new();
        while let Some(batch) = receiver.recv().await {
            rows.extend(batch.iter().map(|row| row.to_row()));
        }
        rows
    };
    let (outcome, rows) = tokio::join!(catalog.scan(window, sender), collect);
    outcome.map(|()| rows)
}

/// The uids of a window, sorted.
pub(crate) async fn uids(catalog: &dyn Catalog, window: Window) -> Vec<String> {
    let rows = scan(catalog, window).await.expect("a scan");
    let mut uids: Vec<String> = rows.into_iter().map(|row| row.uid).collect();
    uids.sort_unstable();
    uids
}

/// The rows of a window by uid.
pub(crate) async fn by_uid(catalog: &dyn Catalog, window: Window) -> BTreeMap<String, Row> {
    let rows = scan(catalog, window).await.expect("a scan");
    let number = rows.len();
    let by_uid: BTreeMap<String, Row> =
        rows.into_iter().map(|row| (row.uid.clone(), row)).collect();
    assert_eq!(by_uid.len(), number, "a row came twice");
    by_uid
}
