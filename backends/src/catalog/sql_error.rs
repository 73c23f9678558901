//! What the driver's errors mean to callers.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use crate::error::{BackendError, Cause};

/// Says what an error of the driver means. `doing` is the action and the thing, in a person's
/// words: `reading the clock of the catalog at host:5432/files`.
pub(super) fn meaning(doing: &str, error: sqlx::Error) -> BackendError {
    use sqlx::Error as E;
    match &error {
        E::Database(database) => {
            match database.try_downcast_ref::<SqliteError>().and_then(sqlite_code) {
                Some(code) => of_sqlite(doing, code, error),
                None => of_postgres(doing, error),
            }
        }
        E::Io(_) | E::PoolTimedOut | E::PoolClosed => unavailable(
            format!("{doing}: no answer; check that the server is up and reachable from here"),
            error,
        ),
        E::Tls(_) => unavailable(
            format!("{doing}: no encrypted connection; check the server's certificate and sslmode"),
            error,
        ),
        E::Configuration(_) => BackendError::Invalid { what: format!("{doing}: {error}") },
        _ => BackendError::Failed { what: doing.to_owned(), cause: error.into() },
    }
}

/// Nothing came within `limit`.
pub(super) fn no_answer(doing: &str, limit: Duration) -> BackendError {
    unavailable(
        format!("{doing}: check that the server is up and reachable from here"),
        format!("no answer within {} s", limit.as_secs()),
    )
}

pub(super) fn unavailable(what: String, cause: impl Into<Cause>) -> BackendError {
    BackendError::Unavailable { what, cause: cause.into() }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_postgres(doing: &str, error: sqlx::Error) -> BackendError {
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
    match code.as_ref() {
        // query_canceled, transaction_timeout
        "57014" | "25P04" => unavailable(
            format!(
                "{doing}: the server ended the statement, most likely at its statement_timeout; \
                 raise it for this user (ALTER ROLE ... SET statement_timeout = 0), and see that \
                 created_at is indexed"
            ),
            error,
        ),
        "42501" => BackendError::Denied {
            what: format!(
                "{doing}: the user lacks a privilege; GRANT SELECT on the table, and USAGE on its \
                 schema, to it"
            ),
            cause: error.into(),
        },
        code if code.starts_with("28") => BackendError::Denied {
            what: format!("{doing}: check the user, its password and pg_hba.conf"),
            cause: error.into(),
        },
        // character_not_in_repertoire
        "22021" => BackendError::Invalid {
            what: format!("{doing}: the table holds a text that is not UTF-8; correct it: {error}"),
        },
        "42P01" | "42703" | "3D000" | "3F000" => {
            BackendError::NotFound { what: format!("{doing}: {error}") }
        }
        // lock_not_available, deadlock and serialisation, idle timeouts, io_error; connection
        // exceptions, insufficient resources, operator intervention
        "55P03" | "25P03" | "58030" => unavailable(doing.to_owned(), error),
        code if ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) => {
            unavailable(doing.to_owned(), error)
        }
        _ => BackendError::Failed { what: doing.to_owned(), cause: error.into() },
    }
}

/// The primary result code: <https://www.sqlite.org/rescode.html>
fn sqlite_code(error: &SqliteError) -> Option<i32> {
    error.code().and_then(|code| code.parse::<i32>().ok()).map(|extended| extended & 0xff)
}

fn of_sqlite(doing: &str, code: i32, error: sqlx::Error) -> BackendError {
    match code {
        // BUSY, LOCKED, INTERRUPT, IOERR, FULL
        5 | 6 | 9 | 10 | 13 => unavailable(doing.to_owned(), error),
        // PERM, READONLY (a crashed writer left a journal that only a writer may roll back),
        // CANTOPEN, AUTH
        3 | 8 | 14 | 23 => BackendError::Denied {
            what: format!(
                "{doing}: check that this user may read the file and write its directory, and \
                 that no crashed writer left a journal beside it"
            ),
            cause: error.into(),
        },
        // CORRUPT, NOTADB
        11 | 26 => BackendError::Invalid {
            what: format!("{doing}: the file is no sound SQLite database: {error}"),
        },
        1 if error.to_string().contains("no such") => {
            BackendError::NotFound { what: format!("{doing}: {error}") }
        }
        _ => BackendError::Failed { what: doing.to_owned(), cause: error.into() },
    }
}
