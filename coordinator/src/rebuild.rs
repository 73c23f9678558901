//! Rebuilds a ledger that was lost, or restored to an older point, from the store alone.
//!
//! What a certificate proves is taken for committed, also when its commit never happened: it is
//! written when every row of the window is accounted for and every object that it names is durable,
//! so that nothing is missing but the line in the ledger. It never moves a watermark over anything
//! that no certificate covers, and writes nothing into the store.

mod plan;
mod skips;

use std::time::Duration;

use backends::ledger::{AdoptedArchive, AdoptedWindow, ArchiveRecord, AuditEntry, Lease};
use backends::{BackendError, Ledger, Store};
use futures::future::LocalBoxFuture;
use futures::{StreamExt, stream};
use protocol::certificate::CertificateKind;
use protocol::{ArchiveIdentity, Certificate, Timestamp, WorkerId, names};
use serde::Serialize;
use tracing::info;

use self::plan::{Known, Plan, plan};
use self::skips::judge_skip;
pub use self::skips::{Skip, SkipVerdict};
use crate::certify::totals_of;
use crate::init::{ArchiveSeed, InitError, check_seed, read_identity};
use crate::passes::{
    CERTIFICATES_IN_FLIGHT, Pass, committed_passes, listed_certificates, read_certificate,
    read_pass, shortened,
};

/// How long a step of the rebuilding may keep others from leading.
const LEASE_TTL: Duration = Duration::from_secs(60);
/// Passes, and their error rows, that are recorded in one transaction.
const BATCH_PASSES: usize = 100;
const BATCH_FAILURES: usize = 20_000;
/// Epochs that are passed over. Leaders that certified nothing have used some above the highest
/// certificate's, and one of them may still be about to write a certificate.
const EPOCH_MARGIN: u64 = 1_000_000;

/// What a ledger lacks, and what it will hold. Nothing is changed yet.
#[derive(Clone, Debug)]
pub struct Rebuilding {
    identity: ArchiveIdentity,
    plan: Plan,
    watermark_before: Option<Timestamp>,
    highest_epoch: u64,
    report: RebuildReport,
}

/// What was rebuilt, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Whether the ledger was changed.
    pub changed: bool,
    /// The archive.
    pub archive: String,
    /// Rows at or below are not covered.
    pub origin: Timestamp,
    /// Where the watermark will stand: the end of the certified windows that follow each other
    /// from the origin on.
    pub archived_until: Timestamp,
    /// Passes that the ledger has already.
    pub windows_known: u64,
    /// Passes that are recorded.
    pub windows_recorded: u64,
    /// Error rows of these, those that later passes resolved included.
    pub error_rows: u64,
    /// The highest epoch of any certificate. The next leader's is far above it.
    pub highest_epoch: u64,
    /// Where the first gap ends, when there are certified windows after one.
    pub gap_until: Option<Timestamp>,
    /// Windows after that gap. They are met again, verified and not packed twice, when the
    /// watermark comes to them.
    pub windows_after_gap: u64,
    /// Skips that the ledger does not know of, and whether they are believed.
    pub skips: Vec<Skip>,
}

impl Rebuilding {
    /// What will be rebuilt.
    pub const fn report(&self) -> &RebuildReport {
        &self.report
    }

    /// Whether the ledger lacks anything.
    pub const fn is_needed(&self) -> bool {
        self.plan.change
    }
}

fn refused(why: String) -> InitError {
    InitError::Refused(why)
}

/// Reads every certificate and compares with the ledger, which is `None` where it does not even
/// exist. A skip that nothing confirms is believed only with `accept_skip`. Changes nothing.
///
/// # Errors
/// When a certificate that counts cannot be read, when the ledger belongs to another archive or
/// holds what the store does not have, naming it, or when something does not answer.
pub fn examine<'a>(
    store: &'a Store,
    ledger: Option<&'a dyn Ledger>,
    seed: &'a ArchiveSeed,
    accept_skip: bool,
) -> LocalBoxFuture<'a, Result<Rebuilding, InitError>> {
    Box::pin(compare_with(store, ledger, seed, accept_skip))
}

async fn compare_with(
    store: &Store,
    ledger: Option<&dyn Ledger>,
    seed: &ArchiveSeed,
    accept_skip: bool,
) -> Result<Rebuilding, InitError> {
    let identity = read_identity(store).await?.ok_or_else(|| {
        refused(format!(
            "{store} holds no archive ({} is not there): there is nothing to rebuild from",
            names::ARCHIVE
        ))
    })?;
    check_seed(&identity, store, seed)?;
    let listed = listed_certificates(store).await?;
    let highest_epoch = listed.iter().map(|name| name.epoch).max().unwrap_or(0);
    let known = known(ledger).await?;

    let (mut certified, mut failures, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let mut problems = Vec::new();
    let by = &identity;
    let mut reading = stream::iter(names::effective_certificates(listed))
        .map(|name| async move { (name, read_certificate(store, by, name).await) })
        .buffered(CERTIFICATES_IN_FLIGHT);
    while let Some((name, read)) = reading.next().await {
        match read? {
            Ok(it) => {
                let pass = Pass { window: it.window, certificate: name };
                if it.kind == CertificateKind::Skipped && !known.passes.contains(&pass) {
                    skipped.push(pass);
                }
                certified.push(pass);
                failures.push(it.failed.rows);
            }
            Err(problem) => problems.push(problem),
        }
    }
    drop(reading);
    if !problems.is_empty() {
        return Err(refused(format!(
            "certificates cannot be read, so that nobody can say what is settled; nothing was \
             changed. Restore them:\n  {}",
            shortened(&problems)
        )));
    }
    let skips = judge_skips(&skipped, &certified, accept_skip);
    let unbelieved =
        |pass: &Pass| skipped.iter().zip(&skips).any(|(skip, it)| skip == pass && !it.believed);
    let believed: Vec<_> = certified.iter().copied().filter(|pass| !unbelieved(pass)).collect();
    let plan = plan(&identity, &believed, &known).map_err(refused)?;
    let of_missing = certified.iter().zip(&failures).filter(|(pass, _)| plan.lacks(pass));
    let error_rows = of_missing.map(|(_, rows)| rows).sum();
    let report = RebuildReport {
        changed: false,
        archive: identity.archive.to_string(),
        origin: plan.origin,
        archived_until: plan.archived_until,
        windows_known: known.passes.len() as u64,
        windows_recorded: plan.missing.len() as u64,
        error_rows,
        highest_epoch,
        gap_until: plan.gap_until,
        windows_after_gap: plan.windows_after_gap,
        skips,
    };
    let watermark_before = known.watermark;
    Ok(Rebuilding { identity, plan, watermark_before, highest_epoch, report })
}

fn judge_skips(skipped: &[Pass], certified: &[Pass], accept: bool) -> Vec<Skip> {
    let judged = skipped.iter().map(|skip| {
        let verdict = judge_skip(skip, certified);
        let believed = match verdict {
            SkipVerdict::Confirmed => true,
            SkipVerdict::Unconfirmed => accept,
            SkipVerdict::Contradicted => false,
        };
        let name = skip.certificate;
        Skip {
            certificate: names::certificate(name.window, name.epoch),
            start: skip.window.start(),
            end: skip.window.end(),
            verdict,
            believed,
        }
    });
    judged.collect()
}

/// What a ledger knows, one without tables nothing.
async fn known(ledger: Option<&dyn Ledger>) -> Result<Known, InitError> {
    let Some(ledger) = ledger else { return Ok(Known::default()) };
    let passes = match committed_passes(ledger).await {
        Err(error) if error.is_not_found() => Vec::new(),
        other => other?,
    };
    Ok(Known {
        archive: ledger.archive().await?,
        watermark: ledger.watermark().await?.map(|row| row.archived_until),
        passes,
    })
}

/// Carries a rebuilding out, in a ledger whose tables are there. Ended midway it can be begun again:
/// until its last step the ledger is refused by whoever would lead.
///
/// # Errors
/// When somebody else takes the lease or moves the watermark meanwhile, or something does not
/// answer.
pub fn rebuild<'a>(
    store: &'a Store,
    ledger: &'a dyn Ledger,
    rebuilding: &'a Rebuilding,
    seed: &'a ArchiveSeed,
    (writer, reason): (&'a WorkerId, Option<String>),
) -> LocalBoxFuture<'a, Result<RebuildReport, InitError>> {
    Box::pin(async move {
        let lease = ledger.seize_lease(writer, LEASE_TTL).await?;
        let done = rebuild_under(store, ledger, rebuilding, (seed, reason), &lease).await;
        if done.is_err() {
            let _it_expires = ledger.release_lease(&lease).await;
        }
        done?;
        Ok(RebuildReport { changed: true, ..rebuilding.report.clone() })
    })
}

async fn rebuild_under(
    store: &Store,
    ledger: &dyn Ledger,
    rebuilding: &Rebuilding,
    (seed, reason): (&ArchiveSeed, Option<String>),
    lease: &Lease,
) -> Result<(), InitError> {
    let Rebuilding { identity, plan, watermark_before, highest_epoch, report } = rebuilding;
    let mut batch = Vec::new();
    let mut reading = stream::iter(&plan.missing)
        .map(|pass| read_pass(store, identity, pass))
        .buffered(CERTIFICATES_IN_FLIGHT);
    while let Some(read) = reading.next().await {
        batch.push(adopted(read?.map_err(refused)?));
        let failures: usize = batch.iter().map(|pass: &AdoptedWindow| pass.failures.len()).sum();
        if batch.len() >= BATCH_PASSES || failures >= BATCH_FAILURES {
            record(ledger, lease, &batch).await?;
            batch.clear();
        }
    }
    record(ledger, lease, &batch).await?;
    let from = watermark_before.map(|time| time.to_string());
    let adopted = AdoptedArchive {
        record: ArchiveRecord {
            archive: identity.archive.clone(),
            n_bits: identity.n_bits,
            origin: plan.origin,
            settled_until: plan.archived_until,
        },
        watermark_before: *watermark_before,
        lag_days: seed.lag_days,
        epoch: highest_epoch.saturating_add(EPOCH_MARGIN),
        audit: AuditEntry {
            actor: seed.actor.clone(),
            action: "rebuild-ledger".to_owned(),
            from,
            to: Some(format!(
                "{}; {} windows recorded",
                plan.archived_until, report.windows_recorded
            )),
            reason,
        },
    };
    Ok(ledger.adopt_archive(lease, &adopted).await?)
}

async fn record(
    ledger: &dyn Ledger,
    lease: &Lease,
    batch: &[AdoptedWindow],
) -> Result<(), InitError> {
    if batch.is_empty() {
        return Ok(());
    }
    if !ledger.renew_lease(lease, LEASE_TTL).await? {
        return Err(InitError::Backend(BackendError::Conflict {
            what: "somebody else took the lease while the ledger was rebuilt: stop every \
                   coordinator of this archive, and begin again"
                .to_owned(),
        }));
    }
    ledger.adopt_windows(lease, batch).await?;
    info!(windows = batch.len(), "recorded");
    Ok(())
}

fn adopted(certificate: Certificate) -> AdoptedWindow {
    AdoptedWindow {
        window: certificate.window,
        revision: certificate.revision,
        rows: certificate.rows(),
        certificate: names::certificate(certificate.key(), certificate.epoch),
        certified_at: certificate.written_at,
        totals: totals_of(&certificate),
        replaces: certificate.replaces,
        skipped: certificate.kind == CertificateKind::Skipped,
        failures: certificate.failures,
    }
}
