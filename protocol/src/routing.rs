//! From a uid to its shard index. The rule is a fact of the DES format, not ours to change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of bits of a shard index, 4 to 16. Fixed for the life of an archive, since readers
/// know only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct NBits(u8);

/// A number of bits outside 4 to 16.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("n_bits is {0}; it must lie in 4..16")]
pub struct InvalidNBits(pub i64);

/// Index of a shard, in `0..2^n_bits`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShardIndex(pub u16);

impl NBits {
    /// What the format's packers use unless told otherwise.
    pub const DEFAULT: Self = Self(8);

    /// # Errors
    /// When `bits` lies outside 4 to 16.
    pub const fn new(bits: u8) -> Result<Self, InvalidNBits> {
        if matches!(bits, 4..=16) { Ok(Self(bits)) } else { Err(InvalidNBits(bits as i64)) }
    }

    /// The number of bits.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// How many shard indexes there are, 16 to 65,536.
    pub const fn shard_count(self) -> u32 {
        1 << self.0
    }

    /// Routes a uid. A uid of Unicode decimal digits only is taken by its decimal value modulo
    /// the number of shards; any other by the CRC-32 (IEEE) of its UTF-8 bytes, masked.
    pub fn shard_index(self, uid: &str) -> ShardIndex {
        let mask = self.shard_count() - 1;
        let index = decimal_value_wrapping(uid).unwrap_or_else(|| crc32fast::hash(uid.as_bytes()));
        ShardIndex(u16::try_from(index & mask).unwrap_or_default())
    }

    /// A shard index as it stands in names: upper-case hex, zero-padded to
    /// `max(1, n_bits / 4)` digits (10 bits pad to 2 digits and may print 3).
    pub fn shard_hex(self, index: ShardIndex) -> ShardHex {
        ShardHex { index, digits: usize::from(self.0 / 4).max(1) }
    }
}

impl TryFrom<u8> for NBits {
    type Error = InvalidNBits;
    fn try_from(bits: u8) -> Result<Self, InvalidNBits> {
        Self::new(bits)
    }
}

impl From<NBits> for u8 {
    fn from(bits: NBits) -> u8 {
        bits.0
    }
}

impl fmt::Display for NBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Prints a shard index in the form that names carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHex {
    index: ShardIndex,
    digits: usize,
}

impl fmt::Display for ShardHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$X}", self.index.0, width = self.digits)
    }
}

/// The low 32 bits of the decimal value of `uid`, or `None` when it is empty or holds anything
/// but decimal digits. Since the modulus is a power of two of at most 16 bits, wrapping
/// arithmetic keeps what counts, whatever the number's length.
fn decimal_value_wrapping(uid: &str) -> Option<u32> {
    if uid.is_empty() {
        return None;
    }
    uid.chars()
        .try_fold(0_u32, |value, c| Some(value.wrapping_mul(10).wrapping_add(decimal_digit(c)?)))
}

fn decimal_digit(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let code = u32::from(c);
    let zero = match DECIMAL_ZEROS.binary_search(&code) {
        Ok(at) => DECIMAL_ZEROS[at],
        Err(0) => return None,
        Err(after) => DECIMAL_ZEROS[after - 1],
    };
    (code - zero < 10).then_some(code - zero)
}

/// The digit zero of every run of ten decimal digits (general category Nd) beyond ASCII, as of
/// Unicode 15.0, the version of the reference implementation's interpreter (Python 3.12). The
/// table stays as it is: routing must not change with a library's Unicode version.
const DECIMAL_ZEROS: [u32; 67] = [
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x11F50, 0x16A60, 0x16AC0,
    0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E4F0, 0x1E950,
    0x1FBF0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_outside_4_to_16_are_refused() {
        assert!(NBits::new(3).is_err());
        assert!(NBits::new(17).is_err());
        assert_eq!(NBits::new(16).map(NBits::shard_count), Ok(65_536));
    }

    #[test]
    fn the_digit_table_is_sorted_and_disjoint() {
        assert!(DECIMAL_ZEROS.windows(2).all(|pair| pair[0] + 10 <= pair[1]));
    }

    #[test]
    fn superscripts_are_not_decimal() {
        assert_eq!(decimal_value_wrapping("1²"), None);
        assert_eq!(decimal_value_wrapping("-1"), None);
        assert_eq!(decimal_value_wrapping("007"), Some(7));
    }

    #[test]
    fn agrees_with_the_reference_answers() {
        let answers = include_str!("../fixtures/golden/routing.csv");
        let mut checked = 0;
        // The uid is the one field that may hold commas, so split from the right.
        for line in answers.lines().skip(1) {
            let mut fields = line.rsplitn(4, ',');
            let (hex, index, bits, uid) = (
                fields.next().expect("hex"),
                fields.next().expect("index"),
                fields.next().expect("bits"),
                fields.next().expect("uid"),
            );
            let uid = uid
                .strip_prefix('"')
                .and_then(|quoted| quoted.strip_suffix('"'))
                .map_or_else(|| uid.to_owned(), |quoted| quoted.replace("\"\"", "\""));
            let bits = NBits::new(bits.parse().expect("bits")).expect("4..16");
            let routed = bits.shard_index(&uid);
            assert_eq!(routed.0.to_string(), index, "index of {uid:?} at {bits} bits");
            assert_eq!(bits.shard_hex(routed).to_string(), hex, "hex of {uid:?} at {bits} bits");
            checked += 1;
        }
        assert_eq!(checked, 840);
    }
}
