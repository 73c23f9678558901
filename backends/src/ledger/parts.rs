//! Splitting a partition into parts of its manifest, which supersede it; and what is known of
//! partitions that are under way.

use protocol::{Job, PartitionId, Tally, WindowKey};

use super::session::{Param, Session};
use super::windows::{key_params, require_uncommitted};
use super::{Lease, NewPart, PartitionRecord, lease};
use crate::error::{BackendError, Result};

/// Replaces a partition without an accepted receipt by its parts. False when it has one, or is
/// gone.
pub(super) async fn split<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    (key, partition): (WindowKey, PartitionId),
    parts: &[NewPart; 2],
    trouble: (&str, &str),
) -> Result<bool> {
    lease::require(session, job, lease).await?;
    require_uncommitted(session, job, key).await?;
    let all = super::windows::partitions(session, job, key).await?;
    let Some(whole) = all.iter().find(|record| record.partition == partition) else {
        return Ok(false);
    };
    if whole.accepted.is_some() {
        return Ok(false);
    }
    require_exact(job, key, whole, parts)?;
    // Before the partition goes, so that its number stays below every later one.
    let last = all.iter().map(|record| record.partition).max().unwrap_or(partition);
    for (number, part) in (last.saturating_add(1)..).zip(parts) {
        insert(session, job, (key, number), whole, part, trouble).await?;
    }
    let delete = "DELETE FROM des_partitions \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4";
    let [job, end, revision] = key_params(job, key);
    session.execute(delete, &[job, end, revision, Param::Int(partition.into())]).await?;
    Ok(true)
}

/// The last guard against a row that is in no part, or in two.
fn require_exact(
    job: &Job,
    key: WindowKey,
    whole: &PartitionRecord,
    parts: &[NewPart; 2],
) -> Result<()> {
    let [first, second] = parts;
    let sum: Tally = parts.iter().map(|part| part.rows).sum();
    let adjacent = first.first_row == whole.first_row.unwrap_or(0)
        && first.first_row.checked_add(first.rows.rows) == Some(second.first_row);
    if sum == whole.rows && adjacent && parts.iter().all(|part| part.rows.rows > 0) {
        return Ok(());
    }
    Err(BackendError::Invalid {
        what: format!(
            "partition {} of window {key} of job `{job}` cannot be split: its parts are not \
             exactly its rows; nothing was changed, please report this",
            whole.partition
        ),
    })
}

async fn insert<S: Session>(
    session: &mut S,
    job: &Job,
    (key, number): (WindowKey, PartitionId),
    whole: &PartitionRecord,
    part: &NewPart,
    (class, detail): (&str, &str),
) -> Result<()> {
    let insert = "INSERT INTO des_partitions (job, window_end, revision, partition, manifest, \
                  manifest_size, first_row, row_count, digest, trouble_class, trouble_detail) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let [job, end, revision] = key_params(job, key);
    let digest = part.rows.digest.to_string();
    let params = [
        job,
        end,
        revision,
        Param::Int(number.into()),
        Param::Text(&whole.manifest),
        Param::count(whole.manifest_size),
        Param::count(part.first_row),
        Param::count(part.rows.rows),
        Param::Text(&digest),
        Param::Text(class),
        Param::Text(detail),
    ];
    session.execute(insert, &params).await?;
    Ok(())
}

/// Records what is being waited for with a partition, as long as it is not done.
pub(super) async fn note_trouble<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    (key, partition): (WindowKey, PartitionId),
    (class, detail): (&str, &str),
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let update = "UPDATE des_partitions SET trouble_class = $5, trouble_detail = $6 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4 \
                  AND receipt IS NULL";
    let [job, end, revision] = key_params(job, key);
    let number = Param::Int(partition.into());
    let params = [job, end, revision, number, Param::Text(class), Param::Text(detail)];
    session.execute(update, &params).await?;
    Ok(())
}

/// Records who works on these partitions.
pub(super) async fn note_under_way<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    partitions: &[(WindowKey, PartitionId)],
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let update = "UPDATE des_partitions SET under_way_by = $5 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4 \
                  AND receipt IS NULL";
    for (key, partition) in partitions {
        let [job, end, revision] = key_params(job, *key);
        let holder = Param::Text(lease.holder.as_str());
        let params = [job, end, revision, Param::Int((*partition).into()), holder];
        session.execute(update, &params).await?;
    }
    Ok(())
}

/// Records that the lease's holder works on nothing.
pub(super) async fn clear_under_way<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let update = "UPDATE des_partitions SET under_way_by = NULL WHERE job = $1 \
                  AND under_way_by = $2 AND receipt IS NULL";
    let params = [Param::Text(job.as_str()), Param::Text(lease.holder.as_str())];
    session.execute(update, &params).await?;
    Ok(())
}
