//! Moving the watermark at an operator's word: thought through first, then done under a lease that
//! keeps everybody else from committing.

use std::time::Duration;

use backends::ledger::{Adjustment, AuditEntry, Lease, WindowRecord};
use backends::{BackendError, Catalog, Ledger, Store};
use protocol::certificate::CertificateKind;
use protocol::{
    ArchiveIdentity, Certificate, PackSettings, Tally, Timestamp, Window, WorkerId, names,
};

use crate::behind::certified_already;
use crate::cutting::cutoff;
use crate::operate::initialised;

/// How long an adjustment may keep others from leading; it takes far less.
const ADJUST_TTL: Duration = Duration::from_secs(60);

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
            // From where des left it, whatever was set by hand.
            let from_there =
                settled_until.saturating_add_micros(days.saturating_mul(86_400_000_000));
            from_there.floor_to(1_000_000)
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
    refuse_certified(ledger, store).await?;
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

/// Refuses when a window that would be dropped has its certificate: only its commit is missing, and
/// without it the ledger would know less than the store.
async fn refuse_certified(ledger: &dyn Ledger, store: &Store) -> Result<(), AdjustError> {
    let open: Vec<_> = ledger.open_windows().await?.iter().map(|record| record.key()).collect();
    let Some(found) = certified_already(store, &open).await? else { return Ok(()) };
    Err(AdjustError::Refused(format!(
        "the window {} is certified and not committed yet: whoever led ended in between. Nothing was \
         changed; let a coordinator (or `des migrate`) commit it, then adjust again",
        found.window
    )))
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
    store.put_once(&key, certificate.encode().into()).await?;
    store.flush().await?;
    Ok(key)
}
