//! Pausing and resuming an archive at an operator's word.

use backends::ledger::{AuditEntry, Pause, Scope};
use backends::{BackendError, Ledger};
use protocol::Timestamp;

/// Why an archive was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(BackendError),
    /// It is paused already, or is not, or the time is over.
    #[error("{0}")]
    Refused(String),
}

impl From<BackendError> for PauseError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Conflict { what } | BackendError::Invalid { what } => Self::Refused(what),
            other => Self::Backend(other),
        }
    }
}

/// Pauses: whoever leads begins nothing new from within seconds on, and so does every successor,
/// until somebody resumes or `until` is over. What workers hold is finished and accepted.
///
/// # Errors
/// When a pause stands already, `until` is not ahead, there is no archive, or the ledger does not
/// answer.
pub async fn pause(
    ledger: &dyn Ledger,
    (scope, until): (Scope, Option<Timestamp>),
    (actor, reason): (String, String),
) -> Result<Pause, PauseError> {
    require_archive(ledger).await?;
    let to = until.map_or_else(|| "until resumed".to_owned(), |until| format!("until {until}"));
    let to = match scope {
        Scope::Job => to,
        Scope::AllJobs => format!("all jobs, {to}"),
    };
    let audit = AuditEntry {
        actor,
        action: "pause".to_owned(),
        from: None,
        to: Some(to),
        reason: Some(reason),
    };
    Ok(ledger.pause(scope, until, &audit).await?)
}

/// Resumes, and returns the pause that stood.
///
/// # Errors
/// When none stands, there is no archive, or the ledger does not answer.
pub async fn resume(
    ledger: &dyn Ledger,
    scope: Scope,
    (actor, reason): (String, Option<String>),
) -> Result<Pause, PauseError> {
    require_archive(ledger).await?;
    let audit = AuditEntry { actor, action: "resume".to_owned(), from: None, to: None, reason };
    Ok(ledger.resume(scope, &audit).await?)
}

pub(crate) async fn require_archive(ledger: &dyn Ledger) -> Result<(), BackendError> {
    match ledger.archive().await? {
        Some(_) => Ok(()),
        None => Err(BackendError::NotFound {
            what: "this job has no archive yet: run `des init` or `des migrate` first".to_owned(),
        }),
    }
}

/// The pause that holds work back now. One whose time is over holds nothing back, even where nobody
/// leads who would end it.
///
/// # Errors
/// When the ledger does not answer.
pub async fn standing(ledger: &dyn Ledger) -> Result<Option<Pause>, BackendError> {
    let Some(pause) = ledger.pause_status().await? else { return Ok(None) };
    let over = pause.until.is_some() && pause.is_over(ledger.now().await?);
    Ok((!over).then_some(pause))
}
