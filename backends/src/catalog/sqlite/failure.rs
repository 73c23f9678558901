//! What SQLite's errors mean to callers.

use std::fmt;

use rusqlite::Error;

use crate::catalog::sql_error::unavailable;
use crate::error::BackendError;

/// What SQLite said, with its extended code: <https://www.sqlite.org/rescode.html>
#[derive(Debug)]
struct Answer {
    code: i32,
    message: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error returned from database: (code: {}) {}", self.code, self.message)
    }
}

impl std::error::Error for Answer {}

/// Says what an error means. `doing` is the action and the thing, in a person's words: `the catalog
/// in /data/files.db: opening the file`.
pub(super) fn meaning(doing: &str, error: Error) -> BackendError {
    let (code, said) = match error {
        Error::SqliteFailure(failure, message) => (failure.extended_code, message),
        error => return BackendError::Failed { what: doing.to_owned(), cause: error.into() },
    };
    let message = said.unwrap_or_else(|| rusqlite::ffi::code_to_str(code).to_owned());
    let answer = Answer { code, message };
    match code & 0xff {
        // BUSY, LOCKED, INTERRUPT, IOERR, FULL
        5 | 6 | 9 | 10 | 13 => unavailable(doing.to_owned(), answer),
        // PERM, READONLY (a crashed writer left a journal that only a writer may roll back),
        // CANTOPEN, AUTH
        3 | 8 | 14 | 23 => BackendError::Denied {
            what: format!(
                "{doing}: check that this user may read the file and write its directory, and \
                 that no crashed writer left a journal beside it"
            ),
            cause: answer.into(),
        },
        // CORRUPT, NOTADB
        11 | 26 => BackendError::Invalid {
            what: format!("{doing}: the file is no sound SQLite database: {answer}"),
        },
        1 if answer.message.contains("no such") => {
            BackendError::NotFound { what: format!("{doing}: {answer}") }
        }
        _ => BackendError::Failed { what: doing.to_owned(), cause: answer.into() },
    }
}
