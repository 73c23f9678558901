//! Sizes and magic numbers of the shard format, and the little-endian cursor that reads it.

use super::ShardError;

pub(super) const HEADER: [u8; 8] = *b"DES2\x02\0\0\0";
pub(super) const MAGIC: &[u8; 4] = b"DES2";
pub(super) const FOOTER_MAGIC: &[u8; 4] = b"DESI";
pub(super) const TRAILER_MAGIC: &[u8; 4] = b"DESX";
/// Version of the lookup extension.
pub(super) const EXTENSION_VERSION: u8 = 1;

/// Bytes of the header at the beginning of every shard.
pub const HEADER_BYTES: u64 = 8;
/// Bytes of the footer at the end of every shard.
pub const FOOTER_BYTES: u64 = FOOTER_LEN as u64;
pub(super) const FOOTER_LEN: usize = 12;
pub(super) const TRAILER_BYTES: usize = 64;
/// What a reader fetches from an object's end when no certificate says how much it needs.
pub const TAIL_GUESS_BYTES: u64 = 64 * 1024;

/// count u32, smallest created_at i64.
pub(super) const BLOCK_HEAD_BYTES: usize = 12;
/// fingerprint 16, created_at after the block's smallest 5, stored 4, raw 4, crc32c 4, kind 1.
pub(super) const BLOCK_ENTRY_BYTES: usize = 34;
pub(super) const CRC_BYTES: usize = 4;
/// first fingerprint's high half 8, offset 8.
pub(super) const DIRECTORY_ENTRY_BYTES: usize = 16;
/// A block takes no entry beyond this, mini-index and payloads together, except its first.
pub(super) const BLOCK_TARGET_BYTES: usize = 64 * 1024;
/// sha256 32, size 8.
pub(super) const BIG_PAYLOAD_BYTES: usize = 40;
/// The kind of an entry whose file lies beside the shards; other kinds are codecs.
pub(super) const KIND_BIG: u8 = 0x80;
/// created_at is kept in 40 bits after the block's smallest: more than 12 days, of the one that
/// a shard spans.
pub(super) const MAX_DELTA: u64 = (1 << 40) - 1;

/// Bytes of a block's mini-index with `entries` entries, checksum included.
pub(super) const fn mini_index_bytes(entries: usize) -> usize {
    BLOCK_HEAD_BYTES + entries * BLOCK_ENTRY_BYTES + CRC_BYTES
}

/// Reads little-endian fields and knows where in the object it stands.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn bytes(&mut self, count: usize, what: &str) -> Result<&'a [u8], ShardError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| ShardError::damaged(self.offset, format!("{what} runs past the end")))?;
        self.rest = rest;
        self.offset += count as u64;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ShardError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, what)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, ShardError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, ShardError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ShardError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u40(&mut self, what: &str) -> Result<u64, ShardError> {
        let mut wide = [0; 8];
        wide[..5].copy_from_slice(self.bytes(5, what)?);
        Ok(u64::from_le_bytes(wide))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ShardError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn i64(&mut self, what: &str) -> Result<i64, ShardError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn fingerprint(&mut self) -> Result<crate::row::Fingerprint, ShardError> {
        Ok(crate::row::Fingerprint(self.array("a fingerprint")?))
    }
}
