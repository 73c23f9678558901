//! The lease row: who may decide, and the lock that every change to a job takes first.

use std::time::Duration;

use protocol::{Job, Timestamp, WorkerId};
use tracing::warn;

use super::record::Record;
use super::session::{Param, Session};
use super::{Lease, LeaseStatus};
use crate::error::{BackendError, Result};
use crate::sabotage;

/// A transaction that waits for its client for as long, when the lease has expired, is not going on.
const STALLED: Duration = Duration::from_millis(500);

/// Locks the job's lease row until the transaction ends, and makes it where there is none: epoch
/// 0, held by nobody.
pub(super) async fn lock<S: Session>(session: &mut S, job: &Job) -> Result<LeaseStatus> {
    if let Some(row) = session.fetch_optional(S::LOCK_LEASE, &[Param::Text(job.as_str())]).await? {
        return status_of(&row);
    }
    let now = session.now().await?;
    let insert = "INSERT INTO des_lease (job, holder, epoch, expires_at) \
                  VALUES ($1, NULL, 0, $2) ON CONFLICT (job) DO NOTHING";
    session.execute(insert, &[Param::Text(job.as_str()), Param::Time(now)]).await?;
    match session.fetch_optional(S::LOCK_LEASE, &[Param::Text(job.as_str())]).await? {
        Some(row) => status_of(&row),
        None => Err(super::record::nonsense("the lease row vanished while it was made")),
    }
}

/// Locks the lease row and refuses when it is not this lease any more. One that has expired but
/// that nobody took is still ours.
///
/// # Errors
/// [`BackendError::Conflict`] naming who holds it.
pub(super) async fn require<S: Session>(session: &mut S, job: &Job, lease: &Lease) -> Result<()> {
    let current = lock(session, job).await?;
    if is_current(lease, &current) || sabotage::is("commit_without_epoch") {
        return Ok(());
    }
    let holder = current.holder.as_ref().map_or("nobody", WorkerId::as_str);
    Err(BackendError::Conflict {
        what: format!(
            "the lease of job `{job}` is no longer ours ({} with epoch {}): it is held by \
             {holder} with epoch {}; another coordinator or an operator took it, so nothing was \
             changed",
            lease.holder, lease.epoch, current.epoch
        ),
    })
}

/// Takes the lease when nobody holds it or it has expired.
///
/// Whoever holds the row may have frozen, or lost its network, in the middle of a transaction. So
/// this does not wait for the row as long as the lease is good, and once it has expired it ends such
/// a transaction first.
pub(super) async fn acquire<S: Session>(
    session: &mut S,
    job: &Job,
    holder: &WorkerId,
    ttl: Duration,
) -> Result<Option<Lease>> {
    let current = match session
        .fetch_optional(S::TRY_LOCK_LEASE, &[Param::Text(job.as_str())])
        .await?
    {
        Some(row) => status_of(&row)?,
        None => {
            let now = session.now().await?;
            let known = status(session, job).await?;
            if known.is_some_and(|known| known.holder.is_some() && now < known.expires_at) {
                return Ok(None);
            }
            let ended = session.end_stalled(job, STALLED.min(ttl / 2)).await?;
            if ended > 0 {
                warn!(ended, "a transaction that held the lease's row and had stalled was ended");
            }
            lock(session, job).await?
        }
    };
    // Read after the lock was had, which may have taken a while.
    let now = session.now().await?;
    if current.holder.is_some() && now < current.expires_at {
        return Ok(None);
    }
    take(session, job, holder, (current.epoch, after(now, ttl))).await.map(Some)
}

/// Takes the lease from whoever holds it.
pub(super) async fn seize<S: Session>(
    session: &mut S,
    job: &Job,
    holder: &WorkerId,
    ttl: Duration,
) -> Result<Lease> {
    let current = lock(session, job).await?;
    let now = session.now().await?;
    take(session, job, holder, (current.epoch, after(now, ttl))).await
}

async fn take<S: Session>(
    session: &mut S,
    job: &Job,
    holder: &WorkerId,
    (epoch, expires_at): (u64, Timestamp),
) -> Result<Lease> {
    let lease = Lease { holder: holder.clone(), epoch: epoch + 1 };
    write(session, job, Some(holder), lease.epoch, expires_at).await?;
    let now = session.now().await?;
    let update = "UPDATE des_lease SET held_since = $2 WHERE job = $1";
    session.execute(update, &[Param::Text(job.as_str()), Param::Time(now)]).await?;
    Ok(lease)
}

/// Prolongs the lease; false when it is no longer ours.
pub(super) async fn renew<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    ttl: Duration,
) -> Result<bool> {
    let ours = is_current(lease, &lock(session, job).await?);
    if ours {
        let now = session.now().await?;
        write(session, job, Some(&lease.holder), lease.epoch, after(now, ttl)).await?;
    }
    Ok(ours)
}

/// Gives the lease back, if it is ours.
pub(super) async fn release<S: Session>(session: &mut S, job: &Job, lease: &Lease) -> Result<()> {
    if is_current(lease, &lock(session, job).await?) {
        let now = session.now().await?;
        write(session, job, None, lease.epoch, now).await?;
    }
    Ok(())
}

/// Gives the lease back, which is ours and locked, with an epoch of at least `epoch`: the next one
/// is above it.
pub(super) async fn release_above<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    epoch: u64,
) -> Result<()> {
    let now = session.now().await?;
    write(session, job, None, lease.epoch.max(epoch), now).await
}

/// The lease row, unlocked; `None` while nobody ever held it.
pub(super) async fn status<S: Session>(session: &mut S, job: &Job) -> Result<Option<LeaseStatus>> {
    let select = "SELECT holder, epoch, expires_at, held_since FROM des_lease WHERE job = $1";
    let Some(row) = session.fetch_optional(select, &[Param::Text(job.as_str())]).await? else {
        return Ok(None);
    };
    let mut status = status_of(&row)?;
    status.since = row.opt_time("held_since")?.filter(|_| status.holder.is_some());
    Ok(Some(status).filter(|status| status.epoch > 0))
}

fn status_of(row: &Record) -> Result<LeaseStatus> {
    let holder = match row.opt_text("holder")? {
        Some(_) => Some(row.parsed("holder")?),
        None => None,
    };
    let (epoch, expires_at) = (row.number("epoch")?, row.time("expires_at")?);
    Ok(LeaseStatus { holder, epoch, expires_at, since: None })
}

fn is_current(lease: &Lease, current: &LeaseStatus) -> bool {
    current.holder.as_ref() == Some(&lease.holder) && current.epoch == lease.epoch
}

fn after(now: Timestamp, ttl: Duration) -> Timestamp {
    now.saturating_add_micros(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX))
}

async fn write<S: Session>(
    session: &mut S,
    job: &Job,
    holder: Option<&WorkerId>,
    epoch: u64,
    expires_at: Timestamp,
) -> Result<()> {
    let update = "UPDATE des_lease SET holder = $2, epoch = $3, expires_at = $4 WHERE job = $1";
    let params = [
        Param::Text(job.as_str()),
        Param::OptText(holder.map(WorkerId::as_str)),
        Param::count(epoch),
        Param::Time(expires_at),
    ];
    session.execute(update, &params).await?;
    Ok(())
}
