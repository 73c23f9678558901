//! What a window that was committed before really holds: its certificates, whether the objects
//! that they name are there and whole, and which rows are settled by them.

use std::collections::{HashSet, VecDeque};

use backends::ledger::WindowRecord;
use backends::{BackendError, Store};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::ManifestReader;
use protocol::receipt::ShardRef;
use protocol::{Certificate, ContentHash, NBits, names};
use tracing::warn;

use crate::sort::SortedRow;

pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;
/// Shards whose bytes are checked at a time, each in pieces of [`PIECE_BYTES`].
const CHECKS_IN_FLIGHT: usize = 4;
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// What earlier revisions of a window account for.
pub(crate) struct Settled {
    /// Object names of the manifests of each revision, in row order.
    manifests: Vec<Vec<String>>,
    /// Shards that are gone or damaged: their rows are not settled.
    damaged: Vec<ShardRef>,
}

impl Settled {
    /// Names of the shards that are gone or damaged.
    pub(crate) fn damaged(&self) -> Vec<String> {
        self.damaged.iter().map(|shard| shard.key.clone()).collect()
    }

    /// The settled rows in row order. To be read on a thread that may block.
    pub(crate) fn rows(&self, store: &Store, n_bits: NBits) -> SettledRows {
        let revision = |keys: &Vec<String>| RevisionRows {
            manifests: keys.iter().cloned().collect(),
            rows: VecDeque::new(),
        };
        SettledRows {
            store: store.clone(),
            runtime: tokio::runtime::Handle::current(),
            n_bits,
            revisions: self.manifests.iter().map(revision).collect(),
            damaged: self.damaged.clone(),
        }
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
) -> Result<Settled, BackendError> {
    let mut certificates = Vec::new();
    for key in committed.iter().filter_map(|record| record.certificate.as_ref()) {
        let bytes = store.get(key, MAX_CERTIFICATE_BYTES).await?;
        let certificate = Certificate::decode(&bytes).map_err(|error| BackendError::Invalid {
            what: format!("{key} in {store}: {error}"),
        })?;
        certificates.push(certificate);
    }
    let replaced: HashSet<String> =
        certificates.iter().flat_map(|certificate| certificate.replaces.clone()).collect();
    let shards: Vec<ShardRef> = certificates
        .iter()
        .flat_map(|certificate| certificate.shards.clone())
        .filter(|shard| !replaced.contains(&shard.key))
        .collect();
    let damaged = stream::iter(shards)
        .map(|shard| async move {
            let sound = is_sound(store, &shard).await?;
            Ok::<_, BackendError>((!sound).then_some(shard))
        })
        .buffer_unordered(CHECKS_IN_FLIGHT)
        .try_filter_map(|damaged| async move { Ok(damaged) })
        .try_collect()
        .await?;
    let manifests = certificates
        .iter()
        .map(|certificate| {
            certificate.partitions.iter().map(|partition| partition.manifest.clone()).collect()
        })
        .collect();
    Ok(Settled { manifests, damaged })
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
    damaged: Vec<ShardRef>,
}

struct RevisionRows {
    manifests: VecDeque<String>,
    rows: VecDeque<SortedRow>,
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
            let row = first.and_then(|at| self.revisions[at].rows.pop_front());
            match row {
                Some(row) if self.is_in_damaged_shard(&row) => {}
                other => return Ok(other),
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

    fn is_in_damaged_shard(&self, row: &SortedRow) -> bool {
        self.damaged.iter().any(|shard| {
            shard.first_fingerprint <= row.fingerprint
                && row.fingerprint <= shard.last_fingerprint
                && shard.key.starts_with(&names::shard_prefix(
                    self.n_bits,
                    row.row.created_at().day(),
                    row.index,
                ))
        })
    }
}
