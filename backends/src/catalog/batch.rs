//! Rows on their way from a scan to its receiver.

use protocol::{Row, Timestamp};
use tokio::sync::mpsc;

use super::{SCAN_BATCH_BYTES, SCAN_BATCH_ROWS};

/// The last time that a window can hold: `end` is on a whole second. The first it cannot hold is
/// [`Timestamp::MIN`], since `start` is exclusive. Both matter, for they are what other systems
/// write for "never".
pub(super) const LAST_PLACEABLE: Timestamp = Timestamp::MAX.saturating_add_micros(-999_999);

/// The receiver is gone: nobody wants the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// Collects rows and hands them over in batches. Waits as long as the receiver takes, which is
/// what keeps memory bounded.
pub(super) struct Batches {
    sender: mpsc::Sender<Vec<Row>>,
    rows: Vec<Row>,
    bytes: usize,
}

impl Batches {
    pub(super) const fn new(sender: mpsc::Sender<Vec<Row>>) -> Self {
        Self { sender, rows: Vec::new(), bytes: 0 }
    }

    /// Takes the row, and says whether it is time to hand over.
    pub(super) fn add(&mut self, row: Row) -> bool {
        if self.rows.is_empty() {
            self.rows.reserve(SCAN_BATCH_ROWS);
        }
        self.bytes += row.heap_bytes();
        self.rows.push(row);
        self.rows.len() >= SCAN_BATCH_ROWS || self.bytes >= SCAN_BATCH_BYTES
    }

    pub(super) async fn push(&mut self, row: Row) -> Result<(), ReceiverGone> {
        if self.add(row) { self.flush().await } else { Ok(()) }
    }

    /// Hands over what is there, if anything.
    pub(super) async fn flush(&mut self) -> Result<(), ReceiverGone> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.sender.send(std::mem::take(&mut self.rows)).await.map_err(|_| ReceiverGone)
    }
}
