//! Databases for the conformance suite, and the values it plays with.

mod bench;
mod values;

pub(crate) mod adopt_suite;
pub(crate) mod commit_suite;
pub(crate) mod lease_suite;
pub(crate) mod listing_suite;
pub(crate) mod operator_suite;
pub(crate) mod pause_suite;
mod postgres_only;
pub(crate) mod rework_suite;
pub(crate) mod setup_suite;
mod sqlite_only;
mod stalls;
pub(crate) mod synced_suite;
pub(crate) mod throttle_suite;
pub(crate) mod windows_suite;

pub(crate) use bench::{Bench, PostgresBench, SqliteBench};
pub(crate) use values::*;
