//! Reading one window: one SELECT, handed over as it is read.

use protocol::{Row, RowRef, Timestamp, Window};
use rusqlite::types::ValueRef;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::catalog::batch::{Batches, ReceiverGone, RowBatch};
use crate::error::{BackendError, Result};

use super::form::TimeForm;
use super::rows::{bytes, shown, type_name, value};
use super::session::Session;
use super::table::Table;

/// Bytes of a broken uid that a message shows at most.
const SHOWN_BYTES: usize = 100;

/// Reads the window's rows until they end, or the receiver is gone, or nobody wants them any more.
/// Waits for the file as long as reading it takes, and for the receiver: on a thread that may.
pub(super) fn scan(
    session: &Session,
    table: &Table,
    form: TimeForm,
    window: Window,
    sender: mpsc::Sender<RowBatch>,
) -> Result<()> {
    let action = format!("reading the rows of {} in {window}", table.from);
    let failed = |error| table.failed(&action, error);
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
    let mut statement = session.connection.prepare(&sql).map_err(failed)?;
    let bounds = [form.bound(window.start()), form.bound(window.end())];
    let mut found = statement.query(bounds).map_err(failed)?;
    let mut batches = Batches::new(sender);
    while let Some(row) = found.next().map_err(failed)? {
        let is_full = reading.add(row, &mut batches)?;
        if is_full && hand_over(session, &mut batches) == Err(ReceiverGone) {
            return Ok(());
        }
    }
    // A receiver that is gone by now has what it wanted.
    let _ = hand_over(session, &mut batches);
    Ok(())
}

/// Waits for the receiver, unless the whole session is not wanted any more: nobody waits for what
/// is left then, though the receiver may live on.
fn hand_over(session: &Session, batches: &mut Batches) -> std::result::Result<(), ReceiverGone> {
    let wanted = session.unwanted.run_until_cancelled(batches.flush());
    Handle::current().block_on(wanted).unwrap_or(Err(ReceiverGone))
}

/// The time that a value holds, or what is wrong with it.
pub(super) fn time(value: ValueRef<'_>, form: TimeForm) -> std::result::Result<Timestamp, String> {
    let time = match value {
        ValueRef::Integer(value) => form.time_of_integer(value),
        ValueRef::Text(text) => form.time_of_text(text),
        _ => None,
    };
    time.ok_or_else(|| match value {
        ValueRef::Integer(value) => format!("the integer {value}"),
        ValueRef::Text(_) => format!("the text `{}`", shown(value)),
        other => format!("a {}", type_name(other)),
    })
}

struct Reading<'a> {
    table: &'a Table,
    form: TimeForm,
    action: &'a str,
}

impl Reading<'_> {
    /// Adds the row; whether the batch is full then.
    fn add(&self, row: &rusqlite::Row<'_>, batches: &mut Batches) -> Result<bool> {
        let uid = self.text(row, 0)?.unwrap_or_default();
        let created_at = time(value(row, 1), self.form).map_err(|found| {
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
        let size = match value(row, 3) {
            ValueRef::Null => None,
            // A negative size is no size: the row has none, and its file's is not checked.
            ValueRef::Integer(size) => u64::try_from(size).ok(),
            other => {
                let kind = type_name(other);
                let problem = format!("the size is a {kind}, not an integer; correct the row");
                return Err(self.refuse(row, &problem));
            }
        };
        if let Some(sound) = RowRef::sound(uid, created_at, location, size) {
            return Ok(batches.add(sound));
        }
        let defective = Row::new(uid.to_owned(), created_at, location.map(str::to_owned), size);
        Ok(batches.add(RowRef::from(&defective)))
    }

    fn text<'r>(&self, row: &'r rusqlite::Row<'_>, index: usize) -> Result<Option<&'r str>> {
        bytes(value(row, index))
            .map(|bytes| {
                std::str::from_utf8(bytes).map_err(|_| {
                    let column = if index == 0 { "uid" } else { "location" };
                    self.refuse(row, &format!("the {column} is not UTF-8; correct the row"))
                })
            })
            .transpose()
    }

    /// Names the row by its uid, for not every table has rowids, and by the uid's bytes where it
    /// is no text.
    fn refuse(&self, row: &rusqlite::Row<'_>, problem: &str) -> BackendError {
        let uid = value(row, 0);
        let bytes = bytes(uid).unwrap_or_default();
        let name = match std::str::from_utf8(bytes) {
            Ok(_) => format!("the row with uid `{}`", shown(uid)),
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
