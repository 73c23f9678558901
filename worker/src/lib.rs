//! Executes tasks: reads a manifest, packs its files into shards, uploads them, writes the
//! receipt, answers. Keeps no state between tasks, holds no database credentials, decides
//! nothing about windows.
//!
//! The async side moves bytes between processes; files are read, hashed and compressed on threads
//! of their own, so that heartbeats are never late.

pub mod metrics;

mod assemble;
mod fair;
mod pack;
mod payload;
mod reading;
mod restore;
pub mod sample;
mod service;
mod shared;
mod source;
mod task;

pub use service::{Worker, WorkerSettings};
pub use shared::{SharedJob, run_shared};
pub use source::{RootsError, Sources};
