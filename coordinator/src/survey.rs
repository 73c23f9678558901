//! What a window that was committed before really holds: its certificates, whether the objects
//! that they name are there and whole, and which rows are settled by them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use backends::ledger::{Purpose, WindowRecord};
use backends::{BackendError, Store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::ManifestReader;
use protocol::receipt::{BigFileRef, ShardRef};
use protocol::{Certificate, NBits, PackSettings, names};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::init::MAX_IDENTITY_BYTES;
use crate::known::{Fate, KnownRevision, KnownRows, failed_rows, in_row_order};

pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;
pub(crate) const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;
/// Shards whose bytes are checked at a time, each in pieces of [`PIECE_BYTES`].
const CHECKS_IN_FLIGHT: usize = 4;
const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Tries of a piece that cannot be read, and the pause between them.
const READ_TRIES: u32 = 3;
const READ_PAUSE: Duration = Duration::from_secs(1);

/// What earlier revisions of a window account for.
#[derive(Clone)]
pub(crate) struct Survey {
    pub(crate) certificates: Vec<Certificate>,
    /// Shards that are gone or damaged.
    pub(crate) damaged: Vec<ShardRef>,
    /// Big files that are gone or damaged.
    pub(crate) lost_big_files: Vec<BigFileRef>,
    /// Shards that were looked at, byte for byte.
    pub(crate) shards_checked: u64,
    /// Whether rows that failed are reason enough for another revision.
    pub(crate) retries: bool,
}

impl Survey {
    /// Names of the shards that are gone or damaged.
    pub(crate) fn damaged(&self) -> impl Iterator<Item = &str> {
        self.damaged.iter().map(|shard| shard.key.as_str())
    }

    /// The rows of all revisions in row order. To be read on a thread that may block.
    pub(crate) fn rows(&self, store: &Store, n_bits: NBits) -> KnownRows {
        KnownRows::new(store.clone(), n_bits, account(&self.certificates, &self.damaged))
    }

    /// Looks again at what was gone or damaged.
    pub(crate) async fn look_again(&mut self, store: &Store) -> Result<(), BackendError> {
        self.damaged = damaged_shards(store, std::mem::take(&mut self.damaged)).await?;
        self.lost_big_files =
            lost_big_files(store, std::mem::take(&mut self.lost_big_files)).await?;
        Ok(())
    }
}

/// Reads the certificates of `committed`, all of one window, and for a replay every byte of the
/// objects that they name.
///
/// # Errors
/// When the store does not answer, or a certificate itself cannot be read.
pub(crate) async fn survey(
    store: &Store,
    committed: &[WindowRecord],
    purpose: Purpose,
) -> Result<Survey, BackendError> {
    let mut survey = Survey {
        certificates: read_certificates(store, committed).await?,
        damaged: Vec::new(),
        lost_big_files: Vec::new(),
        shards_checked: 0,
        retries: purpose == Purpose::Retry,
    };
    if purpose == Purpose::Replay {
        survey.damaged = certified_shards(&survey.certificates);
        survey.shards_checked = survey.damaged.len() as u64;
        let big_files: BTreeSet<BigFileRef> =
            survey.certificates.iter().flat_map(|it| it.big_files.iter().cloned()).collect();
        survey.lost_big_files = big_files.into_iter().collect();
        survey.look_again(store).await?;
    }
    Ok(survey)
}

pub(crate) async fn read_certificates(
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
fn account(certificates: &[Certificate], damaged: &[ShardRef]) -> Vec<KnownRevision> {
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
    // A pass without rows has tried nothing.
    let tries_again = |certificate: &Certificate| !certificate.partitions.is_empty();
    let last_try = certificates.iter().rposition(tries_again).unwrap_or(0);
    let revisions = certificates.iter().enumerate().map(|(number, certificate)| {
        let fates = certificate.shards.iter();
        let fates = fates.filter_map(|shard| Some((shard.key.clone(), fate(shard)?))).collect();
        KnownRevision {
            fates,
            partitions: in_row_order(&certificate.partitions),
            shards: certificate.shards.clone(),
            failed: failed_rows(&certificate.failures),
            failed_count: number >= last_try,
        }
    });
    revisions.collect()
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

/// Of these big files those that are gone, or whose bytes are not what their name stands for.
async fn lost_big_files(
    store: &Store,
    big_files: Vec<BigFileRef>,
) -> Result<Vec<BigFileRef>, BackendError> {
    let mut lost = Vec::new();
    for big in big_files {
        if !is_sound_big_file(store, &big).await? {
            warn!(object = big.key, "the big file is gone or damaged");
            lost.push(big);
        }
    }
    Ok(lost)
}

async fn is_sound_big_file(store: &Store, big: &BigFileRef) -> Result<bool, BackendError> {
    if store.size(&big.key).await? != Some(big.size) {
        return Ok(false);
    }
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < big.size {
        let end = (at + PIECE_BYTES).min(big.size);
        let Some(piece) = piece(store, &big.key, at..end).await? else { return Ok(false) };
        // Hashing takes long enough for a heartbeat to come late.
        let hashing = tokio::task::spawn_blocking(move || hasher.chain_update(&piece));
        hasher = hashing.await.map_err(|panicked| BackendError::Failed {
            what: format!("hashing {}", big.key),
            cause: panicked.into(),
        })?;
        at = end;
    }
    let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(big.key == names::big_file(&hash))
}

/// Reads a piece of an object; `None` where that cannot be done though the store can be read, as
/// with a bad sector. The object is damaged then: making it again does no harm to one that is not.
async fn piece(store: &Store, key: &str, range: Range<u64>) -> Result<Option<Bytes>, BackendError> {
    let mut tries = 1;
    loop {
        match store.get_range(key, range.clone()).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(_may_pass) if tries < READ_TRIES => tokio::time::sleep(READ_PAUSE).await,
            // Whoever may not read it cannot tell whether it is damaged.
            Err(refused @ BackendError::Denied { .. }) => return Err(refused),
            Err(error) => {
                let _others_can_be_read = store.get(names::ARCHIVE, MAX_IDENTITY_BYTES).await?;
                warn!(object = key, "it cannot be read: {error}");
                return Ok(None);
            }
        }
        tries += 1;
    }
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
        let Some(piece) = piece(store, &shard.key, at..end).await? else { return Ok(false) };
        crc32c = crc32c::crc32c_append(crc32c, &piece);
        at = end;
    }
    if crc32c != shard.crc32c {
        warn!(shard = shard.key, "the shard is damaged: its checksum is wrong");
    }
    Ok(crc32c == shard.crc32c)
}

#[cfg(test)]
mod tests {
    use protocol::certificate::{CertificateKind, PartitionRef};
    use protocol::{Fingerprint, Tally, Window};

    use super::*;

    fn shard(name: &str) -> ShardRef {
        ShardRef {
            key: name.to_owned(),
            size: 1,
            crc32c: 0,
            entries: 1,
            bytes_raw: 1,
            first_fingerprint: Fingerprint::default(),
            last_fingerprint: Fingerprint::default(),
            tail_bytes: 1,
        }
    }

    fn certificate(
        revision: u16,
        shards: &[&str],
        replaces: &[&str],
        unrepaired: &[&str],
    ) -> Certificate {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let at = |text: &str| text.parse().expect("a date");
        Certificate {
            version: Certificate::VERSION,
            archive: "a-1".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision,
            epoch: 1,
            writer: "w".parse().expect("a writer"),
            written_at: at("2024-12-03"),
            kind: CertificateKind::Packed,
            settings: PackSettings::default(),
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            partitions: vec![PartitionRef {
                partition: 0,
                manifest: String::new(),
                manifest_size: 0,
                range: None,
                rows: Tally::default(),
                receipt: String::new(),
                receipt_size: 0,
            }],
            shards: shards.iter().map(|name| shard(name)).collect(),
            big_files: Vec::new(),
            replaces: texts(replaces),
            unrepaired: texts(unrepaired),
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_shard_is_answered_for_by_the_last_revision_that_took_its_rows_up() {
        let certificates = [
            certificate(0, &["sound", "lost", "replaced", "taken", "healed"], &[], &[]),
            certificate(1, &["new"], &["replaced"], &["taken", "healed"]),
        ];
        let certified = certified_shards(&certificates);
        let names: Vec<_> = certified.iter().map(|shard| shard.key.as_str()).collect();
        assert_eq!(names, ["sound", "lost", "taken", "healed", "new"]);

        let damaged = [shard("lost"), shard("taken"), shard("new")];
        let revisions = account(&certificates, &damaged);
        let fate = |revision: usize, name: &str| revisions[revision].fates.get(name).copied();
        assert_eq!(fate(0, "sound"), None);
        assert_eq!(fate(0, "lost"), Some(Fate::Lost));
        assert_eq!(fate(0, "replaced"), Some(Fate::Replaced));
        assert_eq!(fate(0, "taken"), Some(Fate::TakenUp(1)));
        assert_eq!(fate(0, "healed"), Some(Fate::Replaced));
        assert_eq!(fate(1, "new"), Some(Fate::Lost));
        // The later pass tried again whatever had failed before.
        let counted: Vec<_> = revisions.iter().map(|revision| revision.failed_count).collect();
        assert_eq!(counted, [false, true]);
        let [first, mut second] = certificates;
        second.partitions.clear();
        let counted = account(&[first, second], &damaged)[0].failed_count;
        assert!(counted, "a pass without rows has tried nothing");
    }
}
