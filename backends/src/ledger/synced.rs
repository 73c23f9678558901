//! How far the catalog's own column was brought that says which files are archived: `des_synced`.
//!
//! Nothing is decided by it, and nothing is lost with it: marking again changes nothing. So its rows
//! are written without the lease, by whoever marks.

use protocol::{Job, Timestamp, WindowKey};

use super::WindowRecord;
use super::record::Record;
use super::session::{Param, Session};
use super::windows::{key_params, select_windows};
use crate::error::Result;

/// How far the files of one pass are marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncPosition {
    /// Partitions of its certificate that are done, in row order.
    pub partitions: u64,
    /// Rows of the catalog that were set.
    pub marked: u64,
    /// Whether all partitions are done.
    pub finished: bool,
}

/// Committed passes over windows that end at or before `until`, that come after `after` in the order
/// of end and revision, and are not finished for `target`.
pub(super) async fn passes_to_sync<S: Session>(
    session: &mut S,
    job: &Job,
    target: &str,
    (after, until): (Option<WindowKey>, Timestamp),
    limit: u32,
) -> Result<Vec<WindowRecord>> {
    const SELECT: &str = concat!(
        select_windows!(
            "state = 'committed' AND w.certificate IS NOT NULL AND w.window_end <= $2 \
             AND (w.window_end > $3 OR (w.window_end = $3 AND w.revision > $4)) \
             AND NOT EXISTS (SELECT 1 FROM des_synced s WHERE s.job = w.job AND s.target = $5 \
             AND s.window_end = w.window_end AND s.revision = w.revision \
             AND s.finished_at IS NOT NULL)"
        ),
        " LIMIT $6"
    );
    let (end, revision) =
        after.map_or((Timestamp::MIN, 0), |after| (after.end, i64::from(after.revision)));
    let params = [
        Param::Text(job.as_str()),
        Param::Time(until),
        Param::Time(end),
        Param::Int(revision),
        Param::Text(target),
        Param::Int(limit.into()),
    ];
    session.fetch(SELECT, &params).await?.iter().map(Record::window).collect()
}

/// How far a pass is marked; nothing of it where nobody began.
pub(super) async fn position<S: Session>(
    session: &mut S,
    job: &Job,
    target: &str,
    key: WindowKey,
) -> Result<SyncPosition> {
    let select = "SELECT partitions, marked, finished_at FROM des_synced \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND target = $4";
    let [job, end, revision] = key_params(job, key);
    let params = [job, end, revision, Param::Text(target)];
    let row = session.fetch_optional(select, &params).await?;
    let position = row.as_ref().map(Record::sync_position).transpose()?;
    Ok(position.unwrap_or_default())
}

/// Notes how far a pass is marked.
pub(super) async fn note<S: Session>(
    session: &mut S,
    job: &Job,
    target: &str,
    (key, position): (WindowKey, SyncPosition),
) -> Result<()> {
    let upsert = "INSERT INTO des_synced (job, window_end, revision, target, partitions, marked, \
                  finished_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                  ON CONFLICT (job, target, window_end, revision) DO UPDATE SET \
                  partitions = excluded.partitions, marked = excluded.marked, \
                  finished_at = excluded.finished_at";
    let finished_at = if position.finished { Some(session.now().await?) } else { None };
    let [job, end, revision] = key_params(job, key);
    let params = [
        job,
        end,
        revision,
        Param::Text(target),
        Param::count(position.partitions),
        Param::count(position.marked),
        Param::OptTime(finished_at),
    ];
    session.execute(upsert, &params).await?;
    Ok(())
}

/// Forgets how far everything is marked, so that it is gone through again.
pub(super) async fn forget<S: Session>(session: &mut S, job: &Job, target: &str) -> Result<()> {
    let delete = "DELETE FROM des_synced WHERE job = $1 AND target = $2";
    session.execute(delete, &[Param::Text(job.as_str()), Param::Text(target)]).await?;
    Ok(())
}
