//! Memory for what is uploaded from files.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PART_BYTES;

/// Parts that are read from files and in flight at a time, of all uploads of a store: 32 MiB.
const PARTS_OF_ALL: usize = 4;

/// Room for a few parts, whose memory is used again and again: an allocator that is asked for 8 MiB by
/// ever other threads keeps far more than is in use, a third of a worker's memory in all.
#[derive(Debug)]
pub(super) struct Parts {
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Vec<u8>>>,
}

/// Allows one part to be in memory.
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A part's bytes, whose memory goes back when they have been sent.
struct Part {
    bytes: Vec<u8>,
    parts: Arc<Parts>,
}

impl Parts {
    pub(super) fn new() -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(PARTS_OF_ALL));
        Arc::new(Self { permits, free: Mutex::default() })
    }

    /// Waits until a part may be read.
    pub(super) async fn room(&self) -> Room {
        // Nobody closes the semaphore.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Room { _permit: permit }
    }

    /// Reads the next bytes of a file, `count` unless it ends before, for which there has to be room;
    /// blocks.
    pub(super) fn read(self: &Arc<Self>, mut file: &File, count: usize) -> std::io::Result<Bytes> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| Vec::with_capacity(PART_BYTES));
        let mut part = Part { bytes, parts: Arc::clone(self) };
        file.by_ref().take(count as u64).read_to_end(&mut part.bytes)?;
        Ok(Bytes::from_owner(part))
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut free = self.parts.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < PARTS_OF_ALL {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn memory_is_used_again_when_the_last_who_holds_it_is_gone() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"firstsecondthird").expect("written");
        file.rewind().expect("rewound");
        let parts = Parts::new();
        let first = parts.read(&file, 5).expect("read");
        let of_first = first.as_ptr();
        let held = first.clone();
        drop(first);
        let second = parts.read(&file, 6).expect("read");
        assert_eq!((&held[..], &second[..]), (&b"first"[..], &b"second"[..]));
        assert_ne!(second.as_ptr(), of_first);
        drop(held);
        let third = parts.read(&file, 100).expect("read");
        assert_eq!((&third[..], third.as_ptr()), (&b"third"[..], of_first));
    }
}
