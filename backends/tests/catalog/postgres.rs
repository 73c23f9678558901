//! PostgreSQL: the fixture, and the promises that concern its types, sessions and privileges.

use std::time::{Duration, Instant};

use backends::catalog::{CatalogTable, PostgresCatalog, RangeCount};
use backends::{BackendError, Catalog};
use protocol::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::fixture::{File, Fixture, Shape, at, by_uid, scan, uids, widest, window};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct PostgresFixture {
    server: String,
    database: String,
    pub(crate) url: String,
    shape: Shape,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl PostgresFixture {
    /// A database without a table.
    async fn empty() -> Self {
        let server = std::env::var("DES_TEST_POSTGRES_URL")
            .expect("DES_TEST_POSTGRES_URL is not set: run ./test, which starts a PostgreSQL");
        let database = format!("des_test_{}", uuid::Uuid::new_v4().simple());
        let (base, _) = server.rsplit_once('/').expect("a URL with a database");
        let fixture =
            Self { url: format!("{base}/{database}"), server, database, shape: Shape::default() };
        fixture.on_server(&format!("CREATE DATABASE {}", fixture.database)).await;
        fixture
    }

    async fn on_server(&self, sql: &str) {
        execute(&self.server, sql).await;
    }

    async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a connection")
    }

    async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn catalog(&self, table: &str) -> PostgresCatalog {
        PostgresCatalog::connect(&self.url, names(table)).await.expect("a catalog")
    }

    /// A user of this database only, and the URL to be one. Gone with [`Fixture::remove`].
    async fn user(&self) -> (String, String) {
        let user = format!("{}_user", self.database);
        self.execute(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'")).await;
        let (_, host) = self.url.split_once('@').expect("a URL with a user");
        (format!("postgresql://{user}:secret@{host}"), user)
    }

    /// Waits until no session of ours runs a COPY here.
    async fn until_no_copy_runs(&self) {
        let mut connection = self.connect().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let running: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND state = 'active' AND query LIKE 'COPY%'",
            )
            .fetch_one(&mut connection)
            .await
            .expect("the activity");
            if running == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "the server still works on the COPY");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("a close");
}

fn names(table: &str) -> CatalogTable {
    CatalogTable { table: table.to_owned(), size: None, ..Shape::default().names() }
}

impl Fixture for PostgresFixture {
    async fn create(shape: Shape) -> Self {
        let fixture = Self { shape, ..Self::empty().await };
        let Shape { table, uid, created_at, location, .. } = &fixture.shape;
        let uid_type = if fixture.shape.integer_uid { "bigint" } else { "text" };
        let size = if fixture.shape.with_size { ", size_bytes bigint" } else { "" };
        fixture
            .execute(&format!(
                "CREATE TABLE {} ({} {uid_type}, {} timestamptz, {} text{size})",
                quote(table),
                quote(uid),
                quote(created_at),
                quote(location)
            ))
            .await;
        if fixture.shape.indexed {
            let (table, created_at) = (quote(table), quote(created_at));
            fixture
                .execute(&format!("CREATE INDEX ON {table} ({created_at}, {})", quote(uid)))
                .await;
        }
        fixture
    }

    async fn insert(&self, files: &[File]) {
        let mut connection = self.connect().await;
        let uid_type = if self.shape.integer_uid { "bigint" } else { "text" };
        let size = if self.shape.with_size { ", $4" } else { "" };
        let sql = format!(
            "INSERT INTO {} VALUES ($1::text::{uid_type}, $2::text::timestamptz, $3{size})",
            quote(self.shape.table)
        );
        for file in files {
            let query = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(&file.uid)
                .bind(file.created_at.map(|time| time.to_string()))
                .bind(&file.location);
            let query = if self.shape.with_size { query.bind(file.size) } else { query };
            query.execute(&mut connection).await.expect("an insert");
        }
    }

    async fn fill(&self, rows: u32, location_bytes: u32) {
        self.execute(&format!(
            "INSERT INTO {} SELECT n::text, '2024-12-01T00:00:00Z'::timestamptz \
             + n * interval '1 second', repeat('x', {location_bytes}) \
             FROM generate_series(1, {rows}) AS n",
            quote(self.shape.table)
        ))
        .await;
    }

    async fn open(&self, names: CatalogTable) -> backends::error::Result<Box<dyn Catalog>> {
        Ok(Box::new(PostgresCatalog::connect(&self.url, names).await?))
    }

    async fn remove(self) {
        let Self { database, .. } = &self;
        self.on_server(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
        self.on_server(&format!("DROP ROLE IF EXISTS {database}_user")).await;
    }
}

#[tokio::test]
async fn every_supported_type_is_read_exactly() {
    let fixture = PostgresFixture::empty().await;
    // Nothing may lean on the session's zone: neither this, nor the server's.
    let database = &fixture.database;
    fixture.execute(&format!("ALTER DATABASE {database} SET timezone = 'America/New_York'")).await;
    fixture.execute(&format!("ALTER DATABASE {database} SET datestyle = 'SQL, DMY'")).await;
    let uuid = "0a1b2c3d-0000-4000-8000-00000000000f";
    let uids = [
        ("text", "'Ab 1'", "Ab 1"),
        ("varchar(20)", "'Ab 1'", "Ab 1"),
        ("char(8)", "'Ab1'", "Ab1"),
        ("uuid", "'0A1B2C3D-0000-4000-8000-00000000000F'", uuid),
        ("smallint", "-7", "-7"),
        ("integer", "7", "7"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("numeric", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("my_text", "'x'", "x"),
    ];
    // Around both changes of New York's clock, and where a timestamp is no time there.
    let instants = [
        "2024-03-10T02:30:00.000001Z",
        "2024-03-10T07:00:00Z",
        "2024-11-03T05:30:00Z",
        "2024-11-03T06:30:00Z",
        "2024-12-01T00:00:00Z",
    ];
    fixture.execute("CREATE DOMAIN my_text AS text; CREATE DOMAIN my_time AS timestamptz").await;
    for (uid_type, literal, expected) in uids {
        fixture
            .execute(&format!(
                "DROP TABLE IF EXISTS files; CREATE TABLE files (uid {uid_type}, \
                 created_at timestamptz, file_location varchar(90)); \
                 INSERT INTO files VALUES ({literal}, '2024-12-01T00:00:00Z', '/data/f')"
            ))
            .await;
        let catalog = fixture.catalog("files").await;
        check_one_row(&catalog, at("2024-12-01"), expected).await;
        let report = catalog.inspect().await.expect("a report");
        assert!(!report.uid_type.is_empty() && report.writable, "{report:?}");
    }
    for (time_type, zone, location_type) in [
        ("timestamptz", "Z", "text"),
        ("timestamp", "", "varchar"),
        ("date", "", "text"),
        ("timestamptz(3)", "Z", "my_text"),
        ("my_time", "Z", "text"),
    ] {
        fixture
            .execute(&format!(
                "DROP TABLE files; CREATE TABLE files (uid text, created_at {time_type}, \
                 file_location {location_type})"
            ))
            .await;
        let catalog = fixture.catalog("files").await;
        for instant in instants {
            let written = format!("{}{zone}", instant.trim_end_matches('Z'));
            fixture
                .execute(&format!(
                    "TRUNCATE files; INSERT INTO files VALUES ('a', '{written}', '/data/f')"
                ))
                .await;
            let held = match time_type {
                "date" => at(instant).day().start(),
                "timestamptz(3)" => at(&instant.replace(".000001", "")),
                _ => at(instant),
            };
            check_one_row(&catalog, held, "a").await;
        }
    }
    fixture.remove().await;
}

/// The only row is at `held`: it is found by the windows that hold it, and by no other.
async fn check_one_row(catalog: &PostgresCatalog, held: Timestamp, uid: &str) {
    let day = held.day().start();
    let after = day.saturating_add_micros(86_400_000_000);
    let before = day.saturating_add_micros(-86_400_000_000);
    let mut found = 0;
    for (start, end) in [(before, day), (day, after)] {
        let window = protocol::Window::new(start, end).expect("a window");
        let rows = by_uid(catalog, window).await;
        assert_eq!(rows.len(), usize::from(window.contains(held)), "{held} in {window}");
        for row in rows.values() {
            assert_eq!((row.uid.as_str(), row.created_at()), (uid, held));
            assert_eq!(row.location.as_deref(), Some("/data/f"));
        }
        let count = catalog.count(Some(start), Some(end)).await.expect("a count");
        found += count.files;
    }
    assert_eq!(found, 1, "{held}");
    assert_eq!(catalog.oldest_after(None).await.expect("an answer"), Some(held));
    let just_before = held.saturating_add_micros(-1);
    assert_eq!(catalog.oldest_after(Some(just_before)).await.expect("an answer"), Some(held));
    assert_eq!(catalog.oldest_after(Some(held)).await.expect("an answer"), None);
    assert_eq!(catalog.unplaceable().await.expect("an answer").total(), 0);
}

#[tokio::test]
async fn a_date_counts_as_its_midnight_whatever_the_bound() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute("CREATE TABLE files (uid text, created_at date, file_location text)").await;
    fixture
        .execute(
            "INSERT INTO files SELECT d::text, '2024-12-01'::date + d, '/x' \
             FROM generate_series(0, 4) AS d",
        )
        .await;
    let catalog = fixture.catalog("files").await;
    for (start, end, expected) in [
        ("2024-12-01", "2024-12-02", &["1"][..]),
        ("2024-11-30T23:59:59.999999Z", "2024-12-01", &["0"]),
        ("2024-12-01T00:00:00.000001Z", "2024-12-01T23:59:59Z", &[]),
        ("2024-12-01T12:00:00Z", "2024-12-03T12:00:00Z", &["1", "2"]),
    ] {
        assert_eq!(uids(&catalog, window(start, end)).await, expected, "({start}, {end}]");
    }
    fixture.remove().await;
}

#[tokio::test]
async fn infinity_and_years_beyond_are_counted_and_left_alone() {
    let fixture = PostgresFixture::empty().await;
    for (time_type, extreme) in [
        ("timestamptz", ["4713-01-01 BC", "294276-12-31 23:59:59+00"]),
        ("timestamp", ["4713-01-01 BC", "294276-12-31 23:59:59"]),
        ("date", ["4713-01-01 BC", "5874897-12-31"]),
    ] {
        let table = format!("files_{time_type}");
        fixture
            .execute(&format!(
                "CREATE TABLE {table} (uid text, created_at {time_type}, file_location text); \
                 INSERT INTO {table} VALUES ('sound', '2024-12-01 12:00', '/x'), \
                 ('inf', 'infinity', '/x'), ('-inf', '-infinity', '/x'), \
                 ('bc', '0001-12-30 BC', '/x'), ('late', '10000-01-02', '/x'), \
                 ('lowest', '{}', '/x'), ('highest', '{}', '/x'), \
                 (NULL, 'infinity', '/x'), ('null', NULL, '/x')",
                extreme[0], extreme[1]
            ))
            .await;
        let catalog = fixture.catalog(&table).await;
        assert_eq!(uids(&catalog, widest()).await, ["sound"]);
        let unplaceable = catalog.unplaceable().await.expect("an answer");
        assert_eq!(
            (unplaceable.null_uid, unplaceable.null_created_at, unplaceable.out_of_range),
            (1, 1, 6)
        );
        let count = catalog.count(None, None).await.expect("a count");
        assert_eq!(count, RangeCount { files: 1, bytes: None });
        let oldest = catalog.oldest_after(None).await.expect("an answer").expect("a row");
        assert_eq!(oldest.day(), at("2024-12-01").day());
        assert_eq!(catalog.oldest_after(Some(oldest)).await.expect("an answer"), None);
    }
    fixture.remove().await;
}

#[tokio::test]
async fn types_that_cannot_be_used_are_refused_by_name() {
    let fixture = PostgresFixture::empty().await;
    for (n, (columns, column, type_name)) in [
        ("uid bytea, created_at date, file_location text", "uid", "bytea"),
        ("uid text, created_at text, file_location text", "created_at", "text"),
        ("uid text, created_at bigint, file_location text", "created_at", "bigint"),
        ("uid text, created_at date, file_location jsonb", "file_location", "jsonb"),
        ("uid text, created_at date, file_location text", "size", "double precision"),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{n}");
        fixture.execute(&format!("CREATE TABLE {table} ({columns}, size double precision)")).await;
        let size = (column == "size").then(|| "size".to_owned());
        let names = CatalogTable { size, ..names(&table) };
        let catalog = PostgresCatalog::connect(&fixture.url, names).await.expect("a catalog");
        let inspected = catalog.inspect().await.expect_err("a refusal");
        let scanned = scan(&catalog, widest()).await.expect_err("a refusal");
        for refusal in [inspected, scanned] {
            assert!(matches!(refusal, BackendError::Invalid { .. }), "{refusal}");
            let text = refusal.to_string();
            assert!(text.contains(&format!("`{column}`")) && text.contains(type_name), "{text}");
        }
    }
    fixture.remove().await;
}

#[tokio::test]
async fn sizes_of_any_number_type_are_read() {
    let fixture = PostgresFixture::empty().await;
    for size_type in ["smallint", "integer", "bigint", "numeric", "numeric(20, 2)"] {
        fixture
            .execute(&format!(
                "DROP TABLE IF EXISTS files; CREATE TABLE files (uid text, created_at date, \
                 file_location text, size {size_type}); \
                 INSERT INTO files VALUES ('a', '2024-12-01', '/x', 1200), \
                 ('b', '2024-12-01', '/x', NULL), ('c', '2024-12-01', '/x', -5)"
            ))
            .await;
        if size_type == "numeric" {
            fixture
                .execute(
                    "INSERT INTO files VALUES ('nan', '2024-12-01', '/x', 'NaN'), \
                     ('huge', '2024-12-01', '/x', 1e30)",
                )
                .await;
        }
        let names = CatalogTable { size: Some("size".into()), ..names("files") };
        let catalog = PostgresCatalog::connect(&fixture.url, names).await.expect("a catalog");
        let rows = by_uid(&catalog, widest()).await;
        assert_eq!(rows["a"].size, Some(1_200), "{size_type}");
        assert!(rows.values().all(|row| row.uid == "a" || row.size.is_none()), "{size_type}");
        let count = catalog.count(None, None).await.expect("a count");
        assert_eq!(count.bytes, Some(1_200), "{size_type}");
    }
    fixture.remove().await;
}

#[tokio::test]
async fn tables_are_found_by_schema_by_search_path_and_folded() {
    let fixture = PostgresFixture::empty().await;
    fixture
        .execute(
            "CREATE SCHEMA app; CREATE SCHEMA \"Odd.Schema\"; CREATE SCHEMA hidden; \
             CREATE TABLE app.Files (UID text, created_at date, file_location text); \
             INSERT INTO app.files VALUES ('app', '2024-12-01', '/x'); \
             CREATE TABLE \"Odd.Schema\".\"My.Files\" AS \
               SELECT 'odd' AS uid, created_at, file_location FROM app.files; \
             CREATE TABLE hidden.files AS \
               SELECT 'hidden' AS uid, created_at, file_location FROM app.files; \
             CREATE TABLE hidden.\"Files\" AS \
               SELECT 'literal' AS uid, created_at, file_location FROM app.files",
        )
        .await;
    fixture.execute(&format!("ALTER DATABASE {} SET search_path = app", fixture.database)).await;
    for (table, expected) in [
        ("files", "app"),
        ("Files", "app"),
        ("app.files", "app"),
        ("App.FILES", "app"),
        ("\"Odd.Schema\".\"My.Files\"", "odd"),
        ("hidden.files", "hidden"),
        ("hidden.Files", "literal"),
        ("\"hidden\".\"Files\"", "literal"),
    ] {
        let names = CatalogTable { uid: "UID".into(), ..names(table) };
        let catalog = PostgresCatalog::connect(&fixture.url, names).await.expect("a catalog");
        assert_eq!(uids(&catalog, widest()).await, [expected], "{table}");
    }
    let missing = PostgresCatalog::connect(&fixture.url, names("\"FILES\"")).await;
    assert!(missing.is_err_and(|error| error.is_not_found()), "a quoted name is not folded");
    fixture.remove().await;
}

#[tokio::test]
async fn partitioned_tables_and_views_are_tables() {
    let fixture = PostgresFixture::empty().await;
    fixture
        .execute(
            "CREATE TABLE files (uid text, created_at timestamptz, file_location text) \
               PARTITION BY RANGE (created_at); \
             CREATE TABLE files_1 PARTITION OF files FOR VALUES FROM (MINVALUE) TO ('2024-12-02Z'); \
             CREATE TABLE files_2 PARTITION OF files FOR VALUES FROM ('2024-12-02Z') TO (MAXVALUE); \
             INSERT INTO files VALUES ('a', '2024-12-01 12:00Z', '/x'), ('b', '2024-12-02Z', '/x'); \
             CREATE VIEW seen AS SELECT * FROM files; \
             CREATE MATERIALIZED VIEW kept AS SELECT * FROM files; \
             CREATE INDEX ON files (uid, created_at); \
             CREATE INDEX ON files_1 (created_at) WHERE uid IS NOT NULL",
        )
        .await;
    for table in ["files", "seen", "kept"] {
        let catalog = fixture.catalog(table).await;
        assert_eq!(uids(&catalog, window("2024-12-01", "2024-12-02")).await, ["a", "b"], "{table}");
        let report = catalog.inspect().await.expect("a report");
        assert!(!report.created_at_indexed, "{table}");
    }
    let catalog = fixture.catalog("files_1").await;
    assert!(!catalog.inspect().await.expect("a report").created_at_indexed, "a partial index");
    fixture.execute("CREATE INDEX ON files (created_at)").await;
    let report = fixture.catalog("files").await.inspect().await.expect("a report");
    assert!(report.created_at_indexed);
    assert_eq!(report.created_at_type, "timestamp with time zone");
    assert!(report.server.starts_with("PostgreSQL "), "{}", report.server);
    fixture.remove().await;
}

#[tokio::test]
async fn a_scan_reads_the_table_once() {
    const ROWS: i64 = 100_000;
    let shape = Shape::default();
    for indexed in [false, true] {
        let fixture = PostgresFixture::create(Shape { indexed, ..shape.clone() }).await;
        fixture.fill(100_000, 30).await;
        fixture.execute("VACUUM ANALYZE files").await;
        let catalog = fixture.open(shape.names()).await.expect("a catalog");
        let figures = "SELECT seq_scan, seq_tup_read, coalesce(idx_scan, 0) \
                       FROM pg_stat_user_tables WHERE relname = 'files'";
        let read = async || -> (i64, i64, i64) {
            let mut connection = fixture.connect().await;
            sqlx::query_as(figures).fetch_one(&mut connection).await.expect("the statistics")
        };
        let before = read().await;
        // All rows without an index; one of them with.
        let (scanned, expected) = if indexed {
            (window("2024-12-01", "2024-12-01T00:00:01Z"), 1)
        } else {
            (window("2024-12-01", "2025-01-01"), 100_000)
        };
        assert_eq!(scan(&*catalog, scanned).await.expect("a scan").len(), expected);
        // The server's process tells its figures at its end.
        let deadline = Instant::now() + PATIENCE;
        let after = loop {
            let after = read().await;
            if after != before || Instant::now() > deadline {
                break after;
            }
            sleep(Duration::from_millis(50)).await;
        };
        let read = (after.0 - before.0, after.1 - before.1);
        assert_eq!(read, if indexed { (0, 0) } else { (1, ROWS) });
        // The planner looks at an index's ends, too, and is counted.
        assert_eq!(after.2 > before.2, indexed);
        fixture.remove().await;
    }
}

/// A view whose rows take for ever to come.
const SLOW_VIEW: &str = "CREATE VIEW slow AS SELECT n::text AS uid, \
    '2024-12-01T12:00:00Z'::timestamptz AS created_at, '/x'::text AS file_location \
    FROM generate_series(1, 1000000) AS n, LATERAL (SELECT pg_sleep(1000), n AS row) AS wait";

#[tokio::test]
async fn a_receiver_that_goes_stops_the_server_too() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, receiver) = mpsc::channel(1);
    let leave = async {
        sleep(Duration::from_millis(200)).await;
        drop(receiver);
    };
    let scanning = async { tokio::join!(catalog.scan(widest(), sender), leave) };
    let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
    outcome.expect("no error");
    let running: i64 = fixture
        .value(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active' \
                AND datname = current_database()",
        )
        .await;
    assert_eq!(running, 0, "the transaction is to be over");
    fixture.remove().await;
}

#[tokio::test]
async fn an_abandoned_scan_stops_the_server_too() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, _receiver) = mpsc::channel(1);
    let abandoned = timeout(Duration::from_millis(300), catalog.scan(widest(), sender)).await;
    assert!(abandoned.is_err(), "it is still running");
    fixture.until_no_copy_runs().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_statement_timeout_is_reported_and_explained() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let database = &fixture.database;
    fixture.execute(&format!("ALTER DATABASE {database} SET statement_timeout = '300ms'")).await;
    let catalog = fixture.catalog("slow").await;
    let report = catalog.inspect().await.expect("a report");
    assert_eq!(report.statement_timeout_millis, Some(300));
    let error = scan(&catalog, widest()).await.expect_err("a timeout");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("statement_timeout"), "{error}");
    let error = catalog.count(None, None).await.expect_err("a timeout");
    assert!(error.is_retryable() && error.to_string().contains("statement_timeout"), "{error}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_server_that_ends_the_session_is_unavailable() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, _receiver) = mpsc::channel(1);
    let end_it = async {
        let sql = "SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) \
                   FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active' \
                   AND datname = current_database()";
        while !fixture.value::<bool>(sql).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let scanning = async { tokio::join!(catalog.scan(widest(), sender), end_it) };
    let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
    let error = outcome.expect_err("a failure");
    assert!(error.is_retryable(), "{error}");
    fixture.remove().await;
}

#[tokio::test]
async fn privileges_are_reported() {
    let fixture = PostgresFixture::create(Shape { with_size: false, ..Shape::default() }).await;
    let (url, user) = fixture.user().await;
    let catalog = PostgresCatalog::connect(&url, names("files")).await.expect("a catalog");
    let inspected = catalog.inspect().await.expect_err("a refusal");
    let scanned = scan(&catalog, widest()).await.expect_err("a refusal");
    for refusal in [inspected, scanned] {
        assert!(matches!(refusal, BackendError::Denied { .. }), "{refusal}");
        assert!(refusal.to_string().contains("GRANT SELECT"), "{refusal}");
        assert!(!refusal.to_string().contains("secret"), "{refusal}");
    }
    // The columns in use suffice.
    fixture
        .execute(&format!("GRANT SELECT (uid, created_at, file_location) ON files TO {user}"))
        .await;
    assert!(!catalog.inspect().await.expect("a report").writable);
    assert!(uids(&catalog, widest()).await.is_empty());
    assert!(catalog.oldest_transaction().await.is_ok());
    fixture.execute(&format!("GRANT DELETE ON files TO {user}")).await;
    assert!(catalog.inspect().await.expect("a report").writable);
    fixture.execute(&format!("DROP OWNED BY {user}")).await;
    fixture.remove().await;
}

#[tokio::test]
async fn sessions_are_named_read_only_and_in_utc() {
    let fixture = PostgresFixture::empty().await;
    // A view that shows the session that reads it.
    fixture
        .execute(
            "CREATE VIEW me AS SELECT concat_ws(' ', current_setting('application_name'), \
               current_setting('transaction_read_only'), current_setting('TimeZone')) AS uid, \
             now() AS created_at, 'x'::text AS file_location",
        )
        .await;
    let catalog = fixture.catalog("me").await;
    assert_eq!(uids(&catalog, widest()).await, ["des on UTC"]);
    let url = fixture.url.replace("postgresql://", "postgresql+psycopg://");
    let catalog = PostgresCatalog::connect(&url, names("me")).await.expect("a catalog");
    assert_eq!(uids(&catalog, widest()).await, ["des on UTC"]);
    fixture.remove().await;
}

#[tokio::test]
async fn the_oldest_open_transaction_of_others_is_found() {
    let fixture = PostgresFixture::create(Shape { with_size: false, ..Shape::default() }).await;
    let catalog = fixture.catalog("files").await;
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), None);
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    let mut began: Vec<Timestamp> = Vec::new();
    for connection in [&mut first, &mut second] {
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await.expect("a transaction");
        let time: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("SELECT now()").fetch_one(connection).await.expect("its time");
        began.push(Timestamp::from_chrono(time).expect("a time"));
    }
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), Some(began[0]));
    sqlx::raw_sql("ROLLBACK").execute(&mut first).await.expect("its end");
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), Some(began[1]));
    sqlx::raw_sql("COMMIT").execute(&mut second).await.expect("its end");
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), None);
    // Our own reading does not hold us up.
    fixture.execute(SLOW_VIEW).await;
    let slow = fixture.catalog("slow").await;
    let (sender, receiver) = mpsc::channel(1);
    let look = async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' \
                   AND state = 'active' AND datname = current_database()";
        while fixture.value::<i64>(sql).await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        let oldest = catalog.oldest_transaction().await;
        drop(receiver);
        oldest
    };
    let scanning = async { tokio::join!(slow.scan(widest(), sender), look) };
    let (_, oldest) = timeout(PATIENCE, scanning).await.expect("an end");
    assert_eq!(oldest.expect("an answer"), None);
    drop((first, second));
    fixture.remove().await;
}

#[tokio::test]
async fn what_prevents_connecting_is_told_apart_and_never_shows_the_password() {
    let fixture = PostgresFixture::empty().await;
    let (_, host) = fixture.url.split_once('@').expect("a URL");
    let connect =
        async |url: &str| PostgresCatalog::connect(url, names("files")).await.err().expect("none");
    let denied = connect(&format!("postgresql://nobody:wrong-secret@{host}")).await;
    assert!(matches!(denied, BackendError::Denied { .. }), "{denied}");
    let absent = connect(&format!("{}_absent", fixture.url)).await;
    assert!(absent.is_not_found(), "{absent}");
    let deaf = connect("postgresql://u:wrong-secret@127.0.0.1:1/d").await;
    assert!(deaf.is_retryable(), "{deaf}");
    let strange = connect("mysql://u:wrong-secret@127.0.0.1:1/d").await;
    assert!(matches!(strange, BackendError::Invalid { .. }), "{strange}");
    for error in [&denied, &deaf, &strange] {
        assert!(!format!("{error} {error:?}").contains("wrong-secret"), "{error:?}");
    }
    assert!(deaf.to_string().contains("127.0.0.1:1/d"), "{deaf}");
    fixture.remove().await;
}
