//! Rebuilding: what the store's certificates prove is recorded again, under a lease that was seized
//! for it.

use protocol::{FailedRow, Job, Revision, Tally, Timestamp, Window, WindowKey};

use super::session::{Param, Session};
use super::{
    ArchiveRecord, AuditEntry, Lease, NewWindow, WatermarkRow, WindowState, WindowTotals, commit,
    lease, looks, operator, watermark, windows,
};
use crate::error::{BackendError, Result};

/// A committed pass as its certificate states it, for a ledger that has lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedWindow {
    /// The window.
    pub window: Window,
    /// The pass.
    pub revision: Revision,
    /// Rows of all manifests.
    pub rows: Tally,
    /// Shards of earlier revisions that this pass replaces.
    pub replaces: Vec<String>,
    /// Object name of the certificate.
    pub certificate: String,
    /// When it was written.
    pub certified_at: Timestamp,
    /// What the window holds.
    pub totals: WindowTotals,
    /// Its error rows.
    pub failures: Vec<FailedRow>,
    /// Whether it was skipped over at an operator's word, so that nobody compares it with the
    /// catalog.
    pub skipped: bool,
}

/// The archive as the store proves it, for a ledger that has lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedArchive {
    /// The archive; the watermark will stand at `settled_until`.
    pub record: ArchiveRecord,
    /// Where the watermark stood when it was looked at; `None` for no row.
    pub watermark_before: Option<Timestamp>,
    /// The lag of a watermark row that has to be made.
    pub lag_days: u32,
    /// At least the highest epoch that was ever used: every later lease is above it.
    pub epoch: u64,
    /// The audit row.
    pub audit: AuditEntry,
}

/// Records passes as committed. What is recorded with the same certificate stays as it is.
pub(super) async fn adopt_windows<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    adopted: &[AdoptedWindow],
) -> Result<()> {
    lease::require(session, job, lease).await?;
    for pass in adopted {
        adopt_window(session, job, pass).await?;
    }
    Ok(())
}

async fn adopt_window<S: Session>(session: &mut S, job: &Job, pass: &AdoptedWindow) -> Result<()> {
    let key = WindowKey::new(pass.window, pass.revision);
    match windows::find(session, job, key).await? {
        Some(known) if known.state != WindowState::Committed => {
            windows::delete(session, job, key).await?;
            looks::delete_pass(session, job, key).await?;
        }
        Some(known) if known.certificate.as_deref() == Some(&*pass.certificate) => return Ok(()),
        Some(_) => return Err(commit::committed_otherwise(job, key)),
        None => {}
    }
    let record = NewWindow {
        replaces: pass.replaces.clone(),
        ..windows::without_rows(pass.window, pass.revision)
    };
    windows::insert(session, job, (&record, pass.rows), WindowState::Open).await?;
    commit::record_failures(session, job, key, &pass.failures).await?;
    commit::mark_committed(session, job, key, &pass.certificate, pass.totals).await?;
    let [of_job, end, revision] = windows::key_params(job, key);
    let update = "UPDATE des_windows SET committed_at = $4 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    session.execute(update, &[of_job, end, revision, Param::Time(pass.certified_at)]).await?;
    if pass.skipped || pass.revision > 0 {
        return Ok(());
    }
    looks::adopt(session, job, key.end, pass.rows, pass.certified_at).await
}

/// Records the archive and puts the watermark where its windows end, which ends the rebuilding.
pub(super) async fn adopt_archive<S: Session>(
    session: &mut S,
    (job, config_id): (&Job, i32),
    lease: &Lease,
    adopted: &AdoptedArchive,
) -> Result<()> {
    let AdoptedArchive { record, watermark_before, lag_days, epoch, audit } = adopted;
    lease::require(session, job, lease).await?;
    let known = watermark::archive(session, job).await?;
    let found = watermark::lock(session, config_id).await?;
    if found.map(|row| row.archived_until) != *watermark_before {
        return Err(BackendError::Conflict {
            what: format!(
                "the watermark (des_archive_config row {config_id}) moved since it was looked at; \
                 nothing was changed"
            ),
        });
    }
    match &known {
        Some(other) if other.archive != record.archive || other.n_bits != record.n_bits => {
            return Err(watermark::other_archive(job, other));
        }
        Some(_) => {
            let update = "UPDATE des_archives SET settled_until = $2, origin = $3 WHERE job = $1";
            let params = [
                Param::Text(job.as_str()),
                Param::Time(record.settled_until),
                Param::Time(record.origin),
            ];
            session.execute(update, &params).await?;
        }
        None => watermark::insert_archive(session, (job, config_id), record).await?,
    }
    match found {
        Some(_) => watermark::set(session, config_id, record.settled_until, &audit.actor).await?,
        None => {
            let row = WatermarkRow { archived_until: record.settled_until, lag_days: *lag_days };
            watermark::insert_watermark(session, config_id, row).await?;
        }
    }
    looks::delete_uncommitted(session, job).await?;
    windows::delete_uncommitted(session, job).await?;
    lease::release_above(session, job, lease, *epoch).await?;
    operator::append_audit(session, job, audit).await
}
