//! Identifiers that travel in messages, names and the ledger.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, Window};

/// An identifier whose text breaks the rule that its type states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {rule}")]
pub struct InvalidIdent {
    what: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! text_ident {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidIdent;
            fn try_from(text: String) -> Result<Self, InvalidIdent> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidIdent { what: $what, text, rule: $rule })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidIdent;
            fn from_str(text: &str) -> Result<Self, InvalidIdent> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_label(text: &str, most: usize) -> bool {
    !text.is_empty()
        && text.len() <= most
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

text_ident!(
    /// Identity of an archive: one job's store prefix. A random UUID, made once by `init`.
    ArchiveId, "archive id", "1 to 64 letters, digits, `-`, `_` or `.`", |text| is_label(text, 64)
);
text_ident!(
    /// Name of a job: one catalog table archived into one archive.
    Job, "job", "1 to 64 letters, digits, `-`, `_` or `.`", |text| is_label(text, 64)
);
text_ident!(
    /// Name of a worker process and slot, unique among those that run at a time.
    WorkerId, "worker id", "1 to 128 letters, digits, `-`, `_` or `.`", |text| is_label(text, 128)
);

/// The first 64 bits of an object's BLAKE3, which its name carries: 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash([u8; 8]);

impl ContentHash {
    /// The hash of a whole object's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_blake3(&blake3::hash(bytes))
    }

    /// From a finished BLAKE3 over the object's bytes.
    pub fn from_blake3(hash: &blake3::Hash) -> Self {
        let mut short = [0; 8];
        short.copy_from_slice(&hash.as_bytes()[..8]);
        Self(short)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ContentHash {
    type Err = InvalidIdent;
    fn from_str(text: &str) -> Result<Self, InvalidIdent> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match u64::from_str_radix(text, 16) {
            Ok(value) if text.len() == 16 && text.bytes().all(lower_hex) => {
                Ok(Self(value.to_be_bytes()))
            }
            _ => Err(InvalidIdent {
                what: "content hash",
                text: text.to_owned(),
                rule: "16 lower-case hexadecimal digits",
            }),
        }
    }
}

impl TryFrom<String> for ContentHash {
    type Error = InvalidIdent;
    fn try_from(text: String) -> Result<Self, InvalidIdent> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(value: ContentHash) -> String {
        value.to_string()
    }
}

/// A pass over a window: 0 is the first, later ones hold late rows, retried errors and repairs.
/// At most 9,999, since names carry four digits.
pub type Revision = u16;

/// The largest [`Revision`].
pub const MAX_REVISION: Revision = 9_999;

/// Number of a partition inside its window and revision, from 0.
pub type PartitionId = u32;

/// What identifies one pass over one window: its end and its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WindowKey {
    /// The window's inclusive upper bound.
    pub end: Timestamp,
    /// The pass.
    pub revision: Revision,
}

impl WindowKey {
    /// The key of `window` at `revision`.
    pub const fn new(window: Window, revision: Revision) -> Self {
        Self { end: window.end(), revision }
    }
}

impl fmt::Display for WindowKey {
    /// `<window end>-r<revision>`, as it stands in object names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-r{:04}", self.end.compact(), self.revision)
    }
}

impl FromStr for WindowKey {
    type Err = InvalidIdent;
    fn from_str(text: &str) -> Result<Self, InvalidIdent> {
        let parse = || {
            let (end, revision) = text.split_once("-r")?;
            let key = Self { end: Timestamp::from_compact(end)?, revision: revision.parse().ok()? };
            (key.to_string() == text && key.revision <= MAX_REVISION).then_some(key)
        };
        parse().ok_or_else(|| InvalidIdent {
            what: "window key",
            text: text.to_owned(),
            rule: "YYYYMMDDTHHMMSSZ-rNNNN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_leave_their_place_in_a_name() {
        assert!("../x".parse::<ArchiveId>().is_err());
        assert!("a/b".parse::<Job>().is_err());
        assert!("".parse::<Job>().is_err());
        assert!("files-2".parse::<Job>().is_ok());
    }

    #[test]
    fn content_hash_reads_only_its_own_form() {
        let hash = ContentHash::of(b"des");
        assert_eq!(hash.to_string().parse::<ContentHash>(), Ok(hash));
        for bad in ["", "12", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdefg"] {
            assert!(bad.parse::<ContentHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn window_keys_read_back() {
        let text = "20241202T000000Z-r0003";
        assert_eq!(text.parse::<WindowKey>().expect("a key").to_string(), text);
        assert!("20241202T000000Z-r3".parse::<WindowKey>().is_err());
    }
}
