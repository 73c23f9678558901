//! Adapter.

/// Adapter.
pub struct SqliteLedger;
