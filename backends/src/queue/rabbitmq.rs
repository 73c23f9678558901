//! Adapter.

/// Adapter.
pub struct RabbitQueue;
