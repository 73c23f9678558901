//! Many rows in little memory: their texts back to back, and a fixed few bytes for each.

use crate::row::RowDefect;
use crate::row_ref::RowRef;

/// Rows of a partition. A row costs its texts and 48 bytes, about half of what a
/// [`Row`](crate::Row) does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Of each row the uid, then the location.
    texts: String,
    fixed: Vec<Fixed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    created_at_micros: i64,
    size: Option<u64>,
    /// Where its uid begins in the texts.
    begin: usize,
    uid_bytes: u32,
    location_bytes: Option<u32>,
    defect: Option<RowDefect>,
}

impl Rows {
    /// None yet, with room for `rows` rows whose texts have so many bytes together.
    pub fn with_capacity(rows: usize, text_bytes: usize) -> Self {
        Self { texts: String::with_capacity(text_bytes), fixed: Vec::with_capacity(rows) }
    }

    /// Adds a row, whose texts have less than 4 GiB each.
    pub fn push(&mut self, row: RowRef<'_>) {
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.fixed.push(Fixed {
            created_at_micros: row.created_at_micros,
            size: row.size,
            begin: self.texts.len(),
            uid_bytes: length(row.uid),
            location_bytes: row.location.map(length),
            defect: row.defect,
        });
        self.texts.push_str(row.uid);
        self.texts.push_str(row.location.unwrap_or_default());
    }

    /// Number of rows.
    pub const fn len(&self) -> usize {
        self.fixed.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.fixed.is_empty()
    }

    /// The row at a position.
    ///
    /// # Panics
    /// When there is none, as slices do.
    pub fn get(&self, position: usize) -> RowRef<'_> {
        let fixed = self.fixed[position];
        let middle = fixed.begin + fixed.uid_bytes as usize;
        let location = fixed.location_bytes.map(|bytes| &self.texts[middle..][..bytes as usize]);
        RowRef {
            uid: &self.texts[fixed.begin..middle],
            created_at_micros: fixed.created_at_micros,
            location,
            size: fixed.size,
            defect: fixed.defect,
        }
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RowRef<'_>> {
        (0..self.len()).map(|position| self.get(position))
    }
}

impl<'a> FromIterator<RowRef<'a>> for Rows {
    fn from_iter<T: IntoIterator<Item = RowRef<'a>>>(rows: T) -> Self {
        let mut all = Self::default();
        rows.into_iter().for_each(|row| all.push(row));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::Row;
    use crate::time::Timestamp;

    proptest! {
        #[test]
        fn rows_come_back_as_they_went_in(
            rows in prop::collection::vec(
                (".{0,20}", any::<i32>(), prop::option::of(".{0,30}"), prop::option::of(any::<u64>())),
                0..30,
            ),
        ) {
            let rows: Vec<Row> = rows
                .into_iter()
                .map(|(uid, at, location, size)| {
                    let at = Timestamp::from_micros(at.into()).expect("a time");
                    Row::new(uid, at, location, size)
                })
                .collect();
            let held: Rows = rows.iter().map(RowRef::from).collect();
            prop_assert_eq!(held.len(), rows.len());
            for (held, row) in held.iter().zip(&rows) {
                prop_assert_eq!(held, RowRef::from(row));
                prop_assert_eq!(held.created_at(), row.created_at());
            }
        }
    }
}
