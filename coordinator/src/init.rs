//! The archive's identity and the first watermark: made once, checked by every run.

use backends::ledger::{ArchiveRecord, AuditEntry, WatermarkRow};
use backends::store::ListedObject;
use backends::{BackendError, Catalog, Ledger, Store};
use futures::TryStreamExt;
use protocol::{ArchiveId, ArchiveIdentity, Job, NBits, Timestamp, names};
use tracing::{info, warn};

use crate::behind::is_behind;

/// The identity is a few hundred bytes.
pub(crate) const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// What the configuration says about an archive.
#[derive(Clone, Debug)]
pub struct ArchiveSeed {
    /// The job.
    pub job: Job,
    /// Bits of the shard index.
    pub n_bits: NBits,
    /// The first watermark, where no row holds one yet.
    pub default_archived_until: Option<Timestamp>,
    /// Seeds the watermark row's lag.
    pub lag_days: u32,
    /// How many rows at or below an adopted watermark may stay uncovered.
    pub accept_below: u64,
    /// Who does this, for the audit log.
    pub actor: String,
    /// Why, in the operator's words, for the audit log.
    pub reason: Option<String>,
    /// Windows end on multiples of this, in microseconds.
    pub window_span_micros: i64,
}

/// The archive as it now is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Its identity.
    pub identity: ArchiveIdentity,
    /// Whether it was made just now.
    pub created: bool,
    /// The watermark row.
    pub watermark: WatermarkRow,
    /// Rows at or below the origin; counted only when the archive was made just now.
    pub uncovered_files: Option<u64>,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Store, ledger and configuration do not belong together, or a rule forbids it.
    #[error("{0}")]
    Refused(String),
}

fn refused(why: impl Into<String>) -> InitError {
    InitError::Refused(why.into())
}

/// What [`examine`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// The archive is there, in store and ledger.
    There(InitReport),
    /// There is none yet, and nothing forbids to make it.
    ToMake(Proposal),
}

/// An archive that may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    identity: ArchiveIdentity,
    watermark: WatermarkRow,
    uncovered_files: u64,
}

/// Looks for the archive of the job, and whether it may be made where it is not; changes nothing.
/// Ledger and store are `None` where they do not even exist yet.
///
/// # Errors
/// When store, ledger and configuration contradict each other, when a watermark is adopted that
/// more rows lie below than is accepted, or when something does not answer.
pub async fn examine(
    ledger: Option<&dyn Ledger>,
    catalog: &dyn Catalog,
    store: Option<&Store>,
    seed: &ArchiveSeed,
) -> Result<Examined, InitError> {
    // The ledger first: whoever else makes the archive at this moment writes the store first.
    let recorded = match ledger {
        Some(ledger) => ledger.archive().await?.map(|record| (ledger, record)),
        None => None,
    };
    let stored = match store {
        Some(store) => read_identity(store).await?.map(|identity| (store, identity)),
        None => None,
    };
    if let Some((store, identity)) = &stored {
        check_seed(identity, store, seed)?;
    }
    match (stored, recorded) {
        (Some((store, identity)), Some((ledger, record))) => {
            there(store, identity, ledger, &record, seed).await
        }
        (None, Some((_, record))) => Err(refused(format!(
            "the ledger belongs to archive {}, and the store holds no archive: check `store.url` \
             (or `packer.output_dir`), and that the store is mounted",
            record.archive
        ))),
        (Some((store, identity)), None) if has_certificates(store).await? => {
            // Somebody may have made it, and committed, since the ledger was asked.
            if let Some(ledger) = ledger
                && let Some(record) = ledger.archive().await?
            {
                return there(store, identity, ledger, &record, seed).await;
            }
            Err(refused(unknown_archive(store, &identity)))
        }
        (found, None) => {
            let found = found.map(|(_, identity)| identity);
            propose(ledger, catalog, seed, found).await.map(Examined::ToMake)
        }
    }
}

async fn there(
    store: &Store,
    identity: ArchiveIdentity,
    ledger: &dyn Ledger,
    record: &ArchiveRecord,
    seed: &ArchiveSeed,
) -> Result<Examined, InitError> {
    if identity.archive != record.archive {
        return Err(refused(format!(
            "{store} belongs to archive {}, and the ledger to archive {}: one of `store.url` and \
             `watermark.config_db_url` is not the right one",
            identity.archive, record.archive
        )));
    }
    let watermark = ledger.watermark().await?.ok_or_else(|| {
        refused(format!(
            "des_archive_config holds no row for this job, though the archive is recorded: somebody \
             deleted it. Put it back, with archived_until {}",
            record.settled_until
        ))
    })?;
    if let Some(why) = is_behind(store, ledger, &identity).await? {
        return Err(refused(why));
    }
    if watermark.lag_days != seed.lag_days {
        warn!(
            ledger = watermark.lag_days,
            configured = seed.lag_days,
            "lag_days: des_archive_config rules, the configuration only seeds it"
        );
    }
    let report = InitReport { identity, created: false, watermark, uncovered_files: None };
    Ok(Examined::There(report))
}

/// The identity that a store holds, if any.
///
/// # Errors
/// When the store does not answer or what it holds cannot be read.
pub(crate) async fn read_identity(store: &Store) -> Result<Option<ArchiveIdentity>, InitError> {
    match store.get(names::ARCHIVE, MAX_IDENTITY_BYTES).await {
        Ok(bytes) => ArchiveIdentity::decode(&bytes)
            .map(Some)
            .map_err(|error| refused(format!("{} in {store}: {error}", names::ARCHIVE))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn check_seed(
    identity: &ArchiveIdentity,
    store: &Store,
    seed: &ArchiveSeed,
) -> Result<(), InitError> {
    if identity.job != seed.job {
        return Err(refused(format!(
            "{store} belongs to job {}, and this configuration is for job {}",
            identity.job, seed.job
        )));
    }
    if identity.n_bits != seed.n_bits {
        return Err(refused(format!(
            "{store} was made with n_bits {}, and packer.n_bits is {}: it cannot be changed, \
             since readers know only one; set packer.n_bits back",
            identity.n_bits, seed.n_bits
        )));
    }
    Ok(())
}

/// What to do about a store of which the ledger knows nothing.
pub(crate) fn unknown_archive(store: &Store, identity: &ArchiveIdentity) -> String {
    format!(
        "{store} holds archive {} with committed windows, and the ledger knows nothing of it: \
         check `watermark.config_db_url`; a lost ledger is restored from its backup or rebuilt \
         from the store with `des rebuild-ledger`",
        identity.archive
    )
}

/// Whether any window was ever certified.
pub(crate) async fn has_certificates(store: &Store) -> Result<bool, InitError> {
    let first: Option<ListedObject> = store.list(names::CERTIFICATES).try_next().await?;
    Ok(first.is_some())
}

/// What would be made. A run that died between the store and the ledger left an identity without
/// record, which is then taken up.
async fn propose(
    ledger: Option<&dyn Ledger>,
    catalog: &dyn Catalog,
    seed: &ArchiveSeed,
    found: Option<ArchiveIdentity>,
) -> Result<Proposal, InitError> {
    let (now, existing) = match ledger {
        Some(ledger) => (ledger.now().await?, ledger.watermark().await?),
        None => (catalog.now().await?, None),
    };
    let origin = match (&existing, &found) {
        (Some(row), _) => row.archived_until,
        (None, Some(identity)) => identity.origin,
        (None, None) => first_watermark(catalog, seed).await?,
    };
    if origin > now {
        let from = match existing {
            Some(_) => "des_archive_config.archived_until",
            None => "watermark.default_archived_until",
        };
        return Err(refused(format!(
            "{from} is {origin}, in the future: every file would be skipped; correct it"
        )));
    }
    let below = catalog.count_files(None, Some(origin)).await?;
    if existing.is_some() && below > seed.accept_below {
        return Err(refused(format!(
            "des_archive_config stands at {origin}, and {below} files lie at or below it, which \
             would never be archived. Set archived_until below the oldest file, or accept it with \
             `--accept-below {below}`"
        )));
    }
    let identity = found.unwrap_or_else(|| ArchiveIdentity {
        version: ArchiveIdentity::VERSION,
        archive: new_archive_id(),
        job: seed.job.clone(),
        n_bits: seed.n_bits,
        origin,
        shard_version: 2,
        created_at: now,
    });
    let first = WatermarkRow { archived_until: origin, lag_days: seed.lag_days };
    let watermark = existing.unwrap_or(first);
    Ok(Proposal { identity, watermark, uncovered_files: below })
}

/// Makes the archive: identity in the store, record and watermark in the ledger, whose tables
/// must be there. Of several that do this at once, one identity wins, and all use it.
///
/// # Errors
/// When something does not answer, or the ledger changed since it was examined.
pub async fn make(
    ledger: &dyn Ledger,
    store: &Store,
    proposal: Proposal,
    seed: &ArchiveSeed,
) -> Result<InitReport, InitError> {
    let Proposal { identity, watermark, uncovered_files } = proposal;
    let identity = publish_identity(store, identity).await?;
    check_seed(&identity, store, seed)?;
    let record = ArchiveRecord {
        archive: identity.archive.clone(),
        n_bits: identity.n_bits,
        origin: watermark.archived_until,
        settled_until: watermark.archived_until,
    };
    let uncovered = (uncovered_files > 0)
        .then(|| format!("{uncovered_files} files at or below the origin are not covered"));
    let audit = AuditEntry {
        actor: seed.actor.clone(),
        action: "init".to_owned(),
        from: None,
        to: Some(watermark.archived_until.to_string()),
        reason: match (&seed.reason, &uncovered) {
            (Some(reason), Some(uncovered)) => Some(format!("{reason} ({uncovered})")),
            (reason, uncovered) => reason.clone().or_else(|| uncovered.clone()),
        },
    };
    ledger.register(&record, watermark, &audit).await?;
    info!(archive = %identity.archive, origin = %record.origin, "archive made");
    if let Some(uncovered) = uncovered {
        warn!("{uncovered} and will not be archived");
    }
    let uncovered_files = Some(uncovered_files);
    Ok(InitReport { identity, created: true, watermark, uncovered_files })
}

/// The configured first watermark, or the boundary just below the oldest row.
pub(crate) async fn first_watermark(
    catalog: &dyn Catalog,
    seed: &ArchiveSeed,
) -> Result<Timestamp, InitError> {
    if let Some(configured) = seed.default_archived_until {
        return Ok(configured);
    }
    let oldest = catalog.oldest_after(None).await?;
    // Without any row nothing can be skipped yet, and an empty stretch costs one step.
    let epoch = Timestamp::from_micros(0).unwrap_or(Timestamp::MIN);
    Ok(oldest
        .map_or(epoch, |oldest| oldest.saturating_add_micros(-1).floor_to(seed.window_span_micros)))
}

/// Writes the identity unless one is there, and returns the one that is there.
async fn publish_identity(
    store: &Store,
    proposed: ArchiveIdentity,
) -> Result<ArchiveIdentity, InitError> {
    match store.create(names::ARCHIVE, proposed.encode().into()).await {
        Ok(_created_or_there) => {}
        // A server without conditional writes: the look before this, and the look after, are
        // what remains.
        Err(BackendError::Failed { .. }) => {
            store.put(names::ARCHIVE, proposed.encode().into()).await?;
        }
        Err(error) => return Err(error.into()),
    }
    store.flush().await?;
    read_identity(store).await?.ok_or_else(|| {
        refused(format!("{} was written to {store} and is not there", names::ARCHIVE))
    })
}

fn new_archive_id() -> ArchiveId {
    let text = uuid::Uuid::new_v4().to_string();
    text.parse().unwrap_or_else(|_never| unreachable!("a UUID is a valid archive id"))
}
