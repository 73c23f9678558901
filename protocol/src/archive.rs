//! The archive's identity, `_des/archive.json`.

use serde::{Deserialize, Serialize};

use crate::ident::{ArchiveId, Job};
use crate::routing::NBits;
use crate::time::Timestamp;
use crate::versioned::{self, Document, DocumentError};

/// Who an archive is. Written once by `init`, checked by every role before it does anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    /// Version of this document.
    pub version: u32,
    /// The archive's own, random id.
    pub archive: ArchiveId,
    /// The job whose files the archive holds.
    pub job: Job,
    /// Bits of the shard index, fixed for the life of the archive.
    pub n_bits: NBits,
    /// The first watermark ever: rows at or below it are not covered.
    pub origin: Timestamp,
    /// Version of the shard format that is written.
    pub shard_version: u8,
    /// When the archive was made.
    pub created_at: Timestamp,
}

impl ArchiveIdentity {
    /// Version of the document that this release writes.
    pub const VERSION: u32 = 1;

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        versioned::encode_pretty(self)
    }

    /// # Errors
    /// When the bytes are no such document, or one of a newer release.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        versioned::decode(bytes)
    }
}

impl Document for ArchiveIdentity {
    const WHAT: &'static str = "archive identity (_des/archive.json)";
    const VERSION: u32 = Self::VERSION;
}
