//! Lists for people, page by page and the newest first: passes over windows, and error rows.

use std::collections::HashMap;

use protocol::{FailureReason, Job, Timestamp, WindowKey};
use sqlx::AssertSqlSafe;

use super::record::Record;
use super::session::{Param, Session};
use super::windows::select_windows;
use super::{ErrorRow, WindowRecord};
use crate::error::Result;

/// Which passes to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassQuery {
    /// Windows that end at or after this time.
    pub from: Option<Timestamp>,
    /// Windows that start before this time.
    pub until: Option<Timestamp>,
    /// Passes that come before this one: the last of the page before.
    pub before: Option<WindowKey>,
    /// How many at most.
    pub limit: u32,
}

/// One pass over one window, with times and what its partitions add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPass {
    /// The pass.
    pub record: WindowRecord,
    /// When planning it began; `None` while it is requested, or where nobody wrote it down.
    pub planned_at: Option<Timestamp>,
    /// Since when it has been in its state; `None` where nobody wrote it down.
    pub since: Option<Timestamp>,
    /// Whether it was held on its way.
    pub was_held: bool,
    /// Its partitions.
    pub partitions: PartitionCounts,
}

/// Partitions of a pass, by what is to come of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// All of them.
    pub all: u64,
    /// Those with an accepted receipt.
    pub accepted: u64,
    /// Those that wait to be tried again.
    pub backing_off: u64,
    /// Rows that failed in accepted ones.
    pub files_failed: u64,
}

/// Which error rows to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorQuery {
    /// Those of this reason.
    pub reason: Option<FailureReason>,
    /// Those of the window that ends at this time.
    pub window: Option<Timestamp>,
    /// Also those that a later pass settled.
    pub resolved: bool,
}

/// An error row in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedError {
    /// Grows with every row that is recorded.
    pub number: i64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The row.
    pub row: ErrorRow,
}

/// Error rows of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason.
    pub reason: FailureReason,
    /// Rows that are not in the archive.
    pub unresolved: u64,
    /// Rows that a later pass settled.
    pub resolved: u64,
}

/// A page of passes.
pub(super) async fn passes<S: Session>(
    session: &mut S,
    job: &Job,
    query: PassQuery,
) -> Result<Vec<ListedPass>> {
    const SELECT: &str = select_windows!(
        ", w.planned_at, w.committed_at",
        "w.window_end >= $2 AND w.window_start < $3 \
         AND w.window_end <= $4 AND (w.window_end < $4 OR w.revision < $5)",
        " ORDER BY w.window_end DESC, w.revision DESC LIMIT $6"
    );
    let (end, revision) = match query.before {
        Some(before) => (before.end, i64::from(before.revision)),
        None => (Timestamp::MAX, i64::MAX),
    };
    let params = [
        Param::Text(job.as_str()),
        Param::Time(query.from.unwrap_or(Timestamp::MIN)),
        Param::Time(query.until.unwrap_or(Timestamp::MAX)),
        Param::Time(end),
        Param::Int(revision),
        Param::Int(query.limit.into()),
    ];
    let rows = session.fetch(SELECT, &params).await?;
    let mut listed: Vec<_> = rows.iter().map(Record::listed_pass).collect::<Result<_>>()?;
    let ends = (listed.last(), listed.first());
    if let (Some(oldest), Some(newest)) = ends {
        let between = (oldest.record.window_end(), newest.record.window_end());
        let mut counts = count_partitions(session, job, between).await?;
        for pass in &mut listed {
            pass.partitions = counts.remove(&pass.record.key()).unwrap_or_default();
        }
    }
    Ok(listed)
}

/// Partitions of the passes over windows that end between two times, both included.
async fn count_partitions<S: Session>(
    session: &mut S,
    job: &Job,
    (oldest, newest): (Timestamp, Timestamp),
) -> Result<HashMap<WindowKey, PartitionCounts>> {
    let select = "SELECT window_end, revision, count(*) AS parts, count(receipt) AS accepted, \
                  CAST(coalesce(sum(files_failed), 0) AS BIGINT) AS failed, \
                  count(CASE WHEN receipt IS NULL AND not_before > $4 THEN 1 END) AS backing_off \
                  FROM des_partitions \
                  WHERE job = $1 AND window_end >= $2 AND window_end <= $3 \
                  GROUP BY window_end, revision";
    let now = session.now().await?;
    let params =
        [Param::Text(job.as_str()), Param::Time(oldest), Param::Time(newest), Param::Time(now)];
    let rows = session.fetch(select, &params).await?;
    let counts = rows.iter().map(|row| {
        let counts = PartitionCounts {
            all: row.number("parts")?,
            accepted: row.number("accepted")?,
            backing_off: row.number("backing_off")?,
            files_failed: row.number("failed")?,
        };
        Ok((row.window_key()?, counts))
    });
    counts.collect()
}

/// What the condition of an [`ErrorQuery`] is in SQL, with its parameters.
struct ErrorCondition<'a> {
    sql: String,
    params: Vec<Param<'a>>,
}

impl<'a> ErrorCondition<'a> {
    fn new(job: &'a Job, query: &ErrorQuery) -> Self {
        let mut condition =
            Self { sql: "job = $1".to_owned(), params: vec![Param::Text(job.as_str())] };
        if let Some(reason) = query.reason {
            condition.and("reason =", Param::Text(reason.as_str()));
        }
        if let Some(end) = query.window {
            condition.and("window_end =", Param::Time(end));
        }
        if !query.resolved {
            condition.sql.push_str(" AND resolved_at IS NULL");
        }
        condition
    }

    fn and(&mut self, what: &'static str, value: Param<'a>) {
        self.params.push(value);
        self.sql.push_str(&format!(" AND {what} ${}", self.params.len()));
    }
}

/// A page of error rows: those recorded before number `before`.
pub(super) async fn errors<S: Session>(
    session: &mut S,
    job: &Job,
    query: &ErrorQuery,
    (before, limit): (Option<i64>, u32),
) -> Result<Vec<ListedError>> {
    let mut condition = ErrorCondition::new(job, query);
    if let Some(before) = before {
        condition.and("id <", Param::Int(before));
    }
    condition.params.push(Param::Int(limit.into()));
    let select = format!(
        "SELECT id, recorded_at, uid, created_at, file_location, reason, detail, window_end, \
         revision, resolved_at FROM des_migration_errors WHERE {} ORDER BY id DESC LIMIT ${}",
        condition.sql,
        condition.params.len()
    );
    let rows = session.fetch(AssertSqlSafe(select), &condition.params).await?;
    rows.iter().map(Record::listed_error).collect()
}

/// Error rows by reason, the most frequent first.
pub(super) async fn reasons<S: Session>(
    session: &mut S,
    job: &Job,
    query: &ErrorQuery,
) -> Result<Vec<ReasonCount>> {
    let condition = ErrorCondition::new(job, query);
    let select = format!(
        "SELECT reason, count(*) - count(resolved_at) AS unresolved, \
         count(resolved_at) AS resolved FROM des_migration_errors WHERE {} \
         GROUP BY reason ORDER BY count(*) - count(resolved_at) DESC, count(*) DESC, reason",
        condition.sql
    );
    let rows = session.fetch(AssertSqlSafe(select), &condition.params).await?;
    rows.iter().map(Record::reason_count).collect()
}
