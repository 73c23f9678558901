//! The receipt: what a worker states about a partition whose shards are durable.

use serde::{Deserialize, Serialize};

use crate::failure::FailedRow;
use crate::ident::{ArchiveId, ContentHash, Job, PartitionId, Revision, WorkerId};
use crate::manifest::RowRange;
use crate::row::{Fingerprint, Tally};
use crate::shard::ShardSummary;
use crate::time::Window;
use crate::versioned::{self, Document, DocumentError};

/// A shard object, as receipts and certificates describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRef {
    /// Object name inside the archive.
    pub key: String,
    /// Size of the object in bytes.
    pub size: u64,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
    /// Number of entries.
    pub entries: u64,
    /// Raw bytes of the payloads, big files not counted.
    pub bytes_raw: u64,
    /// Smallest fingerprint in the shard.
    pub first_fingerprint: Fingerprint,
    /// Largest fingerprint in the shard.
    pub last_fingerprint: Fingerprint,
    /// Size of footer, trailer and directory: what a reader fetches first.
    pub tail_bytes: u64,
}

impl ShardRef {
    /// The reference to a finished shard that is stored under `key`.
    pub fn new(key: String, summary: &ShardSummary) -> Self {
        Self {
            key,
            size: summary.size,
            crc32c: summary.crc32c,
            entries: summary.packed.rows,
            bytes_raw: summary.bytes_raw,
            first_fingerprint: summary.first_fingerprint,
            last_fingerprint: summary.last_fingerprint,
            tail_bytes: summary.tail_bytes,
        }
    }
}

/// A big file, stored beside the shards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BigFileRef {
    /// Object name inside the archive: `_bigFiles/<sha256>`.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
}

/// What a worker did with one manifest, or with a range of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of this document.
    pub version: u32,
    /// The archive that the shards belong to.
    pub archive: ArchiveId,
    /// The job.
    pub job: Job,
    /// The window.
    pub window: Window,
    /// The pass over the window.
    pub revision: Revision,
    /// The partition.
    pub partition: PartitionId,
    /// Hash of the manifest that was executed.
    pub manifest_hash: ContentHash,
    /// Which rows of the manifest these are; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<RowRange>,
    /// The attempt in which it was executed, from 1.
    pub attempt: u32,
    /// Who executed it.
    pub worker: WorkerId,
    /// Rows that are in the shards, taken from the finished shards' own entries.
    pub packed: Tally,
    /// Rows that failed.
    pub failed: Tally,
    /// Bytes of the packed files.
    pub bytes_raw: u64,
    /// Bytes of the shards and big files.
    pub bytes_stored: u64,
    /// The shards.
    pub shards: Vec<ShardRef>,
    /// The big files, sorted, each once.
    pub big_files: Vec<BigFileRef>,
    /// The failed rows with their reasons.
    pub failures: Vec<FailedRow>,
}

impl Receipt {
    /// Version of the document that this release writes.
    pub const VERSION: u32 = 1;

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        versioned::encode_pretty(self)
    }

    /// # Errors
    /// When the bytes are no receipt, or one of a newer release.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        versioned::decode(bytes)
    }

    /// Whether some failure may end differently when it is tried again.
    pub fn deserves_second_attempt(&self) -> bool {
        self.failures.iter().any(|failed| failed.reason.deserves_second_attempt())
    }

    /// Adds up the failed rows themselves, to be compared with [`Receipt::failed`].
    pub fn tally_of_failures(&self) -> Tally {
        tally(&self.failures)
    }
}

/// Adds up failed rows.
pub(crate) fn tally(failures: &[FailedRow]) -> Tally {
    let mut tally = Tally::default();
    for FailedRow { uid, created_at, .. } in failures {
        tally.count(uid, *created_at);
    }
    tally
}

impl Document for Receipt {
    const WHAT: &'static str = "receipt";
    const VERSION: u32 = Self::VERSION;
}
