//! Why a row of the catalog is not in the archive.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Class of a per-file failure, as it stands in receipts, certificates and
/// `des_migration_errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// No such file.
    Missing,
    /// The process may not read the file or a directory above it.
    NoPermission,
    /// The location is a directory.
    IsDirectory,
    /// The location is a FIFO, a socket or a device; it was not opened.
    NotRegular,
    /// The resolved path lies outside every allowed source root.
    OutsideRoots,
    /// The location is not a path this system could ever open (too long, a NUL byte, a loop of
    /// symbolic links).
    InvalidLocation,
    /// The file's size differs from the catalog's size column.
    SizeMismatch,
    /// The file changed while it was read.
    Changed,
    /// The catalog holds no location.
    NoLocation,
    /// The location is longer than a manifest can carry.
    LocationTooLong,
    /// The uid is longer than a shard's index can carry.
    UidTooLong,
    /// The day and shard index would need more shards than names have parts for (9,999), because of
    /// as many rows with the same uid or a very small `max_shard_size`.
    TooManyParts,
    /// The file is there, and reading it failed in every attempt for a reason that is the
    /// machine's (an I/O error, a stale mount).
    Unreadable,
    /// Its partition failed in every attempt, down to the smallest part that holds the row, and
    /// nobody could say of which file.
    GaveUp,
}

impl FailureReason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Missing,
        Self::NoPermission,
        Self::IsDirectory,
        Self::NotRegular,
        Self::OutsideRoots,
        Self::InvalidLocation,
        Self::SizeMismatch,
        Self::Changed,
        Self::NoLocation,
        Self::LocationTooLong,
        Self::UidTooLong,
        Self::TooManyParts,
        Self::Unreadable,
        Self::GaveUp,
    ];

    /// The text that is stored: the same as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NoPermission => "no_permission",
            Self::IsDirectory => "is_directory",
            Self::NotRegular => "not_regular",
            Self::OutsideRoots => "outside_roots",
            Self::InvalidLocation => "invalid_location",
            Self::SizeMismatch => "size_mismatch",
            Self::Changed => "changed",
            Self::NoLocation => "no_location",
            Self::LocationTooLong => "location_too_long",
            Self::UidTooLong => "uid_too_long",
            Self::TooManyParts => "too_many_parts",
            Self::Unreadable => "unreadable",
            Self::GaveUp => "gave_up",
        }
    }

    /// Whether another look may end differently, so that one failed attempt does not settle the
    /// row: a file may be missing because a mount is, or change because it is still written.
    pub const fn deserves_second_attempt(self) -> bool {
        matches!(
            self,
            Self::Missing
                | Self::NoPermission
                | Self::SizeMismatch
                | Self::Changed
                | Self::Unreadable
        )
    }
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row that could not be archived, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRow {
    /// The row's uid, or its abbreviation where it is too long.
    pub uid: String,
    /// The row's `created_at`.
    pub created_at: Timestamp,
    /// The row's location.
    pub location: Option<String>,
    /// The class.
    pub reason: FailureReason,
    /// What the system said, for a person.
    pub detail: String,
}
