//! One private database per test, and hands that reach into it beside the ledger.

use std::str::FromStr;

use async_trait::async_trait;
use backends::Ledger;
use backends::ledger::{PostgresLedger, SqliteLedger, postgres, sqlite};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use super::{TTL, job};

/// A database that ledgers can be opened on, each with connections of its own, as other
/// processes have them.
#[async_trait]
pub(crate) trait Bench: Sync {
    /// The ledger of a job whose watermark is row `config_id`.
    async fn ledger_of(&self, job: &str, config_id: i32) -> Box<dyn Ledger>;

    /// Runs SQL that the ledger knows nothing of.
    async fn try_sql(&self, statements: &str) -> Result<(), sqlx::Error>;

    /// SQL that replaces the audit log's rows, or empties it, in a way of this database's own.
    fn replacing_audit_rows(&self) -> &'static str;

    /// The first column of a query's first row, a text.
    async fn text(&self, query: &str) -> Option<String>;

    /// What `migrate` would run.
    fn script(&self) -> String;

    /// The ledger of the job that most tests are about.
    async fn ledger(&self) -> Box<dyn Ledger> {
        self.ledger_of("files", 1).await
    }

    /// A ledger with its tables.
    async fn migrated(&self) -> Box<dyn Ledger> {
        let ledger = self.ledger().await;
        ledger.migrate().await.expect("the tables are made");
        ledger
    }

    /// Runs SQL that works.
    async fn sql(&self, statements: &str) {
        self.try_sql(statements).await.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }
}

/// A database of its own on the test server.
pub(crate) struct PostgresBench {
    admin: PgConnectOptions,
    name: String,
    pub(crate) url: String,
}

impl PostgresBench {
    /// Makes a database whose sessions start in a zone that is not UTC.
    pub(crate) async fn new() -> Self {
        let server = std::env::var("DES_TEST_POSTGRES_URL")
            .expect("DES_TEST_POSTGRES_URL is not set: run ./test, which starts a server");
        let admin = PgConnectOptions::from_str(&server).expect("the test server's URL");
        let name = format!("des_test_{}", uuid::Uuid::new_v4().simple());
        let (base, _database) = server.rsplit_once('/').expect("a URL with a database");
        let bench = Self { admin, url: format!("{base}/{name}"), name };
        let zone = format!("ALTER DATABASE {} SET timezone = 'Asia/Kolkata'", bench.name);
        bench.as_admin(&format!("CREATE DATABASE {}", bench.name)).await;
        bench.as_admin(&zone).await;
        bench
    }

    /// Drops the database.
    pub(crate) async fn close(self) {
        self.as_admin(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }

    /// Runs a statement outside the database, about it.
    pub(crate) async fn as_admin(&self, statement: &str) {
        let mut admin = self.admin.connect().await.expect("the test server answers");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.expect(statement);
        admin.close().await.expect("the connection closes");
    }

    /// The database's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A connection of its own.
    pub(crate) async fn connection(&self) -> PgConnection {
        self.admin.clone().database(&self.name).connect().await.expect("the database answers")
    }
}

#[async_trait]
impl Bench for PostgresBench {
    async fn ledger_of(&self, name: &str, config_id: i32) -> Box<dyn Ledger> {
        let ledger = PostgresLedger::connect(&self.url, job(name), config_id, TTL).await;
        Box::new(ledger.expect("the ledger connects"))
    }

    async fn try_sql(&self, statements: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connection().await;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await?;
        connection.close().await
    }

    async fn text(&self, query: &str) -> Option<String> {
        let mut connection = self.connection().await;
        let row = sqlx::query(AssertSqlSafe(query)).fetch_optional(&mut connection).await;
        row.expect(query).map(|row| row.get(0))
    }

    fn replacing_audit_rows(&self) -> &'static str {
        "TRUNCATE des_audit_log"
    }

    fn script(&self) -> String {
        postgres::migrations_sql()
    }
}

/// A file of its own.
pub(crate) struct SqliteBench {
    directory: tempfile::TempDir,
}

impl SqliteBench {
    /// Makes a directory; the file comes with the first ledger.
    pub(crate) async fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Deletes the file.
    pub(crate) async fn close(self) {
        self.directory.close().expect("the directory is removed");
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("ledger.db")
    }

    /// A connection of its own.
    pub(crate) async fn connection(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
        options.connect().await.expect("the file opens")
    }
}

#[async_trait]
impl Bench for SqliteBench {
    async fn ledger_of(&self, name: &str, config_id: i32) -> Box<dyn Ledger> {
        let ledger = SqliteLedger::open(&self.path(), job(name), config_id, true).await;
        Box::new(ledger.expect("the ledger opens"))
    }

    async fn try_sql(&self, statements: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connection().await;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await?;
        connection.close().await
    }

    async fn text(&self, query: &str) -> Option<String> {
        let mut connection = self.connection().await;
        let row = sqlx::query(AssertSqlSafe(query)).fetch_optional(&mut connection).await;
        row.expect(query).map(|row| row.get(0))
    }

    fn replacing_audit_rows(&self) -> &'static str {
        "INSERT OR REPLACE INTO des_audit_log (id, at, job, actor, action) \
         SELECT id, at, job, 'nobody', action FROM des_audit_log"
    }

    fn script(&self) -> String {
        sqlite::migrations_sql()
    }
}
