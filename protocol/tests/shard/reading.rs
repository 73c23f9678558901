//! Reads shards as the retriever does, from a store that counts what is fetched.

use std::cell::Cell;
use std::ops::Range;

use protocol::codec;
use protocol::shard::{
    Content, HEADER_BYTES, IndexReader, Location, ShardError, Tail, TailStep, check_header,
    read_tail,
};
use protocol::{Fingerprint, Timestamp};

pub(crate) struct Store<'a> {
    object: &'a [u8],
    pub(crate) gets: Cell<u32>,
    pub(crate) bytes: Cell<u64>,
}

impl<'a> Store<'a> {
    pub(crate) fn new(object: &'a [u8]) -> Self {
        Self { object, gets: Cell::new(0), bytes: Cell::new(0) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.object.len() as u64
    }

    /// A range, cut at the object's end as stores do.
    fn get(&self, range: Range<u64>) -> &'a [u8] {
        let end = usize::try_from(range.end.min(self.size())).expect("in memory");
        let start = usize::try_from(range.start).expect("in memory").min(end);
        self.gets.set(self.gets.get() + 1);
        self.bytes.set(self.bytes.get() + (end - start) as u64);
        &self.object[start..end]
    }

    pub(crate) fn tail(&self, guess: u64) -> Result<TailStep, ShardError> {
        let mut wanted = guess.min(self.size());
        loop {
            match read_tail(self.size(), self.get(self.size() - wanted..self.size()))? {
                TailStep::Need(more) => {
                    assert!(more > wanted && more <= self.size(), "asks for {more} of {wanted}");
                    wanted = more;
                }
                step => return Ok(step),
            }
        }
    }
}

fn damaged(offset: u64, error: impl ToString) -> ShardError {
    ShardError::Damaged { offset, what: error.to_string() }
}

/// One file, by the fast path where there is one. `guess` is how much of the tail is fetched.
pub(crate) fn get(store: &Store<'_>, uid: &str, guess: u64) -> Result<Option<Content>, ShardError> {
    match store.tail(guess)? {
        TailStep::Fast(tail) => {
            let fingerprint = Fingerprint::of(uid);
            for number in tail.blocks_for(fingerprint) {
                let range = tail.block_range(number).expect("the block exists");
                let block = tail.parse_block(number, store.get(range))?;
                if let Some(entry) = block.find(fingerprint) {
                    return block.content(entry).map(Some);
                }
            }
            Ok(None)
        }
        TailStep::Plain(plain) => {
            let version = check_header(store.get(0..HEADER_BYTES))?;
            let bytes = store.get(plain.range.clone());
            let mut index = IndexReader::new(version, bytes, plain.range.start)?;
            while let Some(entry) = index.next_entry()? {
                if entry.uid == uid {
                    return located(store, entry.location).map(Some);
                }
            }
            Ok(None)
        }
        TailStep::Need(_) => unreachable!("the loop fetches what is needed"),
    }
}

fn located(store: &Store<'_>, location: Location) -> Result<Content, ShardError> {
    match location {
        Location::Inside { offset, stored_size, codec, raw_size } => {
            let stored = store.get(offset..offset + stored_size);
            let raw = codec::decode(codec, stored, raw_size).map_err(|e| damaged(offset, e))?;
            Ok(Content::File(raw))
        }
        Location::Beside { sha256, size } => Ok(Content::Big { sha256, size }),
    }
}

/// A file as a walk meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) uid: String,
    pub(crate) created_at: Timestamp,
    pub(crate) content: Content,
}

/// Reads all of a shard with the extension, and compares its two indexes with each other.
pub(crate) fn walk(store: &Store<'_>) -> Result<Vec<Walked>, ShardError> {
    let TailStep::Fast(tail) = store.tail(4096)? else {
        return Err(damaged(0, "the extension is missing"));
    };
    if check_header(store.get(0..HEADER_BYTES))? != 2 {
        return Err(damaged(4, "the extension belongs to version 2"));
    }
    let bytes = store.get(tail.index_range());
    tail.check_index(bytes)?;
    let mut index = IndexReader::new(2, bytes, tail.index_range().start)?;
    let mut files = Vec::new();
    for number in 0..tail.blocks() {
        walk_block(store, &tail, number, &mut index, &mut files)?;
    }
    if index.next_entry()?.is_some() || index.offset() != tail.index_range().end {
        return Err(damaged(index.offset(), "the index holds more than the blocks"));
    }
    if tail.entries() != files.len() as u64 {
        return Err(damaged(0, "the trailer counts other entries"));
    }
    let times = files.iter().map(|file| file.created_at);
    let bounds = times.clone().min().zip(times.max());
    if bounds.is_some_and(|bounds| bounds != tail.created_at_bounds()) {
        return Err(damaged(0, "the trailer has other bounds of created_at"));
    }
    Ok(files)
}

fn walk_block(
    store: &Store<'_>,
    tail: &Tail,
    number: usize,
    index: &mut IndexReader<'_>,
    files: &mut Vec<Walked>,
) -> Result<(), ShardError> {
    let range = tail.block_range(number).expect("the block exists");
    let block = tail.parse_block(number, store.get(range))?;
    for entry in block.entries() {
        let at = index.offset();
        let indexed = index.next_entry()?.ok_or_else(|| damaged(at, "the index ends early"))?;
        let content = block.content(entry)?;
        let agree = Fingerprint::of(&indexed.uid) == entry.fingerprint
            && match &indexed.location {
                Location::Inside { offset, stored_size, raw_size, .. } => {
                    !entry.is_big()
                        && *offset == entry.offset
                        && *stored_size == u64::from(entry.stored_size)
                        && *raw_size == u64::from(entry.raw_size)
                }
                Location::Beside { .. } => entry.is_big(),
            }
            && located(store, indexed.location)? == content;
        if !agree {
            return Err(damaged(at, "the indexes disagree"));
        }
        files.push(Walked { uid: indexed.uid, created_at: entry.created_at, content });
    }
    Ok(())
}
