//! The index of versions 1 and 2, as any DES packer writes it.

use super::ShardError;
use super::layout::Cursor;
use crate::codec::CompressionCodec;

/// Where a file of an index entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Inside the shard.
    Inside {
        /// From the beginning of the object.
        offset: u64,
        /// Stored bytes.
        stored_size: u64,
        /// How it is stored.
        codec: CompressionCodec,
        /// Raw bytes.
        raw_size: u64,
    },
    /// Beside the shards, as `_bigFiles/<sha256>`.
    Beside {
        /// 64 lower-case hex digits.
        sha256: String,
        /// Size in bytes.
        size: u64,
    },
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The file's uid.
    pub uid: String,
    /// Where the file is.
    pub location: Location,
    /// The JSON object that the packer attached, or nothing.
    pub meta: String,
}

/// Reads an index entry by entry. What follows the last entry is left alone, as the format's
/// readers do.
pub struct IndexReader<'a> {
    cursor: Cursor<'a>,
    version: u8,
    remaining: u32,
    index_offset: u64,
}

impl<'a> IndexReader<'a> {
    /// Opens the index of a shard of `version` 1 or 2, which begins at `offset` of the object.
    ///
    /// # Errors
    /// When the bytes are too few for an entry count.
    pub fn new(version: u8, index: &'a [u8], offset: u64) -> Result<Self, ShardError> {
        let mut cursor = Cursor::new(index, offset);
        let remaining = cursor.u32("the index's entry count")?;
        Ok(Self { cursor, version, remaining, index_offset: offset })
    }

    /// Number of entries not yet read.
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Where the next entry begins, from the beginning of the object.
    pub const fn offset(&self) -> u64 {
        self.cursor.offset()
    }

    /// The next entry, or `None` after the last.
    ///
    /// # Errors
    /// When the entry is damaged or points outside the data.
    pub fn next_entry(&mut self) -> Result<Option<IndexEntry>, ShardError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.remaining -= 1;
        let at = self.cursor.offset();
        let uid_len = self.cursor.u16("a uid's length")?;
        let uid = self.text(uid_len.into(), "a uid")?;
        let flags = if self.version == 1 { 0 } else { self.cursor.u8("an entry's flags")? };
        let location = if flags & 1 == 0 { self.inside(at)? } else { self.beside(at)? };
        let meta = if self.version == 1 {
            String::new()
        } else {
            let meta_len = self.cursor.u32("meta's length")?;
            self.text(meta_len as usize, "meta")?
        };
        Ok(Some(IndexEntry { uid, location, meta }))
    }

    fn inside(&mut self, at: u64) -> Result<Location, ShardError> {
        let offset = self.cursor.u64("an offset")?;
        let length = self.cursor.u64("a length")?;
        let codec = self.cursor.u8("a codec")?;
        let stored_size = self.cursor.u64("a stored size")?;
        let raw_size = self.cursor.u64("a raw size")?;
        let codec = CompressionCodec::from_id(codec)
            .ok_or_else(|| ShardError::damaged(at, format!("codec {codec} does not exist")))?;
        if length != stored_size {
            return Err(ShardError::damaged(at, "length and stored size differ"));
        }
        if offset < super::HEADER_BYTES
            || offset.checked_add(stored_size).is_none_or(|end| end > self.index_offset)
        {
            return Err(ShardError::damaged(at, "the entry points outside the shard's data"));
        }
        Ok(Location::Inside { offset, stored_size, codec, raw_size })
    }

    fn beside(&mut self, at: u64) -> Result<Location, ShardError> {
        let hash_len = self.cursor.u16("a hash's length")?;
        let sha256 = self.text(hash_len.into(), "a hash")?;
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ShardError::damaged(at, "the big file's hash is not a SHA-256"));
        }
        let size = self.cursor.u64("a big file's size")?;
        Ok(Location::Beside { sha256, size })
    }

    fn text(&mut self, count: usize, what: &str) -> Result<String, ShardError> {
        let at = self.cursor.offset();
        let bytes = self.cursor.bytes(count, what)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_invalid| ShardError::damaged(at, format!("{what} is not UTF-8")))
    }
}
