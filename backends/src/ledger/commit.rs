//! The commit of a window: the one place where the watermark moves forward over files.

use std::collections::HashSet;

use protocol::{FailedRow, Job, Timestamp, WindowKey};
use sqlx::AssertSqlSafe;

use super::session::{Param, Session};
use super::windows::{self, INSERT_ROWS, insert_sql, key_params};
use super::{Lease, WindowCommit, WindowState, WindowTotals, lease, looks, watermark};
use crate::error::{BackendError, Result};
use crate::sabotage;

/// Commits a window, in the transaction that `session` is in.
///
/// The order matters: the lease row is locked first, so that of two coordinators the second sees
/// what the first did.
pub(super) async fn commit<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    lease: &Lease,
    commit: &WindowCommit,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let key = WindowKey::new(commit.window, commit.revision);
    let known = windows::find(session, job, key).await?;
    let Some(certificate) = &commit.certificate else {
        if known.is_some_and(|known| known.state == WindowState::Committed) {
            return Err(committed_otherwise(job, key));
        }
        windows::delete(session, job, key).await?;
        looks::delete_pass(session, job, key).await?;
        let findings = commit.findings.as_deref();
        match (commit.scanned, findings) {
            (Some(scanned), _) => looks::record(session, job, key, scanned, findings).await?,
            (None, Some(findings)) => looks::record_findings(session, job, key, findings).await?,
            (None, None) => {}
        }
        return advance(session, (job, config_id), lease, commit).await;
    };
    let rows = known.as_ref().map(|known| known.rows);
    match known {
        Some(known) if known.state == WindowState::Committed => {
            return match known.certificate == commit.certificate {
                true => Ok(()),
                false => Err(committed_otherwise(job, key)),
            };
        }
        Some(known) if known.window == commit.window && known.state != WindowState::Requested => {}
        _ => {
            return Err(BackendError::NotFound {
                what: format!(
                    "window {} of job `{job}` with revision {} has no manifests in the ledger, so \
                     it cannot be committed",
                    commit.window, commit.revision
                ),
            });
        }
    }
    if !sabotage::is("commit_incomplete") {
        require_all_accepted(session, job, key).await?;
    }
    advance(session, (job, config_id), lease, commit).await?;
    record_failures(session, job, key, &commit.failures).await?;
    let scanned = if key.revision > 0 { looks::scanned(session, job, key).await? } else { rows };
    if let Some(scanned) = scanned {
        looks::record(session, job, key, scanned, commit.findings.as_deref()).await?;
    }
    mark_committed(session, job, key, certificate, commit.totals).await
}

pub(super) fn committed_otherwise(job: &Job, key: WindowKey) -> BackendError {
    BackendError::Conflict {
        what: format!(
            "window {key} of job `{job}` is committed already, with another certificate; nothing \
             was changed"
        ),
    }
}

async fn require_all_accepted<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<()> {
    let select = "SELECT partition FROM des_partitions WHERE job = $1 AND window_end = $2 \
                  AND revision = $3 AND receipt IS NULL ORDER BY partition LIMIT 1";
    match session.fetch_optional(select, &key_params(job, key)).await? {
        None => Ok(()),
        // An operator may have had the window tried again a moment ago.
        Some(row) => Err(BackendError::Conflict {
            what: format!(
                "window {key} of job `{job}` cannot be committed: its partition {} has no \
                 accepted receipt",
                row.number::<u32>("partition")?
            ),
        }),
    }
}

async fn advance<S: Session>(
    session: &mut S,
    place: (&Job, i32),
    lease: &Lease,
    commit: &WindowCommit,
) -> Result<()> {
    match commit.advance_from {
        Some(from) => {
            let stretch = (from, commit.window.end());
            watermark::advance(session, place, stretch, lease.holder.as_str()).await
        }
        None => Ok(()),
    }
}

pub(super) async fn mark_committed<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    certificate: &str,
    totals: WindowTotals,
) -> Result<()> {
    let update = "UPDATE des_windows SET state = 'committed', certificate = $4, \
                  committed_at = $5, files_archived = $6, files_failed = $7, shards = $8, \
                  bytes_raw = $9, bytes_stored = $10 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    let now = session.now().await?;
    let [job, end, revision] = key_params(job, key);
    let params = [
        job,
        end,
        revision,
        Param::Text(certificate),
        Param::Time(now),
        Param::count(totals.files_archived),
        Param::count(totals.files_failed),
        Param::count(totals.shards),
        Param::count(totals.bytes_raw),
        Param::count(totals.bytes_stored),
    ];
    session.execute(update, &params).await?;
    Ok(())
}

/// Adds the failed rows of this pass and settles those of earlier passes over the same window: a
/// pass takes up every row that is not in the archive, so what it did not fail on again is
/// resolved, and what it did is replaced by its newer record.
pub(super) async fn record_failures<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    failures: &[FailedRow],
) -> Result<()> {
    let now = session.now().await?;
    if key.revision > 0 {
        delete_repeated(session, job, key, failures).await?;
        let resolve = "UPDATE des_migration_errors SET resolved_at = $4 WHERE job = $1 \
                       AND window_end = $2 AND revision < $3 AND resolved_at IS NULL";
        let [job, end, revision] = key_params(job, key);
        session.execute(resolve, &[job, end, revision, Param::Time(now)]).await?;
    }
    let [job, end, revision] = key_params(job, key);
    for chunk in failures.chunks(INSERT_ROWS) {
        let sql = insert_sql(
            "des_migration_errors (job, window_end, revision, uid, created_at, file_location, \
             reason, detail, recorded_at)",
            9,
            chunk.len(),
        );
        let mut params = Vec::with_capacity(9 * chunk.len());
        for failed in chunk {
            params.extend([
                job,
                end,
                revision,
                Param::Text(&failed.uid),
                Param::Date(failed.created_at),
                Param::OptText(failed.location.as_deref()),
                Param::Text(failed.reason.as_str()),
                Param::Text(&failed.detail),
                Param::Time(now),
            ]);
        }
        session.execute(AssertSqlSafe(sql), &params).await?;
    }
    Ok(())
}

/// Deletes earlier records of rows that failed again.
///
/// They are told apart here and not by a join, which a planner without statistics on what was
/// inserted a moment ago may well carry out as a nested loop.
async fn delete_repeated<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    failures: &[FailedRow],
) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let again: HashSet<(&str, Timestamp, Option<&str>)> = failures
        .iter()
        .map(|failed| (failed.uid.as_str(), failed.created_at, failed.location.as_deref()))
        .collect();
    let select = "SELECT id, uid, created_at, file_location FROM des_migration_errors \
                  WHERE job = $1 AND window_end = $2 AND revision < $3 AND resolved_at IS NULL";
    let mut ids = Vec::new();
    for row in session.fetch(select, &key_params(job, key)).await? {
        let (uid, location) = (row.text("uid")?, row.opt_text("file_location")?);
        if again.contains(&(uid.as_str(), row.date("created_at")?, location.as_deref())) {
            ids.push(Param::Int(row.number("id")?));
        }
    }
    for chunk in ids.chunks(INSERT_ROWS) {
        let places = (1..=chunk.len()).map(|place| format!("${place}")).collect::<Vec<_>>();
        let delete =
            format!("DELETE FROM des_migration_errors WHERE id IN ({})", places.join(", "));
        session.execute(AssertSqlSafe(delete), chunk).await?;
    }
    Ok(())
}
