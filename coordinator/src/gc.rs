//! Removes objects that nothing will ever name: what slow, killed or superseded writers left of
//! passes that are settled.
//!
//! It needs no lease and disturbs nobody. What it removes belongs to passes over which no
//! coordinator decides any more ([`settled::Settled::is_over`]), so that a collector that stalls and
//! wakes up much later does no harm either. It reads certificates and the ledger, and changes
//! neither.

mod named;
mod settled;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use backends::ledger::AuditEntry;
use backends::store::{ListedObject, staged_name};
use backends::{BackendError, Ledger, Store};
use futures::future::LocalBoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::names::{CertificateName, ObjectName};
use protocol::{ArchiveIdentity, Certificate, Timestamp, WindowKey, names};
use serde::Serialize;
use tracing::debug;

use self::named::{Cut, Names, Stretch, for_each_name};
pub(crate) use self::settled::{Settled, Standing};
use self::settled::{Verdict, judge};
use crate::init::{InitError, read_identity};
use crate::passes::{
    CERTIFICATES_IN_FLIGHT, Pass, committed_passes, listed_certificates, read_pass, shortened,
};

/// Objects removed at a time.
const REMOVALS_IN_FLIGHT: usize = 32;
/// Names that are remembered at a time, eight bytes each. An archive with more is gone through in
/// stretches, each with a listing of its own.
const NAMES_IN_MEMORY: usize = 8 * 1024 * 1024;
/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// What was written within this time is left alone.
    pub grace: Duration,
    /// Count, and remove nothing.
    pub dry_run: bool,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Objects.
    pub objects: u64,
    /// Their sizes in bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, object: &ListedObject) {
        self.objects += 1;
        self.bytes += object.size;
    }
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed, only counted.
    pub dry_run: bool,
    /// Committed passes whose certificates were read.
    pub certificates_read: u64,
    /// Certificates in whose place one of a later epoch counts, of their pass or around it.
    pub certificates: Count,
    /// Receipts.
    pub receipts: Count,
    /// Shards.
    pub shards: Count,
    /// Manifests.
    pub manifests: Count,
    /// What killed writers left in a directory, half written.
    pub staging: Count,
    /// What nothing names either, but is younger than the grace.
    pub kept_young: Count,
}

impl GcReport {
    /// Everything that was removed, or would be.
    pub fn removed(&self) -> Count {
        let kinds = [self.certificates, self.receipts, self.shards, self.manifests, self.staging];
        kinds.iter().fold(Count::default(), |sum, kind| Count {
            objects: sum.objects + kind.objects,
            bytes: sum.bytes + kind.bytes,
        })
    }

    fn of_kind(&mut self, name: ObjectName) -> &mut Count {
        match name {
            ObjectName::Certificate(_) => &mut self.certificates,
            ObjectName::Receipt(_) => &mut self.receipts,
            ObjectName::Manifest(_) => &mut self.manifests,
            ObjectName::Shard(_) | ObjectName::Identity | ObjectName::BigFile => &mut self.shards,
        }
    }
}

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Store and ledger do not agree on what is committed, so that nobody can say what is named.
    #[error("{0}")]
    Refused(String),
}

/// Removes what nothing will ever name. `report` counts as it goes, so that it is right also after
/// an error; `begun` is written into the audit log before anything is removed, since whoever sweeps
/// may be killed in the middle of it.
///
/// # Errors
/// When a certificate is missing, unreadable or unknown to the ledger, naming it, before anything
/// is removed; or when something does not answer.
pub fn collect<'a>(
    store: &'a Store,
    ledger: &'a dyn Ledger,
    job: (GcOptions, &'a AuditEntry),
    report: &'a mut GcReport,
) -> LocalBoxFuture<'a, Result<(), GcError>> {
    Box::pin(sweep(store, ledger, job, report))
}

async fn sweep(
    store: &Store,
    ledger: &dyn Ledger,
    (options, begun): (GcOptions, &AuditEntry),
    report: &mut GcReport,
) -> Result<(), GcError> {
    report.dry_run = options.dry_run;
    let identity = same_archive(store, ledger).await?;
    // In this order: a window that is being committed meanwhile is among the open ones or among the
    // committed ones, whatever happens between the three.
    let listed = listed_certificates(store).await?;
    let open: HashSet<WindowKey> =
        ledger.open_windows().await?.iter().map(|record| record.key()).collect();
    let passes = committed_passes(ledger).await?;
    let settled = Settled::new(&passes, open);
    refuse_unknown(&listed, &settled, store)?;
    drop(listed);

    let now = ledger.now().await?;
    let grace = i64::try_from(options.grace.as_micros()).unwrap_or(i64::MAX);
    let mut sweep = Sweep {
        store,
        identity: &identity,
        settled: &settled,
        written_before: now.saturating_add_micros(grace.saturating_neg()),
        dry_run: options.dry_run,
        report,
    };
    let (stretches, strayed) = sweep.read_certificates(&passes).await?;
    if !options.dry_run {
        ledger.record_audit(begun).await?;
    }
    for stretch in stretches {
        sweep.stretch(&passes, stretch, &strayed).await?;
    }
    sweep.staging().await
}

async fn same_archive(store: &Store, ledger: &dyn Ledger) -> Result<ArchiveIdentity, GcError> {
    let identity = read_identity(store).await.map_err(|error| match error {
        InitError::Backend(error) => GcError::Backend(error),
        InitError::Refused(why) => GcError::Refused(why),
    })?;
    let recorded = ledger.archive().await?;
    match (identity, recorded) {
        (Some(identity), Some(record)) if identity.archive == record.archive => Ok(identity),
        (Some(identity), Some(record)) => Err(GcError::Refused(format!(
            "{store} belongs to archive {}, and the ledger to archive {}: nothing is removed",
            identity.archive, record.archive
        ))),
        (None, _) => Err(GcError::Refused(format!("{store} holds no archive: nothing to collect"))),
        (Some(identity), None) => Err(GcError::Refused(format!(
            "the ledger knows nothing of archive {} in {store}: check `watermark.config_db_url`; a \
             lost ledger is rebuilt with `des rebuild-ledger`",
            identity.archive
        ))),
    }
}

/// Refuses certificates of which the ledger knows nothing: what they name may be needed.
fn refuse_unknown(
    listed: &[CertificateName],
    settled: &Settled,
    store: &Store,
) -> Result<(), GcError> {
    let unknown: Vec<String> = listed
        .iter()
        .filter(|name| settled.standing(**name) == Standing::Unknown)
        .map(|name| names::certificate(name.window, name.epoch))
        .collect();
    refusal(&unknown, || {
        format!(
            "the ledger does not know of certificates that {store} holds, so nothing is removed. \
             If the ledger was restored from an older backup, run `des rebuild-ledger`; if an \
             adjustment dropped the window just before its commit, `des migrate` settles it again, \
             or `des adjust` over the whole of it; a later pass that was dropped is settled by the \
             next one that packs something, such as after `des retry-failed`"
        )
    })
}

fn refusal(problems: &[String], why: impl FnOnce() -> String) -> Result<(), GcError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(GcError::Refused(format!("{}:\n  {}", why(), shortened(problems))))
}

struct Sweep<'a> {
    store: &'a Store,
    identity: &'a ArchiveIdentity,
    settled: &'a Settled,
    written_before: Timestamp,
    dry_run: bool,
    report: &'a mut GcReport,
}

impl Sweep<'_> {
    /// Reads every certificate that counts, and divides the ends into stretches. Names of objects
    /// of other windows than the certificate's come apart, since they count in every stretch.
    async fn read_certificates(
        &mut self,
        passes: &[Pass],
    ) -> Result<(Vec<Stretch>, Names), GcError> {
        let (mut cut, mut strayed) = (Cut::new(NAMES_IN_MEMORY), Names::default());
        let mut problems = Vec::new();
        let mut reading = stream::iter(passes)
            .map(|pass| read_pass(self.store, self.identity, pass))
            .buffered(CERTIFICATES_IN_FLIGHT);
        while let Some(read) = reading.next().await {
            match read? {
                Ok(certificate) => {
                    cut.add(&certificate);
                    self.add_strayed(&certificate, &mut strayed);
                }
                Err(problem) => problems.push(problem),
            }
            self.report.certificates_read += 1;
        }
        refusal(&problems, || {
            "certificates that the ledger names cannot be read, so nothing is removed. Restore \
             them, or find out with `des verify` what is wrong"
                .to_owned()
        })?;
        Ok((cut.finish(), strayed))
    }

    fn add_strayed(&self, certificate: &Certificate, strayed: &mut Names) {
        let end = certificate.window.end();
        for_each_name(certificate, |name| {
            let window = names::parse(name, self.identity.n_bits).and_then(ObjectName::window);
            if window.is_some_and(|window| window.end != end) {
                strayed.insert(name);
            }
        });
    }

    /// What names goes before what is named, so that a sweep that ends midway leaves nothing that
    /// points nowhere.
    async fn stretch(
        &mut self,
        passes: &[Pass],
        stretch: Stretch,
        strayed: &Names,
    ) -> Result<(), GcError> {
        let Stretch { ends, names: at_hand } = stretch;
        let mut named = match at_hand {
            Some(named) => named,
            None => self.names_of(passes, &ends).await?,
        };
        named.extend(strayed);
        named.sort();
        for folder in [names::CERTIFICATES, names::RECEIPTS, "", names::MANIFESTS] {
            self.folder(folder, &ends, &named).await?;
        }
        Ok(())
    }

    async fn names_of(
        &self,
        passes: &[Pass],
        ends: &RangeInclusive<Timestamp>,
    ) -> Result<Names, GcError> {
        let mut named = Names::default();
        let mut reading = stream::iter(passes)
            .filter(|pass| std::future::ready(ends.contains(&pass.window.end())))
            .map(|pass| read_pass(self.store, self.identity, pass))
            .buffered(CERTIFICATES_IN_FLIGHT);
        while let Some(read) = reading.next().await {
            let certificate = read?.map_err(GcError::Refused)?;
            for_each_name(&certificate, |name| named.insert(name));
        }
        Ok(named)
    }

    /// Removes from one folder; the archive's root stands for the shards, which lie there.
    async fn folder(
        &mut self,
        folder: &str,
        ends: &RangeInclusive<Timestamp>,
        named: &Names,
    ) -> Result<(), GcError> {
        let n_bits = self.identity.n_bits;
        let mut removals = self
            .store
            .list(folder)
            .try_filter_map(|object| {
                let name = names::parse(&object.key, n_bits);
                let here = |name: &ObjectName| {
                    let is_shard = matches!(name, ObjectName::Shard(_));
                    is_shard == folder.is_empty()
                        && name.window().is_some_and(|key| ends.contains(&key.end))
                };
                std::future::ready(Ok(name.filter(here).map(|name| (object, name))))
            })
            .map_ok(|(object, name)| {
                let verdict = judge(&object, name, self.settled, named, self.written_before);
                let (store, remove) = (self.store, verdict == Verdict::Remove && !self.dry_run);
                async move {
                    if remove {
                        debug!(object.key, "removing");
                        store.delete(&object.key).await?;
                    }
                    Ok((object, name, verdict))
                }
            })
            .try_buffer_unordered(REMOVALS_IN_FLIGHT);
        while let Some((object, name, verdict)) = removals.try_next().await? {
            match verdict {
                Verdict::Keep => {}
                Verdict::Young => self.report.kept_young.add(&object),
                Verdict::Remove => self.report.of_kind(name).add(&object),
            }
        }
        Ok(())
    }

    /// Sweeps what killed writers left half written. Their names are those of objects of ours, so
    /// that no stranger's file is taken for one.
    async fn staging(&mut self) -> Result<(), GcError> {
        let n_bits = self.identity.n_bits;
        let mut files = self.store.staging_files();
        while let Some(file) = files.try_next().await? {
            let is_ours =
                staged_name(&file.key).is_some_and(|name| names::parse(name, n_bits).is_some());
            if !is_ours {
                continue;
            }
            if file.modified >= self.written_before {
                self.report.kept_young.add(&file);
                continue;
            }
            if !self.dry_run {
                self.store.remove_staging_file(&file.key).await?;
            }
            self.report.staging.add(&file);
        }
        Ok(())
    }
}
