//! What two processes, or two releases, of DES Fleet must agree on.
//!
//! Identifiers, time windows, routing, messages, manifests, receipts, certificates, the shard
//! format and object names: bytes to values and back. This crate performs no I/O, reads no clock
//! and runs nothing asynchronously; everything it needs is an argument.

#![warn(missing_docs)]

pub mod archive;
pub mod certificate;
pub mod codec;
pub mod estimate;
pub mod failure;
pub mod ident;
pub mod layout;
pub mod manifest;
pub mod message;
pub mod names;
pub mod receipt;
pub mod routing;
pub mod row;
mod row_ref;
pub mod rows;
pub mod settings;
pub mod shard;
pub mod time;
mod versioned;

pub use archive::ArchiveIdentity;
pub use certificate::Certificate;
pub use failure::{FailedRow, FailureReason};
pub use ident::{ArchiveId, ContentHash, Job, PartitionId, Revision, WindowKey, WorkerId};
pub use receipt::Receipt;
pub use routing::{NBits, ShardIndex};
pub use row::{Digest, Fingerprint, Row, Tally};
pub use row_ref::RowRef;
pub use rows::Rows;
pub use settings::PackSettings;
pub use time::{Day, Timestamp, Window};
pub use versioned::DocumentError;
