//! Adapter.

/// Adapter.
pub struct PostgresCatalog;
