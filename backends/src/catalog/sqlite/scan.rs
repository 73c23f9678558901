//! Reading one window: one SELECT, handed over as it is read.

use std::pin::pin;

use futures::StreamExt;
use protocol::{Row, Timestamp, Window};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::sync::mpsc;

use crate::catalog::batch::{Batches, ReceiverGone};
use crate::error::{BackendError, Result};

use super::form::TimeForm;
use super::rows::{bytes, integer, shown, type_name};
use super::table::Table;
use super::{bind, rows};

/// Bytes of a broken uid that a message shows at most.
const SHOWN_BYTES: usize = 100;

/// Reads the window's rows until they end or the receiver is gone. Waits for the file as long as
/// reading it takes.
pub(super) async fn scan(
    connection: &mut SqliteConnection,
    table: &Table,
    form: TimeForm,
    window: Window,
    sender: mpsc::Sender<Vec<Row>>,
) -> Result<()> {
    let action = format!("reading the rows of {} in {window}", table.from);
    let reading = Reading { table, form, action: &action };
    let sql = format!(
        "SELECT CAST({uid} AS TEXT), {created_at}, CAST({location} AS TEXT), {size} \
         FROM {from} WHERE {range} AND {uid} IS NOT NULL",
        uid = table.uid,
        created_at = table.created_at,
        location = table.location,
        size = table.size.as_deref().unwrap_or("NULL"),
        from = table.from,
        range = table.in_range(),
    );
    let query = sqlx::query(AssertSqlSafe(sql));
    let query = bind(bind(query, form.bound(window.start())), form.bound(window.end()));
    let mut found = query.fetch(connection);
    let mut batches = Batches::new(sender.clone());
    let mut closed = pin!(sender.closed());
    loop {
        // The receiver may also go while SQLite looks for the next row.
        let row = tokio::select! {
            biased;
            row = found.next() => row,
            () = &mut closed => return Ok(()),
        };
        let Some(row) = row else { break };
        let row = row.map_err(|error| table.failed(&action, error))?;
        if batches.push(reading.row(&row)?).await == Err(ReceiverGone) {
            return Ok(());
        }
    }
    // A receiver that is gone by now has what it wanted.
    let _ = batches.flush().await;
    Ok(())
}

/// The time that column `index` holds, or what is wrong with it.
pub(super) fn time(
    row: &SqliteRow,
    index: usize,
    form: TimeForm,
) -> std::result::Result<Timestamp, String> {
    let type_name = type_name(row, index);
    let time = match type_name.as_str() {
        "INTEGER" => integer(row, index).and_then(|value| form.time_of_integer(value)),
        "TEXT" => bytes(row, index).ok().flatten().and_then(|text| form.time_of_text(text)),
        _ => None,
    };
    time.ok_or_else(|| match type_name.as_str() {
        "INTEGER" => format!("the integer {}", integer(row, index).unwrap_or_default()),
        "TEXT" => format!("the text `{}`", shown(row, index)),
        other => format!("a {other}"),
    })
}

struct Reading<'a> {
    table: &'a Table,
    form: TimeForm,
    action: &'a str,
}

impl Reading<'_> {
    fn row(&self, row: &SqliteRow) -> Result<Row> {
        let uid = self.text(row, 0)?.unwrap_or_default();
        let created_at = time(row, 1, self.form).map_err(|found| {
            self.refuse(
                row,
                &format!(
                    "created_at is {found}, which is no date of the form that the table is in ({}); \
                     correct the row",
                    self.form
                ),
            )
        })?;
        let location = self.text(row, 2)?;
        let size = match type_name(row, 3).as_str() {
            "NULL" => None,
            // A negative size is no size: the row has none, and its file's is not checked.
            "INTEGER" => integer(row, 3).and_then(|size| u64::try_from(size).ok()),
            other => {
                let problem = format!("the size is a {other}, not an integer; correct the row");
                return Err(self.refuse(row, &problem));
            }
        };
        Ok(Row::new(uid, created_at, location, size))
    }

    fn text(&self, row: &SqliteRow, index: usize) -> Result<Option<String>> {
        let bytes =
            rows::bytes(row, index).map_err(|error| self.table.failed(self.action, error))?;
        bytes
            .map(|bytes| {
                std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| {
                    let column = if index == 0 { "uid" } else { "location" };
                    self.refuse(row, &format!("the {column} is not UTF-8; correct the row"))
                })
            })
            .transpose()
    }

    /// Names the row by its uid, for not every table has rowids, and by the uid's bytes where it
    /// is no text.
    fn refuse(&self, row: &SqliteRow, problem: &str) -> BackendError {
        let bytes = bytes(row, 0).ok().flatten().unwrap_or_default();
        let name = match std::str::from_utf8(bytes) {
            Ok(_) => format!("the row with uid `{}`", shown(row, 0)),
            Err(_) => {
                let hex: String =
                    bytes.iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02X}")).collect();
                format!("the row with hex(CAST({} AS TEXT)) beginning with {hex}", self.table.uid)
            }
        };
        BackendError::Invalid {
            what: format!("{}: {}: {name}: {problem}", self.table.database, self.action),
        }
    }
}
