//! Reads a shard piece by piece: the tail, then one block, or the whole index of a shard that
//! has no lookup extension. The caller fetches the bytes.

use std::ops::Range;

use super::ShardError;
use super::layout::{
    BIG_PAYLOAD_BYTES, CRC_BYTES, Cursor, DIRECTORY_ENTRY_BYTES, EXTENSION_VERSION, FOOTER_BYTES,
    FOOTER_LEN, FOOTER_MAGIC, HEADER_BYTES, KIND_BIG, MAGIC, TRAILER_BYTES, TRAILER_MAGIC,
    mini_index_bytes,
};
use crate::codec::{self, CompressionCodec, DecodeError, Decoder};
use crate::row::Fingerprint;
use crate::settings::PackSettings;
use crate::time::Timestamp;

/// What became of reading the end of an object.
#[derive(Clone, Debug)]
pub enum TailStep {
    /// A shard with the lookup extension.
    Fast(Tail),
    /// A shard without it: its index must be read as a whole.
    Plain(PlainIndex),
    /// So many bytes of the object's end are needed.
    Need(u64),
}

/// Where the index of a shard without lookup extension lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainIndex {
    /// The index region, from the beginning of the object.
    pub range: Range<u64>,
}

/// Directory and trailer of a shard with the lookup extension.
#[derive(Clone, Debug)]
pub struct Tail {
    index: Range<u64>,
    index_crc32c: u32,
    directory: Vec<(u64, u64)>,
    entries: u64,
    oldest: Timestamp,
    newest: Timestamp,
}

/// The version (1 or 2) that the first eight bytes of a shard state.
///
/// # Errors
/// When they are not the header of a shard that this release reads.
pub fn check_header(header: &[u8]) -> Result<u8, ShardError> {
    let Some((magic, rest)) = header.split_first_chunk::<4>() else {
        return Err(ShardError::NotAShard("it is shorter than a header"));
    };
    if magic != MAGIC {
        return Err(ShardError::NotAShard("it does not begin with DES2"));
    }
    match rest {
        [version @ (1 | 2), 0, 0, 0, ..] => Ok(*version),
        [1 | 2, _, _, _, ..] => Err(ShardError::damaged(5, "reserved header bytes are not zero")),
        [0, _, _, _, ..] => Err(ShardError::damaged(4, "format version 0 does not exist")),
        [found, _, _, _, ..] => Err(ShardError::Newer { what: "format", found: *found, known: 2 }),
        _ => Err(ShardError::NotAShard("it is shorter than a header")),
    }
}

/// Reads the last `tail.len()` bytes of an object of `object_size` bytes.
///
/// # Errors
/// When the object is not a shard, or its end is damaged.
pub fn read_tail(object_size: u64, tail: &[u8]) -> Result<TailStep, ShardError> {
    if object_size < HEADER_BYTES + 4 + FOOTER_BYTES {
        return Err(ShardError::NotAShard("it is too short"));
    }
    let least = (TRAILER_BYTES as u64 + FOOTER_BYTES).min(object_size);
    if (tail.len() as u64) < least {
        return Ok(TailStep::Need(least));
    }
    let tail_offset = object_size
        .checked_sub(tail.len() as u64)
        .ok_or_else(|| ShardError::damaged(object_size, "the object is longer than its size"))?;
    let footer_at = object_size - FOOTER_BYTES;
    let footer_in_tail = tail.len() - FOOTER_LEN;
    let mut footer = Cursor::new(&tail[footer_in_tail..], footer_at);
    if footer.bytes(4, "the footer")? != FOOTER_MAGIC {
        return Err(ShardError::NotAShard("it does not end with a DESI footer"));
    }
    let region = footer.u64("the index size")?;
    let index_at = footer_at
        .checked_sub(region)
        .filter(|&at| at >= HEADER_BYTES && region >= 4)
        .ok_or_else(|| ShardError::damaged(footer_at + 4, "the index size is impossible"))?;

    let trailer_in_tail = footer_in_tail.checked_sub(TRAILER_BYTES);
    let trailer = trailer_in_tail.map(|at| &tail[at..footer_in_tail]);
    let Some(trailer) = trailer.filter(|bytes| bytes.starts_with(TRAILER_MAGIC)) else {
        return Ok(TailStep::Plain(PlainIndex { range: index_at..footer_at }));
    };
    let trailer_at = footer_at - TRAILER_BYTES as u64;
    let (parsed, directory_at, blocks, directory_crc) = match parse_trailer(trailer, trailer_at) {
        // The region cannot hold a trailer: another packer's payload looks like one by chance.
        Err(ShardError::Damaged { .. }) if region < TRAILER_BYTES as u64 + 4 => {
            return Ok(TailStep::Plain(PlainIndex { range: index_at..footer_at }));
        }
        parsed => parsed?,
    };
    if parsed.index.start != index_at {
        return Err(ShardError::damaged(footer_at + 4, "footer and trailer disagree"));
    }
    let directory_len = u64::from(blocks) * DIRECTORY_ENTRY_BYTES as u64;
    if directory_at < index_at + 4 || directory_at.checked_add(directory_len) != Some(trailer_at) {
        return Err(ShardError::damaged(trailer_at, "the directory's place is impossible"));
    }
    if directory_at < tail_offset {
        return Ok(TailStep::Need(object_size - directory_at));
    }
    let from = usize::try_from(directory_at - tail_offset).unwrap_or(usize::MAX);
    let to = from + usize::try_from(directory_len).unwrap_or(0);
    let directory = tail
        .get(from..to)
        .ok_or_else(|| ShardError::damaged(directory_at, "the directory is cut off"))?;
    if crc32c::crc32c(directory) != directory_crc {
        return Err(ShardError::damaged(directory_at, "the directory's checksum is wrong"));
    }
    let directory = parse_directory(directory, directory_at, index_at)?;
    Ok(TailStep::Fast(Tail { directory, ..parsed }))
}

fn parse_trailer(trailer: &[u8], at: u64) -> Result<(Tail, u64, u32, u32), ShardError> {
    let (covered, crc) = trailer.split_at(TRAILER_BYTES - CRC_BYTES);
    if crc32c::crc32c(covered).to_le_bytes() != crc {
        return Err(ShardError::damaged(at, "the trailer's checksum is wrong"));
    }
    let mut fields = Cursor::new(covered, at);
    fields.bytes(4, "the trailer")?;
    let version = fields.u8("the extension's version")?;
    if version > EXTENSION_VERSION {
        return Err(ShardError::Newer {
            what: "lookup extension",
            found: version,
            known: EXTENSION_VERSION,
        });
    }
    fields.bytes(3, "the trailer")?;
    let index_at = fields.u64("the index's offset")?;
    let directory_at = fields.u64("the directory's offset")?;
    let blocks = fields.u32("the block count")?;
    let entries = fields.u64("the entry count")?;
    let time = |micros| {
        Timestamp::from_micros(micros)
            .ok_or_else(|| ShardError::damaged(at, "a time is out of range"))
    };
    let oldest = time(fields.i64("the smallest created_at")?)?;
    let newest = time(fields.i64("the largest created_at")?)?;
    let index_crc32c = fields.u32("the index's checksum")?;
    let directory_crc = fields.u32("the directory's checksum")?;
    let index = index_at..directory_at;
    let tail = Tail { index, index_crc32c, directory: Vec::new(), entries, oldest, newest };
    Ok((tail, directory_at, blocks, directory_crc))
}

fn parse_directory(bytes: &[u8], at: u64, index_at: u64) -> Result<Vec<(u64, u64)>, ShardError> {
    let mut cursor = Cursor::new(bytes, at);
    let count = bytes.len() / DIRECTORY_ENTRY_BYTES;
    let mut directory: Vec<(u64, u64)> = Vec::with_capacity(count);
    for _ in 0..count {
        let block = (cursor.u64("a fingerprint")?, cursor.u64("a block's offset")?);
        let follows = directory
            .last()
            .map_or(block.1 == HEADER_BYTES, |last| last.0 < block.0 && last.1 < block.1);
        if !follows || block.1 >= index_at {
            return Err(ShardError::damaged(at, "the directory is out of order"));
        }
        directory.push(block);
    }
    Ok(directory)
}

impl Tail {
    /// Number of entries in the shard.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Smallest and largest created_at of the entries.
    pub const fn created_at_bounds(&self) -> (Timestamp, Timestamp) {
        (self.oldest, self.newest)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.directory.len()
    }

    /// Where block `number` lies; `None` past the last.
    pub fn block_range(&self, number: usize) -> Option<Range<u64>> {
        let start = self.directory.get(number)?.1;
        let end = self.directory.get(number + 1).map_or(self.index.start, |next| next.1);
        Some(start..end)
    }

    /// The blocks that may hold `fingerprint`: none or one, since no block begins with the 64
    /// bits that its predecessor ends with.
    pub fn blocks_for(&self, fingerprint: Fingerprint) -> Range<usize> {
        let high = fingerprint.high();
        let end = self.directory.partition_point(|block| block.0 <= high);
        end.saturating_sub(1)..end
    }

    /// Reads block `number`, whose bytes these are, and checks that it is the one that the
    /// directory means: [`Block::parse`] alone cannot notice that a sound block lies in
    /// another's place.
    ///
    /// # Errors
    /// When the block is damaged, or not this one.
    pub fn parse_block<'a>(&self, number: usize, bytes: &'a [u8]) -> Result<Block<'a>, ShardError> {
        let range = self.block_range(number).unwrap_or_default();
        if range.end - range.start != bytes.len() as u64 {
            return Err(ShardError::damaged(range.start, "the block has another length"));
        }
        let block = Block::parse(bytes, range.start)?;
        let highs = |entry: &BlockEntry| entry.fingerprint.high();
        let first = block.entries.first().map(highs);
        let last = block.entries.last().map(highs);
        let next = self.directory.get(number + 1).map(|next| next.0);
        let follows = next.is_none_or(|next| last.is_none_or(|last| last < next));
        if first != self.directory.get(number).map(|block| block.0) || !follows {
            return Err(ShardError::damaged(range.start, "this is another block"));
        }
        Ok(block)
    }

    /// Where the v2 index lies.
    pub fn index_range(&self) -> Range<u64> {
        self.index.clone()
    }

    /// Compares the v2 index with its checksum.
    ///
    /// # Errors
    /// When they disagree.
    pub fn check_index(&self, index: &[u8]) -> Result<(), ShardError> {
        if crc32c::crc32c(index) == self.index_crc32c {
            Ok(())
        } else {
            Err(ShardError::damaged(self.index.start, "the index's checksum is wrong"))
        }
    }
}

/// A block: its entries and their payloads.
pub struct Block<'a> {
    entries: Vec<BlockEntry>,
    payloads: &'a [u8],
    payloads_at: u64,
}

/// One entry of a block's mini-index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Fingerprint of the uid.
    pub fingerprint: Fingerprint,
    /// The row's created_at.
    pub created_at: Timestamp,
    /// Size of the raw file in bytes; 0 for a big file.
    pub raw_size: u32,
    /// Size of the stored payload in bytes.
    pub stored_size: u32,
    /// Where the payload lies, from the beginning of the object.
    pub offset: u64,
    /// CRC-32C of the raw bytes; of the reference to a big file.
    pub crc32c: u32,
    kind: u8,
}

/// What an entry turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The file's raw bytes, checked.
    File(Vec<u8>),
    /// The file lies beside the shards.
    Big {
        /// 64 lower-case hex digits.
        sha256: String,
        /// Size in bytes.
        size: u64,
    },
}

impl<'a> Block<'a> {
    /// Reads the block whose bytes these are, and which begins at `offset` of the object.
    ///
    /// # Errors
    /// When the mini-index is damaged or does not account for every byte of the block.
    pub fn parse(bytes: &'a [u8], offset: u64) -> Result<Self, ShardError> {
        let block_end = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| ShardError::damaged(offset, "a block's place is impossible"))?;
        let mut cursor = Cursor::new(bytes, offset);
        let count = cursor.u32("a block's entry count")? as usize;
        let mini_len = mini_index_bytes(count.min(bytes.len()));
        let mini = bytes
            .get(..mini_len)
            .ok_or_else(|| ShardError::damaged(offset, "a block's entry count is impossible"))?;
        let (covered, crc) = mini.split_at(mini_len - CRC_BYTES);
        if crc32c::crc32c(covered).to_le_bytes() != crc {
            return Err(ShardError::damaged(offset, "a block's checksum is wrong"));
        }
        let base = cursor.i64("a block's smallest created_at")?;
        let payloads_at = offset + mini_len as u64;
        let mut end = payloads_at;
        let mut entries: Vec<BlockEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = parse_entry(&mut cursor, base, end)?;
            if entries.last().is_some_and(|last| last.fingerprint >= entry.fingerprint) {
                return Err(ShardError::damaged(offset, "a block is out of order"));
            }
            end = end.saturating_add(entry.stored_size.into());
            entries.push(entry);
        }
        if end != block_end {
            return Err(ShardError::damaged(offset, "a block's payloads do not fill it"));
        }
        Ok(Self { entries, payloads: &bytes[mini_len..], payloads_at })
    }

    /// The entries, in ascending order of fingerprint.
    pub fn entries(&self) -> &[BlockEntry] {
        &self.entries
    }

    /// The entry of `fingerprint`.
    pub fn find(&self, fingerprint: Fingerprint) -> Option<&BlockEntry> {
        let at = self.entries.binary_search_by_key(&fingerprint, |entry| entry.fingerprint).ok()?;
        self.entries.get(at)
    }

    /// Decodes and checks the payload of one of this block's entries.
    ///
    /// # Errors
    /// When the payload does not decode, or its checksum is wrong.
    pub fn content(&self, entry: &BlockEntry) -> Result<Content, ShardError> {
        match self.stored(entry)? {
            Stored::Big { sha256, size } => Ok(Content::Big { sha256, size }),
            Stored::File(codec, stored) => {
                let raw = codec::decode(codec, stored, entry.raw_size.into())
                    .map_err(|error| undecodable(entry, &error))?;
                check_raw(entry, &raw)?;
                Ok(Content::File(raw))
            }
        }
    }

    /// Checks what [`Block::content`] checks, without keeping the file; the hash and size of a big
    /// one.
    ///
    /// # Errors
    /// Those of [`Block::content`].
    pub fn check_content(
        &self,
        entry: &BlockEntry,
        decoder: &mut Decoder,
    ) -> Result<Option<(String, u64)>, ShardError> {
        match self.stored(entry)? {
            Stored::Big { sha256, size } => Ok(Some((sha256, size))),
            Stored::File(codec, stored) => {
                let raw = decoder
                    .decode(codec, stored, entry.raw_size.into())
                    .map_err(|error| undecodable(entry, &error))?;
                check_raw(entry, raw)?;
                Ok(None)
            }
        }
    }

    fn stored(&self, entry: &BlockEntry) -> Result<Stored<'a>, ShardError> {
        let damaged = |what: String| ShardError::damaged(entry.offset, what);
        let stored = entry
            .offset
            .checked_sub(self.payloads_at)
            .and_then(|from| usize::try_from(from).ok())
            .and_then(|from| self.payloads.get(from..)?.get(..entry.stored_size as usize))
            .ok_or_else(|| damaged("the entry is not of this block".to_owned()))?;
        if !entry.is_big() {
            let codec = CompressionCodec::from_id(entry.kind)
                .ok_or_else(|| damaged(format!("codec {} does not exist", entry.kind)))?;
            return Ok(Stored::File(codec, stored));
        }
        if stored.len() != BIG_PAYLOAD_BYTES || crc32c::crc32c(stored) != entry.crc32c {
            return Err(damaged("the reference to a big file is damaged".to_owned()));
        }
        let (sha256, size) = stored.split_at(32);
        let mut size_bytes = [0; 8];
        size_bytes.copy_from_slice(size);
        let sha256 = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Stored::Big { sha256, size: u64::from_le_bytes(size_bytes) })
    }
}

/// What lies in an entry's place.
enum Stored<'a> {
    File(CompressionCodec, &'a [u8]),
    Big { sha256: String, size: u64 },
}

fn undecodable(entry: &BlockEntry, error: &DecodeError) -> ShardError {
    ShardError::damaged(entry.offset, format!("the payload does not decode: {error}"))
}

fn check_raw(entry: &BlockEntry, raw: &[u8]) -> Result<(), ShardError> {
    if crc32c::crc32c(raw) == entry.crc32c {
        Ok(())
    } else {
        Err(ShardError::damaged(entry.offset, "the payload's checksum is wrong".to_owned()))
    }
}

impl BlockEntry {
    /// Whether the file lies beside the shards.
    pub const fn is_big(&self) -> bool {
        self.kind == KIND_BIG
    }
}

fn parse_entry(cursor: &mut Cursor<'_>, base: i64, offset: u64) -> Result<BlockEntry, ShardError> {
    let at = cursor.offset();
    let fingerprint = cursor.fingerprint()?;
    let delta = i64::try_from(cursor.u40("created_at")?).unwrap_or(i64::MAX);
    let created_at = base
        .checked_add(delta)
        .and_then(Timestamp::from_micros)
        .ok_or_else(|| ShardError::damaged(at, "a created_at is out of range"))?;
    let stored_size = cursor.u32("a stored size")?;
    let raw_size = cursor.u32("a raw size")?;
    let crc32c = cursor.u32("a checksum")?;
    let kind = cursor.u8("a kind")?;
    if u64::from(raw_size) > PackSettings::MAX_BIG_FILE_THRESHOLD {
        return Err(ShardError::damaged(at, "a raw size is larger than any writer makes them"));
    }
    Ok(BlockEntry { fingerprint, created_at, raw_size, stored_size, offset, crc32c, kind })
}
