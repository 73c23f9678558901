//! Adapter.

/// Adapter.
pub struct SqliteCatalog;
