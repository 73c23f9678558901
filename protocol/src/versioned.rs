//! Versioned JSON documents: receipts, certificates, the archive's identity, messages.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why bytes are not the document they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Written by a newer release than this one.
    #[error(
        "this {what} has version {found}, and this release reads up to version {known}: \
         use a newer release of des"
    )]
    Newer {
        /// Kind of document.
        what: &'static str,
        /// Version that the document states.
        found: u32,
        /// Newest version that is understood.
        known: u32,
    },
    /// Not such a document, or damaged.
    #[error("this is not a valid {what}: {why}")]
    Malformed {
        /// Kind of document.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A kind of JSON document with a `version` field.
pub(crate) trait Document: Serialize + DeserializeOwned {
    /// What the document is called in messages.
    const WHAT: &'static str;
    /// The version that is written, and the newest that is read.
    const VERSION: u32;
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

pub(crate) fn decode<T: Document>(bytes: &[u8]) -> Result<T, DocumentError> {
    let malformed = |error: serde_json::Error| DocumentError::Malformed {
        what: T::WHAT,
        why: error.to_string(),
    };
    let VersionOnly { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version > T::VERSION {
        return Err(DocumentError::Newer { what: T::WHAT, found: version, known: T::VERSION });
    }
    if version == 0 {
        let why = "version 0 does not exist".to_owned();
        return Err(DocumentError::Malformed { what: T::WHAT, why });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Pretty-printed, since operators read these documents in the bucket's own tools. Serialising
/// these types cannot fail: they hold no maps with keys that are not strings.
pub(crate) fn encode_pretty<T: Document>(document: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(document).unwrap_or_default()
}

pub(crate) fn encode_compact<T: Document>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}
