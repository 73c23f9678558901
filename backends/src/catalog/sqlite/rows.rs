//! Values of a result row, by their place in it. SQLite's values have types of their own, whatever
//! the column's, and these are what decides here.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, TypeInfo, ValueRef};

/// Bytes of a value that a message shows at most.
const SHOWN_BYTES: usize = 200;

/// The type of the value itself: `NULL`, `INTEGER`, `REAL`, `TEXT` or `BLOB`.
pub(super) fn type_name(row: &SqliteRow, index: usize) -> String {
    match row.try_get_raw(index) {
        Ok(value) if value.is_null() => "NULL".to_owned(),
        Ok(value) => value.type_info().name().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The bytes of a text or blob; `None` for NULL.
pub(super) fn bytes(row: &SqliteRow, index: usize) -> sqlx::Result<Option<&[u8]>> {
    row.try_get_unchecked(index)
}

/// The value of an integer; `None` for anything else.
pub(super) fn integer(row: &SqliteRow, index: usize) -> Option<i64> {
    let value = row.try_get_raw(index).ok()?;
    let is_integer = !value.is_null() && value.type_info().name() == "INTEGER";
    drop(value);
    is_integer.then(|| row.try_get_unchecked(index).ok()).flatten()
}

/// The value for a message, cut where it is long. The statement has put it into quotes.
pub(super) fn shown(row: &SqliteRow, index: usize) -> String {
    let bytes = bytes(row, index).ok().flatten().unwrap_or_default();
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", String::from_utf8_lossy(cut))
}
