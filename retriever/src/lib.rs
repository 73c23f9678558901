//! Reads back: finds a file's window by its certificate, gets it, lists what is there, verifies
//! everything.
//!
//! It needs the bucket and nothing else: no database, no broker. It never writes.

mod archive;
mod audit;
mod get;
mod list;
mod verify;
mod walk;

pub use archive::{Archive, ReadError};
pub use audit::{Audited, AuditedPlace, AuditedRow, Fate};
pub use get::{Found, Lookup, When};
pub use list::{ListedFile, ListedWindow};
pub use verify::{Problem, Verification, VerifyOptions, VerifyProgress};
