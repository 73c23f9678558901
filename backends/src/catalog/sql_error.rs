//! What the errors of PostgreSQL's driver mean to callers, and words for them.

use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::error::{BackendError, Cause};
use crate::tls;

/// Says what an error of the driver means. `doing` is the action and the thing, in a person's
/// words: `reading the clock of the catalog at host:5432/files`.
pub(super) fn meaning(doing: &str, error: sqlx::Error) -> BackendError {
    use sqlx::Error as E;
    match &error {
        E::Io(_) | E::Tls(_) if tls::is_certificate_refused(&error.to_string()) => {
            unavailable(format!("{doing}: {}", tls::BY_URL), error)
        }
        E::Database(_) => of_postgres(doing, error),
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
