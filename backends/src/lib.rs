//! Ports of DES Fleet and all their adapters.
//!
//! A port is a small trait with two real implementations, an embedded one and a fleet one, and
//! one conformance suite (`tests/`) that runs on both. Nothing here decides anything: adapters
//! carry out and report. Only the composition root knows which adapter is in use.

#![warn(missing_docs)]

pub mod buffers;
pub mod catalog;
pub mod crash;
pub mod error;
pub mod ledger;
pub mod metrics;
pub mod open;
pub mod queue;
pub mod sabotage;
mod sql;
pub mod store;
mod tls;
pub mod trace;

pub use catalog::Catalog;
pub use error::BackendError;
pub use ledger::Ledger;
pub use queue::TaskQueue;
pub use store::Store;
