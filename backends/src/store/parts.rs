//! Room for what is uploaded from files.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PART_BYTES;
use crate::buffers::Buffers;

/// Parts that are read from files and in flight at a time, of all uploads of a store: 32 MiB.
const PARTS_OF_ALL: usize = 4;

/// Room for a few parts.
#[derive(Debug)]
pub(super) struct Parts {
    permits: Arc<Semaphore>,
    buffers: Arc<Buffers>,
}

/// Allows one part to be in memory.
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Parts {
    pub(super) fn new() -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(PARTS_OF_ALL));
        let buffers = Buffers::new(PART_BYTES, PART_BYTES, PARTS_OF_ALL);
        Arc::new(Self { permits, buffers })
    }

    /// Waits until a part may be read.
    pub(super) async fn room(&self) -> Room {
        // Nobody closes the semaphore.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Room { _permit: permit }
    }

    /// Reads the next bytes of a file, `count` unless it ends before, for which there has to be room;
    /// blocks.
    pub(super) fn read(&self, mut file: &File, count: usize) -> std::io::Result<Bytes> {
        let mut part = self.buffers.take();
        file.by_ref().take(count as u64).read_to_end(&mut part)?;
        Ok(self.buffers.lend(part))
    }
}
