//! Adapter.

/// Adapter.
pub struct PostgresLedger;
