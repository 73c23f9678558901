//! What every adapter of a SQL database shares: reading its URL, describing it without the
//! password, and giving the driver's errors the meanings that callers choose by.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::sqlite::SqliteError;

use crate::error::{BackendError, Result};
use crate::tls;

/// Reads a PostgreSQL URL: `postgresql://`, `postgres://`, and the form that names a Python
/// driver, `postgresql+psycopg://`.
///
/// # Errors
/// [`BackendError::Invalid`], which never repeats the URL, since it may hold a password.
pub(crate) fn postgres_options(url: &str) -> Result<PgConnectOptions> {
    let invalid = |why: String| BackendError::Invalid {
        what: format!(
            "the database URL cannot be used: {why}; it should look like \
             postgresql://user:password@host:5432/database"
        ),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("no scheme".to_owned()))?;
    let base = scheme.split_once('+').map_or(scheme, |(base, _driver)| base);
    if !matches!(base, "postgresql" | "postgres") {
        return Err(invalid(format!("its scheme is `{scheme}`")));
    }
    PgConnectOptions::from_str(&format!("postgresql://{rest}"))
        .map_err(|error| invalid(error.to_string()))
}

/// `PostgreSQL at 127.0.0.1:5432/files`
pub(crate) fn describe_postgres(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL at {}/{database}", socket.display()),
        None => {
            format!("PostgreSQL at {}:{}/{database}", options.get_host(), options.get_port())
        }
    }
}

/// The meanings that an error of a database can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Unavailable,
    Denied,
    NotFound,
    Invalid,
    Failed,
}

/// Gives the driver's error its meaning. `what` names the database and the action.
pub(crate) fn sql_error(what: impl Into<String>, error: sqlx::Error) -> BackendError {
    let what = what.into();
    if tls::is_certificate_refused(&error.to_string()) {
        let what = format!("{what}; {}", tls::BY_URL);
        return BackendError::Unavailable { what, cause: error.into() };
    }
    match meaning(&error) {
        Meaning::Unavailable => BackendError::Unavailable {
            what: format!("{what}; check that it runs, can be reached and has room"),
            cause: error.into(),
        },
        Meaning::Denied => BackendError::Denied {
            what: format!("{what}; check user, password and privileges"),
            cause: error.into(),
        },
        Meaning::NotFound => BackendError::NotFound { what: format!("{what}: {error}") },
        Meaning::Invalid => BackendError::Invalid { what: format!("{what}: {error}") },
        Meaning::Failed => BackendError::Failed { what, cause: error.into() },
    }
}

fn meaning(error: &sqlx::Error) -> Meaning {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Meaning::Unavailable,
        sqlx::Error::Configuration(_) => Meaning::Invalid,
        sqlx::Error::Database(error) => {
            if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
                postgres_meaning(error.code())
            } else if let Some(error) = error.try_downcast_ref::<SqliteError>() {
                sqlite_meaning(error)
            } else {
                Meaning::Failed
            }
        }
        _ => Meaning::Failed,
    }
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn postgres_meaning(code: &str) -> Meaning {
    match code {
        // Serialization failure, deadlock, lock timeout; statement timeout or a cancelled
        // statement; a standby or read-only server; transactions that the server ended.
        "40001" | "40P01" | "55P03" | "57014" | "25006" | "25P03" | "25P04" => Meaning::Unavailable,
        "42501" => Meaning::Denied,
        // No such table, column, database, schema.
        "42P01" | "42703" | "3D000" | "3F000" => Meaning::NotFound,
        _ => match code.get(..2) {
            // Connection lost, out of resources, system error.
            Some("08" | "53" | "58") => Meaning::Unavailable,
            Some("28") => Meaning::Denied,
            // Shutting down, crashed, starting, idle too long. 57P04 is a dropped database.
            Some("57") if code.starts_with("57P0") && code != "57P04" => Meaning::Unavailable,
            _ if code == "57P04" => Meaning::NotFound,
            _ => Meaning::Failed,
        },
    }
}

/// By primary result code: <https://www.sqlite.org/rescode.html>.
fn sqlite_meaning(error: &SqliteError) -> Meaning {
    use sqlx::error::DatabaseError;

    let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default() & 0xFF;
    match code {
        // BUSY, LOCKED, IOERR, FULL
        5 | 6 | 10 | 13 => Meaning::Unavailable,
        // PERM, READONLY, CANTOPEN, AUTH
        3 | 8 | 14 | 23 => Meaning::Denied,
        // CORRUPT, NOTADB
        11 | 26 => Meaning::Invalid,
        1 if ["no such table", "no such column"]
            .iter()
            .any(|missing| error.message().starts_with(missing)) =>
        {
            Meaning::NotFound
        }
        _ => Meaning::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_never_holds_the_password() {
        for url in [
            "postgresql://us:secret@db.example:6000/files",
            "postgres://us:secret@db.example:6000/files?sslmode=disable",
            "postgresql+psycopg://us:secret@db.example:6000/files",
            "postgresql+asyncpg://us:secret@db.example:6000/files",
        ] {
            let options = postgres_options(url).expect(url);
            assert_eq!(describe_postgres(&options), "PostgreSQL at db.example:6000/files", "{url}");
        }
        for bad in ["mysql://us:secret@host/db", "us:secret@host", "postgresql://us:secret@h:x/d"] {
            let error = postgres_options(bad).expect_err("not a PostgreSQL URL").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn sqlstates_mean_what_callers_choose_by() {
        for (code, expected) in [
            ("08006", Meaning::Unavailable),
            ("53300", Meaning::Unavailable),
            ("57P01", Meaning::Unavailable),
            ("57P03", Meaning::Unavailable),
            ("57P04", Meaning::NotFound),
            ("25006", Meaning::Unavailable),
            ("28P01", Meaning::Denied),
            ("42501", Meaning::Denied),
            ("42P01", Meaning::NotFound),
            ("3D000", Meaning::NotFound),
            ("23505", Meaning::Failed),
        ] {
            assert_eq!(postgres_meaning(code), expected, "{code}");
        }
    }
}
