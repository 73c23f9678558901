//! What a column promises that says which files are archived.

use backends::BackendError;
use backends::catalog::{CatalogTable, Mark, PostgresArchivedColumn};
use protocol::Row;

use crate::fixture::{Fixture, Shape, at, file, scan, widest};
use crate::postgres::PostgresFixture;

fn mark(column: &str) -> Mark {
    Mark { column: column.to_owned(), value: "true".to_owned() }
}

fn names() -> CatalogTable {
    Shape::default().names()
}

fn row(uid: &str, created_at: &str) -> Row {
    Row::new(uid.to_owned(), at(created_at), Some(format!("/data/{uid}")), Some(10))
}

async fn marked(fixture: &impl Fixture) -> Vec<String> {
    fixture.texts("SELECT file_location FROM files WHERE archived ORDER BY file_location").await
}

pub(crate) async fn rows_are_marked_by_all_that_they_are_told_by<F: Fixture>() {
    let fixture = F::create(Shape { indexed: true, ..Shape::default() }).await;
    let mut files = Vec::new();
    for (uid, time) in [
        ("a", "2024-12-01T10:00:00.000001Z"),
        ("it's \u{17a}", "2024-12-01T10:00:01Z"),
        ("twin", "2024-12-01T10:00:02Z"),
        ("twin", "2024-12-01T10:00:02Z"),
        ("twin", "2024-12-01T10:00:03Z"),
        ("later", "2024-12-02T10:00:00Z"),
    ] {
        files.push(file(uid, time));
    }
    // Of two that are equal in uid and time the location tells which is meant.
    files[3].location = Some("/data/elsewhere".to_owned());
    files[4].location = Some("/data/another time".to_owned());
    fixture.insert(&files).await;
    fixture.run("ALTER TABLE files ADD COLUMN archived BOOLEAN").await;
    let catalog = fixture.open(names()).await.expect("a catalog");
    let before = scan(&*catalog, widest()).await.expect("rows");

    let column = fixture.column(names(), mark("archived")).await.expect("a column");
    assert!(column.target().ends_with("files.archived = true"), "{}", column.target());
    assert_eq!(column.mark(&[]).await.expect("nothing to do"), 0);
    let rows = [
        row("a", "2024-12-01T10:00:00.000001Z"),
        row("it's \u{17a}", "2024-12-01T10:00:01Z"),
        row("twin", "2024-12-01T10:00:02Z"),
        row("nobody", "2024-12-01T10:00:02Z"),
        // Another time, by the least that there is.
        row("later", "2024-12-02T10:00:00.000001Z"),
    ];
    assert_eq!(column.count_unmarked(&rows).await.expect("a count"), 3);
    assert_eq!(marked(&fixture).await, [""; 0], "counting changes nothing");
    assert_eq!(column.mark(&rows).await.expect("they are marked"), 3);
    assert_eq!(marked(&fixture).await, ["/data/a", "/data/it's \u{17a}", "/data/twin"]);
    assert_eq!(column.mark(&rows).await.expect("they are marked"), 0, "twice is once");
    assert_eq!(column.count_unmarked(&rows).await.expect("a count"), 0);
    let mut after = scan(&*catalog, widest()).await.expect("rows");
    let mut before = before;
    let key = |row: &Row| (row.created_at_micros, row.location.clone());
    before.sort_by_key(key);
    after.sort_by_key(key);
    assert_eq!(after, before, "nothing else of a row is changed");
    fixture.remove().await;
}

pub(crate) async fn integer_uids_are_marked<F: Fixture>() {
    let fixture = F::create(Shape { integer_uid: true, ..Shape::default() }).await;
    fixture.insert(&[file("17", "2024-12-01"), file("18", "2024-12-01")]).await;
    fixture.run("ALTER TABLE files ADD COLUMN archived BOOLEAN").await;
    let column = fixture.column(names(), mark("archived")).await.expect("a column");
    let rows = [row("17", "2024-12-01"), row("017", "2024-12-01")];
    assert_eq!(column.mark(&rows).await.expect("marked"), 1);
    assert_eq!(marked(&fixture).await, ["/data/17"]);
    fixture.remove().await;
}

pub(crate) async fn a_column_that_cannot_say_it_is_refused<F: Fixture>() {
    let fixture = F::create(Shape::default()).await;
    fixture.run("ALTER TABLE files ADD COLUMN archived BOOLEAN").await;
    let refused = async |column| match fixture.column(names(), mark(column)).await {
        Ok(_) => panic!("{column} is taken"),
        Err(error) => error,
    };
    let error = refused("archved").await;
    assert!(
        error.is_not_found() && error.to_string().contains("did you mean `archived`"),
        "{error}"
    );
    for used in ["uid", "created_at", "file_location", "size_bytes"] {
        let error = refused(used).await;
        assert!(matches!(error, BackendError::Invalid { .. }), "{used}: {error}");
    }
    fixture.remove().await;
}

#[tokio::test]
async fn only_the_right_to_that_column_is_asked_for() {
    let fixture = PostgresFixture::create(Shape::default()).await;
    fixture.insert(&[file("a", "2024-12-01")]).await;
    fixture.execute("ALTER TABLE files ADD COLUMN archived boolean NOT NULL DEFAULT false").await;
    let (url, user) = fixture.user().await;
    let connect = async || PostgresArchivedColumn::connect(&url, names(), mark("archived")).await;
    fixture.execute(&format!("GRANT SELECT ON files TO {user}")).await;
    let Err(error) = connect().await else { panic!("it may not write") };
    assert!(matches!(error, BackendError::Denied { .. }), "{error}");
    let grant = format!("GRANT UPDATE (\"archived\") ON public.files TO {user}");
    assert!(error.to_string().contains(&grant), "{error}");
    fixture.execute(&grant).await;
    let column = connect().await.expect("that is all it takes");
    let rows = [row("a", "2024-12-01")];
    use backends::catalog::ArchivedColumn as _;
    assert_eq!(column.mark(&rows).await.expect("marked"), 1);

    let value = Mark { column: "archived".to_owned(), value: "perhaps".to_owned() };
    let Err(error) = PostgresArchivedColumn::connect(&url, names(), value).await else {
        panic!("no boolean")
    };
    let told = error.to_string();
    assert!(told.contains("of type boolean and cannot hold `perhaps`"), "{told}");
    drop(column);
    fixture.execute(&format!("DROP OWNED BY {user}")).await;
    fixture.remove().await;
}

#[tokio::test]
async fn columns_and_keys_of_other_types_are_marked() {
    for (column, value, shown) in [
        ("text", "archived", "archived"),
        ("integer", "1", "1"),
        ("timestamptz", "2024-12-20T10:00Z", "2024-12-20 10:00:00+00"),
    ] {
        for (uid, created_at) in [("uuid", "date"), ("char(40)", "timestamp")] {
            let fixture = PostgresFixture::empty().await;
            let key = "3b241101-e2bb-4255-8caf-4136c566a962";
            fixture
                .execute(&format!(
                    "CREATE TABLE files (uid {uid} PRIMARY KEY, created_at {created_at}, \
                     file_location text, archived {column}); \
                     INSERT INTO files VALUES ('{key}', '2024-12-01', '/data/{key}')"
                ))
                .await;
            let names = crate::postgres::names("files");
            let mark = Mark { column: "archived".to_owned(), value: value.to_owned() };
            let column = fixture.column(names, mark).await.expect("a column");
            assert_eq!(column.mark(&[row(key, "2024-12-01")]).await.expect("marked"), 1);
            let sql = "SET TIME ZONE 'UTC'; SELECT 1";
            fixture.execute(sql).await;
            let found: String = fixture
                .value(
                    "SELECT CASE WHEN pg_typeof(archived)::text LIKE 'timestamp%' \
                     THEN (archived::text::timestamptz AT TIME ZONE 'UTC')::text || '+00' \
                     ELSE archived::text END FROM files",
                )
                .await;
            assert_eq!(found, shown);
            fixture.remove().await;
        }
    }
}
