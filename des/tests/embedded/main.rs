//! The real binary in embedded mode, end to end: SQLite, a local directory, one process.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/otlp.rs"]
mod otlp;

mod adjust;
mod audit;
mod crash;
mod explain;
mod export;
mod failures;
mod full;
mod gc;
mod hang;
mod held;
mod late;
mod listing;
mod lost;
mod observe;
mod pause;
mod plan;
mod rebuild;
mod refusals;
mod repair;
mod results;
mod revisions;
mod seed;
mod sync;
mod throttle;
mod top;
mod traces;
