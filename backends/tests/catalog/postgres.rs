//! PostgreSQL: the fixture.

use std::time::{Duration, Instant};

use backends::Catalog;
use backends::catalog::{
    ArchivedColumn, CatalogTable, Mark, PostgresArchivedColumn, PostgresCatalog,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::sleep;

use crate::fixture::{File, Fixture, PATIENCE, Shape};

pub(crate) struct PostgresFixture {
    server: String,
    pub(crate) database: String,
    pub(crate) url: String,
    shape: Shape,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl PostgresFixture {
    /// A database without a table.
    pub(crate) async fn empty() -> Self {
        Self::empty_with("").await
    }

    /// A database without a table, made with these options.
    pub(crate) async fn empty_with(options: &str) -> Self {
        let server = std::env::var("DES_TEST_POSTGRES_URL")
            .expect("DES_TEST_POSTGRES_URL is not set: run ./test, which starts a PostgreSQL");
        let database = format!("des_test_{}", uuid::Uuid::new_v4().simple());
        let (base, _) = server.rsplit_once('/').expect("a URL with a database");
        let fixture =
            Self { url: format!("{base}/{database}"), server, database, shape: Shape::default() };
        fixture.on_server(&format!("CREATE DATABASE {} {options}", fixture.database)).await;
        fixture
    }

    async fn on_server(&self, sql: &str) {
        execute(&self.server, sql).await;
    }

    pub(crate) async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a connection")
    }

    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn catalog(&self, table: &str) -> PostgresCatalog {
        PostgresCatalog::connect(&self.url, names(table)).await.expect("a catalog")
    }

    /// A user of this database only, and the URL to be one. Gone with [`Fixture::remove`].
    pub(crate) async fn user(&self) -> (String, String) {
        let user = format!("{}_user", self.database);
        self.execute(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'")).await;
        let (_, host) = self.url.split_once('@').expect("a URL with a user");
        (format!("postgresql://{user}:secret@{host}"), user)
    }

    /// Waits until no session of ours runs a COPY here.
    pub(crate) async fn until_no_copy_runs(&self) {
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

pub(crate) fn names(table: &str) -> CatalogTable {
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
        Ok(Box::new(PostgresArchivedColumn::connect(&self.url, names, mark).await?))
    }

    async fn remove(self) {
        let Self { database, .. } = &self;
        self.on_server(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
        self.on_server(&format!("DROP ROLE IF EXISTS {database}_user")).await;
    }
}
