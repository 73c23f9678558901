//! Reads a whole shard, from its first byte to its last, and checks everything in it.

use std::ops::Range;

use backends::BackendError;
use bytes::Bytes;
use protocol::codec::Decoder;
use protocol::receipt::ShardRef;
use protocol::shard::{
    Block, HEADER_BYTES, IndexReader, Location, ShardError, Tail, TailStep, check_header,
};
use protocol::{ContentHash, Fingerprint, Tally, Timestamp, names};

use crate::archive::{Archive, ReadError};

/// Blocks are fetched together up to this many bytes.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;

/// One file of a shard that was walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalkedFile {
    pub(crate) uid: String,
    pub(crate) created_at: Timestamp,
    pub(crate) size: u64,
    /// Where its stored bytes begin in the shard; those of a big file's reference.
    pub(crate) offset: u64,
    /// CRC-32C of its raw bytes; of a big file's reference.
    pub(crate) crc32c: u32,
    pub(crate) big: Option<String>,
}

/// What a walk adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) packed: Tally,
    pub(crate) bytes_raw: u64,
}

struct Checks {
    crc32c: u32,
    hasher: blake3::Hasher,
}

impl Checks {
    fn see(&mut self, bytes: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.hasher.update(bytes);
    }
}

impl Archive {
    /// Walks a shard of ours: every checksum, every payload decoded, the v2 index compared with
    /// the blocks entry by entry, and the whole against size, checksum and hash that the
    /// certificate and the name state. Memory: the index and a group of blocks.
    pub(crate) async fn walk(
        &self,
        shard: &ShardRef,
        decode: bool,
        visit: &mut (dyn FnMut(WalkedFile) + Send),
    ) -> Result<Walked, ReadError> {
        let key = shard.key.as_str();
        let damaged = |offset: u64, what: &str| {
            let cause = ShardError::Damaged { offset, what: what.to_owned() };
            ReadError::Damaged { object: key.to_owned(), cause }
        };
        let (size, step) = self.tail(key, shard.tail_bytes).await?;
        if size != shard.size {
            return Err(damaged(size, "it has another size than its certificate states"));
        }
        let TailStep::Fast(tail) = step else {
            return Err(damaged(size, "the lookup extension is gone"));
        };
        let mut checks = Checks { crc32c: 0, hasher: blake3::Hasher::new() };
        let header = self.range(key, 0..HEADER_BYTES).await?;
        if check_header(&header).map_err(ReadError::damaged(key))? != 2 {
            return Err(damaged(4, "a shard with the lookup extension has version 2"));
        }
        checks.see(&header);
        // The index stands behind the blocks and is compared with them as they are read.
        let rest_at = tail.index_range().start;
        let rest = self.range(key, rest_at..size).await?;
        let index_len = usize::try_from(tail.index_range().end - rest_at).unwrap_or(usize::MAX);
        let index = rest.get(..index_len).unwrap_or_default();
        tail.check_index(index).map_err(ReadError::damaged(key))?;
        let mut index = IndexReader::new(2, index, rest_at).map_err(ReadError::damaged(key))?;
        let mut decoder = Decoder::new().map_err(no_decoder)?;
        let mut walked = Walked::default();
        let mut number = 0;
        for group in groups(&tail) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let bytes = self.range(key, first.start..last.end).await?;
            checks.see(&bytes);
            for range in &group {
                let piece = slice(&bytes, range, first.start);
                let block = tail.parse_block(number, piece).map_err(ReadError::damaged(key))?;
                walk_block(key, &block, &mut index, (decode, &mut decoder), &mut walked, visit)?;
                number += 1;
            }
        }
        checks.see(&rest);
        if index.remaining() != 0 || walked.packed.rows != shard.entries {
            return Err(damaged(rest_at, "it holds another number of entries than stated"));
        }
        if checks.crc32c != shard.crc32c {
            return Err(damaged(0, "its checksum is not the one that its certificate states"));
        }
        let hash = ContentHash::from_blake3(&checks.hasher.finalize());
        if names::content_hash(key) != Some(hash) {
            return Err(damaged(0, "its bytes are not those that its name stands for"));
        }
        Ok(walked)
    }
}

impl Archive {
    /// The uids in a shard whose content lies beside it, each with the object that it is in.
    pub(crate) async fn big_files_of(
        &self,
        shard: &ShardRef,
    ) -> Result<Vec<(String, String)>, ReadError> {
        let key = shard.key.as_str();
        let (_, TailStep::Fast(tail)) = self.tail(key, shard.tail_bytes).await? else {
            return Ok(Vec::new());
        };
        let range = tail.index_range();
        let index = self.range(key, range.clone()).await?;
        tail.check_index(&index).map_err(ReadError::damaged(key))?;
        let mut entries =
            IndexReader::new(2, &index, range.start).map_err(ReadError::damaged(key))?;
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().map_err(ReadError::damaged(key))? {
            if let Location::Beside { sha256, .. } = entry.location {
                found.push((entry.uid, names::big_file(&sha256)));
            }
        }
        Ok(found)
    }
}

fn no_decoder(error: std::io::Error) -> ReadError {
    let what = "decoding the files of a shard".to_owned();
    ReadError::Backend(BackendError::Failed { what, cause: error.into() })
}

fn groups(tail: &Tail) -> Vec<Vec<Range<u64>>> {
    let mut groups: Vec<Vec<Range<u64>>> = Vec::new();
    for range in (0..tail.blocks()).filter_map(|number| tail.block_range(number)) {
        match groups.last_mut() {
            Some(group)
                if group.first().is_some_and(|first| range.end - first.start <= GROUP_BYTES) =>
            {
                group.push(range);
            }
            _ => groups.push(vec![range]),
        }
    }
    groups
}

fn slice<'a>(bytes: &'a Bytes, range: &Range<u64>, base: u64) -> &'a [u8] {
    let from = usize::try_from(range.start - base).unwrap_or(usize::MAX);
    let to = usize::try_from(range.end - base).unwrap_or(usize::MAX);
    bytes.get(from..to).unwrap_or_default()
}

fn walk_block(
    key: &str,
    block: &Block<'_>,
    index: &mut IndexReader<'_>,
    (decode, decoder): (bool, &mut Decoder),
    walked: &mut Walked,
    visit: &mut (dyn FnMut(WalkedFile) + Send),
) -> Result<(), ReadError> {
    for entry in block.entries() {
        let index_at = index.offset();
        let disagree = || ReadError::Damaged {
            object: key.to_owned(),
            cause: ShardError::Damaged {
                offset: index_at,
                what: "the index and the blocks disagree".to_owned(),
            },
        };
        let listed = index.next_entry().map_err(ReadError::damaged(key))?.ok_or_else(disagree)?;
        let same_place = match &listed.location {
            Location::Inside { offset, stored_size, raw_size, .. } => {
                !entry.is_big()
                    && *offset == entry.offset
                    && *stored_size == u64::from(entry.stored_size)
                    && *raw_size == u64::from(entry.raw_size)
            }
            Location::Beside { .. } => entry.is_big(),
        };
        if !same_place || Fingerprint::of(&listed.uid) != entry.fingerprint {
            return Err(disagree());
        }
        if decode || entry.is_big() {
            let big = block.check_content(entry, decoder).map_err(ReadError::damaged(key))?;
            let agrees = match (&big, &listed.location) {
                (Some((sha256, size)), Location::Beside { sha256: listed, size: bytes }) => {
                    sha256 == listed && size == bytes
                }
                (None, Location::Inside { .. }) => true,
                _ => false,
            };
            if !agrees {
                return Err(disagree());
            }
        }
        let (size, big) = match listed.location {
            Location::Inside { raw_size, .. } => (raw_size, None),
            Location::Beside { sha256, size } => (size, Some(sha256)),
        };
        walked.packed.count(&listed.uid, entry.created_at);
        walked.bytes_raw += size;
        visit(WalkedFile {
            uid: listed.uid,
            created_at: entry.created_at,
            size,
            offset: entry.offset,
            crc32c: entry.crc32c,
            big,
        });
    }
    Ok(())
}
