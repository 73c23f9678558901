//! What can go wrong outside the process, in the meanings that callers choose by.

use std::error::Error as StdError;

/// A boxed cause.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// A failure of a database, broker or store.
///
/// `what` names the thing and the action in a person's words (`the catalog at host:5432/files`),
/// never a secret.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It did not answer, or answered that it cannot now. Later may be different.
    #[error("{what}: {cause}")]
    Unavailable {
        /// What was tried, on what, and what to check.
        what: String,
        /// What the driver said.
        cause: Cause,
    },
    /// It answered that we may not.
    #[error("{what}: {cause}")]
    Denied {
        /// What was tried, on what, and what to check.
        what: String,
        /// What the driver said.
        cause: Cause,
    },
    /// A table, column, object or queue is not there.
    #[error("{what}")]
    NotFound {
        /// What is missing, where, and what to do.
        what: String,
    },
    /// Somebody else holds the lease, moved the watermark, or owns what we would touch.
    #[error("{what}")]
    Conflict {
        /// Who or what is in the way.
        what: String,
    },
    /// It holds something that we must not guess about.
    #[error("{what}")]
    Invalid {
        /// The offending thing, and what to do about it.
        what: String,
    },
    /// Anything else: a mistake of ours, or an answer that makes no sense.
    #[error("{what}: {cause}")]
    Failed {
        /// What was tried, on what.
        what: String,
        /// What the driver said.
        cause: Cause,
    },
}

impl BackendError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the answer is about the thing asked for: it is not there, or it is not what it should
    /// be. Only then may it be taken for lost. A refusal says nothing about it, and passes like an
    /// outage: policies, clocks and credentials are put right again.
    pub const fn is_lost_or_damaged(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Invalid { .. })
    }

    /// Whether the thing asked for does not exist.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else is in the way.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// What every call outside the process returns.
pub type Result<T> = std::result::Result<T, BackendError>;
