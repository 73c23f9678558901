//! Reading records back from the spool, and merging those of a bucket that is too large for memory.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Extent;
use super::order::Order;
use super::record::{HEAD_BYTES, Record, length};

/// The least that is read from a run at a time.
const SMALLEST_READ_BYTES: usize = 16 * 1024;
/// The most that is read from a run, or written, at a time.
const LARGEST_READ_BYTES: usize = 1024 * 1024;

/// Reads the records of one extent, one after the other.
struct RecordReader {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    consumed: usize,
    read_bytes: usize,
}

impl RecordReader {
    fn new(extent: Extent, read_bytes: usize) -> Self {
        let Extent { from, to } = extent;
        Self { at: from, end: to, buffer: Vec::new(), consumed: 0, read_bytes }
    }

    fn next(&mut self, file: &File) -> std::io::Result<Option<Record<'_>>> {
        if self.consumed == self.buffer.len() && self.at == self.end {
            return Ok(None);
        }
        self.fill(file, HEAD_BYTES)?;
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.buffer[self.consumed..][..HEAD_BYTES]);
        let length = length(&head);
        self.fill(file, length)?;
        let record = Record::at(&self.buffer, self.consumed)?;
        self.consumed += length;
        Ok(Some(record))
    }

    /// Makes sure that `count` unread bytes are in the buffer.
    fn fill(&mut self, file: &File, count: usize) -> std::io::Result<()> {
        let unread = self.buffer.len() - self.consumed;
        if unread >= count {
            return Ok(());
        }
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let more = (count - unread).max(self.read_bytes).min(left);
        self.buffer.resize(unread + more, 0);
        file.read_exact_at(&mut self.buffer[unread..], self.at)?;
        self.at += more as u64;
        if unread + more < count {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The records of a large bucket in row order: sorted piece by piece into runs of one more
/// unlinked file, which are merged.
pub(super) struct Merged {
    file: File,
    runs: Vec<RecordReader>,
    heads: BinaryHeap<Head>,
    current: Vec<u8>,
}

impl Merged {
    /// Sorts the records of `extents`, in pieces that take about `memory` bytes.
    pub(super) fn sort(
        spool: &File,
        extents: &[Extent],
        memory: usize,
        spool_dir: &Path,
    ) -> std::io::Result<Self> {
        let mut out = BufWriter::with_capacity(
            memory.min(LARGEST_READ_BYTES),
            tempfile::tempfile_in(spool_dir)?,
        );
        let (mut piece, mut written, mut ends) = (Vec::new(), 0, Vec::new());
        for &extent in extents {
            let mut reader = RecordReader::new(extent, memory.min(LARGEST_READ_BYTES));
            while let Some(record) = reader.next(spool)? {
                if !piece.is_empty() && piece.len() + record.len() > memory {
                    write_run(&mut piece, &mut out, (&mut written, &mut ends))?;
                }
                piece.extend_from_slice(record.bytes());
            }
        }
        write_run(&mut piece, &mut out, (&mut written, &mut ends))?;
        drop(piece);
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        let share = memory / ends.len().max(1);
        let read_bytes = share.clamp(SMALLEST_READ_BYTES, LARGEST_READ_BYTES);
        let mut merged =
            Self { file, runs: Vec::new(), heads: BinaryHeap::new(), current: Vec::new() };
        let mut from = 0;
        for to in ends {
            merged.runs.push(RecordReader::new(Extent { from, to }, read_bytes));
            merged.advance(merged.runs.len() - 1, Vec::new())?;
            from = to;
        }
        Ok(merged)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.heads.is_empty()
    }

    pub(super) fn next(&mut self) -> std::io::Result<Option<Record<'_>>> {
        let Some(Head { record, run }) = self.heads.pop() else { return Ok(None) };
        let consumed = std::mem::replace(&mut self.current, record);
        self.advance(run, consumed)?;
        Record::at(&self.current, 0).map(Some)
    }

    /// Takes the next record of the run into the heap, in the memory that `place` has.
    fn advance(&mut self, run: usize, mut place: Vec<u8>) -> std::io::Result<()> {
        if let Some(next) = self.runs[run].next(&self.file)? {
            place.clear();
            place.extend_from_slice(next.bytes());
            self.heads.push(Head { record: place, run });
        }
        Ok(())
    }
}

/// Sorts the piece, writes it, and empties it.
fn write_run(
    piece: &mut Vec<u8>,
    out: &mut BufWriter<File>,
    (written, ends): (&mut u64, &mut Vec<u64>),
) -> std::io::Result<()> {
    let mut order = Order::default();
    order.sort(piece)?;
    for at in 0..order.len() {
        let record = order.record(piece, at)?;
        out.write_all(record.bytes())?;
        *written += record.len() as u64;
    }
    ends.push(*written);
    piece.clear();
    Ok(())
}

/// The next record of a run; the smallest is the heap's greatest.
struct Head {
    record: Vec<u8>,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = match (Record::at(&self.record, 0), Record::at(&other.record, 0)) {
            (Ok(own), Ok(others)) => others.cmp_in_row_order(own),
            _ => Ordering::Equal,
        };
        order.then_with(|| other.run.cmp(&self.run))
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
