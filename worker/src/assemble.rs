//! Puts payloads, as they come in layout order, into shards: in memory up to a bound, in a spool
//! file beyond it, so that a shard's hash is known before its upload.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

use backends::buffers::Buffers;
use bytes::Bytes;
use protocol::names::{self, MAX_PART, ShardPlace};
use protocol::receipt::ShardRef;
use protocol::shard::{Entry, ShardSummary, ShardWriter};
use protocol::{Day, PackSettings, ShardIndex, Tally, WindowKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A shard that is spooled moves out of the writer in pieces of this size.
const DRAIN_BYTES: usize = 1024 * 1024;

/// A shard that waits for its upload.
pub(crate) struct FinishedShard {
    pub(crate) key: String,
    pub(crate) summary: ShardSummary,
    pub(crate) body: ShardBody,
    /// Share of the memory for finished shards, given back when the upload is over.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

pub(crate) enum ShardBody {
    Memory(Bytes),
    Spooled(File),
}

impl FinishedShard {
    pub(crate) fn reference(&self) -> (ShardRef, Tally) {
        (ShardRef::new(self.key.clone(), &self.summary), self.summary.packed)
    }
}

/// What becomes of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placing {
    Placed,
    /// Names have no part number left for the shard that it would go to.
    NoPartLeft,
}

/// How much memory shards may take before and after they are finished.
pub(crate) struct ShardMemory {
    /// One shard being built, before it goes to a spool file.
    pub(crate) building: usize,
    /// Finished shards that wait for their upload, in KiB.
    pub(crate) finished: Arc<Semaphore>,
    /// For the next shards.
    pub(crate) buffers: Arc<Buffers>,
}

/// Builds the shards of one partition, one at a time.
pub(crate) struct Assembler<'a> {
    settings: &'a PackSettings,
    window: WindowKey,
    spool_dir: &'a Path,
    memory: &'a ShardMemory,
    runtime: tokio::runtime::Handle,
    open: Option<OpenShard>,
    /// Day and index of the last shard, and the part number of the next.
    next_part: (Option<(Day, ShardIndex)>, u32),
}

struct OpenShard {
    day: Day,
    index: ShardIndex,
    writer: ShardWriter,
    spool: Option<File>,
}

impl<'a> Assembler<'a> {
    pub(crate) const fn new(
        settings: &'a PackSettings,
        window: WindowKey,
        spool_dir: &'a Path,
        memory: &'a ShardMemory,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { settings, window, spool_dir, memory, runtime, open: None, next_part: (None, 0) }
    }

    /// Adds an entry to the open shard of its day and index, opening one where there is none.
    pub(crate) fn place(
        &mut self,
        day: Day,
        index: ShardIndex,
        entry: Entry<'_>,
    ) -> std::io::Result<Placing> {
        if self.next_part.0 != Some((day, index)) {
            self.next_part = (Some((day, index)), 0);
        }
        if self.open.is_none() && self.next_part.1 > MAX_PART {
            return Ok(Placing::NoPartLeft);
        }
        let open = self.open.get_or_insert_with(|| OpenShard {
            day,
            index,
            writer: ShardWriter::onto(day, self.memory.buffers.take()),
            spool: None,
        });
        open.writer.push(entry).map_err(std::io::Error::other)?;
        let bound = if open.spool.is_some() { DRAIN_BYTES } else { self.memory.building };
        if open.writer.output_len() >= bound {
            open.spool_output(self.spool_dir)?;
        }
        Ok(Placing::Placed)
    }

    /// Whether the open shard has reached its size.
    pub(crate) fn is_full(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.writer.bytes_raw() >= self.settings.max_shard_size)
    }

    /// Finishes the open shard, if there is one. Waits until there is memory for it.
    pub(crate) fn close(&mut self) -> std::io::Result<Option<FinishedShard>> {
        let Some(mut open) = self.open.take() else { return Ok(None) };
        let part = self.next_part.1;
        self.next_part.1 += 1;
        let place = ShardPlace { day: open.day, index: open.index, window: self.window, part };
        if open.spool.is_some() {
            open.spool_output(self.spool_dir)?;
        }
        let (rest, summary) = open.writer.finish();
        let key = names::shard(self.settings.n_bits, &place, summary.hash);
        // What is known only at the end, the index, may make a shard too large for memory.
        let spool = match open.spool {
            None if rest.len() > self.memory.building => {
                Some(tempfile::tempfile_in(self.spool_dir)?)
            }
            spool => spool,
        };
        let (body, memory) = match spool {
            Some(mut file) => {
                file.write_all(&rest)?;
                self.memory.buffers.give_back(rest);
                file.rewind()?;
                (ShardBody::Spooled(file), None)
            }
            None => {
                let kib = u32::try_from(rest.len().div_ceil(1024)).unwrap_or(u32::MAX);
                let finished = Arc::clone(&self.memory.finished);
                let permit = self.runtime.block_on(finished.acquire_many_owned(kib));
                let permit = permit.map_err(std::io::Error::other)?;
                (ShardBody::Memory(self.memory.buffers.lend(rest)), Some(permit))
            }
        };
        Ok(Some(FinishedShard { key, summary, body, memory }))
    }
}

impl OpenShard {
    fn spool_output(&mut self, spool_dir: &Path) -> std::io::Result<()> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(tempfile::tempfile_in(spool_dir)?),
        };
        self.writer.drain_output(|bytes| spool.write_all(bytes))
    }
}
