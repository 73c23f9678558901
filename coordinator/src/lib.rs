//! Decides and records: cuts windows, splits them into partitions, publishes tasks, accepts
//! receipts, certifies and commits windows, and carries out what operators ask for.
//!
//! Decisions are functions from values to values ([`cutting`], [`partitions`], [`attempts`],
//! [`decide`]); the ledger and the bucket are the truth, and everything in this process's memory
//! can be read from them again. It never reads a source file and never writes a shard.

pub mod adjust;
pub mod attempts;
pub mod behind;
pub mod board;
pub mod cutting;
pub mod decide;
pub mod explain;
pub mod figures;
pub mod gc;
pub mod held;
pub mod init;
pub mod listing;
pub mod live;
pub mod metrics;
pub mod operate;
pub mod outlook;
pub mod partitions;
pub mod pause;
pub mod rate;
pub mod rebuild;
pub mod recheck;
pub mod status;
pub mod sync;
pub mod throttle;

mod answer;
mod beside;
mod certify;
mod findings;
mod flight;
mod judge;
mod kept;
mod known;
mod lead;
mod pace;
mod passes;
mod places;
mod receipts;
mod remaining;
mod restore;
mod sabotage;
mod service;
mod sort;
mod split;
mod survey;

#[cfg(test)]
mod gated;
#[cfg(test)]
mod model;

pub use findings::{Finding, Findings, Named};
pub use service::{Coordinator, CoordinatorSettings, Event, Goal, RunReport};
