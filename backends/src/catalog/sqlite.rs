//! The catalog in a SQLite file.
//!
//! SQLite has no type for times: what `created_at` holds is found out by looking at every row once
//! (the form), and bounds are written in the same form, so that comparing is comparing times and an
//! index is of use. The file is opened read-only, anew for every operation.

mod archived;
mod detect;
mod failure;
mod form;
mod rows;
mod scan;
mod session;
mod stamp;
mod table;

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use protocol::{Timestamp, Window};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::batch::LAST_PLACEABLE;
use super::sql_error::no_answer;
use super::{
    Catalog, CatalogReport, CatalogTable, LOAD_ROWS, LoadCheck, RangeCount, RowBatch, Unplaceable,
    bare, largest,
};
use crate::error::{BackendError, Result};

use detect::{Detected, detect};
use form::{TimeForm, Unit};
use rows::{shown, value};
use session::{File, ScanThread, Session, within};
use stamp::Stamp;
use table::Table;

pub use archived::SqliteArchivedColumn;

/// The largest size that is summed (8 PiB): what is larger is no file's, and SQLite refuses to sum
/// beyond 64 bits.
const LARGEST_SIZE: i64 = 1 << 53;

/// How long a query that is asked for the load may take.
const LOAD_LIMIT: Duration = Duration::from_secs(5);
/// For the end of a session whose work has been stopped.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A catalog in a SQLite file.
///
/// The uid and the location are taken in their text form. `created_at` holds texts of one form, in
/// UTC, or integers since 1970 of one unit (seconds, milliseconds or microseconds, told by their
/// magnitude). The size holds integers.
pub struct SqliteCatalog {
    opened: Arc<Opened>,
    scanning: ScanThread,
}

/// What opening found, for the threads that read.
struct Opened {
    file: File,
    names: CatalogTable,
    table: Table,
    /// `None` while the rows do not tell.
    form: Mutex<Option<TimeForm>>,
    /// What the file was when all rows were seen to be of this form.
    seen: Option<(Stamp, TimeForm)>,
}

impl SqliteCatalog {
    /// Opens the file, looks the table up and reads it once for the form of `created_at`.
    ///
    /// # Errors
    /// `NotFound` when the file, the table or a column is missing, with those that exist; `Invalid`
    /// when the file is no database or the values of `created_at` are not of one form.
    pub async fn open(path: &Path, table: CatalogTable) -> Result<Self> {
        let database = format!("the catalog in {}", path.display());
        if !path.is_file() {
            return Err(BackendError::NotFound {
                what: format!("{database}: there is no such file"),
            });
        }
        // A relative path that begins with `file:` would be a URI to SQLite.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let file = File { path: absolute, database };
        let opening = file.clone();
        let opened = within(&file, CancellationToken::new(), move |session| {
            // Before anything is read: a change after this is seen later.
            let stamp = Stamp::of(&opening.path, SystemTime::now());
            let found = Table::find(&session.connection, &opening.database, &table)?;
            let form = known(detect(&session.connection, &found)?);
            Ok(Opened {
                file: opening,
                names: table,
                table: found,
                form: Mutex::new(form),
                seen: stamp.zip(form),
            })
        });
        Ok(Self { opened: Arc::new(opened.await?), scanning: ScanThread::start(&file)? })
    }

    /// Does `work` in a session of its own.
    async fn read<T: Send + 'static>(
        &self,
        unwanted: CancellationToken,
        work: impl FnOnce(&Opened, &Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let opened = Arc::clone(&self.opened);
        within(&self.opened.file, unwanted, move |session| work(&opened, session)).await
    }

    /// One row of figures over the rows in a range.
    async fn figures<const N: usize>(
        &self,
        action: String,
        sql: String,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<[Option<u64>; N]> {
        self.read(CancellationToken::new(), move |opened, session| {
            let form = opened.form(&session.connection)?;
            let until = until.unwrap_or(LAST_PLACEABLE).min(LAST_PLACEABLE);
            let bounds = [form.bound(after.unwrap_or(Timestamp::MIN)), form.bound(until)];
            session
                .connection
                .query_row(&sql, bounds, |row| {
                    Ok(std::array::from_fn(|index| {
                        let figure = rows::integer(value(row, index));
                        figure.map(|figure| u64::try_from(figure).unwrap_or_default())
                    }))
                })
                .map_err(|error| opened.table.failed(&action, error))
        })
        .await
    }
}

impl Opened {
    fn known_form(&self) -> Option<TimeForm> {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_form(&self, detected: Detected) {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner) = known(detected);
    }

    /// The form, looked for again while the rows did not tell: in the transaction that then relies
    /// on it.
    fn form(&self, connection: &Connection) -> Result<TimeForm> {
        if let Some(form) = self.known_form() {
            return Ok(form);
        }
        let detected = detect(connection, &self.table)?;
        self.keep_form(detected);
        Ok(match detected {
            Detected::Form(form) => form,
            Detected::OnlyZeroes => TimeForm::Integer(Unit::Seconds),
            Detected::Nothing => TimeForm::OF_AN_EMPTY_TABLE,
        })
    }

    /// What is in the rows now, which need not be read again when the file is as it was. To be
    /// asked in a transaction that has read already, and so sees no change after this.
    fn detect_again(&self, connection: &Connection, table: &Table) -> Result<Detected> {
        if let Some((stamp, form)) = self.seen
            && Stamp::of(&self.file.path, SystemTime::now()) == Some(stamp)
        {
            return Ok(Detected::Form(form));
        }
        detect(connection, table)
    }

    fn inspect(&self, connection: &Connection) -> Result<CatalogReport> {
        let table = Table::find(connection, &self.file.database, &self.names)?;
        let detected = self.detect_again(connection, &table)?;
        self.check_sizes(connection, &table)?;
        self.keep_form(detected);
        let form = match detected {
            Detected::Form(form) => format!("as {form}"),
            Detected::OnlyZeroes | Detected::Nothing => {
                "without rows that tell their form".to_owned()
            }
        };
        Ok(CatalogReport {
            server: format!("SQLite {}", rusqlite::version()),
            uid_type: table.uid_type,
            created_at_type: format!("{}, {form}", table.created_at_type),
            created_at_indexed: table.created_at_indexed,
            writable: false,
            statement_timeout_millis: None,
        })
    }

    /// Checks that the size column holds integers or NULLs only.
    fn check_sizes(&self, connection: &Connection, table: &Table) -> Result<()> {
        let Some(size) = &table.size else { return Ok(()) };
        let sql = format!(
            "SELECT quote({}), quote({size}) FROM {} \
             WHERE typeof({size}) NOT IN ('integer', 'null') LIMIT 1",
            table.uid, table.from
        );
        let odd = connection
            .query_row(&sql, [], |row| Ok((shown(value(row, 0)), shown(value(row, 1)))))
            .optional()
            .map_err(|error| table.failed("looking at the sizes", error))?;
        odd.map_or(Ok(()), |(uid, size)| {
            Err(BackendError::Invalid {
                what: format!(
                    "{}: the size of the row with uid {uid} is {size}, not an integer; correct \
                     the row, or configure no size column",
                    self.file.database
                ),
            })
        })
    }

    /// The smallest `created_at` after `after` of the rows that a window can hold.
    fn oldest_after(
        &self,
        connection: &Connection,
        after: Option<Timestamp>,
    ) -> Result<Option<Timestamp>> {
        let Table { uid, created_at, from, .. } = &self.table;
        let action = format!("looking for the oldest row of {from}");
        let form = self.form(connection)?;
        let sql = format!(
            "SELECT {created_at}, quote({uid}) FROM {from} WHERE {} AND {uid} IS NOT NULL \
             ORDER BY {created_at} LIMIT 1",
            self.table.in_range()
        );
        let bounds = [form.bound(after.unwrap_or(Timestamp::MIN)), form.bound(LAST_PLACEABLE)];
        let oldest = connection
            .query_row(&sql, bounds, |row| {
                Ok(scan::time(value(row, 0), form).map_err(|found| (found, shown(value(row, 1)))))
            })
            .optional()
            .map_err(|error| self.table.failed(&action, error))?;
        oldest.transpose().map_err(|(found, uid)| BackendError::Invalid {
            what: format!(
                "{}: {action}: the created_at of the row with uid {uid} is {found}, which is no \
                 date of the form that the table is in ({form}); correct the row",
                self.file.database
            ),
        })
    }
}

const fn known(detected: Detected) -> Option<TimeForm> {
    match detected {
        Detected::Form(form) => Some(form),
        Detected::OnlyZeroes | Detected::Nothing => None,
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    /// The process's own clock: SQLite has no other.
    async fn now(&self) -> Result<Timestamp> {
        Timestamp::from_chrono(SystemTime::now().into()).ok_or_else(|| BackendError::Invalid {
            what: "this machine's clock stands outside the years 0001 to 9999".to_owned(),
        })
    }

    async fn oldest_after(&self, after: Option<Timestamp>) -> Result<Option<Timestamp>> {
        self.read(CancellationToken::new(), move |opened, session| {
            opened.oldest_after(&session.connection, after)
        })
        .await
    }

    async fn count(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<RangeCount> {
        let Table { uid, from, size, .. } = &self.opened.table;
        let bytes = size.as_ref().map_or("NULL".to_owned(), |size| {
            format!(
                "coalesce(sum({size}) FILTER (WHERE typeof({size}) = 'integer' \
                 AND {size} BETWEEN 0 AND {LARGEST_SIZE}), 0)"
            )
        });
        let sql = format!(
            "SELECT count(*), {bytes} FROM {from} WHERE {} AND {uid} IS NOT NULL",
            self.opened.table.in_range(),
        );
        let action = format!("counting rows of {from}");
        let [files, bytes] = self.figures(action, sql, after, until).await?;
        Ok(RangeCount { files: files.unwrap_or_default(), bytes })
    }

    async fn count_files(&self, after: Option<Timestamp>, until: Option<Timestamp>) -> Result<u64> {
        let table = &self.opened.table;
        let action = format!("counting rows of {}", table.from);
        let [files] = self.figures(action, table.count_sql(), after, until).await?;
        Ok(files.unwrap_or_default())
    }

    async fn unplaceable(&self) -> Result<Unplaceable> {
        let Table { uid, created_at, from, .. } = &self.opened.table;
        let action = format!("counting the rows of {from} that no window can hold");
        let sql = format!(
            "SELECT count(*) FILTER (WHERE {uid} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND {created_at} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND NOT ({})) FROM {from}",
            self.opened.table.in_range()
        );
        let figures = self.figures(action, sql, None, None).await?;
        let [null_uid, null_created_at, out_of_range] = figures.map(Option::unwrap_or_default);
        Ok(Unplaceable { null_uid, null_created_at, out_of_range })
    }

    async fn scan(&self, window: Window, batches: mpsc::Sender<RowBatch>) -> Result<()> {
        let unwanted = CancellationToken::new();
        let receiver = batches.clone();
        let opened = Arc::clone(&self.opened);
        let scan = move |session: &Session| {
            let form = opened.form(&session.connection)?;
            scan::scan(session, &opened.table, form, window, batches)
        };
        let mut reading = pin!(self.scanning.within(&self.opened.file, unwanted.clone(), scan));
        // The receiver may also go while SQLite looks for the next row.
        tokio::select! {
            biased;
            outcome = &mut reading => outcome,
            () = receiver.closed() => {
                unwanted.cancel();
                let _ = timeout(CLOSE_LIMIT, reading).await;
                Ok(())
            }
        }
    }

    /// SQLite cannot say.
    async fn oldest_transaction(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn measure(&self, check: LoadCheck<'_>) -> Result<f64> {
        let LoadCheck::Query(query) = check else {
            return Err(BackendError::Invalid {
                what: format!(
                    "{}: SQLite knows of no standbys and no connections; of what is asked, only a \
                     query can be",
                    self.opened.file.database
                ),
            });
        };
        let sql = format!("SELECT * FROM (\n{}\n) LIMIT {LOAD_ROWS}", bare(query));
        let reading = self.read(CancellationToken::new(), move |opened, session| {
            let action = format!("{}: running the throttle query", opened.file.database);
            largest(&action, rows::first_column(&session.connection, &action, &sql)?.into_iter())
        });
        let action = format!("{}: running the throttle query", self.opened.file.database);
        // What is dropped is interrupted.
        timeout(LOAD_LIMIT, reading)
            .await
            .unwrap_or_else(|_elapsed| Err(no_answer(&action, LOAD_LIMIT)))
    }

    /// Reads the whole table: for the sizes, and for the form, unless the file is as it was when
    /// it was opened.
    async fn inspect(&self) -> Result<CatalogReport> {
        self.read(CancellationToken::new(), |opened, session| opened.inspect(&session.connection))
            .await
    }
}
