//! SQLite: the fixture, and the promises that concern its tables and files.

use std::path::PathBuf;
use std::time::Duration;

use backends::catalog::{ArchivedColumn, CatalogTable, Mark, SqliteArchivedColumn, SqliteCatalog};
use backends::{BackendError, Catalog};
use protocol::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::fixture::{File, Fixture, PATIENCE, Shape, at, by_uid, scan, uids, widest, window};

pub(crate) struct SqliteFixture {
    directory: TempDir,
    shape: Shape,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn micros_text(time: Timestamp) -> String {
    time.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl SqliteFixture {
    /// A file without a table.
    pub(crate) async fn empty() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let fixture = Self { directory, shape: Shape::default() };
        let options = SqliteConnectOptions::new().filename(fixture.path()).create_if_missing(true);
        let connection = SqliteConnection::connect_with(&options).await.expect("a file");
        connection.close().await.expect("a close");
        fixture
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("files.db")
    }

    async fn connect(&self) -> SqliteConnection {
        // Nothing here has to survive the machine.
        let options = SqliteConnectOptions::new()
            .filename(self.path())
            .synchronous(sqlx::sqlite::SqliteSynchronous::Off);
        SqliteConnection::connect_with(&options).await.expect("a connection")
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.expect("a close");
    }

    /// A new table `files` with these values of `created_at`, as SQL, in rows named from `0`.
    pub(crate) async fn table_of(&self, declared: &str, values: &[&str]) {
        self.execute(&format!(
            "DROP TABLE IF EXISTS files; \
             CREATE TABLE files (uid TEXT, created_at {declared}, file_location TEXT)"
        ))
        .await;
        for (n, value) in values.iter().enumerate() {
            self.execute(&format!("INSERT INTO files VALUES ('{n}', {value}, '/x')")).await;
        }
    }

    async fn try_open(&self, table: &str) -> backends::error::Result<SqliteCatalog> {
        SqliteCatalog::open(&self.path(), names(table)).await
    }

    pub(crate) async fn catalog(&self) -> SqliteCatalog {
        self.try_open("files").await.expect("a catalog")
    }

    pub(crate) async fn refusal(&self) -> String {
        match self.try_open("files").await {
            Err(error @ BackendError::Invalid { .. }) => error.to_string(),
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("no refusal"),
        }
    }
}

fn names(table: &str) -> CatalogTable {
    CatalogTable { table: table.to_owned(), size: None, ..Shape::default().names() }
}

impl Fixture for SqliteFixture {
    async fn create(shape: Shape) -> Self {
        let fixture = Self { shape, ..Self::empty().await };
        let Shape { table, uid, created_at, location, .. } = &fixture.shape;
        let uid_type = if fixture.shape.integer_uid { "INTEGER" } else { "TEXT" };
        let size = if fixture.shape.with_size { ", size_bytes INTEGER" } else { "" };
        fixture
            .execute(&format!(
                "CREATE TABLE {} ({} {uid_type}, {} TIMESTAMP, {} TEXT{size})",
                quote(table),
                quote(uid),
                quote(created_at),
                quote(location)
            ))
            .await;
        if fixture.shape.indexed {
            let (table, created_at) = (quote(table), quote(created_at));
            fixture.execute(&format!("CREATE INDEX by_time ON {table} ({created_at})")).await;
        }
        fixture
    }

    async fn insert(&self, files: &[File]) {
        let mut connection = self.connect().await;
        let size = if self.shape.with_size { ", ?" } else { "" };
        let sql = format!("INSERT INTO {} VALUES (?, ?, ?{size})", quote(self.shape.table));
        for file in files {
            let query = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(&file.uid)
                .bind(file.created_at.map(micros_text))
                .bind(&file.location);
            let query = if self.shape.with_size { query.bind(file.size) } else { query };
            query.execute(&mut connection).await.expect("an insert");
        }
        connection.close().await.expect("a close");
    }

    async fn fill(&self, rows: u32, location_bytes: u32) {
        self.execute(&format!(
            "WITH RECURSIVE number (n) AS \
               (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows}) \
             INSERT INTO {} SELECT n, \
               strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1733011200 + n, 'unixepoch'), \
               substr(hex(zeroblob({location_bytes})), 1, {location_bytes}), 1 FROM number",
            quote(self.shape.table)
        ))
        .await;
    }

    async fn open(&self, names: CatalogTable) -> backends::error::Result<Box<dyn Catalog>> {
        Ok(Box::new(SqliteCatalog::open(&self.path(), names).await?))
    }

    async fn run(&self, sql: &str) {
        self.execute(sql).await;
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn column(
        &self,
        names: CatalogTable,
        mark: Mark,
    ) -> backends::error::Result<Box<dyn ArchivedColumn>> {
        Ok(Box::new(SqliteArchivedColumn::open(&self.path(), names, mark).await?))
    }

    async fn remove(self) {}
}

#[tokio::test]
async fn tables_without_rowids_and_views_are_tables() {
    let fixture = SqliteFixture::empty().await;
    fixture
        .execute(
            "CREATE TABLE compact (uid TEXT, created_at TEXT, file_location TEXT, \
               PRIMARY KEY (created_at, uid)) WITHOUT ROWID; \
             INSERT INTO compact VALUES ('a', '2024-12-01', '/x'), ('b', '2024-12-02', '/x'); \
             CREATE VIEW seen AS SELECT uid, datetime(created_at) AS created_at, \
               file_location FROM compact; \
             CREATE TABLE generated (uid INTEGER PRIMARY KEY, day TEXT, file_location TEXT, \
               created_at TEXT GENERATED ALWAYS AS (day || 'T00:00:00Z')); \
             INSERT INTO generated VALUES (1, '2024-12-02', '/x'); \
             CREATE TABLE ordered (created_at INTEGER PRIMARY KEY, uid, file_location); \
             INSERT INTO ordered VALUES (1733097600, 'o', '/x'); \
             CREATE TABLE partly (uid, created_at, file_location); \
             CREATE INDEX partial ON partly (created_at) WHERE uid > 'm'; \
             CREATE INDEX second ON partly (uid, created_at); \
             INSERT INTO partly SELECT * FROM seen",
        )
        .await;
    for (table, expected, indexed) in [
        ("compact", "b", true),
        ("seen", "b", false),
        ("generated", "1", false),
        ("ordered", "o", true),
        ("partly", "b", false),
        ("main.compact", "b", true),
        ("Compact", "b", true),
    ] {
        let catalog = fixture.try_open(table).await.expect("a catalog");
        let rows = uids(&catalog, window("2024-12-01", "2024-12-02")).await;
        assert_eq!(rows, [expected], "{table}");
        let report = catalog.inspect().await.expect("a report");
        assert_eq!(report.created_at_indexed, indexed, "{table}");
        assert!(!report.writable && report.server.starts_with("SQLite "), "{report:?}");
    }
}

/// SQLite lets a primary key be NULL, in as many rows as one likes.
#[tokio::test]
async fn files_are_counted_by_indexes_alone() {
    let fixture = SqliteFixture::empty().await;
    for key in ["TEXT PRIMARY KEY", "INTEGER PRIMARY KEY", "TEXT PRIMARY KEY NOT NULL", "TEXT"] {
        fixture
            .execute(&format!(
                "DROP TABLE IF EXISTS files; \
                 CREATE TABLE files (uid {key}, created_at TEXT, file_location TEXT); \
                 CREATE INDEX by_time ON files (created_at); \
                 INSERT INTO files VALUES (1, '2024-12-01', '/x'), (2, '2024-12-02', '/x'), \
                   (3, '2024-12-03', '/x'), (4, NULL, '/x')"
            ))
            .await;
        if !key.ends_with("NULL") && !key.starts_with("INTEGER") {
            fixture
                .execute(
                    "INSERT INTO files VALUES (NULL, '2024-12-02', '/x'), \
                     (NULL, '2024-12-02', '/x'), (NULL, '2024-12-03', '/x'), (NULL, NULL, '/x')",
                )
                .await;
        }
        let catalog = fixture.catalog().await;
        for (after, until, files) in [
            (None, None, 3),
            (Some("2024-12-01"), None, 2),
            (None, Some("2024-12-02"), 2),
            (Some("2024-12-01"), Some("2024-12-02"), 1),
            (Some("2024-12-03"), None, 0),
        ] {
            let (after, until) = (after.map(at), until.map(at));
            let counted = catalog.count_files(after, until).await.expect("a count");
            assert_eq!(counted, files, "{key}: {after:?} {until:?}");
            let beside = catalog.count(after, until).await.expect("a count");
            assert_eq!(beside.files, files, "{key}: {after:?} {until:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_utf8_is_refused_by_row() {
    let fixture = SqliteFixture::empty().await;
    for (uid, location, expected) in [
        ("'good'", "CAST(x'2f78ff' AS TEXT)", "`good`"),
        ("x'61ff62'", "'/x'", "61FF62"),
        ("CAST(x'61fe62' AS TEXT)", "'/x'", "61FE62"),
    ] {
        fixture.table_of("TEXT", &[]).await;
        fixture
            .execute(&format!("INSERT INTO files VALUES ({uid}, '2024-12-01', {location})"))
            .await;
        let error = scan(&fixture.catalog().await, widest()).await.expect_err("a refusal");
        assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("UTF-8"), "{text}");
    }
    // A blob that is text is text; so is a number.
    fixture.table_of("TEXT", &[]).await;
    fixture.execute("INSERT INTO files VALUES (x'6162', '2024-12-01', 7)").await;
    let rows = by_uid(&fixture.catalog().await, widest()).await;
    assert_eq!(rows["ab"].location.as_deref(), Some("7"));
}

#[tokio::test]
async fn sizes_that_are_no_integers_are_refused() {
    let fixture = SqliteFixture::create(Shape::default()).await;
    fixture.execute("INSERT INTO files VALUES ('odd', '2024-12-01', '/x', 'many')").await;
    let catalog = fixture.open(Shape::default().names()).await.expect("a catalog");
    let inspected = catalog.inspect().await.expect_err("a refusal");
    let scanned = scan(&*catalog, widest()).await.expect_err("a refusal");
    assert!(inspected.to_string().contains("'odd'"), "{inspected}");
    assert!(scanned.to_string().contains("`odd`"), "{scanned}");
}

#[tokio::test]
async fn a_file_in_wal_mode_is_read_beside_its_writer() {
    let fixture = SqliteFixture::empty().await;
    fixture.table_of("TEXT", &["'2024-12-01'"]).await;
    let mut writer = fixture.connect().await;
    sqlx::raw_sql("PRAGMA journal_mode = WAL; INSERT INTO files VALUES ('w', '2024-12-02', '/x')")
        .execute(&mut writer)
        .await
        .expect("a write");
    let catalog = fixture.catalog().await;
    assert_eq!(uids(&catalog, widest()).await, ["0", "w"]);
    sqlx::raw_sql("BEGIN IMMEDIATE; INSERT INTO files VALUES ('x', '2024-12-03', '/x')")
        .execute(&mut writer)
        .await
        .expect("a write");
    assert_eq!(uids(&catalog, widest()).await, ["0", "w"]);
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.expect("a commit");
    assert_eq!(uids(&catalog, widest()).await, ["0", "w", "x"]);
    writer.close().await.expect("a close");
    assert_eq!(uids(&fixture.catalog().await, widest()).await, ["0", "w", "x"]);
}

#[tokio::test]
async fn the_file_is_left_as_it_was() {
    let fixture = SqliteFixture::empty().await;
    fixture.table_of("TEXT", &["'2024-12-01'"]).await;
    let before = std::fs::read(fixture.path()).expect("the file");
    let catalog = fixture.catalog().await;
    catalog.inspect().await.expect("a report");
    catalog.unplaceable().await.expect("an answer");
    assert_eq!(uids(&catalog, widest()).await, ["0"]);
    assert!(std::fs::read(fixture.path()).expect("the file") == before);
    let names: Vec<_> = std::fs::read_dir(fixture.directory.path()).expect("it").collect();
    assert_eq!(names.len(), 1, "nothing beside it");
}

#[tokio::test]
async fn files_that_cannot_be_a_catalog_are_told_apart() {
    let fixture = SqliteFixture::empty().await;
    let absent = fixture.directory.path().join("absent.db");
    let error = SqliteCatalog::open(&absent, names("files")).await.err().expect("a refusal");
    assert!(error.is_not_found() && error.to_string().contains("absent.db"), "{error}");
    assert!(!absent.exists(), "it is not created");
    let other = fixture.directory.path().join("other.db");
    std::fs::write(&other, "no database ".repeat(1_000)).expect("a file");
    let error = SqliteCatalog::open(&other, names("files")).await.err().expect("a refusal");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
}

/// SQLite reads a quoted name that is no column as a text.
#[tokio::test]
async fn a_column_that_goes_away_is_missed() {
    let fixture = SqliteFixture::empty().await;
    fixture.table_of("TEXT", &["'2024-12-01'"]).await;
    let catalog = fixture.catalog().await;
    fixture.execute("ALTER TABLE files RENAME COLUMN file_location TO path").await;
    let error = scan(&catalog, widest()).await.expect_err("a failure");
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_receiver_that_goes_interrupts_a_search() {
    let fixture = SqliteFixture::empty().await;
    fixture.table_of("TEXT", &["'2024-12-01'"]).await;
    let catalog = fixture.catalog().await;
    // Now a table in which SQLite looks for ever.
    fixture
        .execute(
            "DROP TABLE files; CREATE TABLE one AS SELECT 1 AS n; \
             CREATE VIEW files AS WITH RECURSIVE number (n) AS \
               (SELECT n FROM one UNION ALL SELECT n + 1 FROM number) \
             SELECT n AS uid, CASE WHEN n > 0 THEN '2030-01-01' END AS created_at, \
               '/x' AS file_location FROM number",
        )
        .await;
    let (sender, receiver) = mpsc::channel(1);
    let leave = async {
        sleep(Duration::from_millis(100)).await;
        drop(receiver);
    };
    let wanted = window("2024-12-01", "2024-12-02");
    let scanning = async { tokio::join!(catalog.scan(wanted, sender), leave) };
    let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
    outcome.expect("no error");
    fixture.execute("PRAGMA busy_timeout = 30000; CREATE TABLE two AS SELECT 2 AS n").await;
    // Nor does a search go on that nobody waits for.
    let (sender, _receiver) = mpsc::channel(1);
    let abandoned = timeout(Duration::from_millis(100), catalog.scan(wanted, sender)).await;
    assert!(abandoned.is_err(), "it is still looking: {abandoned:?}");
    fixture.execute("PRAGMA busy_timeout = 30000; DROP VIEW files").await;
}

/// The first batch of a scan that then waits: the receiver, which holds another and takes no more,
/// and the scan.
async fn begin(
    catalog: &SqliteCatalog,
) -> (
    mpsc::Receiver<backends::catalog::RowBatch>,
    impl Future<Output = backends::error::Result<()>> + Unpin,
) {
    let (sender, mut receiver) = mpsc::channel(1);
    let mut scanning = catalog.scan(widest(), sender);
    tokio::select! {
        outcome = &mut scanning => panic!("an early end: {outcome:?}"),
        batch = receiver.recv() => assert!(batch.is_some(), "a batch"),
    }
    (receiver, scanning)
}

#[tokio::test]
async fn a_scan_that_nobody_awaits_gives_up_the_file_though_its_receiver_stays() {
    let fixture = SqliteFixture::create(Shape { with_size: true, ..Shape::default() }).await;
    fixture.fill(10_000, 10).await;
    let catalog = fixture.catalog().await;
    let (receiver, scanning) = begin(&catalog).await;
    drop(scanning);
    fixture.execute("PRAGMA busy_timeout = 30000; DELETE FROM files").await;
    drop(receiver);
}

#[tokio::test]
async fn a_file_that_is_cut_short_under_a_scan_is_an_error() {
    let fixture = SqliteFixture::create(Shape { with_size: true, ..Shape::default() }).await;
    fixture.fill(20_000, 500).await;
    let catalog = fixture.catalog().await;
    let (mut receiver, scanning) = begin(&catalog).await;
    let file = std::fs::File::options().write(true).open(fixture.path()).expect("the file");
    file.set_len(1 << 20).expect("a cut");
    let drain = async { while receiver.recv().await.is_some() {} };
    let (outcome, ()) = tokio::join!(scanning, drain);
    let error = outcome.expect_err("a failure");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
}
