//! Accepted receipts in memory, as they were read and compared, from acceptance to the certificate.
//!
//! A receipt's name is the hash of its bytes, and no object is ever replaced by other bytes: what
//! was read once need not be read again, as long as it is still there. There is room for so many
//! bytes of them; receipts beyond that are read a second time.

use std::sync::Arc;

use protocol::Receipt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// KiB of receipts that are kept at a time, as they are encoded. In memory they take less.
const ROOM_KIB: u32 = 16 * 1024;

/// A receipt, and the room that it takes.
pub(crate) struct Kept {
    receipt: Receipt,
    _room: OwnedSemaphorePermit,
}

impl Kept {
    pub(crate) fn into_receipt(self) -> Receipt {
        self.receipt
    }
}

/// Where receipts are kept.
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB as usize)))
    }
}

impl Room {
    /// Keeps a receipt of so many bytes where there is room for it.
    pub(crate) fn keep(&self, receipt: Receipt, bytes: u64) -> Option<Kept> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let room = Arc::clone(&self.0).try_acquire_many_owned(kib).ok()?;
        Some(Kept { receipt, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{ContentHash, Tally, Window};

    fn receipt() -> Receipt {
        let at = |text: &str| text.parse().expect("a date");
        Receipt {
            version: Receipt::VERSION,
            archive: "0c5f3ce4-6a5a-4d0f-9c2e-1b7d5a0e9f11".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision: 0,
            partition: 0,
            manifest_hash: ContentHash::of(b"manifest"),
            range: None,
            attempt: 1,
            worker: "worker".parse().expect("a name"),
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            shards: Vec::new(),
            big_files: Vec::new(),
            failures: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_room_comes_back() {
        let room = Room::default();
        let half = u64::from(ROOM_KIB) * 1024 / 2;
        let first = room.keep(receipt(), half).expect("room");
        let second = room.keep(receipt(), half).expect("room");
        assert!(room.keep(receipt(), 1).is_none(), "it is full");
        drop(first.into_receipt());
        assert!(room.keep(receipt(), half + 1).is_none(), "only half of it is free");
        assert!(room.keep(receipt(), half).is_some());
        drop(second);
        assert!(room.keep(receipt(), u64::MAX).is_none(), "what never fits is not kept");
    }
}
