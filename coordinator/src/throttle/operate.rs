//! Throttling an archive at an operator's word.

use backends::ledger::{AuditEntry, LiveLimits, Override, Scope, Throttle};
use backends::{BackendError, Catalog, Ledger};

use super::source::try_source;
use super::{Hours, Limits};
use crate::explain::ThrottledFacts;
use crate::pause::require_archive;

/// Why a throttle was not set or taken back.
#[derive(Debug, thiserror::Error)]
pub enum ThrottleError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(BackendError),
    /// It says nothing, cannot be understood, or there is none.
    #[error("{0}")]
    Refused(String),
}

impl From<BackendError> for ThrottleError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Conflict { what } | BackendError::Invalid { what } => Self::Refused(what),
            other => Self::Backend(other),
        }
    }
}

/// Tries what limits that are [`understood`] ask of the source database, which is to be done before they
/// are [`set`].
///
/// # Errors
/// When it cannot be asked this, or does not answer.
pub async fn try_asking(limits: &LiveLimits, catalog: &dyn Catalog) -> Result<(), ThrottleError> {
    let mut said = Limits::default();
    said.overrule(limits);
    try_source(&said.source, catalog).await.map_err(|error| match error.is_retryable() {
        true => ThrottleError::Backend(error),
        false => ThrottleError::Refused(format!(
            "the source database cannot be asked this, and nothing was changed: {error}"
        )),
    })
}

/// The limits as they are kept.
///
/// # Errors
/// When no limit is named, a rate is zero, hours or query are not understood, or a limit of all jobs is to
/// be none.
pub fn understood(scope: Scope, limits: &LiveLimits) -> Result<LiveLimits, ThrottleError> {
    if limits.is_empty() {
        return refuse(
            "no limit is named: give files or bytes per second, hours, or what the source database \
             is to be asked",
        );
    }
    let rates = [&limits.files_per_second, &limits.bytes_per_second];
    if rates.contains(&&Override::To(0)) {
        return refuse("a limit is 0: to begin nothing at all, pause; for no limit, say none");
    }
    if scope == Scope::AllJobs && limits.lifts() {
        return refuse(
            "none is said of a limit of all jobs, which only tightens those of each job",
        );
    }
    if let Override::To(query) = &limits.query
        && query.trim().is_empty()
    {
        return refuse("the query is empty: for none, say none");
    }
    let mut limits = limits.clone();
    if let Override::To(text) = &limits.not_between {
        let hours: Hours = text
            .parse()
            .map_err(|why| ThrottleError::Refused(format!("the hours, {text:?}: {why}")))?;
        limits.not_between = Override::To(hours.to_string());
    }
    Ok(limits)
}

/// Sets a throttle, in the place of the one that stands: whoever leads, and every successor, keeps to
/// it from within seconds on, until it is taken back.
///
/// # Errors
/// When no limit is named, a rate is zero, the hours are not understood, a limit of all jobs is to be
/// none, there is no archive, or the ledger does not answer.
pub async fn set(
    ledger: &dyn Ledger,
    (scope, limits): (Scope, LiveLimits),
    (actor, reason): (String, String),
) -> Result<Throttle, ThrottleError> {
    let limits = understood(scope, &limits)?;
    require_archive(ledger).await?;
    let audit = audit(actor, Some(reason));
    Ok(ledger.set_throttle(scope, &limits, &audit).await?)
}

/// Takes a throttle back, and returns the one that stood.
///
/// # Errors
/// When none stands, there is no archive, or the ledger does not answer.
pub async fn end(
    ledger: &dyn Ledger,
    scope: Scope,
    (actor, reason): (String, Option<String>),
) -> Result<Throttle, ThrottleError> {
    require_archive(ledger).await?;
    Ok(ledger.end_throttle(scope, &audit(actor, reason)).await?)
}

/// What whoever leads waits for because of limits. Of one that is gone nobody says what it would wait
/// for now.
///
/// # Errors
/// When the ledger does not answer.
pub async fn waited_for(ledger: &dyn Ledger) -> Result<Option<ThrottledFacts>, BackendError> {
    let Some(lease) = ledger.lease_status().await? else { return Ok(None) };
    let leads = lease.holder.is_some() && lease.expires_at > ledger.now().await?;
    let wait = if leads { ledger.wait().await? } else { None };
    Ok(wait.map(ThrottledFacts::from))
}

fn audit(actor: String, reason: Option<String>) -> AuditEntry {
    AuditEntry { actor, action: "throttle".to_owned(), from: None, to: None, reason }
}

fn refuse<T>(why: &str) -> Result<T, ThrottleError> {
    Err(ThrottleError::Refused(why.to_owned()))
}
