//! Stored payloads between the threads that compress them and the one that lays them out: in
//! memory up to a bound, in unlinked spool files beyond it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backends::buffers::Buffers;

/// A segment that reached this takes no more.
const SEGMENT_BYTES: usize = 1024 * 1024;

/// What a segment of small payloads comes to; pages are taken as they are written. A buffer that a large
/// payload has grown is not kept.
const USUAL_CAPACITY: usize = SEGMENT_BYTES + SEGMENT_BYTES / 8;

/// How much memory the segments of one partition may take together.
pub(crate) struct SegmentMemory {
    used: AtomicUsize,
    limit: usize,
    buffers: Arc<Buffers>,
}

/// Buffers for the segments of partitions that are packed at a time, each of which may use `limit` bytes
/// for full ones and has `last` that are not. As many are kept as can be in use at once: what is dropped
/// and made anew costs the allocator more memory than it frees.
pub(crate) fn segment_buffers(partitions: usize, limit: usize, last: usize) -> Arc<Buffers> {
    let most = partitions * (limit / SEGMENT_BYTES + last);
    Buffers::new(USUAL_CAPACITY, USUAL_CAPACITY, most)
}

impl SegmentMemory {
    pub(crate) const fn new(limit: usize, buffers: Arc<Buffers>) -> Self {
        Self { used: AtomicUsize::new(0), limit, buffers }
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Payloads that were written one after the other.
enum Segment<'m> {
    Memory { bytes: Vec<u8>, memory: &'m SegmentMemory },
    Spooled(File),
}

impl Drop for Segment<'_> {
    fn drop(&mut self) {
        if let Self::Memory { bytes, memory } = self {
            memory.used.fetch_sub(bytes.len(), Ordering::Relaxed);
            memory.buffers.give_back(std::mem::take(bytes));
        }
    }
}

/// Where a payload lies among its writer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PayloadRef {
    segment: u32,
    offset: u32,
    len: u32,
}

/// Collects the payloads of one thread and one batch.
pub(crate) struct PayloadWriter<'m> {
    memory: &'m SegmentMemory,
    spool_dir: &'m Path,
    current: Vec<u8>,
    segments: Vec<Segment<'m>>,
}

impl<'m> PayloadWriter<'m> {
    pub(crate) const fn new(memory: &'m SegmentMemory, spool_dir: &'m Path) -> Self {
        Self { memory, spool_dir, current: Vec::new(), segments: Vec::new() }
    }

    /// Adds the payload that `write` appends to what it is given.
    pub(crate) fn push_with<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<T>,
    ) -> std::io::Result<(T, PayloadRef)> {
        let fits = |number: usize| u32::try_from(number).map_err(std::io::Error::other);
        if self.current.len() >= SEGMENT_BYTES {
            self.close_segment()?;
        }
        if self.current.capacity() == 0 {
            self.current = self.memory.buffers.take();
        }
        let offset = self.current.len();
        let written = write(&mut self.current)?;
        let reference = PayloadRef {
            segment: fits(self.segments.len())?,
            offset: fits(offset)?,
            len: fits(self.current.len() - offset)?,
        };
        Ok((written, reference))
    }

    pub(crate) fn finish(mut self) -> std::io::Result<Payloads<'m>> {
        self.close_segment()?;
        Ok(Payloads { segments: self.segments })
    }

    fn close_segment(&mut self) -> std::io::Result<()> {
        let bytes = std::mem::take(&mut self.current);
        let segment = if self.memory.take(bytes.len()) {
            Segment::Memory { bytes, memory: self.memory }
        } else {
            let spooled = spool(self.spool_dir, &bytes)?;
            self.memory.buffers.give_back(bytes);
            Segment::Spooled(spooled)
        };
        self.segments.push(segment);
        Ok(())
    }
}

/// Writes to a file that has no name: nothing of it is left when the process ends.
fn spool(directory: &Path, bytes: &[u8]) -> std::io::Result<File> {
    let spooled = tempfile::tempfile_in(directory).and_then(|mut file| {
        file.write_all(bytes)?;
        Ok(file)
    });
    spooled.map_err(|error| {
        let (count, directory) = (bytes.len(), directory.display());
        let told = format!("cannot spool {count} bytes in {directory}: {error}");
        std::io::Error::new(error.kind(), told)
    })
}

/// The payloads of one thread and one batch.
pub(crate) struct Payloads<'m> {
    segments: Vec<Segment<'m>>,
}

impl Payloads<'_> {
    /// The payload's bytes; `scratch` holds them when they come from a spool file.
    pub(crate) fn get<'a>(
        &'a self,
        reference: PayloadRef,
        scratch: &'a mut Vec<u8>,
    ) -> std::io::Result<&'a [u8]> {
        let (from, len) = (reference.offset as usize, reference.len as usize);
        let gone = || std::io::Error::other("a payload is not where it was put");
        match self.segments.get(reference.segment as usize).ok_or_else(gone)? {
            Segment::Memory { bytes, .. } => bytes.get(from..from + len).ok_or_else(gone),
            Segment::Spooled(file) => {
                scratch.resize(len, 0);
                file.read_exact_at(scratch, u64::from(reference.offset))?;
                Ok(scratch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(writer: &mut PayloadWriter<'_>, payload: &[u8]) -> PayloadRef {
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(payload);
            Ok(())
        };
        writer.push_with(write).expect("pushed").1
    }

    #[test]
    fn payloads_read_back_from_memory_and_from_the_spool() {
        let dir = tempfile::tempdir().expect("a directory");
        for limit in [0, 3 * SEGMENT_BYTES, usize::MAX / 2] {
            let memory = SegmentMemory::new(limit, segment_buffers(1, limit, 1));
            let mut writer = PayloadWriter::new(&memory, dir.path());
            let payloads: Vec<Vec<u8>> =
                (0..40_u8).map(|n| vec![n; 400_000 * usize::from(n % 3)]).collect();
            let references: Vec<_> =
                payloads.iter().map(|payload| push(&mut writer, payload)).collect();
            let stored = writer.finish().expect("finished");
            assert!(memory.used.load(Ordering::Relaxed) <= limit);
            let mut scratch = Vec::new();
            for (reference, payload) in references.iter().zip(&payloads) {
                assert_eq!(stored.get(*reference, &mut scratch).expect("there"), payload);
            }
            drop(stored);
            assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_buffer_serves_the_next_segment_whether_it_was_kept_or_spooled() {
        let dir = tempfile::tempdir().expect("a directory");
        for limit in [0, usize::MAX / 2] {
            let buffers = segment_buffers(1, 0, 1);
            let memory = SegmentMemory::new(limit, Arc::clone(&buffers));
            let write = |bytes: usize| {
                let mut writer = PayloadWriter::new(&memory, dir.path());
                push(&mut writer, &vec![7; bytes]);
                let at = writer.current.as_ptr();
                drop(writer.finish().expect("finished"));
                at
            };
            let first = write(1_000);
            assert_eq!((write(1_000), write(1_000)), (first, first));
            write(2 * USUAL_CAPACITY);
            assert_eq!(buffers.take().capacity(), USUAL_CAPACITY, "what was grown is not kept");
        }
    }
}
