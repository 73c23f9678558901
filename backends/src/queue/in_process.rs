//! Adapter.

/// Adapter.
pub struct InProcessQueue;
