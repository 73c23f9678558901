//! What operators ask: where things stand, and to move the watermark or replay a window.

use std::collections::HashSet;
use std::time::Duration;

use backends::ledger::{Adjustment, AuditEntry, Lease, Purpose, WindowRecord};
use backends::{BackendError, Catalog, Ledger, Store};
use protocol::certificate::CertificateKind;
use protocol::{
    ArchiveIdentity, Certificate, PackSettings, Tally, Timestamp, Window, WorkerId, names,
};
use tracing::warn;

use crate::cutting::cutoff;
use crate::findings::Findings;
use crate::held::{HeldWindow, held_windows};

/// How long an adjustment may keep others from leading; it takes far less.
const ADJUST_TTL: Duration = Duration::from_secs(60);

/// Where the watermark stands, and what lies on either side of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Everything in `(origin, archived_until]` is settled.
    pub archived_until: Timestamp,
    /// The first watermark.
    pub origin: Timestamp,
    /// How far windows may reach now, on a boundary of the window span.
    pub target_cutoff: Timestamp,
    /// Days that files are left alone.
    pub lag_days: u32,
    /// Seconds from the watermark to the target; not negative.
    pub lag_seconds: i64,
    /// Rows between watermark and target.
    pub pending_files: u64,
    /// Their bytes; null without a size column.
    pub pending_bytes: Option<u64>,
    /// Rows at or below the origin, which are not covered.
    pub uncovered_files: u64,
    /// Unresolved error rows.
    pub failed_files: u64,
    /// Rows that no window can hold: NULL uid.
    pub null_uid: u64,
    /// Rows that no window can hold: NULL created_at.
    pub null_created_at: u64,
    /// Rows that no window can hold: created_at infinite or outside the years 0001 to 9999.
    pub out_of_range_created_at: u64,
    /// Windows that are not committed.
    pub open_windows: u64,
    /// Those of them that wait for an operator.
    pub held: Vec<HeldWindow>,
    /// Where des left the watermark, when somebody moved it since.
    pub moved_by_hand_from: Option<Timestamp>,
}

/// Looks at everything; changes nothing.
///
/// # Errors
/// When the job has no watermark yet, or something does not answer.
pub async fn stats(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    span_micros: i64,
) -> Result<Stats, BackendError> {
    let (watermark, archive) = initialised(ledger).await?;
    let clocks = (catalog.now().await?, ledger.now().await?);
    let target = cutoff(clocks.0, clocks.1, watermark.lag_days, None, span_micros);
    let from = watermark.archived_until;
    let pending = if target > from {
        catalog.count(Some(from), Some(target)).await?
    } else {
        backends::catalog::RangeCount {
            files: 0,
            bytes: catalog.count(Some(from), Some(from)).await?.bytes,
        }
    };
    let unplaceable = catalog.unplaceable().await?;
    Ok(Stats {
        archived_until: from,
        origin: archive.origin,
        target_cutoff: target,
        lag_days: watermark.lag_days,
        lag_seconds: target.seconds_since(from).max(0),
        pending_files: pending.files,
        pending_bytes: pending.bytes,
        uncovered_files: catalog.count_files(None, Some(archive.origin)).await?,
        failed_files: ledger.count_errors().await?,
        null_uid: unplaceable.null_uid,
        null_created_at: unplaceable.null_created_at,
        out_of_range_created_at: unplaceable.out_of_range,
        open_windows: ledger.open_windows().await?.len() as u64,
        held: held_windows(ledger).await?,
        moved_by_hand_from: (archive.settled_until != from).then_some(archive.settled_until),
    })
}

/// Number of rows between the watermark and the cutoff.
///
/// # Errors
/// When something does not answer.
pub async fn pending(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    span_micros: i64,
) -> Result<u64, BackendError> {
    let (watermark, _archive) = initialised(ledger).await?;
    let clocks = (catalog.now().await?, ledger.now().await?);
    let target = cutoff(clocks.0, clocks.1, watermark.lag_days, None, span_micros);
    if target <= watermark.archived_until {
        return Ok(0);
    }
    catalog.count_files(Some(watermark.archived_until), Some(target)).await
}

async fn initialised(
    ledger: &dyn Ledger,
) -> Result<(backends::ledger::WatermarkRow, backends::ledger::ArchiveRecord), BackendError> {
    match (ledger.watermark().await?, ledger.archive().await?) {
        (Some(watermark), Some(archive)) => Ok((watermark, archive)),
        _ => Err(BackendError::NotFound {
            what: "this job has no archive yet: run `des init` or `des migrate` first".to_owned(),
        }),
    }
}

/// Where the operator wants the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// At this time.
    At(Timestamp),
    /// This many days from where it is; negative is back.
    Days(i64),
}

/// An adjustment that was thought through and not yet made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AdjustPlan {
    /// The watermark now.
    pub from: Timestamp,
    /// Where des left it; something else only when somebody moved it by hand.
    pub settled_until: Timestamp,
    /// The watermark asked for.
    pub asked: Timestamp,
    /// The watermark that will be: the start of the certified window, where `asked` lies inside
    /// one.
    pub to: Timestamp,
    /// Uncommitted windows that will be dropped.
    pub dropped_windows: u64,
    /// Certified windows behind the new watermark, which will be verified and reconciled.
    pub certified_windows: u64,
    /// Files that will be skipped: never archived.
    pub skipped_files: u64,
    /// The stretch that will be skipped.
    #[serde(skip)]
    pub skip: Option<Window>,
}

/// Why the watermark is not to be moved like that.
#[derive(Debug, thiserror::Error)]
pub enum AdjustError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A rule forbids it.
    #[error("{0}")]
    Refused(String),
}

/// Thinks an adjustment through; changes nothing.
///
/// # Errors
/// When it is refused: into the future; past `now - lag_days`, or over files that are in no
/// certified window, without `allow_skip`.
pub async fn plan_adjust(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    target: Target,
    allow_skip: bool,
) -> Result<AdjustPlan, AdjustError> {
    let (watermark, archive) = initialised(ledger).await?;
    let (from, settled_until) = (watermark.archived_until, archive.settled_until);
    let asked = match target {
        Target::At(time) => time,
        Target::Days(days) => {
            from.saturating_add_micros(days.saturating_mul(86_400_000_000)).floor_to(1_000_000)
        }
    };
    let refuse = |why: String| Err(AdjustError::Refused(why));
    if !asked.is_whole_second() {
        return refuse(format!("{asked} is not on a whole second"));
    }
    let mut plan = AdjustPlan {
        from,
        settled_until,
        asked,
        to: asked,
        dropped_windows: ledger.open_windows().await?.len() as u64,
        certified_windows: 0,
        skipped_files: 0,
        skip: None,
    };
    // What is settled counts, and not where somebody put the watermark by hand: whatever lies
    // between is skipped by nobody's word.
    let after_asked = ledger.committed_windows(Some(asked), None, u32::MAX).await?;
    let inside = after_asked.iter().map(|record| record.window.start()).min();
    plan.to = inside.map_or(asked, |start| start.min(asked));
    if plan.to <= settled_until {
        plan.certified_windows = distinct_ends(&after_asked);
        return Ok(plan);
    }
    let asked = plan.to;
    let clocks = (catalog.now().await?, ledger.now().await?);
    let now = clocks.0.min(clocks.1);
    if asked > now {
        return refuse(format!("{asked} is in the future: the watermark never passes the clock"));
    }
    let certified = ledger.committed_windows(Some(settled_until), Some(asked), u32::MAX).await?;
    plan.certified_windows = distinct_ends(&certified);
    let covered = contiguous_from(settled_until, &certified);
    if covered < asked {
        let beyond = certified.iter().map(|record| record.window.start());
        if let Some(next) = beyond.filter(|start| *start > covered).min() {
            return refuse(format!(
                "windows from {next} on are archived already, and nothing between {covered} and \
                 them: skip that first with `--set-date {next} --allow-skip`, then go on from there"
            ));
        }
        let skip =
            Window::new(covered, asked).map_err(|error| AdjustError::Refused(error.to_string()))?;
        plan.skipped_files = catalog.count_files(Some(covered), Some(asked)).await?;
        plan.skip = Some(skip);
    }
    let limit = cutoff(clocks.0, clocks.1, watermark.lag_days, None, 1);
    let files = plan.skipped_files;
    if !allow_skip && asked > limit {
        return refuse(format!(
            "{asked} is past now - lag_days ({limit}), and {files} files would be skipped: never \
             archived. If that is wanted, say `--allow-skip`"
        ));
    }
    if !allow_skip && files > 0 {
        return refuse(format!(
            "{files} files between {covered} and {asked} are not archived and would be skipped. If \
             that is wanted, say `--allow-skip`; else run `des migrate`"
        ));
    }
    Ok(plan)
}

fn distinct_ends(records: &[WindowRecord]) -> u64 {
    let mut ends: Vec<_> = records.iter().map(|record| record.window.end()).collect();
    ends.dedup();
    ends.len() as u64
}

/// How far certified windows, in order of their ends, reach from `from` without a gap.
fn contiguous_from(from: Timestamp, certified: &[WindowRecord]) -> Timestamp {
    certified.iter().fold(from, |reached, record| {
        if record.window.start() <= reached { reached.max(record.window.end()) } else { reached }
    })
}

/// Who makes an adjustment, and why.
#[derive(Clone, Debug)]
pub struct Operator<'a> {
    /// User and host.
    pub actor: String,
    /// The operator's reason.
    pub reason: Option<String>,
    /// The archive.
    pub identity: &'a ArchiveIdentity,
    /// What shards are packed with.
    pub settings: PackSettings,
    /// This process.
    pub writer: WorkerId,
}

/// Makes the adjustment. A stretch that is skipped gets a certificate that says so, first.
///
/// # Errors
/// When something does not answer, or the watermark moved since the plan.
pub async fn adjust(
    ledger: &dyn Ledger,
    store: &Store,
    plan: &AdjustPlan,
    operator: &Operator<'_>,
) -> Result<(), AdjustError> {
    // Whoever leads is kept from committing anything meanwhile, and the certificate of what is
    // skipped carries an epoch that nobody else has.
    let lease = ledger.seize_lease(&operator.writer, ADJUST_TTL).await?;
    let adjusted = adjust_under(ledger, store, &lease, plan, operator).await;
    if adjusted.is_err() {
        let _it_expires = ledger.release_lease(&lease).await;
    }
    adjusted
}

async fn adjust_under(
    ledger: &dyn Ledger,
    store: &Store,
    lease: &Lease,
    plan: &AdjustPlan,
    operator: &Operator<'_>,
) -> Result<(), AdjustError> {
    let skip = match plan.skip {
        Some(window) => {
            // A certificate of this epoch would count before any other of its window. Nobody else
            // commits while the lease is ours, so that what holds now holds until we are done.
            require_as_planned(ledger, plan, window).await?;
            let certificate = write_skip_certificate(ledger, store, (window, lease), operator);
            Some((window, certificate.await?))
        }
        None => None,
    };
    let certificate = skip.as_ref().map(|(_, certificate)| certificate.clone());
    let adjustment = Adjustment {
        from: plan.from,
        to: plan.to,
        skip,
        audit: AuditEntry {
            actor: operator.actor.clone(),
            action: "adjust".to_owned(),
            from: Some(plan.from.to_string()),
            to: Some(plan.to.to_string()),
            reason: operator.reason.clone(),
        },
    };
    let adjusted = ledger.adjust(lease, &adjustment).await;
    // What was refused for certain must not be left behind as if it had happened.
    if let (Err(error), Some(certificate)) = (&adjusted, certificate)
        && !error.is_retryable()
    {
        store.delete(&certificate).await?;
    }
    Ok(adjusted?)
}

/// Refuses when something was committed, or the watermark moved, since the adjustment was planned.
async fn require_as_planned(
    ledger: &dyn Ledger,
    plan: &AdjustPlan,
    skip: Window,
) -> Result<(), AdjustError> {
    let (watermark, archive) = initialised(ledger).await?;
    let committed = ledger.committed_windows(Some(skip.start()), None, u32::MAX).await?;
    let overlaps = committed.iter().any(|record| record.window.start() < skip.end());
    if (watermark.archived_until, archive.settled_until) == (plan.from, plan.settled_until)
        && !overlaps
    {
        return Ok(());
    }
    Err(AdjustError::Refused(
        "a window was committed, or the watermark moved, since this adjustment was planned: nothing \
         was changed; look again with `--dry-run`"
            .to_owned(),
    ))
}

async fn write_skip_certificate(
    ledger: &dyn Ledger,
    store: &Store,
    (window, lease): (Window, &Lease),
    operator: &Operator<'_>,
) -> Result<String, AdjustError> {
    let epoch = lease.epoch;
    let certificate = Certificate {
        version: Certificate::VERSION,
        archive: operator.identity.archive.clone(),
        job: operator.identity.job.clone(),
        window,
        revision: 0,
        epoch,
        writer: operator.writer.clone(),
        written_at: ledger.now().await?,
        kind: CertificateKind::Skipped,
        settings: operator.settings,
        packed: Tally::default(),
        failed: Tally::default(),
        bytes_raw: 0,
        bytes_stored: 0,
        partitions: Vec::new(),
        shards: Vec::new(),
        big_files: Vec::new(),
        replaces: Vec::new(),
        unrepaired: Vec::new(),
        failures: Vec::new(),
    };
    let key = names::certificate(certificate.key(), epoch);
    store.put(&key, certificate.encode().into()).await?;
    store.flush().await?;
    Ok(key)
}

/// Asks for another pass over every committed window whose end lies in `(after, until]`.
///
/// # Errors
/// When there is none, or the ledger does not answer.
pub async fn request_replays(
    ledger: &dyn Ledger,
    after: Option<Timestamp>,
    until: Timestamp,
    audit: &AuditEntry,
) -> Result<Vec<WindowRecord>, BackendError> {
    let committed = ledger.committed_windows(after, Some(until), u32::MAX).await?;
    let mut ends: Vec<_> = committed.iter().map(|record| record.window.end()).collect();
    ends.dedup();
    if ends.is_empty() {
        return Err(BackendError::NotFound {
            what: "no committed window ends there: `des ls` lists them".to_owned(),
        });
    }
    request_passes(ledger, &ends, Purpose::Replay, audit).await
}

/// Asks for another pass over the windows with these ends.
///
/// # Errors
/// When one of them is not committed, or the ledger does not answer.
pub async fn request_passes(
    ledger: &dyn Ledger,
    ends: &[Timestamp],
    purpose: Purpose,
    audit: &AuditEntry,
) -> Result<Vec<WindowRecord>, BackendError> {
    let (watermark, _archive) = initialised(ledger).await?;
    let until = watermark.archived_until;
    let (due, above): (Vec<_>, Vec<_>) = ends.iter().partition(|end| **end <= until);
    if let Some(first) = above.first() {
        let what = format!(
            "the watermark was moved back to {until}, and the window that ends at {first} is \
             verified and reconciled when it passes there again: run `des migrate`"
        );
        if due.is_empty() {
            return Err(BackendError::Invalid { what });
        }
        warn!("{what}");
    }
    let mut requested = Vec::with_capacity(due.len());
    for end in due {
        requested.push(ledger.request_pass(end, purpose, audit).await?);
    }
    Ok(requested)
}

/// What the passes found that were asked for, of windows whose passes are over.
///
/// # Errors
/// When the ledger does not answer.
pub async fn findings(
    ledger: &dyn Ledger,
    requested: &[WindowRecord],
) -> Result<Vec<(Timestamp, Findings)>, BackendError> {
    let open: HashSet<_> = ledger.open_windows().await?.iter().map(WindowRecord::key).collect();
    let mut found = Vec::with_capacity(requested.len());
    for record in requested.iter().filter(|record| !open.contains(&record.key())) {
        let end = record.window.end();
        let just_before = end.saturating_add_micros(-1);
        let look = ledger.looks(Some(just_before), Some(end), 1).await?.pop();
        let findings = Findings::decode(look.and_then(|look| look.findings).as_deref());
        found.push((end, findings));
    }
    Ok(found)
}
