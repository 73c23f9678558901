//! Receipts while they are read and compared. A receipt of a partition whose every file failed has
//! millions of bytes, and several are read at a time: how much of memory they may take is bounded,
//! whatever their number.

use std::sync::Arc;

use backends::BackendError;
use backends::ledger::PartitionRecord;
use bytes::Bytes;
use protocol::{ArchiveIdentity, Receipt, Revision, Window};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::decide::{Expected, check_receipt};

/// The largest receipt, in bytes.
pub(crate) const MAX_RECEIPT_BYTES: u64 = 256 * 1024 * 1024;
/// KiB of receipts that are read at a time, as they are encoded. In memory they take as much again.
const ROOM_KIB: u32 = 16 * 1024;
/// Bytes beyond which hashing and decoding would keep other tasks waiting.
const LARGE: usize = 256 * 1024;

/// Room for receipts that are read. Who waits for it is let in in turn.
#[derive(Clone)]
pub(crate) struct ReadingRoom(Arc<Semaphore>);

/// A receipt's place in the room, as long as this is kept.
pub(crate) type Place = OwnedSemaphorePermit;

impl Default for ReadingRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB as usize)))
    }
}

impl ReadingRoom {
    /// Waits until there is room for a receipt of so many bytes; one that is as large as the whole
    /// room or larger has it alone.
    pub(crate) async fn enter(&self, bytes: u64) -> Option<Place> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(ROOM_KIB).clamp(1, ROOM_KIB);
        Arc::clone(&self.0).acquire_many_owned(kib).await.ok()
    }
}

/// What a receipt is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) identity: &'a ArchiveIdentity,
    pub(crate) window: Window,
    pub(crate) revision: Revision,
    pub(crate) partition: &'a PartitionRecord,
}

impl Of<'_> {
    /// Decodes and compares; a large receipt on a thread where that takes nobody's time. The inner
    /// error is the receipt's fault.
    pub(crate) async fn check(
        self,
        key: &str,
        bytes: Bytes,
    ) -> Result<Result<Receipt, String>, BackendError> {
        let Self { identity, window, revision, partition } = self;
        if bytes.len() <= LARGE {
            let expected = Expected { identity, window, revision, partition };
            return Ok(check_receipt(key, &bytes, expected));
        }
        let (name, identity, partition) = (key.to_owned(), identity.clone(), partition.clone());
        let checking = tokio::task::spawn_blocking(move || {
            let (identity, partition) = (&identity, &partition);
            check_receipt(&name, &bytes, Expected { identity, window, revision, partition })
        });
        checking.await.map_err(|panicked| BackendError::Failed {
            what: format!("comparing the receipt {key}"),
            cause: panicked.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn room_is_bounded_by_bytes_and_one_receipt_always_fits() {
        let room = ReadingRoom::default();
        let half = u64::from(ROOM_KIB) * 1024 / 2;
        let first = room.enter(half).await.expect("a place");
        let second = room.enter(half).await.expect("a place");
        assert!(room.enter(1).now_or_never().is_none(), "it is full");
        drop(first);
        assert!(room.enter(half + 1).now_or_never().is_none(), "only half of it is free");
        drop(second);
        let whole = room.enter(MAX_RECEIPT_BYTES).await.expect("it has the room alone");
        assert!(room.enter(1).now_or_never().is_none());
        drop(whole);
        assert!(room.enter(0).now_or_never().is_some());
    }
}
