//! Builds a shard, entry by entry, into bytes that the caller takes away as they come.

use super::layout::{
    BIG_PAYLOAD_BYTES, BLOCK_TARGET_BYTES, DIRECTORY_ENTRY_BYTES, EXTENSION_VERSION, FOOTER_BYTES,
    FOOTER_MAGIC, HEADER, KIND_BIG, MAX_DELTA, TRAILER_BYTES, TRAILER_MAGIC, mini_index_bytes,
};
use crate::codec::CompressionCodec;
use crate::ident::ContentHash;
use crate::row::{Fingerprint, Tally};
use crate::settings::PackSettings;
use crate::time::{Day, Timestamp};

/// One file to be written.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The file's uid, at most 65,535 bytes.
    pub uid: &'a str,
    /// The uid's fingerprint.
    pub fingerprint: Fingerprint,
    /// The row's `created_at`, on the shard's day.
    pub created_at: Timestamp,
    /// The file's content.
    pub payload: Payload<'a>,
}

/// What an entry holds.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// The file itself, in stored form.
    File {
        /// How it is stored.
        codec: CompressionCodec,
        /// The stored bytes.
        stored: &'a [u8],
        /// Size of the raw file in bytes.
        raw_size: u32,
        /// CRC-32C of the raw bytes.
        crc32c: u32,
    },
    /// A file that lies beside the shards.
    Big {
        /// SHA-256 of its content.
        sha256: [u8; 32],
        /// Its size in bytes.
        size: u64,
    },
}

/// An entry that a shard cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardWriteError {
    /// Entries must come in ascending order of fingerprint, each once.
    #[error("the entry for uid {0:?} is not in ascending order of fingerprint")]
    OutOfOrder(String),
    /// The uid does not fit the index's 16-bit length.
    #[error("a uid of {0} bytes does not fit the index")]
    UidTooLong(usize),
    /// The row is of another day than the shard.
    #[error("created_at {0} is not on the shard's day")]
    OtherDay(Timestamp),
    /// A payload is larger than the largest `big_file_threshold`, stored or raw. Readers refuse
    /// such an entry, so that a damaged size cannot make them allocate at will.
    #[error("a payload of {0} bytes does not fit a block")]
    TooLarge(usize),
}

/// What a finished shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSummary {
    /// Hash of the object's bytes.
    pub hash: ContentHash,
    /// Size of the object in bytes.
    pub size: u64,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
    /// The entries, counted and digested.
    pub packed: Tally,
    /// Raw bytes of the payloads, big files not counted.
    pub bytes_raw: u64,
    /// Smallest fingerprint.
    pub first_fingerprint: Fingerprint,
    /// Largest fingerprint.
    pub last_fingerprint: Fingerprint,
    /// Size of directory, trailer and footer.
    pub tail_bytes: u64,
}

struct Pending {
    uid_len: u16,
    fingerprint: Fingerprint,
    created_at: i64,
    kind: u8,
    stored: u32,
    raw: u32,
    crc32c: u32,
}

/// Builds one shard. Memory: one block, the v2 index (about 40 bytes and the uid per entry), and
/// whatever output the caller has not yet taken.
pub struct ShardWriter {
    day: Day,
    out: Vec<u8>,
    /// Bytes of the object before those in `out`.
    taken: u64,
    hasher: blake3::Hasher,
    crc32c: u32,
    block: Vec<Pending>,
    block_uids: Vec<u8>,
    block_payloads: Vec<u8>,
    mini: Vec<u8>,
    index: Vec<u8>,
    directory: Vec<u8>,
    blocks: u32,
    packed: Tally,
    bytes_raw: u64,
    first: Option<Fingerprint>,
    last: Fingerprint,
    oldest: Timestamp,
    newest: Timestamp,
}

impl ShardWriter {
    /// Begins a shard for rows of `day`.
    pub fn new(day: Day) -> Self {
        Self::onto(day, Vec::new())
    }

    /// The same, with the output in an empty buffer that is there already.
    pub fn onto(day: Day, out: Vec<u8>) -> Self {
        let mut writer = Self {
            day,
            out,
            taken: 0,
            hasher: blake3::Hasher::new(),
            crc32c: 0,
            block: Vec::new(),
            block_uids: Vec::new(),
            block_payloads: Vec::with_capacity(BLOCK_TARGET_BYTES * 2),
            mini: Vec::new(),
            index: vec![0; 4],
            directory: Vec::new(),
            blocks: 0,
            packed: Tally::default(),
            bytes_raw: 0,
            first: None,
            last: Fingerprint::default(),
            oldest: Timestamp::MAX,
            newest: Timestamp::MIN,
        };
        writer.emit(&HEADER);
        writer
    }

    /// Number of entries so far.
    pub const fn entries(&self) -> u64 {
        self.packed.rows
    }

    /// Raw payload bytes so far.
    pub const fn bytes_raw(&self) -> u64 {
        self.bytes_raw
    }

    /// Hands the finished bytes that have gathered to `take`, for the caller to put where the shard
    /// is built, and forgets them. The shard is what was taken, in order, and then what
    /// [`ShardWriter::finish`] gives.
    ///
    /// # Errors
    /// Those of `take`; the bytes are still there then.
    pub fn drain_output<E>(&mut self, take: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        take(&self.out)?;
        self.taken += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Bytes that [`ShardWriter::drain_output`] would hand over.
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When the entry is out of order, of another day, or too large; the shard is unchanged.
    pub fn push(&mut self, entry: Entry<'_>) -> Result<(), ShardWriteError> {
        let Entry { uid, fingerprint, created_at, payload } = entry;
        if self.first.is_some() && fingerprint <= self.last {
            return Err(ShardWriteError::OutOfOrder(uid.to_owned()));
        }
        let uid_len =
            u16::try_from(uid.len()).map_err(|_too_long| ShardWriteError::UidTooLong(uid.len()))?;
        if !self.day.contains(created_at) {
            return Err(ShardWriteError::OtherDay(created_at));
        }
        let mut big = [0; BIG_PAYLOAD_BYTES];
        let (kind, bytes, raw, crc32c) = match payload {
            Payload::File { codec, stored, raw_size, crc32c } => {
                (codec.id(), stored, raw_size, crc32c)
            }
            Payload::Big { sha256, size } => {
                big[..32].copy_from_slice(&sha256);
                big[32..].copy_from_slice(&size.to_le_bytes());
                (KIND_BIG, &big[..], 0, crc32c::crc32c(&big))
            }
        };
        let larger = bytes.len().max(raw as usize);
        if larger as u64 > PackSettings::MAX_BIG_FILE_THRESHOLD {
            return Err(ShardWriteError::TooLarge(larger));
        }
        let stored = u32::try_from(bytes.len())
            .map_err(|_too_large| ShardWriteError::TooLarge(bytes.len()))?;

        // A file that is larger than a block makes its own, so that reading its neighbours does
        // not fetch it. The directory knows blocks by 64 bits of their first fingerprint: entries
        // that share these stay together, so that one block is all a lookup ever needs.
        let apart = fingerprint.high() != self.last.high();
        let grown =
            mini_index_bytes(self.block.len() + 1) + self.block_payloads.len() + bytes.len();
        if !self.block.is_empty() && apart && grown > BLOCK_TARGET_BYTES {
            self.close_block();
        }
        self.block_payloads.extend_from_slice(bytes);
        self.block_uids.extend_from_slice(uid.as_bytes());
        self.block.push(Pending {
            uid_len,
            fingerprint,
            created_at: created_at.as_micros(),
            kind,
            stored,
            raw,
            crc32c,
        });
        self.packed.count(uid, created_at);
        self.bytes_raw += u64::from(raw);
        self.first.get_or_insert(fingerprint);
        self.last = fingerprint;
        self.oldest = self.oldest.min(created_at);
        self.newest = self.newest.max(created_at);
        Ok(())
    }

    /// Ends the shard: its last bytes, and what the whole of it is.
    pub fn finish(mut self) -> (Vec<u8>, ShardSummary) {
        self.close_block();
        let entries = u32::try_from(self.packed.rows).unwrap_or(u32::MAX);
        self.index[..4].copy_from_slice(&entries.to_le_bytes());
        let index_offset = self.position();
        let directory_offset = index_offset + self.index.len() as u64;

        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(TRAILER_MAGIC);
        trailer.extend_from_slice(&[EXTENSION_VERSION, 0, 0, 0]);
        trailer.extend_from_slice(&index_offset.to_le_bytes());
        trailer.extend_from_slice(&directory_offset.to_le_bytes());
        trailer.extend_from_slice(&self.blocks.to_le_bytes());
        trailer.extend_from_slice(&self.packed.rows.to_le_bytes());
        trailer.extend_from_slice(&self.oldest.as_micros().to_le_bytes());
        trailer.extend_from_slice(&self.newest.as_micros().to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&self.index).to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&self.directory).to_le_bytes());
        let crc = crc32c::crc32c(&trailer);
        trailer.extend_from_slice(&crc.to_le_bytes());

        let region = self.index.len() + self.directory.len() + trailer.len();
        let tail_bytes = (self.directory.len() + trailer.len()) as u64 + FOOTER_BYTES;
        let (index, directory) =
            (std::mem::take(&mut self.index), std::mem::take(&mut self.directory));
        self.emit(&index);
        self.emit(&directory);
        self.emit(&trailer);
        self.emit(FOOTER_MAGIC);
        self.emit(&(region as u64).to_le_bytes());

        let summary = ShardSummary {
            hash: ContentHash::from_blake3(&self.hasher.finalize()),
            size: self.position(),
            crc32c: self.crc32c,
            packed: self.packed,
            bytes_raw: self.bytes_raw,
            first_fingerprint: self.first.unwrap_or_default(),
            last_fingerprint: self.last,
            tail_bytes,
        };
        (self.out, summary)
    }

    fn position(&self) -> u64 {
        self.taken + self.out.len() as u64
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.out.extend_from_slice(bytes);
    }

    fn close_block(&mut self) {
        let Some(first) = self.block.first() else { return };
        let block_offset = self.position();
        self.directory.reserve(DIRECTORY_ENTRY_BYTES);
        self.directory.extend_from_slice(&first.fingerprint.high().to_le_bytes());
        self.directory.extend_from_slice(&block_offset.to_le_bytes());
        self.blocks += 1;

        let entries = std::mem::take(&mut self.block);
        let base = entries.iter().map(|entry| entry.created_at).min().unwrap_or_default();
        let mut mini = std::mem::take(&mut self.mini);
        mini.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        mini.extend_from_slice(&base.to_le_bytes());
        let mut offset = block_offset + mini_index_bytes(entries.len()) as u64;
        let (mut uids, mut payloads) = (&self.block_uids[..], &self.block_payloads[..]);
        for entry in &entries {
            let delta = entry.created_at.abs_diff(base).min(MAX_DELTA);
            mini.extend_from_slice(&entry.fingerprint.0);
            mini.extend_from_slice(&delta.to_le_bytes()[..5]);
            mini.extend_from_slice(&entry.stored.to_le_bytes());
            mini.extend_from_slice(&entry.raw.to_le_bytes());
            mini.extend_from_slice(&entry.crc32c.to_le_bytes());
            mini.push(entry.kind);
            let (uid, payload);
            (uid, uids) = uids.split_at(usize::from(entry.uid_len));
            (payload, payloads) = payloads.split_at(entry.stored as usize);
            push_index_entry(&mut self.index, entry, uid, offset, payload);
            offset += u64::from(entry.stored);
        }
        mini.extend_from_slice(&crc32c::crc32c(&mini).to_le_bytes());
        self.emit(&mini);
        let payloads = std::mem::take(&mut self.block_payloads);
        self.emit(&payloads);
        // Their memory serves the next block.
        (self.block, self.mini, self.block_payloads) = (entries, mini, payloads);
        self.block.clear();
        self.mini.clear();
        self.block_uids.clear();
        self.block_payloads.clear();
    }
}

/// Appends the entry as version 2 of the format has it, with empty meta.
fn push_index_entry(index: &mut Vec<u8>, entry: &Pending, uid: &[u8], offset: u64, payload: &[u8]) {
    index.extend_from_slice(&entry.uid_len.to_le_bytes());
    index.extend_from_slice(uid);
    if entry.kind & KIND_BIG == 0 {
        let stored = u64::from(entry.stored);
        index.push(0);
        index.extend_from_slice(&offset.to_le_bytes());
        index.extend_from_slice(&stored.to_le_bytes());
        index.push(entry.kind);
        index.extend_from_slice(&stored.to_le_bytes());
        index.extend_from_slice(&u64::from(entry.raw).to_le_bytes());
    } else {
        let (sha256, size) = payload.split_at(32);
        index.push(1);
        index.extend_from_slice(&64_u16.to_le_bytes());
        index.extend(sha256.iter().flat_map(|byte| {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
            [digit(byte >> 4), digit(byte & 15)]
        }));
        index.extend_from_slice(size);
    }
    index.extend_from_slice(&0_u32.to_le_bytes());
}
