//! Passes over windows that were committed before, and what the catalog had for them.

use protocol::{Digest, Job, Revision, Tally, Timestamp, Window, WindowKey};

use super::record::Record;
use super::session::{Param, Session};
use super::windows::key_params;
use super::{Lease, NewWindow, lease};
use crate::error::{BackendError, Result};

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The first pass over a window.
    Scan,
    /// Verify every shard; repair what is damaged, take up what is late.
    Replay,
    /// Take up what is late.
    Reconcile,
    /// Try failed rows again.
    Retry,
}

impl Purpose {
    /// The text that the tables hold.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Replay => "replay",
            Self::Reconcile => "reconcile",
            Self::Retry => "retry",
        }
    }

    /// Reads what [`Purpose::as_str`] gives.
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Scan, Self::Replay, Self::Reconcile, Self::Retry]
            .into_iter()
            .find(|purpose| purpose.as_str() == text)
    }
}

/// What is known of the catalog's rows of a committed window: `des_looks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The window.
    pub window: Window,
    /// Its last committed revision.
    pub revision: Revision,
    /// When the window was last looked at, or a pass over it was dropped; where nobody wrote it
    /// down, when its last revision was committed.
    pub looked_at: Timestamp,
    /// The rows that the catalog had when the window was last looked at; `None` where nobody wrote
    /// it down.
    pub catalog: Option<Tally>,
    /// Whether they were compared with the catalog again some time after the commit.
    pub rechecked: bool,
    /// What the last pass over the window found.
    pub findings: Option<String>,
}

/// Every committed window with its last revision, beside its look.
macro_rules! select_looks {
    ($join:literal, $condition:literal) => {
        concat!(
            "SELECT w.window_end, w.revision, w.window_start, \
             coalesce(l.looked_at, w.committed_at) AS looked_at, \
             l.row_count, l.digest, l.rechecked_at, l.findings FROM des_windows w ",
            $join,
            " JOIN des_looks l ON l.job = w.job AND l.window_end = w.window_end \
             WHERE w.job = $1 AND w.state = 'committed' AND w.committed_at IS NOT NULL \
             AND w.revision = (SELECT max(o.revision) FROM des_windows o WHERE o.job = w.job \
             AND o.window_end = w.window_end AND o.state = 'committed') ",
            $condition
        )
    };
}

/// Looks at windows whose end lies in `(after, until]`.
pub(super) async fn between<S: Session>(
    session: &mut S,
    job: &Job,
    (after, until): (Option<Timestamp>, Option<Timestamp>),
    limit: u32,
) -> Result<Vec<Look>> {
    const SELECT: &str = select_looks!(
        "LEFT",
        "AND w.window_end > $2 AND w.window_end <= $3 ORDER BY w.window_end LIMIT $4"
    );
    let params = [
        Param::Text(job.as_str()),
        Param::Time(after.unwrap_or(Timestamp::MIN)),
        Param::Time(until.unwrap_or(Timestamp::MAX)),
        Param::Int(limit.into()),
    ];
    session.fetch(SELECT, &params).await?.iter().map(Record::look).collect()
}

/// Looks at windows that were not compared with the catalog since their last commit.
pub(super) async fn to_recheck<S: Session>(
    session: &mut S,
    job: &Job,
    newest: bool,
    limit: u32,
) -> Result<Vec<Look>> {
    const NEWEST: &str =
        select_looks!("", "AND l.rechecked_at IS NULL ORDER BY w.committed_at DESC LIMIT $2");
    const OLDEST: &str =
        select_looks!("", "AND l.rechecked_at IS NULL ORDER BY l.looked_at LIMIT $2");
    let params = [Param::Text(job.as_str()), Param::Int(limit.into())];
    let select = if newest { NEWEST } else { OLDEST };
    session.fetch(select, &params).await?.iter().map(Record::look).collect()
}

/// Looks at windows whose last pass left findings that contain a text, which holds no `%` or `_`.
pub(super) async fn that_found<S: Session>(
    session: &mut S,
    job: &Job,
    text: &str,
    limit: u32,
) -> Result<Vec<Look>> {
    const SELECT: &str = select_looks!("", "AND l.findings LIKE $2 ORDER BY w.window_end LIMIT $3");
    let pattern = format!("%{text}%");
    let params = [Param::Text(job.as_str()), Param::Text(&pattern), Param::Int(limit.into())];
    session.fetch(SELECT, &params).await?.iter().map(Record::look).collect()
}

/// Notes that a window was compared with the catalog.
pub(super) async fn note_rechecked<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    end: Timestamp,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let now = session.now().await?;
    let update = "UPDATE des_looks SET looked_at = $3, rechecked_at = $3 \
                  WHERE job = $1 AND window_end = $2";
    let params = [Param::Text(job.as_str()), Param::Time(end), Param::Time(now)];
    match session.execute(update, &params).await? {
        1 => Ok(()),
        _ => Err(BackendError::NotFound {
            what: format!("no committed window of job `{job}` that ends at {end} was looked at"),
        }),
    }
}

/// Writes down what a pass is for.
pub(super) async fn add_pass<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    purpose: Purpose,
) -> Result<()> {
    let insert = "INSERT INTO des_passes (job, window_end, revision, purpose) \
                  VALUES ($1, $2, $3, $4) ON CONFLICT (job, window_end, revision) \
                  DO UPDATE SET purpose = excluded.purpose";
    let [job, end, revision] = key_params(job, key);
    session.execute(insert, &[job, end, revision, Param::Text(purpose.as_str())]).await?;
    Ok(())
}

/// Writes down what the plan of a pass found.
pub(super) async fn plan_pass<S: Session>(
    session: &mut S,
    job: &Job,
    new: &NewWindow,
) -> Result<()> {
    let key = WindowKey::new(new.window, new.revision);
    add_pass(session, job, key, new.purpose).await?;
    let update = "UPDATE des_passes SET scanned_rows = $4, scanned_digest = $5, findings = $6 \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    let [job, end, revision] = key_params(job, key);
    let digest = new.scanned.digest.to_string();
    let (rows, digest) = (Param::count(new.scanned.rows), Param::Text(&digest));
    let findings = Param::OptText(new.findings.as_deref());
    session.execute(update, &[job, end, revision, rows, digest, findings]).await?;
    Ok(())
}

/// What the scan of a planned pass with a revision above 0 saw.
pub(super) async fn scanned<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<Option<Tally>> {
    let select = "SELECT scanned_rows, scanned_digest FROM des_passes \
                  WHERE job = $1 AND window_end = $2 AND revision = $3";
    let Some(row) = session.fetch_optional(select, &key_params(job, key)).await? else {
        return Ok(None);
    };
    let Some(digest) = row.opt_text("scanned_digest")? else { return Ok(None) };
    let digest: Digest =
        digest.parse().map_err(|error| super::record::unfit("scanned_digest", error))?;
    Ok(Some(Tally { rows: row.number("scanned_rows")?, digest }))
}

/// Forgets a pass that left no record.
pub(super) async fn delete_pass<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
) -> Result<()> {
    let delete = "DELETE FROM des_passes WHERE job = $1 AND window_end = $2 AND revision = $3";
    session.execute(delete, &key_params(job, key)).await?;
    Ok(())
}

/// Forgets the passes of windows that are not committed.
pub(super) async fn delete_uncommitted<S: Session>(session: &mut S, job: &Job) -> Result<()> {
    let delete = "DELETE FROM des_passes WHERE job = $1 AND (window_end, revision) IN \
                  (SELECT window_end, revision FROM des_windows WHERE job = $1 \
                  AND state <> 'committed')";
    session.execute(delete, &[Param::Text(job.as_str())]).await?;
    Ok(())
}

/// Writes down what the catalog had for a window, and what the pass found. Whether it is still to be
/// compared some time after the commit stays as it was.
pub(super) async fn record<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    catalog: Tally,
    findings: Option<&str>,
) -> Result<()> {
    let upsert = "INSERT INTO des_looks (job, window_end, row_count, digest, looked_at, \
                  findings) VALUES ($1, $2, $3, $4, $5, $6) \
                  ON CONFLICT (job, window_end) DO UPDATE SET row_count = excluded.row_count, \
                  digest = excluded.digest, looked_at = excluded.looked_at, \
                  findings = excluded.findings";
    let now = session.now().await?;
    let digest = catalog.digest.to_string();
    let params = [
        Param::Text(job.as_str()),
        Param::Time(key.end),
        Param::count(catalog.rows),
        Param::Text(&digest),
        Param::Time(now),
        Param::OptText(findings),
    ];
    session.execute(upsert, &params).await?;
    Ok(())
}

/// Writes down what the first pass over a window saw, for a ledger that has lost it. Such a window
/// is not looked at by itself; where it has later passes, a reconcile will find out more. One
/// without rows may have been skipped at somebody's word.
pub(super) async fn adopt<S: Session>(
    session: &mut S,
    job: &Job,
    end: Timestamp,
    rows: Tally,
    at: Timestamp,
) -> Result<()> {
    let insert = "INSERT INTO des_looks (job, window_end, row_count, digest, looked_at, \
                  rechecked_at) VALUES ($1, $2, $3, $4, $5, $5) \
                  ON CONFLICT (job, window_end) DO NOTHING";
    let digest = rows.digest.to_string();
    let params = [
        Param::Text(job.as_str()),
        Param::Time(end),
        Param::count(rows.rows),
        Param::Text(&digest),
        Param::Time(at),
    ];
    session.execute(insert, &params).await?;
    Ok(())
}

/// Writes down what a pass found that saw nothing of the catalog.
pub(super) async fn record_findings<S: Session>(
    session: &mut S,
    job: &Job,
    key: WindowKey,
    findings: &str,
) -> Result<()> {
    let update = "UPDATE des_looks SET findings = $3, looked_at = $4 \
                  WHERE job = $1 AND window_end = $2";
    let now = session.now().await?;
    let findings = Param::Text(findings);
    let params = [Param::Text(job.as_str()), Param::Time(key.end), findings, Param::Time(now)];
    session.execute(update, &params).await?;
    Ok(())
}
