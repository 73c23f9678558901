//! Rows on their way from a scan to its receiver.

use protocol::row::RowDefect;
use protocol::{RowRef, Timestamp};
use tokio::sync::mpsc;

use super::{SCAN_BATCH_BYTES, SCAN_BATCH_ROWS};

/// The last time that a window can hold: `end` is on a whole second. The first it cannot hold is
/// [`Timestamp::MIN`], since `start` is exclusive. Both matter, for they are what other systems
/// write for "never".
pub(super) const LAST_PLACEABLE: Timestamp = Timestamp::MAX.saturating_add_micros(-999_999);

/// Bytes of texts of a batch of usual rows.
const USUAL_TEXT_BYTES: usize = 128 * SCAN_BATCH_ROWS;

/// Rows of a scan, handed over at once. Their texts stand one after the other in one piece of
/// memory: an allocation per row and field would cost as much as reading it.
#[derive(Clone, Debug, Default)]
pub struct RowBatch {
    texts: String,
    rows: Vec<Placed>,
    heap_bytes: usize,
}

/// A row, and where its texts end; the uid begins where the row before ends.
#[derive(Clone, Copy, Debug)]
struct Placed {
    uid_end: usize,
    /// Where the location ends; `None` where the catalog holds none.
    location_end: Option<usize>,
    created_at_micros: i64,
    size: Option<u64>,
    defect: Option<RowDefect>,
}

impl RowBatch {
    /// Adds a row.
    pub fn push(&mut self, row: RowRef<'_>) {
        if self.rows.is_empty() {
            self.rows.reserve(SCAN_BATCH_ROWS);
            self.texts.reserve(USUAL_TEXT_BYTES);
        }
        self.texts.push_str(row.uid);
        let uid_end = self.texts.len();
        let location_end = row.location.map(|location| {
            self.texts.push_str(location);
            self.texts.len()
        });
        self.heap_bytes += row.heap_bytes();
        let RowRef { created_at_micros, size, defect, .. } = row;
        self.rows.push(Placed { uid_end, location_end, created_at_micros, size, defect });
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sum of the rows' [`RowRef::heap_bytes`].
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// The rows, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        let mut begin = 0;
        self.rows.iter().map(move |row| {
            let uid = &self.texts[begin..row.uid_end];
            let location = row.location_end.map(|end| &self.texts[row.uid_end..end]);
            begin = row.location_end.unwrap_or(row.uid_end);
            let Placed { created_at_micros, size, defect, .. } = *row;
            RowRef { uid, created_at_micros, location, size, defect }
        })
    }
}

/// The receiver is gone: nobody wants the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// Collects rows and hands them over in batches. Waits as long as the receiver takes, which is
/// what keeps memory bounded.
pub(super) struct Batches {
    sender: mpsc::Sender<RowBatch>,
    batch: RowBatch,
}

impl Batches {
    pub(super) fn new(sender: mpsc::Sender<RowBatch>) -> Self {
        Self { sender, batch: RowBatch::default() }
    }

    /// Takes the row, and says whether it is time to hand over.
    pub(super) fn add(&mut self, row: RowRef<'_>) -> bool {
        self.batch.push(row);
        self.batch.len() >= SCAN_BATCH_ROWS || self.batch.heap_bytes() >= SCAN_BATCH_BYTES
    }

    /// Hands over what is there, if anything.
    pub(super) async fn flush(&mut self) -> Result<(), ReceiverGone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.sender.send(std::mem::take(&mut self.batch)).await.map_err(|_| ReceiverGone)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Row;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_out_as_they_went_in(
            rows in prop::collection::vec(
                (".{0,9}", any::<i64>(), prop::option::of(".{0,9}"), any::<Option<u64>>(), any::<bool>()),
                0..40),
        ) {
            let rows: Vec<Row> = rows
                .into_iter()
                .map(|(uid, created_at_micros, location, size, sound)| {
                    let defect = (!sound).then_some(RowDefect::NoLocation);
                    Row { uid, created_at_micros, location, size, defect }
                })
                .collect();
            let mut batch = RowBatch::default();
            rows.iter().for_each(|row| batch.push(RowRef::from(row)));
            prop_assert_eq!(batch.iter().map(|row| row.to_row()).collect::<Vec<_>>(), rows.clone());
            prop_assert_eq!(batch.len(), rows.len());
            prop_assert_eq!(batch.heap_bytes(), rows.iter().map(Row::heap_bytes).sum::<usize>());
        }
    }
}
