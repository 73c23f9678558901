//! The certificate: proof that a window is settled, naming every object that holds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::FailedRow;
use crate::ident::{ArchiveId, Job, PartitionId, Revision, WindowKey, WorkerId};
use crate::manifest::RowRange;
use crate::names;
use crate::receipt::{BigFileRef, Receipt, ShardRef, tally};
use crate::row::Tally;
use crate::settings::PackSettings;
use crate::time::{Timestamp, Window};
use crate::versioned::{self, Document, DocumentError};

/// How a window came to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateKind {
    /// Every row that the scan saw was packed or recorded as failed. Also a window without rows.
    Packed,
    /// An operator moved the watermark over the window with `adjust --allow-skip`: its rows are
    /// not in the archive.
    Skipped,
}

/// A partition of the window: its manifest, and the receipt that was accepted for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRef {
    /// The partition.
    pub partition: PartitionId,
    /// Object name of the manifest.
    pub manifest: String,
    /// Size of the manifest in bytes.
    pub manifest_size: u64,
    /// Which rows of the manifest the partition holds; absent: all of them. Several partitions
    /// share a manifest when one that kept failing was split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<RowRange>,
    /// Number of the partition's rows and their digest.
    pub rows: Tally,
    /// Object name of the receipt.
    pub receipt: String,
    /// Size of the receipt in bytes.
    pub receipt_size: u64,
}

/// A manifest of the window, whatever the number of partitions that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRef {
    /// Object name.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Its rows and their digest: the sum over its partitions.
    pub rows: Tally,
}

/// Proof of one settled pass over one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this document.
    pub version: u32,
    /// The archive.
    pub archive: ArchiveId,
    /// The job.
    pub job: Job,
    /// The window.
    pub window: Window,
    /// The pass over the window.
    pub revision: Revision,
    /// Epoch of the lease under which it was written.
    pub epoch: u64,
    /// The coordinator that wrote it.
    pub writer: WorkerId,
    /// When it was written.
    pub written_at: Timestamp,
    /// How the window came to be settled.
    pub kind: CertificateKind,
    /// What the shards were packed with.
    pub settings: PackSettings,
    /// Rows that are in the shards.
    pub packed: Tally,
    /// Rows that failed.
    pub failed: Tally,
    /// Bytes of the packed files.
    pub bytes_raw: u64,
    /// Bytes of the shards and big files.
    pub bytes_stored: u64,
    /// Manifests and receipts, by partition.
    pub partitions: Vec<PartitionRef>,
    /// The shards.
    pub shards: Vec<ShardRef>,
    /// The big files, sorted, each once.
    pub big_files: Vec<BigFileRef>,
    /// Shards of earlier revisions whose rows this one holds again, because they were damaged or
    /// gone.
    #[serde(default)]
    pub replaces: Vec<String>,
    /// Shards of earlier revisions that were damaged or gone too, and whose rows this pass took up,
    /// but not all of which it could read again: they stay certified, for what is whole in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrepaired: Vec<String>,
    /// The failed rows with their reasons.
    pub failures: Vec<FailedRow>,
}

impl Certificate {
    /// Version of the document that this release writes.
    pub const VERSION: u32 = 1;

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        versioned::encode_pretty(self)
    }

    /// # Errors
    /// When the bytes are no certificate, or one of a newer release.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        versioned::decode(bytes)
    }

    /// The window's end and revision.
    pub const fn key(&self) -> WindowKey {
        WindowKey::new(self.window, self.revision)
    }

    /// Takes over everything that the receipt of one partition states.
    pub fn absorb(&mut self, receipt: Receipt) {
        self.packed += receipt.packed;
        self.failed += receipt.failed;
        self.bytes_raw = self.bytes_raw.saturating_add(receipt.bytes_raw);
        self.shards.extend(receipt.shards);
        self.big_files.extend(receipt.big_files);
        self.big_files.sort_unstable();
        self.big_files.dedup();
        self.failures.extend(receipt.failures);
        let shards = self.shards.iter().map(|shard| shard.size);
        let big_files = self.big_files.iter().map(|big| big.size);
        self.bytes_stored = shards.chain(big_files).fold(0, u64::saturating_add);
    }

    /// Adds up the failed rows themselves, to be compared with [`Certificate::failed`].
    pub fn tally_of_failures(&self) -> Tally {
        tally(&self.failures)
    }

    /// Every manifest once, in row order. Planning numbers manifests in row order; the parts of a
    /// partition that was split have higher numbers and its manifest.
    pub fn manifests(&self) -> Vec<ManifestRef> {
        let mut manifests: BTreeMap<_, ManifestRef> = BTreeMap::new();
        for partition in &self.partitions {
            let key = partition.manifest.clone();
            let place = (names::manifest_number(&key).unwrap_or(partition.partition), key.clone());
            let size = partition.manifest_size;
            let empty = ManifestRef { key, size, rows: Tally::default() };
            manifests.entry(place).or_insert(empty).rows += partition.rows;
        }
        manifests.into_values().collect()
    }

    /// Rows of all manifests.
    pub fn rows(&self) -> Tally {
        self.partitions.iter().map(|partition| partition.rows).sum()
    }
}

impl Document for Certificate {
    const WHAT: &'static str = "certificate";
    const VERSION: u32 = Self::VERSION;
}
