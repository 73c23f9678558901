//! What a window that was committed before really holds: its certificates, whether the objects
//! that they name are there and whole, and which rows are settled by them.

use std::collections::{HashMap, HashSet, VecDeque};

use backends::ledger::WindowRecord;
use backends::{BackendError, Store};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::ManifestReader;
use protocol::receipt::ShardRef;
use protocol::{Certificate, ContentHash, NBits, PackSettings, Row, Timestamp, names};
use tracing::warn;

use crate::sort::SortedRow;

pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;
pub(crate) const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;
/// Shards whose bytes are checked at a time, each in pieces of [`PIECE_BYTES`].
const CHECKS_IN_FLIGHT: usize = 4;
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// What earlier revisions of a window account for.
pub(crate) struct Settled {
    revisions: Vec<SettledRevision>,
    /// Names of the shards that are gone or damaged.
    damaged: Vec<String>,
}

/// What one of them does.
struct SettledRevision {
    /// Object names of the manifests, in row order.
    manifests: Vec<String>,
    /// Shards that are gone or damaged, or were replaced by a later revision for that: their rows
    /// are not settled by this one.
    lost: Vec<ShardRef>,
    /// Rows that are not in the archive, though the manifests hold them, and how many of each.
    failed: Failed,
}

type Failed = HashMap<(String, Timestamp, Option<String>), usize>;

impl Settled {
    /// Names of the shards that are gone or damaged.
    pub(crate) fn damaged(&self) -> Vec<String> {
        self.damaged.clone()
    }

    /// Whether the row is known as one that could not be archived.
    pub(crate) fn has_failed(&self, row: &Row) -> bool {
        let key = failed_key(row);
        self.revisions.iter().any(|revision| revision.failed.contains_key(&key))
    }

    /// The settled rows in row order. To be read on a thread that may block.
    pub(crate) fn rows(&self, store: &Store, n_bits: NBits) -> SettledRows {
        let revision = |of: &SettledRevision| RevisionRows {
            manifests: of.manifests.iter().cloned().collect(),
            rows: VecDeque::new(),
            lost: of.lost.clone(),
            failed: of.failed.clone(),
        };
        SettledRows {
            store: store.clone(),
            runtime: tokio::runtime::Handle::current(),
            n_bits,
            revisions: self.revisions.iter().map(revision).collect(),
        }
    }
}

fn failed_key(row: &Row) -> (String, Timestamp, Option<String>) {
    (row.uid.clone(), row.created_at(), row.location.clone())
}

/// Reads the certificates of `committed`, all of one window, and checks every byte of the shards
/// they name.
///
/// # Errors
/// When the store does not answer, or a certificate itself cannot be read.
pub(crate) async fn survey(
    store: &Store,
    committed: &[WindowRecord],
) -> Result<Settled, BackendError> {
    let mut certificates = Vec::new();
    for key in committed.iter().filter_map(|record| record.certificate.as_ref()) {
        let bytes = store.get(key, MAX_CERTIFICATE_BYTES).await?;
        let certificate = Certificate::decode(&bytes).map_err(|error| BackendError::Invalid {
            what: format!("{key} in {store}: {error}"),
        })?;
        certificates.push(certificate);
    }
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
    let replaced: HashSet<String> =
        certificates.iter().flat_map(|certificate| certificate.replaces.clone()).collect();
    let shards: Vec<ShardRef> = certificates
        .iter()
        .flat_map(|certificate| certificate.shards.clone())
        .filter(|shard| !replaced.contains(&shard.key))
        .collect();
    let damaged: Vec<String> = stream::iter(shards)
        .map(|shard| async move {
            let sound = is_sound(store, &shard).await?;
            Ok::<_, BackendError>((!sound).then_some(shard.key))
        })
        .buffered(CHECKS_IN_FLIGHT)
        .try_filter_map(|damaged| async move { Ok(damaged) })
        .try_collect()
        .await?;
    let is_lost = |shard: &ShardRef| replaced.contains(&shard.key) || damaged.contains(&shard.key);
    let revisions = certificates
        .into_iter()
        .map(|certificate| {
            let mut failed = Failed::new();
            // Each once, however many partitions it was split into.
            let manifests = certificate.manifests();
            for row in certificate.failures {
                *failed.entry((row.uid, row.created_at, row.location)).or_default() += 1;
            }
            SettledRevision {
                manifests: manifests.into_iter().map(|manifest| manifest.key).collect(),
                lost: certificate.shards.into_iter().filter(is_lost).collect(),
                failed,
            }
        })
        .collect();
    Ok(Settled { revisions, damaged })
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

/// The rows of several revisions' manifests, merged in row order.
pub(crate) struct SettledRows {
    store: Store,
    runtime: tokio::runtime::Handle,
    n_bits: NBits,
    revisions: Vec<RevisionRows>,
}

struct RevisionRows {
    manifests: VecDeque<String>,
    rows: VecDeque<SortedRow>,
    lost: Vec<ShardRef>,
    failed: Failed,
}

impl SettledRows {
    pub(crate) fn next_row(&mut self) -> Result<Option<SortedRow>, BackendError> {
        loop {
            for at in 0..self.revisions.len() {
                while self.revisions[at].rows.is_empty() {
                    let Some(key) = self.revisions[at].manifests.pop_front() else { break };
                    let rows = self.read_manifest(&key)?;
                    self.revisions[at].rows = rows;
                }
            }
            let first = self
                .revisions
                .iter()
                .enumerate()
                .filter_map(|(at, revision)| Some((revision.rows.front()?, at)))
                .min()
                .map(|(_, at)| at);
            let Some(at) = first else { return Ok(None) };
            let Some(row) = self.revisions[at].rows.pop_front() else { return Ok(None) };
            if self.revisions[at].settles(&row, self.n_bits) {
                return Ok(Some(row));
            }
        }
    }

    fn read_manifest(&self, key: &str) -> Result<VecDeque<SortedRow>, BackendError> {
        let bytes = self.runtime.block_on(self.store.get(key, MAX_MANIFEST_BYTES))?;
        let invalid =
            |why: String| BackendError::Invalid { what: format!("{key} in {}: {why}", self.store) };
        if names::content_hash(key) != Some(ContentHash::of(&bytes)) {
            return Err(invalid("its bytes are not those that its name stands for".to_owned()));
        }
        let rows = ManifestReader::new(&bytes)
            .and_then(ManifestReader::read_all)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(rows.0.into_iter().map(|row| SortedRow::new(row, self.n_bits)).collect())
    }
}

impl RevisionRows {
    /// Whether the row of this revision's manifests is in the archive.
    fn settles(&mut self, row: &SortedRow, n_bits: NBits) -> bool {
        if !self.failed.is_empty()
            && let Some(left) = self.failed.get_mut(&failed_key(&row.row))
            && *left > 0
        {
            *left -= 1;
            return false;
        }
        let prefix = || names::shard_prefix(n_bits, row.row.created_at().day(), row.index);
        !self.lost.iter().any(|shard| {
            shard.first_fingerprint <= row.fingerprint
                && row.fingerprint <= shard.last_fingerprint
                && shard.key.starts_with(&prefix())
        })
    }
}
