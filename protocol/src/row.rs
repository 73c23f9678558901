//! Catalog rows, their order, their fingerprints and the digests over them.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};
use wincode::{SchemaRead, SchemaWrite};

use crate::failure::FailureReason;
use crate::time::Timestamp;

/// The longest uid, in bytes of UTF-8, that a shard's index can hold (a 16-bit length field).
pub const MAX_UID_BYTES: usize = 65_535;
/// The longest location, in bytes, that is carried in a manifest. Linux paths end at 4,096.
pub const MAX_LOCATION_BYTES: usize = 65_535;

/// The first 128 bits of the BLAKE3 of a uid's bytes. Sorts as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of `uid`.
    pub fn of(uid: &str) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(uid.as_bytes()).as_bytes()[..16]);
        Self(short)
    }

    /// The first 64 bits, big-endian, so that numbers sort as fingerprints do.
    pub fn high(self) -> u64 {
        let mut high = [0; 8];
        high.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(high)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = hex_u128(&String::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("a fingerprint is 32 hexadecimal digits"))?;
        Ok(Self(value.to_be_bytes()))
    }
}

fn hex_u128(text: &str) -> Option<u128> {
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

/// One row of the catalog, as a manifest carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, SchemaWrite, SchemaRead)]
pub struct Row {
    /// The file's key, as text. Where the catalog's is longer than [`MAX_UID_BYTES`], its
    /// abbreviation (see [`Row::new`]).
    pub uid: String,
    /// `created_at` in microseconds since the Unix epoch.
    pub created_at_micros: i64,
    /// Where the file is; `None` where the catalog holds no location.
    pub location: Option<String>,
    /// The catalog's own size of the file in bytes, where a size column is configured.
    pub size: Option<u64>,
    /// What makes the row impossible to pack, known from the row alone.
    pub defect: Option<RowDefect>,
}

/// What can be wrong with a row before its file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, SchemaWrite, SchemaRead)]
pub enum RowDefect {
    /// The uid is longer than [`MAX_UID_BYTES`].
    UidTooLong,
    /// The location is NULL or empty.
    NoLocation,
    /// The location is longer than [`MAX_LOCATION_BYTES`].
    LocationTooLong,
}

impl RowDefect {
    /// The reason under which such a row is recorded.
    pub const fn reason(self) -> FailureReason {
        match self {
            Self::UidTooLong => FailureReason::UidTooLong,
            Self::NoLocation => FailureReason::NoLocation,
            Self::LocationTooLong => FailureReason::LocationTooLong,
        }
    }
}

impl Row {
    /// A row as read from a catalog. A uid or location that is too long is replaced by its first
    /// 256 characters, its length and its BLAKE3, so that the row stays small and
    /// recognisable, and the row is marked with the defect.
    pub fn new(
        uid: String,
        created_at: Timestamp,
        location: Option<String>,
        size: Option<u64>,
    ) -> Self {
        let mut row =
            Self { uid, created_at_micros: created_at.as_micros(), location, size, defect: None };
        if row.uid.len() > MAX_UID_BYTES {
            row.uid = abbreviate(&row.uid);
            row.defect = Some(RowDefect::UidTooLong);
        }
        match row.location.take().filter(|location| !location.is_empty()) {
            None => row.defect = row.defect.or(Some(RowDefect::NoLocation)),
            Some(long) if long.len() > MAX_LOCATION_BYTES => {
                row.location = Some(abbreviate(&long));
                row.defect = row.defect.or(Some(RowDefect::LocationTooLong));
            }
            sound => row.location = sound,
        }
        row
    }

    /// `created_at`, held inside the representable range.
    pub const fn created_at(&self) -> Timestamp {
        Timestamp::held_inside(self.created_at_micros)
    }

    /// Bytes that the row takes in memory, roughly; what sort buffers are measured in.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.uid.len() + self.location.as_ref().map_or(0, String::len)
    }

    /// Appends the row in the bincode wire layout.
    ///
    /// # Errors
    /// When memory is out.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        wincode::serialize_into(out, self).map_err(std::io::Error::other)
    }

    /// Reads what [`Row::encode_into`] appended.
    ///
    /// # Errors
    /// When the bytes are not exactly one row.
    pub fn decode(bytes: &[u8]) -> std::io::Result<Self> {
        wincode::deserialize_exact(bytes).map_err(std::io::Error::other)
    }
}

/// The uid as manifests and error rows hold it: itself, or its abbreviation where it is longer
/// than [`MAX_UID_BYTES`].
pub fn recorded_uid(uid: &str) -> Cow<'_, str> {
    if uid.len() > MAX_UID_BYTES { abbreviate(uid).into() } else { uid.into() }
}

fn abbreviate(text: &str) -> String {
    let head: String = text.chars().take(256).collect();
    format!("{head}…[{} bytes, blake3 {}]", text.len(), blake3::hash(text.as_bytes()))
}

/// An order-free sum over rows: truncated BLAKE3 of `(created_at, uid)`, added with wrap-around
/// in 128 bits. Partitions add up to windows, and an archive's entries to its catalog's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of a single row: BLAKE3 of created_at (i64 microseconds, little-endian)
    /// followed by the uid's bytes, cut to 128 bits, read little-endian.
    pub fn of(uid: &str, created_at: Timestamp) -> Self {
        Self::of_parts([&created_at.as_micros().to_le_bytes(), uid.as_bytes()])
    }

    /// The digest of a row's location, the second, informational one.
    pub fn of_location(uid: &str, location: &str) -> Self {
        let uid_bytes = u64::try_from(uid.len()).unwrap_or(u64::MAX).to_le_bytes();
        Self::of_parts([&uid_bytes, uid.as_bytes(), location.as_bytes()])
    }

    fn of_parts<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3_of(parts).as_bytes()[..16]);
        Self(u128::from_le_bytes(short))
    }
}

/// What a row is hashed in where it fits: one call over one short buffer costs a fraction of what a
/// hasher does, and every row is hashed several times.
const SHORT_BYTES: usize = 512;

fn blake3_of<const N: usize>(parts: [&[u8]; N]) -> blake3::Hash {
    let mut short = [0; SHORT_BYTES];
    let mut length = 0;
    for part in parts {
        let Some(place) = short.get_mut(length..length + part.len()) else {
            let mut hasher = blake3::Hasher::new();
            return parts.iter().fold(&mut hasher, |hasher, part| hasher.update(part)).finalize();
        };
        place.copy_from_slice(part);
        length += part.len();
    }
    blake3::hash(&short[..length])
}

impl Add for Digest {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        hex_u128(text).map(Self).ok_or(InvalidDigest)
    }
}

/// A text that is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 hexadecimal digits")]
pub struct InvalidDigest;

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How many rows, and their digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the rows' digests.
    pub digest: Digest,
}

impl Tally {
    /// Counts one row.
    pub fn count(&mut self, uid: &str, created_at: Timestamp) {
        self.rows += 1;
        self.digest += Digest::of(uid, created_at);
    }
}

impl Add for Tally {
    type Output = Self;
    /// Saturates, since tallies are read from objects that somebody may have damaged.
    fn add(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_add(other.rows), digest: self.digest + other.digest }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    #[test]
    fn digests_do_not_depend_on_order_but_on_every_field() {
        let (a, b) = (Digest::of("a", at("2024-12-01")), Digest::of("b", at("2024-12-02")));
        assert_eq!(a + b, b + a);
        assert_ne!(a, Digest::of("a", at("2024-12-02")));
        assert_ne!(a, b);
        assert_eq!((a + b).to_string().parse(), Ok(a + b));
    }

    #[test]
    fn a_long_row_is_hashed_as_a_short_one_is() {
        for length in [0, 1, SHORT_BYTES - 9, SHORT_BYTES - 8, SHORT_BYTES - 7, 5_000] {
            let (uid, time) = ("u".repeat(length), at("2024-12-01"));
            let whole = [&time.as_micros().to_le_bytes(), uid.as_bytes()].concat();
            let expected = blake3::hash(&whole);
            let mut short = [0; 16];
            short.copy_from_slice(&expected.as_bytes()[..16]);
            assert_eq!(Digest::of(&uid, time), Digest(u128::from_le_bytes(short)), "{length}");
        }
    }

    #[test]
    fn the_digest_of_a_row_is_what_it_always_was() {
        // Stored in every certificate: a change here orphans every archive written before it.
        assert_eq!(
            Digest::of("uid-1", at("2024-12-01T00:00:00Z")).to_string(),
            "66646c82d5d5c2d86e40f0518946129d"
        );
        assert_eq!(Fingerprint::of("uid-1").to_string(), "cbe385e6e4595c9ac57e33a5fc2dfa99");
    }

    #[test]
    fn defects_are_noticed_and_oversize_fields_are_cut() {
        let row = Row::new("u".repeat(65_536), at("2024-12-01"), Some("/x".into()), None);
        assert_eq!(row.defect, Some(RowDefect::UidTooLong));
        assert!(row.uid.len() < 500 && row.uid.contains("65536 bytes"));
        let longest = Row::new("u".repeat(65_535), at("2024-12-01"), Some("/x".into()), None);
        assert_eq!(longest.defect, None);
        let nowhere = Row::new("u".into(), at("2024-12-01"), Some(String::new()), None);
        assert_eq!(nowhere.defect, Some(RowDefect::NoLocation));
    }
}
