//! Sorts a window's rows into row order with a fixed buffer: runs are sorted in memory, spooled
//! to one unlinked file, and merged.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use protocol::{Fingerprint, NBits, Row, ShardIndex};

use crate::partitions::IndexLoad;

/// The least that is read from a run at a time.
const SMALLEST_READ_BYTES: usize = 16 * 1024;
/// The most that is read from a run at a time.
const LARGEST_READ_BYTES: usize = 1024 * 1024;

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
            .then_with(|| self.row.cmp_within_fingerprint(&other.row))
            .then_with(|| self.row.size.cmp(&other.row.size))
    }
}

impl PartialOrd for SortedRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Takes rows in any order. Memory: the buffer.
pub(crate) struct Sorter {
    n_bits: NBits,
    buffer: Vec<SortedRow>,
    buffered_bytes: usize,
    limit: usize,
    spool: Option<BufWriter<File>>,
    spooled: u64,
    runs: Vec<(u64, u64)>,
    loads: Vec<IndexLoad>,
    spool_dir: std::path::PathBuf,
}

impl Sorter {
    /// A sorter whose buffer takes about `limit` bytes; runs go to a file in `spool_dir`.
    pub(crate) fn new(n_bits: NBits, limit: usize, spool_dir: &Path) -> Self {
        Self {
            n_bits,
            buffer: Vec::new(),
            buffered_bytes: 0,
            limit,
            spool: None,
            spooled: 0,
            runs: Vec::new(),
            loads: vec![IndexLoad::default(); n_bits.shard_count() as usize],
            spool_dir: spool_dir.to_owned(),
        }
    }

    pub(crate) fn push(&mut self, row: Row) -> std::io::Result<()> {
        let row = SortedRow::new(row, self.n_bits);
        let bytes = row.row.heap_bytes() + size_of::<SortedRow>() - size_of::<Row>();
        let load = &mut self.loads[usize::from(row.index.0)];
        load.rows += 1;
        load.row_bytes += bytes as u64;
        self.buffered_bytes += bytes;
        self.buffer.push(row);
        if self.buffered_bytes >= self.limit { self.spool_run() } else { Ok(()) }
    }

    /// Ends the input.
    pub(crate) fn finish(mut self) -> std::io::Result<Sorted> {
        self.buffer.sort_unstable();
        let spool = match self.spool.take() {
            Some(writer) => Some(writer.into_inner().map_err(std::io::IntoInnerError::into_error)?),
            None => None,
        };
        Ok(Sorted {
            in_memory: self.buffer,
            spool,
            runs: self.runs,
            loads: self.loads,
            limit: self.limit,
        })
    }

    fn spool_run(&mut self) -> std::io::Result<()> {
        self.buffer.sort_unstable();
        let start = self.spooled;
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(BufWriter::with_capacity(
                LARGEST_READ_BYTES,
                tempfile::tempfile_in(&self.spool_dir)?,
            )),
        };
        let mut record = Vec::new();
        for SortedRow { index, fingerprint, row } in self.buffer.drain(..) {
            record.clear();
            record.extend_from_slice(&index.0.to_le_bytes());
            record.extend_from_slice(&fingerprint.0);
            row.encode_into(&mut record)?;
            let length = u32::try_from(record.len()).map_err(std::io::Error::other)?;
            spool.write_all(&length.to_le_bytes())?;
            spool.write_all(&record)?;
            self.spooled += 4 + u64::from(length);
        }
        self.buffered_bytes = 0;
        self.runs.push((start, self.spooled));
        Ok(())
    }
}

/// All rows, ready to be read in row order as often as needed.
pub(crate) struct Sorted {
    in_memory: Vec<SortedRow>,
    spool: Option<File>,
    runs: Vec<(u64, u64)>,
    loads: Vec<IndexLoad>,
    limit: usize,
}

impl Sorted {
    /// Load of every shard index.
    pub(crate) fn loads(&self) -> &[IndexLoad] {
        &self.loads
    }

    /// The rows in row order. Memory: a read buffer per run, together as large as the sort
    /// buffer was, or 16 KiB each where there are very many.
    pub(crate) fn iter(&self) -> std::io::Result<SortedIter<'_>> {
        let share = self.limit / (self.runs.len() + 1);
        let read_bytes = share.clamp(SMALLEST_READ_BYTES, LARGEST_READ_BYTES);
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut heads = BinaryHeap::with_capacity(self.runs.len());
        for &(from, to) in &self.runs {
            let Some(file) = &self.spool else { break };
            let mut run =
                RunReader { file, at: from, end: to, buffer: Vec::new(), consumed: 0, read_bytes };
            if let Some(row) = run.next_row()? {
                heads.push(Head { row, run: runs.len() });
            }
            runs.push(run);
        }
        Ok(SortedIter { in_memory: self.in_memory.iter().peekable(), runs, heads })
    }
}

/// Merges the runs with what is in memory.
pub(crate) struct SortedIter<'a> {
    in_memory: std::iter::Peekable<std::slice::Iter<'a, SortedRow>>,
    runs: Vec<RunReader<'a>>,
    heads: BinaryHeap<Head>,
}

impl<'a> SortedIter<'a> {
    pub(crate) fn next_row(&mut self) -> std::io::Result<Option<Cow<'a, SortedRow>>> {
        let memory_first = match (self.in_memory.peek(), self.heads.peek()) {
            (Some(memory), Some(head)) => **memory <= head.row,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if memory_first {
            return Ok(self.in_memory.next().map(Cow::Borrowed));
        }
        let Some(Head { row, run }) = self.heads.pop() else { return Ok(None) };
        if let Some(next) = self.runs[run].next_row()? {
            self.heads.push(Head { row: next, run });
        }
        Ok(Some(Cow::Owned(row)))
    }
}

/// The next row of a run; the smallest is the heap's greatest.
struct Head {
    row: SortedRow,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.row.cmp(&self.row).then_with(|| other.run.cmp(&self.run))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

struct RunReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    consumed: usize,
    read_bytes: usize,
}

impl RunReader<'_> {
    fn next_row(&mut self) -> std::io::Result<Option<SortedRow>> {
        if self.consumed == self.buffer.len() && self.at == self.end {
            return Ok(None);
        }
        self.fill(4)?;
        let mut length = [0; 4];
        length.copy_from_slice(&self.buffer[self.consumed..][..4]);
        let length = u32::from_le_bytes(length) as usize;
        self.fill(4 + length)?;
        let record = &self.buffer[self.consumed + 4..][..length];
        let (index, rest) = record.split_at(2);
        let (fingerprint, row) = rest.split_at(16);
        let mut sorted = SortedRow {
            index: ShardIndex(u16::from_le_bytes([index[0], index[1]])),
            fingerprint: Fingerprint::default(),
            row: Row::decode(row)?,
        };
        sorted.fingerprint.0.copy_from_slice(fingerprint);
        self.consumed += 4 + length;
        Ok(Some(sorted))
    }

    /// Makes sure that `count` unread bytes are in the buffer.
    fn fill(&mut self, count: usize) -> std::io::Result<()> {
        let unread = self.buffer.len() - self.consumed;
        if unread >= count {
            return Ok(());
        }
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let more = (count - unread).max(self.read_bytes).min(left);
        self.buffer.resize(unread + more, 0);
        self.file.read_exact_at(&mut self.buffer[unread..], self.at)?;
        self.at += more as u64;
        if unread + more < count {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u32) -> Vec<Row> {
        (0..count)
            .map(|n| {
                let at = protocol::Timestamp::from_micros(i64::from(n)).expect("a time");
                let uid = format!("uid-{}", n.wrapping_mul(2_654_435_761) % (count / 2));
                Row::new(uid, at, Some(format!("/files/{n}")), (n % 3 == 0).then_some(7))
            })
            .collect()
    }

    #[test]
    fn spooled_or_not_the_order_is_row_order_and_nothing_is_lost() {
        let n_bits = NBits::new(6).expect("6");
        let mut expected: Vec<_> =
            rows(5_000).into_iter().map(|row| SortedRow::new(row, n_bits)).collect();
        expected.sort();
        let dir = tempfile::tempdir().expect("a directory");
        for limit in [usize::MAX, 200_000, 20_000, 500] {
            let mut sorter = Sorter::new(n_bits, limit, dir.path());
            for row in rows(5_000) {
                sorter.push(row).expect("pushed");
            }
            let sorted = sorter.finish().expect("sorted");
            for _twice in 0..2 {
                let mut merged = sorted.iter().expect("read");
                let mut got = Vec::new();
                while let Some(row) = merged.next_row().expect("read") {
                    got.push(row.into_owned());
                }
                assert_eq!(got, expected, "limit {limit}");
            }
            assert_eq!(sorted.loads().iter().map(|load| load.rows).sum::<u64>(), 5_000);
        }
    }
}
