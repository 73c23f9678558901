//! What operators do and read: replays, moving the watermark, the audit log, error rows.

use protocol::ident::MAX_REVISION;
use protocol::names::parse_certificate;
use protocol::{Job, Timestamp, Window, WindowKey};

use super::record::{Record, nonsense};
use super::scope::ALL_JOBS;
use super::session::{Param, Session};
use super::{
    Adjustment, AuditEntry, AuditRecord, ErrorRow, Lease, Purpose, WindowRecord, WindowState,
    lease, looks, watermark, windows,
};
use crate::error::{BackendError, Result};

/// Records the next revision of the window that ends at `end` as requested, unless one is
/// already under way; who asked, where that is to be said, is written down either way.
pub(super) async fn request_pass<S: Session>(
    session: &mut S,
    job: &Job,
    (end, purpose): (Timestamp, Purpose),
    audit: Option<&AuditEntry>,
) -> Result<WindowRecord> {
    lease::lock(session, job).await?;
    let passes = windows::ending_at(session, job, end).await?;
    let is_committed = |pass: &&WindowRecord| pass.state == WindowState::Committed;
    let Some(last) = passes.iter().rfind(is_committed) else {
        return Err(BackendError::NotFound {
            what: format!("no window of job `{job}` that ends at {end} is committed"),
        });
    };
    if let Some(under_way) = passes.iter().find(|pass| pass.revision > last.revision) {
        if let Some(audit) = audit {
            append_audit(session, job, audit).await?;
        }
        return Ok(under_way.clone());
    }
    if last.revision >= MAX_REVISION {
        return Err(BackendError::Invalid {
            what: format!("window {} of job `{job}` has no revision left", last.key()),
        });
    }
    let next = windows::without_rows(last.window, last.revision + 1);
    let key = WindowKey::new(next.window, next.revision);
    windows::insert(session, job, (&next, windows::NO_ROWS), WindowState::Requested).await?;
    looks::add_pass(session, job, key, purpose).await?;
    if let Some(audit) = audit {
        append_audit(session, job, audit).await?;
    }
    match windows::find(session, job, key).await? {
        Some(requested) => Ok(requested),
        None => Err(nonsense("the requested window vanished while it was recorded")),
    }
}

/// Moves the watermark at an operator's word.
pub(super) async fn adjust<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    lease: &Lease,
    adjustment: &Adjustment,
) -> Result<()> {
    let Adjustment { from, to, skip, audit } = adjustment;
    lease::require(session, job, lease).await?;
    watermark::require_at(session, config_id, *from).await?;
    let Some(archive) = watermark::archive(session, job).await? else {
        return Err(BackendError::NotFound {
            what: format!("job `{job}` has no archive in the ledger; run `des init` first"),
        });
    };
    lease::release(session, job, lease).await?;
    looks::delete_uncommitted(session, job).await?;
    windows::delete_uncommitted(session, job).await?;
    if let Some((window, certificate)) = skip {
        record_skip(session, job, *window, certificate).await?;
    }
    watermark::set(session, config_id, *to, &audit.actor).await?;
    let update = "UPDATE des_archives SET settled_until = $2, origin = $3, \
                  stuck_end = NULL, stuck_reason = NULL WHERE job = $1";
    let origin = archive.origin.min(*to);
    let params = [Param::Text(job.as_str()), Param::Time(*to), Param::Time(origin)];
    session.execute(update, &params).await?;
    append_audit(session, job, audit).await
}

/// Records a certificate of skipping over a window as a committed window of zero rows, with the
/// revision that its name carries.
async fn record_skip<S: Session>(
    session: &mut S,
    job: &Job,
    window: Window,
    certificate: &str,
) -> Result<()> {
    let refused = |why: String| BackendError::Invalid {
        what: format!("the skip certificate {certificate} cannot be recorded: {why}"),
    };
    let end = window.end();
    let name = parse_certificate(certificate)
        .filter(|name| name.window.end == end)
        .ok_or_else(|| refused(format!("its name is not that of a window that ends at {end}")))?;
    if windows::find(session, job, name.window).await?.is_some() {
        return Err(refused(format!("window {} is in the ledger already", name.window)));
    }
    let overlapping = "SELECT window_end FROM des_windows WHERE job = $1 AND state = 'committed' \
                       AND window_end > $2 AND window_start < $3 LIMIT 1";
    let params =
        [Param::Text(job.as_str()), Param::Time(window.start()), Param::Time(window.end())];
    if let Some(row) = session.fetch_optional(overlapping, &params).await? {
        let end = row.time("window_end")?;
        return Err(refused(format!("it lies over the committed window that ends at {end}")));
    }
    let skipped = windows::without_rows(window, name.window.revision);
    windows::insert(session, job, (&skipped, windows::NO_ROWS), WindowState::Open).await?;
    let update = "UPDATE des_windows SET state = 'committed', certificate = $4, \
                  committed_at = $5 WHERE job = $1 AND window_end = $2 AND revision = $3";
    let now = session.now().await?;
    let [job, end, revision] = windows::key_params(job, name.window);
    let params = [job, end, revision, Param::Text(certificate), Param::Time(now)];
    session.execute(update, &params).await?;
    Ok(())
}

/// Appends to the audit log.
pub(super) async fn append_audit<S: Session>(
    session: &mut S,
    job: &Job,
    entry: &AuditEntry,
) -> Result<()> {
    append_audit_of(session, job.as_str(), entry).await
}

/// Appends to the audit log of a job, or of all jobs: see [`super::Scope`].
pub(super) async fn append_audit_of<S: Session>(
    session: &mut S,
    key: &str,
    entry: &AuditEntry,
) -> Result<()> {
    let insert = "INSERT INTO des_audit_log (at, job, actor, action, from_value, to_value, \
                  reason) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let now = session.now().await?;
    let params = [
        Param::Time(now),
        Param::Text(key),
        Param::Text(&entry.actor),
        Param::Text(&entry.action),
        Param::OptText(entry.from.as_deref()),
        Param::OptText(entry.to.as_deref()),
        Param::OptText(entry.reason.as_deref()),
    ];
    session.execute(insert, &params).await?;
    Ok(())
}

/// The newest entries of the audit log, newest first, also those that are about all jobs.
pub(super) async fn audit_log<S: Session>(
    session: &mut S,
    job: &Job,
    limit: u32,
) -> Result<Vec<AuditRecord>> {
    let select = "SELECT at, actor, action, from_value, to_value, reason FROM des_audit_log \
                  WHERE job IN ($1, $2) ORDER BY id DESC LIMIT $3";
    let params = [Param::Text(job.as_str()), Param::Text(ALL_JOBS), Param::Int(limit.into())];
    session.fetch(select, &params).await?.iter().map(Record::audit).collect()
}

/// Number of unresolved error rows.
pub(super) async fn count_errors<S: Session>(session: &mut S, job: &Job) -> Result<u64> {
    let select = "SELECT count(*) AS unresolved FROM des_migration_errors \
                  WHERE job = $1 AND resolved_at IS NULL";
    match session.fetch_optional(select, &[Param::Text(job.as_str())]).await? {
        Some(row) => row.number("unresolved"),
        None => Err(nonsense("counting gave no answer")),
    }
}

/// Number of unresolved error rows by reason, the most frequent first.
pub(super) async fn errors_by_reason<S: Session>(
    session: &mut S,
    job: &Job,
) -> Result<Vec<(String, u64)>> {
    let select = "SELECT reason, count(*) AS files FROM des_migration_errors \
                  WHERE job = $1 AND resolved_at IS NULL \
                  GROUP BY reason ORDER BY count(*) DESC, reason";
    let rows = session.fetch(select, &[Param::Text(job.as_str())]).await?;
    rows.iter().map(|row| Ok((row.text("reason")?, row.number("files")?))).collect()
}

/// Number of unresolved error rows of the window that ends at `end`.
pub(super) async fn count_errors_of<S: Session>(
    session: &mut S,
    job: &Job,
    end: Timestamp,
) -> Result<u64> {
    let select = "SELECT count(*) AS unresolved FROM des_migration_errors \
                  WHERE job = $1 AND window_end = $2 AND resolved_at IS NULL";
    let params = [Param::Text(job.as_str()), Param::Time(end)];
    match session.fetch_optional(select, &params).await? {
        Some(row) => row.number("unresolved"),
        None => Err(nonsense("counting gave no answer")),
    }
}

/// Ends of windows that have unresolved error rows.
pub(super) async fn windows_with_errors<S: Session>(
    session: &mut S,
    job: &Job,
) -> Result<Vec<Timestamp>> {
    let select = "SELECT DISTINCT window_end FROM des_migration_errors \
                  WHERE job = $1 AND resolved_at IS NULL ORDER BY window_end";
    let rows = session.fetch(select, &[Param::Text(job.as_str())]).await?;
    rows.iter().map(|row| row.time("window_end")).collect()
}

/// Unresolved error rows in the order they were recorded.
pub(super) async fn errors<S: Session>(
    session: &mut S,
    job: &Job,
    limit: u32,
) -> Result<Vec<ErrorRow>> {
    let select = "SELECT uid, created_at, file_location, reason, detail, window_end, revision, \
                  resolved_at FROM des_migration_errors \
                  WHERE job = $1 AND resolved_at IS NULL ORDER BY id LIMIT $2";
    let params = [Param::Text(job.as_str()), Param::Int(limit.into())];
    session.fetch(select, &params).await?.iter().map(Record::error).collect()
}
