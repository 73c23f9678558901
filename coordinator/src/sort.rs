//! Sorts a window's rows into row order with fixed memory. Rows are put into buckets by the first
//! bits of what they are sorted by; what does not fit into memory goes to one unlinked file, and
//! each bucket is sorted when it is read.

mod order;
mod record;
mod run;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::{Fingerprint, NBits, Row, RowRef, ShardIndex};

use crate::partitions::IndexLoad;

use order::Order;
use record::{BUCKETS, bucket};
use run::Merged;

pub(crate) use record::{Record, Sum};

/// A row with what it is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SortedRow {
    pub(crate) index: ShardIndex,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) row: Row,
}

impl SortedRow {
    pub(crate) fn new(row: Row, n_bits: NBits) -> Self {
        Self { index: n_bits.shard_index(&row.uid), fingerprint: Fingerprint::of(&row.uid), row }
    }
}

impl Ord for SortedRow {
    /// Row order: shard index, fingerprint, created_at, location.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.index, self.fingerprint)
            .cmp(&(other.index, other.fingerprint))
            .then_with(|| RowRef::from(&self.row).cmp_within_fingerprint(&RowRef::from(&other.row)))
    }
}

impl PartialOrd for SortedRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A piece of the spool, of whole records.
#[derive(Clone, Copy, Debug)]
struct Extent {
    from: u64,
    to: u64,
}

/// The records of one bucket: first those that were spooled.
#[derive(Debug, Default)]
struct Bucket {
    spooled: Vec<Extent>,
    in_memory: Vec<u8>,
    rows: u64,
}

/// Takes rows in any order. Memory: the buckets, each of which is spooled when it has its share.
pub(crate) struct Sorter {
    n_bits: NBits,
    buckets: Vec<Bucket>,
    limit: usize,
    spool: Option<File>,
    spooled: u64,
    loads: Vec<IndexLoad>,
    sum: Sum,
    spool_dir: PathBuf,
}

impl Sorter {
    /// A sorter that takes about `limit` bytes of memory; what is more goes to a file in
    /// `spool_dir`.
    pub(crate) fn new(n_bits: NBits, limit: usize, spool_dir: &Path) -> Self {
        Self {
            n_bits,
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            limit,
            spool: None,
            spooled: 0,
            loads: vec![IndexLoad::default(); n_bits.shard_count() as usize],
            sum: Sum::default(),
            spool_dir: spool_dir.to_owned(),
        }
    }

    pub(crate) fn push(&mut self, row: RowRef<'_>) -> std::io::Result<()> {
        let index = self.n_bits.shard_index(row.uid);
        let fingerprint = Fingerprint::of(row.uid);
        let load = &mut self.loads[usize::from(index.0)];
        load.rows += 1;
        // How windows are cut depends on it: it is to stay what it was, whatever a row takes here.
        load.row_bytes += (row.heap_bytes() + size_of::<SortedRow>() - size_of::<Row>()) as u64;
        let number = bucket(self.n_bits, index, fingerprint);
        let bucket = &mut self.buckets[number];
        let begin = bucket.in_memory.len();
        record::append(row, index, fingerprint, &mut bucket.in_memory)?;
        self.sum.count(&bucket.in_memory[begin..]);
        bucket.rows += 1;
        if bucket.in_memory.len() >= self.limit / BUCKETS { self.spool(number) } else { Ok(()) }
    }

    fn spool(&mut self, number: usize) -> std::io::Result<()> {
        let bucket = &mut self.buckets[number];
        let spool = match &self.spool {
            Some(spool) => spool,
            None => self.spool.insert(tempfile::tempfile_in(&self.spool_dir)?),
        };
        let from = self.spooled;
        spool.write_all_at(&bucket.in_memory, from)?;
        self.spooled += bucket.in_memory.len() as u64;
        match bucket.spooled.last_mut().filter(|last| last.to == from) {
            Some(last) => last.to = self.spooled,
            None => bucket.spooled.push(Extent { from, to: self.spooled }),
        }
        bucket.in_memory.clear();
        // A row with the longest fields is not to stay as room in every bucket.
        bucket.in_memory.shrink_to(2 * self.limit / BUCKETS);
        Ok(())
    }

    /// Ends the input. Where something was spooled, everything is, so that the memory is there for
    /// sorting.
    pub(crate) fn finish(mut self) -> std::io::Result<Sorted> {
        if self.spool.is_some() {
            for number in 0..BUCKETS {
                if !self.buckets[number].in_memory.is_empty() {
                    self.spool(number)?;
                }
                self.buckets[number].in_memory = Vec::new();
            }
        }
        let Self { buckets, limit, spool, loads, sum, spool_dir, .. } = self;
        Ok(Sorted { buckets, limit, spool, loads, sum, spool_dir })
    }
}

/// All rows, ready to be read in row order as often as needed.
pub(crate) struct Sorted {
    buckets: Vec<Bucket>,
    limit: usize,
    spool: Option<File>,
    loads: Vec<IndexLoad>,
    /// Of everything that was pushed.
    sum: Sum,
    spool_dir: PathBuf,
}

impl Sorted {
    /// Load of every shard index.
    pub(crate) fn loads(&self) -> &[IndexLoad] {
        &self.loads
    }

    /// How many rows each bucket has; a bucket is what is sorted at once.
    pub(crate) fn bucket_rows(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.rows)
    }

    /// The rows in row order. Memory: a bucket, or where it is larger than what one of so many
    /// `readers` at a time may take, a read buffer for each of its pieces, together as large, or
    /// 16 KiB each where there are very many.
    pub(crate) fn iter(&self, readers: usize) -> SortedIter<'_> {
        let memory = self.limit / 2 / readers.max(1);
        SortedIter {
            sorted: self,
            memory,
            next_bucket: 0,
            position: 0,
            rows: Rows::none(),
            sum: Sum::default(),
        }
    }

    /// Compares what was read, by one reader or by several together, with what was pushed.
    ///
    /// # Errors
    /// When it is not the same rows, each of them once.
    pub(crate) fn require_all(&self, read: Sum) -> std::io::Result<()> {
        if read == self.sum {
            return Ok(());
        }
        Err(other_rows())
    }
}

/// What was read back is not what was scanned: nothing may come of it, and scanning again is right.
pub(crate) fn other_rows() -> std::io::Error {
    let why = "the sorted rows are not those that were scanned, as after a flipped bit in memory or \
               on the disk; if it comes again, please report this";
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

/// The rows of one bucket after the other.
pub(crate) struct SortedIter<'a> {
    sorted: &'a Sorted,
    memory: usize,
    next_bucket: usize,
    position: u64,
    rows: Rows<'a>,
    /// Of the rows that were read so far, without those that were passed over.
    sum: Sum,
}

/// The rows of one bucket.
enum Rows<'a> {
    InMemory { bytes: Cow<'a, [u8]>, order: Order, next: usize },
    Merged(Box<Merged>),
}

impl Rows<'_> {
    fn none() -> Self {
        Self::InMemory { bytes: Cow::Borrowed(&[]), order: Order::default(), next: 0 }
    }

    fn next(&mut self) -> std::io::Result<Option<Record<'_>>> {
        match self {
            Self::InMemory { bytes, order, next } => {
                *next += 1;
                order.record(bytes, *next - 1).map(Some)
            }
            Self::Merged(merged) => merged.next(),
        }
    }
}

impl SortedIter<'_> {
    pub(crate) fn next_row(&mut self) -> std::io::Result<Option<Record<'_>>> {
        if !self.begin_row()? {
            return Ok(None);
        }
        let row = self.rows.next()?;
        if let Some(row) = &row {
            self.sum.count(row.bytes());
        }
        Ok(row)
    }

    /// What was read so far.
    pub(crate) const fn sum(&self) -> Sum {
        self.sum
    }

    /// The same check as [`Sorted::require_all`], of a reader that has read everything.
    ///
    /// # Errors
    /// When what it read are other rows.
    pub(crate) fn require_all(&self) -> std::io::Result<()> {
        self.sorted.require_all(self.sum)
    }

    /// Goes to the next row; false at the end.
    fn begin_row(&mut self) -> std::io::Result<bool> {
        while self.is_at_end() {
            if !self.open_bucket()? {
                return Ok(false);
            }
        }
        self.position += 1;
        Ok(true)
    }

    /// Goes on at the row of this number. Costs nothing where it is the next one, and else the
    /// sorting of its bucket.
    pub(crate) fn seek(&mut self, row: u64) -> std::io::Result<()> {
        if row == self.position {
            return Ok(());
        }
        let (mut begin, mut number) = (0, 0);
        let rows_of = |number: usize| self.sorted.buckets.get(number).map(|bucket| bucket.rows);
        while let Some(rows) = rows_of(number).filter(|rows| begin + rows <= row) {
            begin += rows;
            number += 1;
        }
        self.end_bucket();
        (self.next_bucket, self.position) = (number, begin);
        while self.position < row && self.begin_row()? {
            self.rows.next()?;
        }
        Ok(())
    }

    /// Leaves what is left of the bucket unread.
    fn end_bucket(&mut self) {
        match &mut self.rows {
            Rows::InMemory { order, next, .. } => *next = order.len(),
            Rows::Merged(_) => self.rows = Rows::none(),
        }
    }

    fn is_at_end(&self) -> bool {
        match &self.rows {
            Rows::InMemory { order, next, .. } => *next == order.len(),
            Rows::Merged(merged) => merged.is_at_end(),
        }
    }

    /// Sorts the next bucket; false when there is none.
    fn open_bucket(&mut self) -> std::io::Result<bool> {
        let sorted = self.sorted;
        let Some(bucket) = sorted.buckets.get(self.next_bucket) else { return Ok(false) };
        self.next_bucket += 1;
        let spooled: u64 = bucket.spooled.iter().map(|extent| extent.to - extent.from).sum();
        let fits = usize::try_from(spooled).ok().filter(|bytes| *bytes <= self.memory);
        // What the bucket before took is used again.
        let (mut place, mut order) = match std::mem::replace(&mut self.rows, Rows::none()) {
            Rows::InMemory { bytes: Cow::Owned(bytes), order, .. } => (bytes, order),
            Rows::InMemory { order, .. } => (Vec::new(), order),
            Rows::Merged(_) => (Vec::new(), Order::default()),
        };
        let bytes = match (&sorted.spool, fits) {
            (None, _) => Cow::Borrowed(bucket.in_memory.as_slice()),
            (Some(spool), Some(bytes)) => {
                place.resize(bytes, 0);
                let mut rest = place.as_mut_slice();
                for extent in &bucket.spooled {
                    let length = usize::try_from(extent.to - extent.from).unwrap_or(usize::MAX);
                    let (part, later) = rest.split_at_mut(length);
                    spool.read_exact_at(part, extent.from)?;
                    rest = later;
                }
                Cow::Owned(place)
            }
            (Some(spool), None) => {
                drop((place, order));
                let merged = Merged::sort(spool, &bucket.spooled, self.memory, &sorted.spool_dir)?;
                self.rows = Rows::Merged(Box::new(merged));
                return Ok(true);
            }
        };
        order.sort(&bytes)?;
        self.rows = Rows::InMemory { bytes, order, next: 0 };
        Ok(true)
    }
}

#[cfg(test)]
pub(crate) mod tests;
