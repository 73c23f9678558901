//! Records in memory, in row order: what is sorted is a small key and a place per record.

use super::record::Record;

/// The order of records that stand one after the other.
#[derive(Default)]
pub(super) struct Order {
    /// The first bits of what a record is sorted by, and where it begins.
    places: Vec<(u64, usize)>,
}

impl Order {
    /// Finds the order of these records.
    ///
    /// # Errors
    /// When the last of them is not whole.
    pub(super) fn sort(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.places.clear();
        let mut at = 0;
        while at < bytes.len() {
            let record = Record::at(bytes, at)?;
            self.places.push((record.key(), at));
            at += record.len();
        }
        self.places.sort_unstable_by(|(key, at), (other_key, other_at)| {
            key.cmp(other_key).then_with(|| {
                // Both were read above.
                match (Record::at(bytes, *at), Record::at(bytes, *other_at)) {
                    (Ok(record), Ok(other)) => record.cmp_in_row_order(other),
                    _ => at.cmp(other_at),
                }
            })
        });
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The record at a position of the order, of the bytes that were sorted.
    pub(super) fn record<'b>(
        &self,
        bytes: &'b [u8],
        position: usize,
    ) -> std::io::Result<Record<'b>> {
        Record::at(bytes, self.places[position].1)
    }
}
