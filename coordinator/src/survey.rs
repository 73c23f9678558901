//! What a window that was committed before really holds: its certificates, whether the objects
//! that they name are there and whole, and which rows are settled by them.

use std::collections::{HashMap, HashSet};

use backends::ledger::WindowRecord;
use backends::{BackendError, Store};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::certificate::CertificateKind;
use protocol::manifest::ManifestReader;
use protocol::receipt::ShardRef;
use protocol::{Certificate, NBits, PackSettings};
use tracing::warn;

use crate::known::{Fate, KnownRevision, KnownRows, failed_rows};

pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;
/// Shards whose bytes are checked at a time, each in pieces of [`PIECE_BYTES`].
const CHECKS_IN_FLIGHT: usize = 4;
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// What earlier revisions of a window account for.
#[derive(Clone)]
pub(crate) struct Survey {
    revisions: Vec<KnownRevision>,
    /// Shards that are gone or damaged.
    damaged: Vec<ShardRef>,
}

impl Survey {
    /// Names of the shards that are gone or damaged.
    pub(crate) fn damaged(&self) -> impl Iterator<Item = &str> {
        self.damaged.iter().map(|shard| shard.key.as_str())
    }

    /// The rows of all revisions in row order. To be read on a thread that may block.
    pub(crate) fn rows(&self, store: &Store, n_bits: NBits) -> KnownRows {
        KnownRows::new(store.clone(), n_bits, self.revisions.clone())
    }
}

/// Reads the certificates of `committed`, all of one window, and checks every byte of the shards
/// they name.
///
/// # Errors
/// When the store does not answer, or a certificate itself cannot be read.
pub(crate) async fn survey(
    store: &Store,
    committed: &[WindowRecord],
) -> Result<Survey, BackendError> {
    let certificates = read_certificates(store, committed).await?;
    for big in certificates.iter().flat_map(|certificate| &certificate.big_files) {
        if store.size(&big.key).await? != Some(big.size) {
            return Err(BackendError::Invalid {
                what: format!(
                    "{} in {store} is gone, or has another size: put the file with this SHA-256 \
                     back, des cannot make it again yet",
                    big.key
                ),
            });
        }
    }
    let damaged = damaged_shards(store, certified_shards(&certificates)).await?;
    Ok(account(certificates, damaged))
}

async fn read_certificates(
    store: &Store,
    committed: &[WindowRecord],
) -> Result<Vec<Certificate>, BackendError> {
    let mut certificates = Vec::new();
    for key in committed.iter().filter_map(|record| record.certificate.as_ref()) {
        let bytes = store.get(key, MAX_CERTIFICATE_BYTES).await?;
        let certificate = Certificate::decode(&bytes).map_err(|error| BackendError::Invalid {
            what: format!("{key} in {store}: {error}"),
        })?;
        certificates.push(certificate);
    }
    Ok(certificates)
}

/// The shards that hold the window, without those that were replaced.
fn certified_shards(certificates: &[Certificate]) -> Vec<ShardRef> {
    let replaced: HashSet<&String> = certificates.iter().flat_map(|it| &it.replaces).collect();
    let shards = certificates.iter().flat_map(|certificate| &certificate.shards);
    shards.filter(|shard| !replaced.contains(&shard.key)).cloned().collect()
}

/// What the revisions account for, when these shards are gone or damaged. Pure.
fn account(certificates: Vec<Certificate>, damaged: Vec<ShardRef>) -> Survey {
    let lost: HashMap<String, usize> =
        damaged.iter().enumerate().map(|(number, shard)| (shard.key.clone(), number)).collect();
    let replaced: HashSet<String> =
        certificates.iter().flat_map(|it| it.replaces.iter().cloned()).collect();
    let taken_up: HashSet<String> =
        certificates.iter().flat_map(|it| it.unrepaired.iter().cloned()).collect();
    let fate = |shard: &ShardRef| match lost.get(&shard.key) {
        _ if replaced.contains(&shard.key) => Some(Fate::Replaced),
        Some(&number) if taken_up.contains(&shard.key) => Some(Fate::TakenUp(number)),
        // It was made whole again later: the revision that took its rows up answers for them.
        None if taken_up.contains(&shard.key) => Some(Fate::Replaced),
        Some(_) => Some(Fate::Lost),
        None => None,
    };
    let tries_again = |certificate: &Certificate| certificate.kind == CertificateKind::Packed;
    let last_try = certificates.iter().rposition(tries_again).unwrap_or(0);
    let revisions = certificates.into_iter().enumerate().map(|(number, certificate)| {
        let fates = certificate.shards.iter();
        let fates = fates.filter_map(|shard| Some((shard.key.clone(), fate(shard)?))).collect();
        KnownRevision {
            fates,
            partitions: certificate.partitions.into(),
            shards: certificate.shards,
            failed: failed_rows(certificate.failures),
            failed_count: number >= last_try,
        }
    });
    Survey { revisions: revisions.collect(), damaged }
}

/// What the manifest was written for.
///
/// # Errors
/// When it is gone or damaged.
pub(crate) async fn settings_of(
    store: &Store,
    manifest: &str,
) -> Result<PackSettings, BackendError> {
    let bytes = store.get(manifest, MAX_MANIFEST_BYTES).await?;
    let reader = ManifestReader::new(&bytes).map_err(|error| BackendError::Invalid {
        what: format!("{manifest} in {store}: {error}"),
    })?;
    Ok(reader.header().settings)
}

/// Of these shards those that are gone, or whose bytes are not what their certificate states.
async fn damaged_shards(
    store: &Store,
    shards: Vec<ShardRef>,
) -> Result<Vec<ShardRef>, BackendError> {
    stream::iter(shards)
        .map(|shard| async move {
            let sound = is_sound(store, &shard).await?;
            Ok::<_, BackendError>((!sound).then_some(shard))
        })
        .buffered(CHECKS_IN_FLIGHT)
        .try_filter_map(|damaged| async move { Ok(damaged) })
        .try_collect()
        .await
}

/// Whether the shard is there with the size and checksum that its certificate states.
async fn is_sound(store: &Store, shard: &ShardRef) -> Result<bool, BackendError> {
    if store.size(&shard.key).await? != Some(shard.size) {
        warn!(shard = shard.key, "the shard is gone, or has another size");
        return Ok(false);
    }
    let mut crc32c = 0;
    let mut at = 0;
    while at < shard.size {
        let end = (at + PIECE_BYTES).min(shard.size);
        crc32c = crc32c::crc32c_append(crc32c, &store.get_range(&shard.key, at..end).await?);
        at = end;
    }
    if crc32c != shard.crc32c {
        warn!(shard = shard.key, "the shard is damaged: its checksum is wrong");
    }
    Ok(crc32c == shard.crc32c)
}
