//! A row as the sorter keeps it: `length of the row u32 | shard index u16 | fingerprint | row`, the
//! row as manifests hold it, so that it is encoded once and copied from then on.

use std::cmp::Ordering;

use protocol::{Fingerprint, NBits, Row, RowRef, ShardIndex};

use super::SortedRow;

const LENGTH_BYTES: usize = 4;
const FINGERPRINT_AT: usize = LENGTH_BYTES + 2;
/// What stands before the row.
pub(super) const HEAD_BYTES: usize = FINGERPRINT_AT + 16;

/// Borrowed bytes of one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
}

/// Appends the row's record, and returns its shard index and fingerprint.
pub(super) fn append(
    row: RowRef<'_>,
    index: ShardIndex,
    fingerprint: Fingerprint,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.extend_from_slice(&index.0.to_le_bytes());
    out.extend_from_slice(&fingerprint.0);
    row.encode_into(out)?;
    let length = u32::try_from(out.len() - begin - HEAD_BYTES).map_err(std::io::Error::other)?;
    out[begin..begin + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// How long the record is that begins with this head.
pub(super) fn length(head: &[u8; HEAD_BYTES]) -> usize {
    let mut length = [0; LENGTH_BYTES];
    length.copy_from_slice(&head[..LENGTH_BYTES]);
    HEAD_BYTES + u32::from_le_bytes(length) as usize
}

impl<'a> Record<'a> {
    /// The record that begins at `at`.
    ///
    /// # Errors
    /// When it does not end within `bytes`.
    pub(super) fn at(bytes: &'a [u8], at: usize) -> std::io::Result<Self> {
        let rest = bytes.get(at..).unwrap_or_default();
        let found = rest.first_chunk().and_then(|head| rest.get(..length(head)));
        found.map(|bytes| Self { bytes }).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    pub(super) const fn len(self) -> usize {
        self.bytes.len()
    }

    pub(super) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn index(self) -> ShardIndex {
        ShardIndex(u16::from_le_bytes([self.bytes[LENGTH_BYTES], self.bytes[LENGTH_BYTES + 1]]))
    }

    pub(crate) fn fingerprint(self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.0.copy_from_slice(&self.bytes[FINGERPRINT_AT..HEAD_BYTES]);
        fingerprint
    }

    /// The row in the wire layout, as a manifest takes it.
    pub(crate) fn encoded(self) -> &'a [u8] {
        &self.bytes[HEAD_BYTES..]
    }

    /// What most records differ in: numbers that sort as records do, as far as they differ.
    pub(super) fn key(self) -> u64 {
        u64::from(self.index().0) << 48 | self.fingerprint().high() >> 16
    }

    /// Row order. The last of it says nothing, and makes the order of any two different rows the
    /// same whatever the order in which they came.
    pub(super) fn cmp_in_row_order(self, other: Self) -> Ordering {
        (self.index(), self.fingerprint())
            .cmp(&(other.index(), other.fingerprint()))
            .then_with(|| match (RowRef::decode(self.encoded()), RowRef::decode(other.encoded())) {
                (Ok(row), Ok(other)) => row.cmp_within_fingerprint(&other),
                _ => Ordering::Equal,
            })
            .then_with(|| self.encoded().cmp(other.encoded()))
    }

    pub(crate) fn to_sorted_row(self) -> std::io::Result<SortedRow> {
        let (index, fingerprint) = (self.index(), self.fingerprint());
        Ok(SortedRow { index, fingerprint, row: Row::decode(self.encoded())? })
    }
}

/// Sum over records: how many, and a checksum of each. It does not depend on their order. Unlike
/// [`Tally`](protocol::Tally), which certificates have, it knows every byte of a record, locations
/// among them, and costs a fraction of its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    records: u64,
    checksums: u64,
}

impl Sum {
    /// Counts the record that these bytes are.
    pub(super) fn count(&mut self, record: &[u8]) {
        self.records += 1;
        self.checksums = self.checksums.wrapping_add(crc32c::crc32c(record).into());
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.checksums = self.checksums.wrapping_add(other.checksums);
    }
}

/// Into how many buckets rows are put by the sorter: by the first bits of what they are sorted by.
const BUCKET_BITS: u32 = 8;
pub(super) const BUCKETS: usize = 1 << BUCKET_BITS;

/// The bucket: the first bits of the shard index, and of the fingerprint where it has fewer.
pub(super) fn bucket(n_bits: NBits, index: ShardIndex, fingerprint: Fingerprint) -> usize {
    let bits = u32::from(index.0) << 16 | (fingerprint.high() >> 48) as u32;
    (bits >> (u32::from(n_bits.get()) + 16 - BUCKET_BITS)) as usize % BUCKETS
}
