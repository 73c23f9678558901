//! The watermark's row and the archive's row: reading, registering, moving.

use protocol::{Job, Timestamp};

use super::record::Record;
use super::session::{Param, Session};
use super::{ArchiveRecord, AuditEntry, Lease, Stuck, WatermarkRow, lease, operator};
use crate::error::{BackendError, Result};

/// The watermark's row, unlocked.
pub(super) async fn read<S: Session>(
    session: &mut S,
    config_id: i32,
) -> Result<Option<WatermarkRow>> {
    let row = session.fetch_optional(S::WATERMARK, &[Param::Int(config_id.into())]).await?;
    row.as_ref().map(Record::watermark).transpose()
}

/// The watermark's row, locked until the transaction ends, so that what is compared with it here
/// is still true when it is moved.
pub(super) async fn lock<S: Session>(
    session: &mut S,
    config_id: i32,
) -> Result<Option<WatermarkRow>> {
    let row = session.fetch_optional(S::LOCK_WATERMARK, &[Param::Int(config_id.into())]).await?;
    row.as_ref().map(Record::watermark).transpose()
}

/// The archive's row.
pub(super) async fn archive<S: Session>(
    session: &mut S,
    job: &Job,
) -> Result<Option<ArchiveRecord>> {
    let select = "SELECT archive_id, n_bits, origin, settled_until FROM des_archives \
                  WHERE job = $1";
    let row = session.fetch_optional(select, &[Param::Text(job.as_str())]).await?;
    row.as_ref().map(Record::archive).transpose()
}

/// Records the archive, and the watermark's row where there is none.
pub(super) async fn register<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    record: &ArchiveRecord,
    watermark: WatermarkRow,
    audit: &AuditEntry,
) -> Result<()> {
    lease::lock(session, job).await?;
    let registered = archive(session, job).await?;
    if let Some(other) = registered.as_ref().filter(|other| *other != record) {
        return Err(other_archive(job, other));
    }
    let existing = lock(session, config_id).await?;
    if let Some(row) = existing.filter(|row| row.archived_until != watermark.archived_until) {
        return Err(BackendError::Conflict {
            what: format!(
                "des_archive_config row {config_id} has the watermark at {}, not at {}",
                row.archived_until, watermark.archived_until
            ),
        });
    }
    if registered.is_none() {
        insert_archive(session, (job, config_id), record).await?;
    }
    if existing.is_none() {
        insert_watermark(session, config_id, watermark).await?;
        stamp(session, config_id, &audit.actor).await?;
    }
    if registered.is_none() || existing.is_none() {
        operator::append_audit(session, job, audit).await?;
    }
    Ok(())
}

pub(super) fn other_archive(job: &Job, other: &ArchiveRecord) -> BackendError {
    BackendError::Conflict {
        what: format!(
            "job `{job}` is registered already with archive `{}` (n_bits {}, origin {}, settled \
             until {})",
            other.archive,
            other.n_bits.get(),
            other.origin,
            other.settled_until
        ),
    }
}

pub(super) async fn insert_archive<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    record: &ArchiveRecord,
) -> Result<()> {
    let insert = "INSERT INTO des_archives \
                  (job, config_id, archive_id, n_bits, origin, settled_until) \
                  VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let params = [
        Param::Text(job.as_str()),
        Param::Int(config_id.into()),
        Param::Text(record.archive.as_str()),
        Param::Int(record.n_bits.get().into()),
        Param::Time(record.origin),
        Param::Time(record.settled_until),
    ];
    if session.execute(insert, &params).await? == 1 {
        return Ok(());
    }
    // The job's own row cannot be in the way, since its lease row is locked: another job's is.
    Err(BackendError::Conflict {
        what: format!(
            "another job uses des_archive_config row {config_id} already; job `{job}` needs a row \
             of its own"
        ),
    })
}

pub(super) async fn insert_watermark<S: Session>(
    session: &mut S,
    config_id: i32,
    watermark: WatermarkRow,
) -> Result<()> {
    let insert = "INSERT INTO des_archive_config (id, archived_until, lag_days) \
                  VALUES ($1, $2, $3)";
    let params = [
        Param::Int(config_id.into()),
        Param::Date(watermark.archived_until),
        Param::Int(watermark.lag_days.into()),
    ];
    session.execute(insert, &params).await?;
    Ok(())
}

/// Moves watermark and `settled_until` together from exactly `from` to `to`.
///
/// # Errors
/// [`BackendError::Conflict`] naming the one that is not at `from`.
pub(super) async fn advance<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    (from, to): (Timestamp, Timestamp),
    actor: &str,
) -> Result<()> {
    require_at(session, config_id, from).await?;
    let update = "UPDATE des_archives SET settled_until = $3 WHERE job = $1 AND settled_until = $2";
    let params = [Param::Text(job.as_str()), Param::Time(from), Param::Time(to)];
    if session.execute(update, &params).await? != 1 {
        let place = archive(session, job).await?.map_or_else(
            || format!("job `{job}` has no archive; run `des init`"),
            |row| format!("job `{job}` is settled until {}, not until {from}", row.settled_until),
        );
        return Err(BackendError::Conflict { what: format!("{place}; nothing was changed") });
    }
    set(session, config_id, to, actor).await
}

/// Locks the watermark's row and refuses when the watermark is not at `from`.
pub(super) async fn require_at<S: Session>(
    session: &mut S,
    config_id: i32,
    from: Timestamp,
) -> Result<()> {
    let place = match lock(session, config_id).await? {
        Some(row) if row.archived_until == from => return Ok(()),
        Some(row) => format!("is at {}", row.archived_until),
        None => "has no row".to_owned(),
    };
    Err(BackendError::Conflict {
        what: format!(
            "the watermark (des_archive_config row {config_id}) {place}, not at {from} where we \
             left it: somebody moved it, so nothing was changed"
        ),
    })
}

/// Sets the watermark, whose row is locked.
pub(super) async fn set<S: Session>(
    session: &mut S,
    config_id: i32,
    to: Timestamp,
    actor: &str,
) -> Result<()> {
    let update = "UPDATE des_archive_config SET archived_until = $2 WHERE id = $1";
    let params = [Param::Int(config_id.into()), Param::Date(to)];
    let rows = session.execute(update, &params).await?;
    if rows != 1 {
        return Err(BackendError::Conflict {
            what: format!(
                "des_archive_config holds {rows} rows with id {config_id} where one is needed"
            ),
        });
    }
    stamp(session, config_id, actor).await
}

/// Keeps the columns `last_updated` and `updated_by` up to date where the user's table has them.
async fn stamp<S: Session>(session: &mut S, config_id: i32, actor: &str) -> Result<()> {
    for extra in session.fetch(S::WATERMARK_EXTRAS, &[]).await? {
        let id = Param::Int(config_id.into());
        if extra.text("name")? == "last_updated" {
            let update = "UPDATE des_archive_config SET last_updated = $2 WHERE id = $1";
            let now = session.now().await?;
            session.execute(update, &[id, Param::Date(now)]).await?;
        } else {
            let update = "UPDATE des_archive_config SET updated_by = $2 WHERE id = $1";
            let actor: String = actor.chars().take(extra.number("width")?).collect();
            session.execute(update, &[id, Param::Text(&actor)]).await?;
        }
    }
    Ok(())
}

/// Records over which window the watermark cannot move, or which pass below it cannot be planned.
pub(super) async fn note_stuck<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    stuck: Option<&Stuck>,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let update = "UPDATE des_archives SET stuck_end = $2, stuck_reason = $3 WHERE job = $1";
    let params = [
        Param::Text(job.as_str()),
        Param::OptTime(stuck.map(|stuck| stuck.end)),
        Param::OptText(stuck.map(|stuck| stuck.reason.as_str())),
    ];
    session.execute(update, &params).await?;
    Ok(())
}

/// What was recorded last, as long as the watermark is below it, or a pass over it is not committed.
pub(super) async fn stuck<S: Session>(session: &mut S, job: &Job) -> Result<Option<Stuck>> {
    let select = "SELECT stuck_end, stuck_reason FROM des_archives \
                  WHERE job = $1 AND stuck_reason IS NOT NULL AND (stuck_end > settled_until \
                  OR EXISTS (SELECT 1 FROM des_windows WHERE des_windows.job = des_archives.job \
                  AND window_end = stuck_end AND state <> 'committed'))";
    match session.fetch_optional(select, &[Param::Text(job.as_str())]).await? {
        Some(row) => {
            Ok(Some(Stuck { end: row.time("stuck_end")?, reason: row.text("stuck_reason")? }))
        }
        None => Ok(None),
    }
}
