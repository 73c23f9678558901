//! Object store.

/// Object store.
pub struct Store;
