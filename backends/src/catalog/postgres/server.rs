//! Connections to the server, and waiting for its answers.
//!
//! Short questions go through a small pool and are answered within [`QUICK_LIMIT`]. What may read
//! a whole table has a connection of its own, a [`Session`]: it takes as long as the server works
//! on it, which is asked over another connection after every [`SILENCE_LIMIT`] without an answer,
//! and is cancelled on the server when nobody waits for it any more.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::time::timeout;

use crate::catalog::sql_error::{meaning, no_answer, unavailable};
use crate::error::{BackendError, Result};

/// Under which the server lists our sessions.
pub(super) const APPLICATION_NAME: &str = "des";
/// For opening a connection, and for getting one from the pool.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// For finding out why the pool had none.
const REASON_LIMIT: Duration = Duration::from_secs(2);
/// For an answer that needs no table to be read.
const QUICK_LIMIT: Duration = Duration::from_secs(30);
/// After which a statement's server is asked whether it still works on it.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often that question may go unanswered in a row.
const UNANSWERED_LIMIT: u32 = 4;
/// For the end of a session that is no longer wanted.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
const POOL_CONNECTIONS: u32 = 3;
const POOL_IDLE_LIMIT: Duration = Duration::from_secs(300);

/// What sessions may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read.
    Read,
    /// Write by statements that end soon, and wait for nobody's locks for long.
    Write,
}

impl Access {
    const fn session_settings(self) -> &'static str {
        match self {
            Self::Read => "SET TIME ZONE 'UTC'; SET default_transaction_read_only = on",
            // Below QUICK_LIMIT: the server gives up before the client does.
            Self::Write => {
                "SET TIME ZONE 'UTC'; SET lock_timeout = '10s'; SET statement_timeout = '25s'"
            }
        }
    }
}

/// The server that holds the catalog.
pub(super) struct Server {
    options: PgConnectOptions,
    pool: PgPool,
    name: String,
    access: Access,
}

impl Server {
    pub(super) async fn connect(url: &str, access: Access) -> Result<Self> {
        let options: PgConnectOptions = plain_scheme(url)?.parse().map_err(|error| {
            // The driver's words hold no part of the URL.
            meaning("reading the URL of the catalog's database", error)
        })?;
        let options = options.application_name(APPLICATION_NAME).disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(POOL_CONNECTIONS)
            .acquire_timeout(CONNECT_LIMIT)
            .idle_timeout(POOL_IDLE_LIMIT)
            .after_connect(move |connection, _| {
                let settings = access.session_settings();
                Box::pin(async move { connection.execute(settings).await.map(|_| ()) })
            })
            .connect_lazy_with(options.clone());
        let server = Self { name: name_of(&options), options, pool, access };
        // The pool says only that time ran out; a connection of our own says why.
        let connection = server.open().await?;
        let _ = timeout(CLOSE_LIMIT, connection.close()).await;
        Ok(server)
    }

    /// `the catalog at host:5432/files`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn user(&self) -> &str {
        self.options.get_username()
    }

    /// What the error means, where `action` failed on this server.
    pub(super) fn failed(&self, action: &str, error: sqlx::Error) -> BackendError {
        meaning(&self.doing(action), error)
    }

    /// Waits for a short question's answer.
    pub(super) async fn quick<T>(
        &self,
        action: &str,
        question: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T> {
        match timeout(QUICK_LIMIT, question).await {
            // The pool says only that time ran out; a connection of our own says why.
            Ok(Err(sqlx::Error::PoolTimedOut)) => {
                let connecting = PgConnection::connect_with(&self.options);
                match timeout(REASON_LIMIT, connecting).await {
                    Ok(Err(reason)) => Err(self.failed(action, reason)),
                    Ok(Ok(_)) | Err(_) => Err(self.failed(action, sqlx::Error::PoolTimedOut)),
                }
            }
            Ok(answer) => answer.map_err(|error| self.failed(action, error)),
            Err(_) => Err(no_answer(&self.doing(action), QUICK_LIMIT)),
        }
    }

    /// Opens a session for a statement that may take long.
    pub(super) async fn session(&self) -> Result<Session<'_>> {
        let mut connection = self.open().await?;
        let question = sqlx::query_as(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        )
        .fetch_one(&mut connection);
        let (pid, started) = self.quick("opening a session", question).await?;
        let backend = Backend { pid, started };
        let guard = CancelOnDrop { pool: self.pool.clone(), backend, armed: true };
        Ok(Session { server: self, connection, guard })
    }

    async fn open(&self) -> Result<PgConnection> {
        let action = "connecting";
        let opening = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            connection.execute(self.access.session_settings()).await?;
            Ok(connection)
        };
        match timeout(CONNECT_LIMIT, opening).await {
            Ok(opened) => opened.map_err(|error| self.failed(action, error)),
            Err(_) => Err(no_answer(&self.doing(action), CONNECT_LIMIT)),
        }
    }

    fn doing(&self, action: &str) -> String {
        format!("{}: {action}", self.name)
    }

    async fn is_working(&self, backend: Backend) -> Result<bool> {
        let question = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2)",
        )
        .bind(backend.pid)
        .bind(backend.started)
        .fetch_one(&self.pool);
        self.quick("asking whether a statement still runs", question).await
    }
}

/// A server process, recognisable even when its number is used again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    pid: i32,
    started: DateTime<Utc>,
}

/// A connection for one long statement. Dropping it cancels what still runs.
pub(super) struct Session<'a> {
    server: &'a Server,
    connection: PgConnection,
    guard: CancelOnDrop,
}

impl<'a> Session<'a> {
    /// The connection, and the watch over it, which is to wrap every wait for the server.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, Watch<'a>) {
        let watch = Watch { server: self.server, backend: self.guard.backend };
        (&mut self.connection, watch)
    }

    /// Ends the session after its statement has ended.
    pub(super) async fn close(mut self) {
        self.guard.armed = false;
        let _ = timeout(CLOSE_LIMIT, self.connection.close()).await;
    }

    /// Runs one statement that answers with one row, and closes.
    pub(super) async fn one_row<T>(mut self, action: &str, sql: String) -> Result<T>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let server = self.server;
        let (connection, watch) = self.parts();
        let question = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(connection);
        let answer = watch.over(action, question).await?;
        self.close().await;
        answer.map_err(|error| server.failed(action, error))
    }
}

/// Sees that a wait for the server ends when the server does.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    server: &'a Server,
    backend: Backend,
}

impl Watch<'_> {
    /// Waits for `answer` as long as the server process is there.
    pub(super) async fn over<T>(&self, action: &str, answer: impl Future<Output = T>) -> Result<T> {
        let mut answer = pin!(answer);
        let mut unanswered = 0;
        loop {
            if let Ok(answer) = timeout(SILENCE_LIMIT, &mut answer).await {
                return Ok(answer);
            }
            match self.server.is_working(self.backend).await {
                Ok(true) => unanswered = 0,
                Ok(false) => {
                    return Err(unavailable(
                        self.server.doing(action),
                        "the server no longer runs the statement, and sent no answer",
                    ));
                }
                Err(error) => {
                    unanswered += 1;
                    if unanswered >= UNANSWERED_LIMIT {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Asks the server to end the statement, so that it does not work on for nobody.
    pub(super) async fn cancel(&self) {
        cancel(&self.server.pool, self.backend).await;
    }
}

struct CancelOnDrop {
    pool: PgPool,
    backend: Backend,
    armed: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        // At the process's end there is no runtime any more, but neither is the connection, which
        // the server notices at the next row that it sends.
        let runtime = tokio::runtime::Handle::try_current().ok().filter(|_| self.armed);
        if let Some(runtime) = runtime {
            let (pool, backend) = (self.pool.clone(), self.backend);
            runtime.spawn(async move { cancel(&pool, backend).await });
        }
    }
}

/// Best effort, within [`CLOSE_LIMIT`]: the connection is closed anyway.
async fn cancel(pool: &PgPool, backend: Backend) {
    let asking = sqlx::query(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
    )
    .bind(backend.pid)
    .bind(backend.started)
    .execute(pool);
    if !matches!(timeout(CLOSE_LIMIT, asking).await, Ok(Ok(_))) {
        tracing::debug!(pid = backend.pid, "could not cancel a statement that is not wanted");
    }
}

/// The URL without the driver that SQLAlchemy's URLs name (`postgresql+psycopg://`).
fn plain_scheme(url: &str) -> Result<String> {
    let refused = || BackendError::Invalid {
        what: "the catalog's URL does not begin with postgresql:// (or postgres://, or \
               postgresql+psycopg:// and the like)"
            .to_owned(),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(refused)?;
    let family = scheme.split('+').next().unwrap_or_default();
    if ["postgres", "postgresql"].contains(&family) {
        Ok(format!("{family}://{rest}"))
    } else {
        Err(refused())
    }
}

fn name_of(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("the catalog at {}/{database}", socket.display()),
        None => {
            format!("the catalog at {}:{}/{database}", options.get_host(), options.get_port())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlalchemy_urls_are_read_and_others_refused_without_showing_them() {
        for url in [
            "postgresql://u:p@h:1/d",
            "postgresql+psycopg://u:p@h:1/d",
            "postgresql+asyncpg://u:p@h:1/d",
        ] {
            assert_eq!(plain_scheme(url).ok().as_deref(), Some("postgresql://u:p@h:1/d"));
        }
        assert_eq!(plain_scheme("postgres://h/d").ok().as_deref(), Some("postgres://h/d"));
        for url in ["mysql://u:secret@h/d", "postgresqlx://u:secret@h", "u:secret@h/d"] {
            let refusal = plain_scheme(url).expect_err("another scheme").to_string();
            assert!(!refusal.contains("secret"), "{refusal}");
        }
    }
}
