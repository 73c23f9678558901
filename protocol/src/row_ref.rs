//! A row whose texts lie elsewhere: how a scan hands rows over and a spooled row is read, without a
//! text of its own for every field.

use std::cmp::Ordering;

use wincode::config::DefaultConfig;
use wincode::{SchemaRead, SchemaWrite};

use crate::failure::{FailedRow, FailureReason};
use crate::row::{MAX_LOCATION_BYTES, MAX_UID_BYTES, Row, RowDefect};
use crate::time::Timestamp;

/// A [`Row`], borrowed. Its wire layout is a row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SchemaWrite, SchemaRead)]
pub struct RowRef<'a> {
    /// See [`Row::uid`].
    pub uid: &'a str,
    /// See [`Row::created_at_micros`].
    pub created_at_micros: i64,
    /// See [`Row::location`].
    pub location: Option<&'a str>,
    /// See [`Row::size`].
    pub size: Option<u64>,
    /// See [`Row::defect`].
    pub defect: Option<RowDefect>,
}

impl<'a> RowRef<'a> {
    /// A row as read from a catalog; `None` where [`Row::new`] has something to change or to mark.
    pub fn sound(
        uid: &'a str,
        created_at: Timestamp,
        location: Option<&'a str>,
        size: Option<u64>,
    ) -> Option<Self> {
        let is_sound = uid.len() <= MAX_UID_BYTES
            && location.is_some_and(|it| (1..=MAX_LOCATION_BYTES).contains(&it.len()));
        let created_at_micros = created_at.as_micros();
        is_sound.then_some(Self { uid, created_at_micros, location, size, defect: None })
    }

    /// `created_at`, held inside the representable range.
    pub const fn created_at(&self) -> Timestamp {
        Timestamp::held_inside(self.created_at_micros)
    }

    /// Bytes that the row would take in memory as a [`Row`] (see [`Row::heap_bytes`]).
    pub fn heap_bytes(&self) -> usize {
        size_of::<Row>() + self.uid.len() + self.location.map_or(0, str::len)
    }

    /// Appends the row in the bincode wire layout, as [`Row::encode_into`] does.
    ///
    /// # Errors
    /// When memory is out.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        wincode::serialize_into(out, self).map_err(std::io::Error::other)
    }

    /// Reads what [`RowRef::encode_into`] or [`Row::encode_into`] appended.
    ///
    /// # Errors
    /// When the bytes are not exactly one row.
    pub fn decode(bytes: &'a [u8]) -> std::io::Result<Self> {
        wincode::deserialize_exact(bytes).map_err(std::io::Error::other)
    }

    /// Takes the next row off a frame of rows, and points into the frame.
    pub(crate) fn take(frame: &mut &'a [u8]) -> wincode::ReadResult<Self> {
        <Self as SchemaRead<'a, DefaultConfig>>::get(frame)
    }

    /// Order of rows that share shard index and fingerprint: by created_at, then location, then
    /// uid (which differs only if two uids share 128 bits of BLAKE3), then size.
    pub fn cmp_within_fingerprint(&self, other: &Self) -> Ordering {
        (self.created_at_micros, self.location, self.uid, self.size).cmp(&(
            other.created_at_micros,
            other.location,
            other.uid,
            other.size,
        ))
    }

    /// The row with texts of its own.
    pub fn to_row(&self) -> Row {
        Row {
            uid: self.uid.to_owned(),
            created_at_micros: self.created_at_micros,
            location: self.location.map(str::to_owned),
            size: self.size,
            defect: self.defect,
        }
    }

    /// The row as one that is not in the archive.
    pub fn failed(&self, reason: FailureReason, detail: String) -> FailedRow {
        FailedRow {
            uid: self.uid.to_owned(),
            created_at: self.created_at(),
            location: self.location.map(str::to_owned),
            reason,
            detail,
        }
    }
}

impl<'a> From<&'a Row> for RowRef<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            uid: &row.uid,
            created_at_micros: row.created_at_micros,
            location: row.location.as_deref(),
            size: row.size,
            defect: row.defect,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn created_at() -> Timestamp {
        "2024-12-01".parse().expect("a date")
    }

    #[test]
    fn what_row_new_would_change_is_not_sound() {
        let texts = [0, 1, 300, 65_535, 65_536].map(|length| "x".repeat(length));
        for uid in &texts {
            for location in texts.iter().map(|it| Some(it.as_str())).chain([None]) {
                let row = Row::new(uid.clone(), created_at(), location.map(str::to_owned), Some(3));
                let sound = RowRef::sound(uid, created_at(), location, Some(3));
                assert_eq!(sound.is_some(), row.defect.is_none());
                assert!(sound.is_none_or(|sound| sound == RowRef::from(&row)));
            }
        }
    }

    proptest! {
        #[test]
        fn its_bytes_are_those_of_the_row(
            uid in ".{0,80}",
            location in prop::option::of(".{0,80}"),
            created_at_micros: i64,
            size: Option<u64>,
            defect in prop::option::of(prop::sample::select(vec![
                RowDefect::UidTooLong, RowDefect::NoLocation, RowDefect::LocationTooLong,
            ])),
        ) {
            let row = Row { uid, created_at_micros, location, size, defect };
            let borrowed = RowRef::from(&row);
            let (mut bytes, mut same) = (Vec::new(), Vec::new());
            row.encode_into(&mut bytes).expect("encoded");
            borrowed.encode_into(&mut same).expect("encoded");
            prop_assert_eq!(&bytes, &same);
            prop_assert_eq!(RowRef::decode(&bytes).expect("a row"), borrowed);
            prop_assert_eq!(&borrowed.to_row(), &row);
            prop_assert_eq!(borrowed.created_at(), row.created_at());
            prop_assert_eq!(borrowed.heap_bytes(), row.heap_bytes());
            bytes.push(0);
            prop_assert!(RowRef::decode(&bytes).is_err());
        }
    }
}
