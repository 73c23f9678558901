//! Rows of the ledger's tables, read into the port's values.

use std::time::Duration;

use protocol::{
    Digest, FailedRow, FailureReason, NBits, Revision, Tally, Timestamp, Window, WindowKey,
};
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::types::Type;
use sqlx::{Decode, Postgres, Row, Sqlite};

use super::throttle::NO_SUCH_LIMIT;
use super::{
    AcceptedReceipt, ArchiveRecord, AuditEntry, AuditRecord, ErrorRow, ListedError, ListedPass,
    LiveLimits, Look, Override, PartitionCounts, PartitionRecord, Pause, Purpose, ReasonCount,
    Scope, SyncPosition, Throttle, Wait, WatermarkRow, WindowRecord, WindowState, WindowTotals,
};
use crate::error::{BackendError, Result};

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800 * 1_000_000;

/// A row of either database.
pub enum Record {
    /// Of PostgreSQL.
    Postgres(PgRow),
    /// Of SQLite.
    Sqlite(SqliteRow),
}

/// An answer that makes no sense.
pub(super) fn nonsense(what: &str) -> BackendError {
    BackendError::Failed { what: "the ledger cannot be read".to_owned(), cause: what.into() }
}

fn invalid(column: &str, value: impl std::fmt::Display, rule: &str) -> BackendError {
    BackendError::Invalid {
        what: format!("the ledger's column {column} holds `{value}`, which is not {rule}"),
    }
}

impl Record {
    fn get<'r, T>(&'r self, column: &'static str) -> Result<T>
    where
        T: Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let value = match self {
            Self::Postgres(row) => row.try_get(column),
            Self::Sqlite(row) => row.try_get(column),
        };
        value.map_err(|error| unreadable(column, error))
    }

    /// A text.
    pub(super) fn text(&self, column: &'static str) -> Result<String> {
        self.get(column)
    }

    /// A text or NULL.
    pub(super) fn opt_text(&self, column: &'static str) -> Result<Option<String>> {
        self.get(column)
    }

    /// Bytes.
    pub(super) fn bytes(&self, column: &'static str) -> Result<Vec<u8>> {
        self.get(column)
    }

    /// A text that another type reads.
    pub(super) fn parsed<T: TryFrom<String>>(&self, column: &'static str) -> Result<T>
    where
        T::Error: std::fmt::Display,
    {
        T::try_from(self.text(column)?).map_err(|error| unfit(column, error))
    }

    /// An integer of any width or NULL. PostgreSQL's times read as integers too.
    fn opt_int(&self, column: &'static str) -> Result<Option<i64>> {
        let value = match self {
            Self::Postgres(row) => row.try_get_unchecked(column),
            Self::Sqlite(row) => row.try_get_unchecked(column),
        };
        value.map_err(|error| unreadable(column, error))
    }

    /// A number that fits the type asked for.
    pub(super) fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T> {
        let value = self.opt_int(column)?.ok_or_else(|| invalid(column, "NULL", "a number"))?;
        T::try_from(value).map_err(|_| invalid(column, value, "in its range"))
    }

    /// A number that fits the type asked for, or NULL.
    fn opt_number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<T>> {
        match self.opt_int(column)? {
            Some(_) => self.number(column).map(Some),
            None => Ok(None),
        }
    }

    /// A time or NULL.
    pub(super) fn opt_time(&self, column: &'static str) -> Result<Option<Timestamp>> {
        let Some(value) = self.opt_int(column)? else { return Ok(None) };
        // The driver's own conversion panics on `infinity`, which is the largest integer.
        let micros = match self {
            Self::Postgres(_) => value.checked_add(POSTGRES_EPOCH_MICROS),
            Self::Sqlite(_) => Some(value),
        };
        match micros.and_then(Timestamp::from_micros) {
            Some(time) => Ok(Some(time)),
            None => Err(invalid(column, value, "a time in the years 0001 to 9999")),
        }
    }

    /// A time.
    pub(super) fn time(&self, column: &'static str) -> Result<Timestamp> {
        self.opt_time(column)?.ok_or_else(|| invalid(column, "NULL", "a time"))
    }

    /// A time in a column that people read.
    pub(super) fn date(&self, column: &'static str) -> Result<Timestamp> {
        match self {
            Self::Postgres(_) => self.time(column),
            Self::Sqlite(_) => self.text(column)?.parse().map_err(|error| unfit(column, error)),
        }
    }

    /// A list of texts.
    fn texts(&self, column: &'static str) -> Result<Vec<String>> {
        match self {
            Self::Postgres(row) => row.try_get(column).map_err(|error| unreadable(column, error)),
            Self::Sqlite(_) => {
                serde_json::from_str(&self.text(column)?).map_err(|error| unfit(column, error))
            }
        }
    }

    fn tally(&self) -> Result<Tally> {
        let digest: Digest =
            self.text("digest")?.parse().map_err(|error| unfit("digest", error))?;
        Ok(Tally { rows: self.number("row_count")?, digest })
    }

    /// The columns `window_end` and `revision`.
    pub(super) fn window_key(&self) -> Result<WindowKey> {
        let revision: Revision = self.number("revision")?;
        Ok(WindowKey { end: self.time("window_end")?, revision })
    }

    /// A row of `des_windows`.
    pub(super) fn window(&self) -> Result<WindowRecord> {
        let key = self.window_key()?;
        let window = Window::new(self.time("window_start")?, key.end)
            .map_err(|error| unfit("window_end", error))?;
        let state = self.text("state")?;
        Ok(WindowRecord {
            window,
            revision: key.revision,
            state: WindowState::from_text(&state)
                .ok_or_else(|| invalid("state", state, "a state of a window"))?,
            rows: self.tally()?,
            replaces: self.texts("replaces")?,
            totals: WindowTotals {
                files_archived: self.number("files_archived")?,
                files_failed: self.number("files_failed")?,
                shards: self.number("shards")?,
                bytes_raw: self.number("bytes_raw")?,
                bytes_stored: self.number("bytes_stored")?,
            },
            certificate: self.opt_text("certificate")?,
            purpose: match self.opt_text("purpose")? {
                Some(purpose) => Purpose::from_text(&purpose)
                    .ok_or_else(|| invalid("purpose", purpose, "what a pass is for"))?,
                None if key.revision == 0 => Purpose::Scan,
                None => Purpose::Replay,
            },
            findings: self.opt_text("findings")?,
            released: self.opt_number("released")?,
            splits_before: self.number("splits_before")?,
            state_since: self.opt_time("state_since")?,
            partition_rows: self.opt_number("partition_rows")?,
        })
    }

    /// A row of `des_windows` with its times, without its partitions.
    pub(super) fn listed_pass(&self) -> Result<ListedPass> {
        let record = self.window()?;
        let (planned_at, in_state) = (self.opt_time("planned_at")?, record.state_since);
        let since = match record.state {
            WindowState::Committed => self.opt_time("committed_at")?,
            _ => in_state,
        };
        // A pass that was never held has been open since it was planned, and in no other state.
        let was_held = record.state == WindowState::Held || planned_at != in_state;
        let partitions = PartitionCounts::default();
        Ok(ListedPass { record, planned_at, since, was_held, partitions })
    }

    /// A row of `des_looks` beside one of `des_windows`.
    pub(super) fn look(&self) -> Result<Look> {
        let key = self.window_key()?;
        let catalog = match self.opt_text("digest")? {
            Some(_) => Some(self.tally()?),
            None => None,
        };
        Ok(Look {
            window: Window::new(self.time("window_start")?, key.end)
                .map_err(|error| unfit("window_end", error))?,
            revision: key.revision,
            looked_at: self.time("looked_at")?,
            catalog,
            rechecked: self.opt_time("rechecked_at")?.is_some(),
            findings: self.opt_text("findings")?,
        })
    }

    /// A row of `des_partitions`.
    pub(super) fn partition(&self) -> Result<PartitionRecord> {
        let accepted = match self.opt_text("receipt")? {
            Some(receipt) => Some(AcceptedReceipt {
                receipt,
                receipt_size: self.number("receipt_size")?,
                files_failed: self.number("files_failed")?,
            }),
            None => None,
        };
        Ok(PartitionRecord {
            partition: self.number("partition")?,
            manifest: self.text("manifest")?,
            manifest_size: self.number("manifest_size")?,
            first_row: self.opt_number("first_row")?,
            rows: self.tally()?,
            setbacks: self.number("setbacks")?,
            attempts: self.number("attempts")?,
            interruptions: self.number("interruptions")?,
            not_before: self.opt_time("not_before")?,
            trouble: self.opt_text("trouble_class")?.zip(self.opt_text("trouble_detail")?),
            first_look: match self.opt_text("first_look")? {
                Some(_) => Some(self.parsed("first_look")?),
                None => None,
            },
            under_way_by: match self.opt_text("under_way_by")? {
                Some(_) => Some(self.parsed("under_way_by")?),
                None => None,
            },
            accepted,
        })
    }

    /// A row of `des_archives`.
    pub(super) fn archive(&self) -> Result<ArchiveRecord> {
        let n_bits: u8 = self.number("n_bits")?;
        Ok(ArchiveRecord {
            archive: self.parsed("archive_id")?,
            n_bits: NBits::new(n_bits).map_err(|error| unfit("n_bits", error))?,
            origin: self.time("origin")?,
            settled_until: self.time("settled_until")?,
        })
    }

    /// A row of `des_archive_config`.
    pub(super) fn watermark(&self) -> Result<WatermarkRow> {
        Ok(WatermarkRow {
            archived_until: self.date("archived_until")?,
            lag_days: self.number("lag_days")?,
        })
    }

    /// A row of `des_pauses`.
    pub(super) fn pause(&self) -> Result<Pause> {
        Ok(Pause {
            scope: Scope::of(&self.text("job")?),
            since: self.time("paused_at")?,
            actor: self.text("actor")?,
            reason: self.text("reason")?,
            until: self.opt_time("until_time")?,
        })
    }

    /// A row of `des_synced`.
    pub(super) fn sync_position(&self) -> Result<SyncPosition> {
        Ok(SyncPosition {
            partitions: self.number("partitions")?,
            marked: self.number("marked")?,
            finished: self.opt_time("finished_at")?.is_some(),
        })
    }

    /// A row of `des_throttles`.
    pub(super) fn throttle(&self) -> Result<Throttle> {
        let number = |column, off| -> Result<Override<u64>> {
            Ok(match self.opt_int(column)? {
                None => Override::Unsaid,
                Some(number) if number == off => Override::Off,
                Some(_) => Override::To(self.number(column)?),
            })
        };
        let text = |column| -> Result<Override<String>> {
            Ok(match self.opt_text(column)? {
                None => Override::Unsaid,
                Some(text) if text.is_empty() => Override::Off,
                Some(text) => Override::To(text),
            })
        };
        Ok(Throttle {
            scope: Scope::of(&self.text("job")?),
            since: self.time("set_at")?,
            actor: self.text("actor")?,
            reason: self.text("reason")?,
            limits: LiveLimits {
                files_per_second: number("files_per_second", 0)?,
                bytes_per_second: number("bytes_per_second", 0)?,
                not_between: text("not_between")?,
                query: text("query")?,
                max_replication_lag: number("max_replication_lag", NO_SUCH_LIMIT)?
                    .map(Duration::from_micros),
                max_active_connections: number("max_active_connections", NO_SUCH_LIMIT)?,
            },
        })
    }

    /// What the leader waits for: columns of `des_archives`.
    pub(super) fn wait(&self) -> Result<Wait> {
        Ok(Wait {
            kind: self.text("wait_kind")?,
            reason: self.text("wait_reason")?,
            since: self.time("wait_since")?,
        })
    }

    /// A row of `des_audit_log`.
    pub(super) fn audit(&self) -> Result<AuditRecord> {
        Ok(AuditRecord {
            at: self.time("at")?,
            entry: AuditEntry {
                actor: self.text("actor")?,
                action: self.text("action")?,
                from: self.opt_text("from_value")?,
                to: self.opt_text("to_value")?,
                reason: self.opt_text("reason")?,
            },
        })
    }

    /// A row of `des_migration_errors`.
    pub(super) fn error(&self) -> Result<ErrorRow> {
        Ok(ErrorRow {
            failed: FailedRow {
                uid: self.text("uid")?,
                created_at: self.date("created_at")?,
                location: self.opt_text("file_location")?,
                reason: reason(&self.text("reason")?)?,
                detail: self.text("detail")?,
            },
            window: self.window_key()?,
            resolved_at: self.opt_time("resolved_at")?,
        })
    }
}

impl Record {
    /// A row of `des_migration_errors` in a list.
    pub(super) fn listed_error(&self) -> Result<ListedError> {
        let (number, recorded_at) = (self.number("id")?, self.time("recorded_at")?);
        Ok(ListedError { number, recorded_at, row: self.error()? })
    }

    /// Error rows of one reason, counted.
    pub(super) fn reason_count(&self) -> Result<ReasonCount> {
        Ok(ReasonCount {
            reason: reason(&self.text("reason")?)?,
            unresolved: self.number("unresolved")?,
            resolved: self.number("resolved")?,
        })
    }
}

/// Reads what [`FailureReason::as_str`] gives.
fn reason(text: &str) -> Result<FailureReason> {
    use serde::de::value::{Error, StrDeserializer};

    let deserializer: StrDeserializer<'_, Error> =
        serde::de::IntoDeserializer::into_deserializer(text);
    FailureReason::deserialize(deserializer).map_err(|error| unfit("reason", error))
}

fn unreadable(column: &str, error: sqlx::Error) -> BackendError {
    BackendError::Failed {
        what: format!("the ledger's column {column} cannot be read"),
        cause: error.into(),
    }
}

pub(super) fn unfit(column: &str, error: impl std::fmt::Display) -> BackendError {
    BackendError::Invalid { what: format!("the ledger's column {column} is damaged: {error}") }
}
