//! Everything, besides the rows and the files, that the bytes of a shard depend on.

use serde::{Deserialize, Serialize};

use crate::codec::CompressionCodec;
use crate::routing::NBits;

/// Settings that travel in every task, so that any worker packs alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackSettings {
    /// Number of bits of the shard index.
    pub n_bits: NBits,
    /// How payloads are compressed.
    pub codec: CompressionCodec,
    /// Compression level; zstd 1 to 22, ignored by the others.
    pub level: i32,
    /// A shard closes when its raw payload bytes reach this.
    pub max_shard_size: u64,
    /// A file larger than this many bytes is stored beside the shards.
    pub big_file_threshold: u64,
}

impl PackSettings {
    /// The format's usual limit for a file inside a shard: 10 MiB.
    pub const DEFAULT_BIG_FILE_THRESHOLD: u64 = 10 * 1024 * 1024;
    /// The largest threshold that a block's 32-bit size fields and a worker's memory allow:
    /// 64 MiB.
    pub const MAX_BIG_FILE_THRESHOLD: u64 = 64 * 1024 * 1024;
}

impl Default for PackSettings {
    fn default() -> Self {
        Self {
            n_bits: NBits::DEFAULT,
            codec: CompressionCodec::Zstd,
            level: 3,
            max_shard_size: 1_000_000_000,
            big_file_threshold: Self::DEFAULT_BIG_FILE_THRESHOLD,
        }
    }
}
