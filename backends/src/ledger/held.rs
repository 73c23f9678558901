//! Held windows: let go as they are, or with their failed rows tried again.

use protocol::{Job, WindowKey};

use super::operator::append_audit;
use super::session::{Param, Session};
use super::windows::{find, key_params, partitions};
use super::{AuditEntry, HeldPass, WindowState, lease, splits};
use crate::error::{BackendError, Result};

/// Opens a held window and records how many failed rows it may commit with.
pub(super) async fn release<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    audit: &AuditEntry,
) -> Result<HeldPass> {
    let held = require_held(session, job, key).await?;
    let update = "UPDATE des_windows SET state = 'open', released = $4, state_since = $5 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    let [job_name, end, revision] = key_params(job, key);
    let now = session.now().await?;
    let params = [job_name, end, revision, Param::count(held.files_failed), Param::Time(now)];
    session.execute(update, &params).await?;
    append_audit(session, job, audit).await?;
    Ok(held)
}

/// Opens a held window and takes back what was accepted for partitions with failed rows, which may be
/// split anew. Their attempts get new numbers, so that late answers to the old ones are known as such.
pub(super) async fn retry<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    audit: &AuditEntry,
) -> Result<HeldPass> {
    let held = require_held(session, job, key).await?;
    let splits = splits(&partitions(session, job, key).await?);
    let open = "UPDATE des_windows SET state = 'open', released = NULL, splits_before = $4, state_since = $5 \
                WHERE job = $1 AND window_end = $2 AND revision = $3";
    let reopen = "UPDATE des_partitions SET setbacks = setbacks + 1, attempts = 0, \
                  interruptions = 0, not_before = NULL, trouble_class = NULL, \
                  trouble_detail = NULL, first_look = NULL, under_way_by = NULL, receipt = NULL, receipt_size = NULL, \
                  files_failed = NULL \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND files_failed > 0";
    let [of_job, end, revision] = key_params(job, key);
    let now = session.now().await?;
    let params = [of_job, end, revision, Param::count(splits), Param::Time(now)];
    session.execute(open, &params).await?;
    session.execute(reopen, &[of_job, end, revision]).await?;
    append_audit(session, job, audit).await?;
    Ok(held)
}

/// The window, held, under the lock that keeps a leader from committing it meanwhile.
async fn require_held<S: Session>(session: &mut S, job: &Job, key: WindowKey) -> Result<HeldPass> {
    lease::lock(session, job).await?;
    let state = match find(session, job, key).await? {
        Some(window) if window.state == WindowState::Held => {
            let mut held =
                HeldPass { window: key, rows: window.rows.rows, files_failed: 0, partitions: 0 };
            for partition in partitions(session, job, key).await? {
                let failed = partition.accepted.map_or(0, |accepted| accepted.files_failed);
                held.files_failed += failed;
                held.partitions += u32::from(failed > 0);
            }
            return Ok(held);
        }
        Some(window) => window.state.as_str(),
        None => "not in the ledger",
    };
    Err(BackendError::Conflict {
        what: format!("window {key} of job `{job}` is {state}, not held; nothing was changed"),
    })
}
