//! Windows and their partitions: planned, accepted, set back, until the commit.

use std::time::Duration;

use protocol::{Digest, Job, PartitionId, Tally, Timestamp, WindowKey, WorkerId};
use sqlx::AssertSqlSafe;

use super::record::Record;
use super::session::{Param, Session};
use super::{
    AcceptedReceipt, Lease, NewPartition, NewWindow, PartitionRecord, Purpose, Setback,
    WindowRecord, WindowState, lease, looks,
};
use crate::error::{BackendError, Result};

/// Rows of one INSERT. The databases allow 32,766 placeholders, far above what this needs.
pub(super) const INSERT_ROWS: usize = 500;

/// Columns of [`Record::window`], for statements that have no other place for them.
macro_rules! select_windows {
    ($condition:literal) => {
        select_windows!("", $condition, " ORDER BY w.window_end, w.revision")
    };
    ($more_columns:literal, $condition:literal, $order:literal) => {
        concat!(
            "SELECT w.window_end, w.revision, window_start, state, row_count, digest, replaces, \
             files_archived, files_failed, shards, bytes_raw, bytes_stored, certificate, \
             released, splits_before, state_since, partition_rows, p.purpose, p.findings",
            $more_columns,
            " FROM des_windows w LEFT JOIN des_passes p \
             ON p.job = w.job AND p.window_end = w.window_end AND p.revision = w.revision \
             WHERE w.job = $1 AND ",
            $condition,
            $order
        )
    };
}
pub(super) use select_windows;

/// Job, window end and revision: the first three placeholders of most statements.
pub(super) fn key_params(job: &Job, key: WindowKey) -> [Param<'_>; 3] {
    [Param::Text(job.as_str()), Param::Time(key.end), Param::Int(key.revision.into())]
}

fn all(rows: &[Record]) -> Result<Vec<WindowRecord>> {
    rows.iter().map(Record::window).collect()
}

/// One window.
pub(super) async fn find<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<Option<WindowRecord>> {
    let select = select_windows!("w.window_end = $2 AND w.revision = $3");
    let row = session.fetch_optional(select, &key_params(job, key)).await?;
    row.as_ref().map(Record::window).transpose()
}

/// Every pass over the window that ends at `end`, by revision.
pub(super) async fn ending_at<S: Session>(
    session: &mut S,
    job: &Job,
    end: Timestamp,
) -> Result<Vec<WindowRecord>> {
    let select = select_windows!("w.window_end = $2");
    all(&session.fetch(select, &[Param::Text(job.as_str()), Param::Time(end)]).await?)
}

/// Windows that are not committed.
pub(super) async fn open<S: Session>(session: &mut S, job: &Job) -> Result<Vec<WindowRecord>> {
    let select = select_windows!("state <> 'committed'");
    all(&session.fetch(select, &[Param::Text(job.as_str())]).await?)
}

/// Committed passes whose end lies in `(after, until]`.
pub(super) async fn committed<S: Session>(
    session: &mut S,
    job: &Job,
    (after, until): (Option<Timestamp>, Option<Timestamp>),
    limit: u32,
) -> Result<Vec<WindowRecord>> {
    const SELECT: &str = concat!(
        select_windows!("state = 'committed' AND w.window_end > $2 AND w.window_end <= $3"),
        " LIMIT $4"
    );
    // Every end lies above the smallest time, since its window's start does not.
    let params = [
        Param::Text(job.as_str()),
        Param::Time(after.unwrap_or(Timestamp::MIN)),
        Param::Time(until.unwrap_or(Timestamp::MAX)),
        Param::Int(limit.into()),
    ];
    all(&session.fetch(SELECT, &params).await?)
}

/// A window's partitions, by number.
pub(super) async fn partitions<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<Vec<PartitionRecord>> {
    let select = "SELECT partition, manifest, manifest_size, first_row, row_count, digest, \
                  setbacks, attempts, interruptions, not_before, trouble_class, trouble_detail, \
                  first_look, under_way_by, receipt, receipt_size, files_failed FROM des_partitions \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 ORDER BY partition";
    session.fetch(select, &key_params(job, key)).await?.iter().map(Record::partition).collect()
}

/// Records a window and its partitions; once more with the same values changes nothing.
pub(super) async fn add<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    new: &NewWindow,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let key = WindowKey::new(new.window, new.revision);
    let rows: Tally = new.partitions.iter().map(|partition| partition.rows).sum();
    match find(session, job, key).await? {
        None => insert(session, job, (new, rows), WindowState::Open).await?,
        Some(known) if known.state == WindowState::Requested => {
            delete(session, job, key).await?;
            insert(session, job, (new, rows), WindowState::Open).await?;
        }
        Some(known) => {
            let partitions = partitions(session, job, key).await?;
            let uncommitted = known.state != WindowState::Committed;
            if uncommitted && is_same(new, rows, &known, &partitions) {
                return Ok(());
            }
            return Err(BackendError::Conflict {
                what: format!(
                    "window {key} of job `{job}` is recorded already, {} and with other \
                     manifests; nothing was changed",
                    known.state.as_str()
                ),
            });
        }
    }
    if new.revision > 0 {
        looks::plan_pass(session, job, new).await?;
    }
    insert_partitions(session, job, key, &new.partitions).await
}

/// Forgets an open window's partitions and records other ones for it.
pub(super) async fn plan_again<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    new: &NewWindow,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let key = WindowKey::new(new.window, new.revision);
    require_uncommitted(session, job, key).await?;
    delete(session, job, key).await?;
    add(session, job, lease, new).await
}

fn is_same(
    new: &NewWindow,
    rows: Tally,
    known: &WindowRecord,
    partitions: &[PartitionRecord],
) -> bool {
    known.window == new.window
        && known.rows == rows
        && known.replaces == new.replaces
        && partitions.len() == new.partitions.len()
        && partitions.iter().zip(&new.partitions).all(|(known, new)| {
            known.manifest == new.manifest
                && known.manifest_size == new.manifest_size
                && known.rows == new.rows
        })
}

/// Adds the window's row, without partitions.
pub(super) async fn insert<S: Session>(
    session: &mut S,
    job: &Job,
    (new, rows): (&NewWindow, Tally),
    state: WindowState,
) -> Result<()> {
    let insert = "INSERT INTO des_windows (job, window_end, revision, window_start, state, \
                  row_count, digest, replaces, partition_rows, planned_at, state_since) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let [job, end, revision] = key_params(job, WindowKey::new(new.window, new.revision));
    let digest = rows.digest.to_string();
    let now = session.now().await?;
    let planned_in = i64::try_from(new.planned_in.as_micros()).unwrap_or(i64::MAX);
    let since = now.saturating_add_micros(planned_in.saturating_neg());
    let planned_at = (state != WindowState::Requested).then_some(since);
    let params = [
        job,
        end,
        revision,
        Param::Time(new.window.start()),
        Param::Text(state.as_str()),
        Param::count(rows.rows),
        Param::Text(&digest),
        Param::Texts(&new.replaces),
        Param::opt_count(new.partition_rows),
        Param::OptTime(planned_at),
        Param::Time(since),
    ];
    session.execute(insert, &params).await?;
    Ok(())
}

async fn insert_partitions<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    partitions: &[NewPartition],
) -> Result<()> {
    let [job, end, revision] = key_params(job, key);
    let digests: Vec<String> =
        partitions.iter().map(|partition| partition.rows.digest.to_string()).collect();
    let numbered: Vec<_> = (0..).zip(partitions.iter().zip(&digests)).collect();
    for chunk in numbered.chunks(INSERT_ROWS) {
        let sql = insert_sql(
            "des_partitions (job, window_end, revision, partition, manifest, manifest_size, \
             row_count, digest)",
            8,
            chunk.len(),
        );
        let mut params = Vec::with_capacity(8 * chunk.len());
        for (number, (partition, digest)) in chunk {
            params.extend([
                job,
                end,
                revision,
                Param::Int(*number),
                Param::Text(&partition.manifest),
                Param::count(partition.manifest_size),
                Param::count(partition.rows.rows),
                Param::Text(digest),
            ]);
        }
        session.execute(AssertSqlSafe(sql), &params).await?;
    }
    Ok(())
}

/// `INSERT INTO <target> VALUES ($1, $2), ($3, $4)`
pub(super) fn insert_sql(target: &'static str, columns: usize, rows: usize) -> String {
    let tuples: Vec<String> = (0..rows)
        .map(|row| {
            let places: Vec<String> =
                (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
            format!("({})", places.join(", "))
        })
        .collect();
    format!("INSERT INTO {target} VALUES {}", tuples.join(", "))
}

/// Deletes a window's row and its partitions.
pub(super) async fn delete<S: Session>(session: &mut S, job: &Job, key: WindowKey) -> Result<()> {
    for sql in [
        "DELETE FROM des_partitions WHERE job = $1 AND window_end = $2 AND revision = $3",
        "DELETE FROM des_windows WHERE job = $1 AND window_end = $2 AND revision = $3",
    ] {
        session.execute(sql, &key_params(job, key)).await?;
    }
    Ok(())
}

/// Deletes every window that is not committed, with its partitions.
pub(super) async fn delete_uncommitted<S: Session>(session: &mut S, job: &Job) -> Result<()> {
    for sql in [
        "DELETE FROM des_partitions WHERE job = $1 AND (window_end, revision) IN \
         (SELECT window_end, revision FROM des_windows WHERE job = $1 AND state <> 'committed')",
        "DELETE FROM des_windows WHERE job = $1 AND state <> 'committed'",
    ] {
        session.execute(sql, &[Param::Text(job.as_str())]).await?;
    }
    Ok(())
}

/// Records an accepted receipt. False for a partition that has another one, or is gone.
pub(super) async fn accept<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    (key, partition): (WindowKey, PartitionId),
    receipt: &AcceptedReceipt,
) -> Result<bool> {
    lease::require(session, job, lease).await?;
    let [job, end, revision] = key_params(job, key);
    let select = "SELECT receipt FROM des_partitions \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4";
    let number = Param::Int(partition.into());
    let Some(row) = session.fetch_optional(select, &[job, end, revision, number]).await? else {
        return Ok(false);
    };
    if let Some(accepted) = row.opt_text("receipt")? {
        return Ok(accepted == receipt.receipt);
    }
    let update = "UPDATE des_partitions SET receipt = $5, receipt_size = $6, files_failed = $7, \
                  under_way_by = NULL \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4";
    let params = [
        job,
        end,
        revision,
        number,
        Param::Text(&receipt.receipt),
        Param::count(receipt.receipt_size),
        Param::count(receipt.files_failed),
    ];
    Ok(session.execute(update, &params).await? == 1)
}

/// Records a setback of a partition without an accepted receipt. False when it has one, or is
/// gone.
pub(super) async fn set_back<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    place: (WindowKey, PartitionId),
    setback: &Setback,
) -> Result<bool> {
    lease::require(session, job, lease).await?;
    let update = "UPDATE des_partitions SET attempts = $5, interruptions = $6, not_before = $7, \
                  trouble_class = $8, trouble_detail = $9, setbacks = $10, first_look = $11, under_way_by = NULL \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4 \
                  AND receipt IS NULL";
    Ok(session.execute(update, &setback_params(job, place, setback)).await? == 1)
}

/// Takes back what was accepted for a partition of an uncommitted window.
pub(super) async fn reopen<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    (key, partition): (WindowKey, PartitionId),
    setback: &Setback,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    require_uncommitted(session, job, key).await?;
    let update = "UPDATE des_partitions SET attempts = $5, interruptions = $6, not_before = $7, \
                  trouble_class = $8, trouble_detail = $9, setbacks = $10, first_look = $11, \
                  under_way_by = NULL, receipt = NULL, receipt_size = NULL, files_failed = NULL \
                  WHERE job = $1 AND window_end = $2 AND revision = $3 AND partition = $4";
    let params = setback_params(job, (key, partition), setback);
    if session.execute(update, &params).await? == 1 {
        return Ok(());
    }
    Err(BackendError::NotFound {
        what: format!("window {key} of job `{job}` has no partition {partition}"),
    })
}

fn setback_params<'a>(
    job: &'a Job,
    (key, partition): (WindowKey, PartitionId),
    setback: &'a Setback,
) -> [Param<'a>; 11] {
    let [job, end, revision] = key_params(job, key);
    [
        job,
        end,
        revision,
        Param::Int(partition.into()),
        Param::Int(setback.attempts.into()),
        Param::Int(setback.interruptions.into()),
        Param::OptTime(setback.not_before),
        Param::Text(&setback.class),
        Param::Text(&setback.detail),
        Param::Int(setback.setbacks.into()),
        Param::OptText(setback.first_look.as_ref().map(WorkerId::as_str)),
    ]
}

/// Changes an uncommitted window's state between open and held.
pub(super) async fn set_state<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    key: WindowKey,
    state: WindowState,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let known = require_uncommitted(session, job, key).await?;
    let may = |state| matches!(state, WindowState::Open | WindowState::Held);
    if !may(known.state) || !may(state) {
        return Err(BackendError::Invalid {
            what: format!(
                "window {key} of job `{job}` cannot go from {} to {}: only between open and held",
                known.state.as_str(),
                state.as_str()
            ),
        });
    }
    if state == WindowState::Held {
        require_reason_to_hold(session, job, &known).await?;
    }
    if state == known.state {
        return Ok(());
    }
    let update = "UPDATE des_windows SET state = $4, state_since = $5 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    let now = session.now().await?;
    let [job, end, revision] = key_params(job, key);
    let (state, since) = (Param::Text(state.as_str()), Param::Time(now));
    session.execute(update, &[job, end, revision, state, since]).await?;
    Ok(())
}

/// Refuses to hold a window that an operator let go meanwhile: its partitions are to be done again,
/// or its failures were accepted.
async fn require_reason_to_hold<S: Session>(
    session: &mut S,
    job: &Job,
    known: &WindowRecord,
) -> Result<()> {
    let partitions = partitions(session, job, known.key()).await?;
    let complete = partitions.iter().all(|partition| partition.accepted.is_some());
    let accepted = partitions.iter().filter_map(|partition| partition.accepted.as_ref());
    let failed: u64 = accepted.map(|accepted| accepted.files_failed).sum();
    if complete && known.released.is_none_or(|released| failed > released) {
        return Ok(());
    }
    Err(BackendError::Conflict {
        what: format!(
            "window {} of job `{job}` was let go by an operator meanwhile; nothing was changed",
            known.key()
        ),
    })
}

pub(super) async fn require_uncommitted<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<WindowRecord> {
    match find(session, job, key).await? {
        Some(known) if known.state != WindowState::Committed => Ok(known),
        Some(_) => Err(BackendError::Conflict {
            what: format!("window {key} of job `{job}` is committed; nothing was changed"),
        }),
        None => Err(BackendError::NotFound {
            what: format!("window {key} of job `{job}` is not in the ledger"),
        }),
    }
}

/// A window of no rows, as a replay's request or a skip is recorded.
pub(super) fn without_rows(window: protocol::Window, revision: protocol::Revision) -> NewWindow {
    NewWindow {
        window,
        revision,
        purpose: Purpose::Scan,
        scanned: NO_ROWS,
        findings: None,
        replaces: Vec::new(),
        partitions: Vec::new(),
        partition_rows: None,
        planned_in: Duration::ZERO,
    }
}

/// The tally of no rows.
pub(super) const NO_ROWS: Tally = Tally { rows: 0, digest: Digest(0) };
