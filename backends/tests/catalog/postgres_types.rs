//! PostgreSQL: the promises that concern its tables and types.

use backends::catalog::{CatalogTable, PostgresCatalog, RangeCount};
use backends::{BackendError, Catalog};
use protocol::Timestamp;

use crate::fixture::{Fixture, at, by_uid, scan, uids, widest, window};
use crate::postgres::{PostgresFixture, names};

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
async fn files_are_counted_whether_or_not_a_uid_is_declared_to_be_there() {
    let fixture = PostgresFixture::empty().await;
    for (table, declared, files) in [("loose", "text", 2), ("sound", "text NOT NULL", 3)] {
        fixture
            .execute(&format!(
                "CREATE TABLE {table} (uid {declared}, created_at date, file_location text); \
                 CREATE INDEX ON {table} (created_at); \
                 INSERT INTO {table} SELECT CASE WHEN d < {files} THEN d::text END, \
                   '2024-12-01'::date + d, '/x' FROM generate_series(0, 2) AS d \
                 WHERE d < {files} OR '{declared}' = 'text'"
            ))
            .await;
        let catalog = fixture.catalog(table).await;
        assert_eq!(catalog.count_files(None, None).await.expect("a count"), files, "{table}");
        let after = Some(at("2024-12-01"));
        let counted = catalog.count_files(after, None).await.expect("a count");
        assert_eq!(counted, files - 1, "{table}");
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

/// Such a database holds whatever bytes it was given.
#[tokio::test]
async fn what_is_not_utf8_is_refused() {
    let fixture =
        PostgresFixture::empty_with("ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").await;
    fixture
        .execute(
            "CREATE TABLE files (uid text, created_at date, file_location text); \
             INSERT INTO files VALUES ('a', '2024-12-01', convert_from('\\x2fff', 'SQL_ASCII'))",
        )
        .await;
    let error = scan(&fixture.catalog("files").await, widest()).await.expect_err("a refusal");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("UTF-8"), "{error}");
    fixture.remove().await;
}
