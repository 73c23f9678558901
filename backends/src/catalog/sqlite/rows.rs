//! Values of a result row, by their place in it. SQLite's values have types of their own, whatever
//! the column's, and these are what decides here.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::failure::meaning;
use crate::error::Result;

/// Bytes of a value that a message shows at most.
const SHOWN_BYTES: usize = 200;

/// The value; NULL where there is no such column.
pub(super) fn value<'r>(row: &'r Row<'_>, index: usize) -> ValueRef<'r> {
    row.get_ref(index).unwrap_or(ValueRef::Null)
}

/// The type of the value itself: `NULL`, `INTEGER`, `REAL`, `TEXT` or `BLOB`.
pub(super) const fn type_name(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "NULL",
        ValueRef::Integer(_) => "INTEGER",
        ValueRef::Real(_) => "REAL",
        ValueRef::Text(_) => "TEXT",
        ValueRef::Blob(_) => "BLOB",
    }
}

/// The bytes of a text or blob; `None` for anything else.
pub(super) const fn bytes(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

/// The value of an integer; `None` for anything else.
pub(super) const fn integer(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(value) => Some(value),
        _ => None,
    }
}

/// The value for a message, cut where it is long. The statement has put it into quotes.
pub(super) fn shown(value: ValueRef<'_>) -> String {
    let bytes = bytes(value).unwrap_or_default();
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", String::from_utf8_lossy(cut))
}

/// The first column of what a query answers, as texts; `None` for NULL.
pub(super) fn first_column(
    connection: &Connection,
    action: &str,
    sql: &str,
) -> Result<Vec<Option<String>>> {
    let text = |row: &Row<'_>| {
        Ok(match value(row, 0) {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string()),
            ValueRef::Real(number) => Some(number.to_string()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
        })
    };
    let asked = connection.prepare(sql).and_then(|mut asked| asked.query_map([], text)?.collect());
    asked.map_err(|error| meaning(action, error))
}
