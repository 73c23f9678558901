//! Pauses: an operator's word that no new work is begun, until it is taken back or its time is over.

use protocol::{Job, Timestamp};

use super::record::Record;
use super::session::{Param, Session};
use super::{AuditEntry, lease, operator};
use crate::error::{BackendError, Result};

/// A pause that an operator asked for: `des_pauses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when, by the database's clock.
    pub since: Timestamp,
    /// Who: user and host.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it ends by itself; `None`: only when somebody resumes.
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Whether its time is over at `now`, so that nothing waits for it any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "paused since {} by {}", self.since, self.actor)?;
        if let Some(until) = self.until {
            write!(f, " until {until}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The pause that stands, unlocked.
pub(super) async fn read<S: Session>(session: &mut S, job: &Job) -> Result<Option<Pause>> {
    let select = "SELECT paused_at, actor, reason, until_time FROM des_pauses WHERE job = $1";
    let row = session.fetch_optional(select, &[Param::Text(job.as_str())]).await?;
    row.as_ref().map(Record::pause).transpose()
}

/// Records a pause in the name of `audit.actor`, with the audit row. One that stands and is over
/// makes room for it.
pub(super) async fn pause<S: Session>(
    session: &mut S,
    job: &Job,
    until: Option<Timestamp>,
    audit: &AuditEntry,
) -> Result<Pause> {
    lease::lock(session, job).await?;
    let now = session.now().await?;
    if let Some(until) = until.filter(|until| *until <= now) {
        return Err(BackendError::Invalid {
            what: format!("a pause until {until} would be over already: it is {now} by the ledger"),
        });
    }
    if let Some(standing) = read(session, job).await? {
        if !standing.is_over(now) {
            return Err(BackendError::Conflict {
                what: format!(
                    "job `{job}` is {standing}. Nothing was changed; to give another reason or \
                     time, resume first"
                ),
            });
        }
        delete(session, job).await?;
        operator::append_audit(session, job, &over(&standing, &audit.actor)).await?;
    }
    let reason = audit.reason.clone().unwrap_or_default();
    let pause = Pause { since: now, actor: audit.actor.clone(), reason, until };
    let insert = "INSERT INTO des_pauses (job, paused_at, actor, reason, until_time) \
                  VALUES ($1, $2, $3, $4, $5)";
    let params = [
        Param::Text(job.as_str()),
        Param::Time(pause.since),
        Param::Text(&pause.actor),
        Param::Text(&pause.reason),
        Param::OptTime(pause.until),
    ];
    session.execute(insert, &params).await?;
    operator::append_audit(session, job, audit).await?;
    Ok(pause)
}

/// Ends the pause at an operator's word, with the audit row.
pub(super) async fn resume<S: Session>(
    session: &mut S,
    job: &Job,
    audit: &AuditEntry,
) -> Result<Pause> {
    lease::lock(session, job).await?;
    let Some(standing) = read(session, job).await? else {
        return Err(BackendError::Conflict {
            what: format!("job `{job}` is not paused; nothing was changed"),
        });
    };
    delete(session, job).await?;
    let from = audit.from.clone().or_else(|| Some(standing.to_string()));
    operator::append_audit(session, job, &AuditEntry { from, ..audit.clone() }).await?;
    Ok(standing)
}

/// Ends the pause when its time is over, with an audit row in the name of `actor`.
pub(super) async fn end_if_over<S: Session>(
    session: &mut S,
    job: &Job,
    actor: &str,
) -> Result<Option<Pause>> {
    lease::lock(session, job).await?;
    let now = session.now().await?;
    let Some(standing) = read(session, job).await?.filter(|it| it.is_over(now)) else {
        return Ok(None);
    };
    delete(session, job).await?;
    operator::append_audit(session, job, &over(&standing, actor)).await?;
    Ok(Some(standing))
}

async fn delete<S: Session>(session: &mut S, job: &Job) -> Result<()> {
    let delete = "DELETE FROM des_pauses WHERE job = $1";
    session.execute(delete, &[Param::Text(job.as_str())]).await?;
    Ok(())
}

fn over(pause: &Pause, actor: &str) -> AuditEntry {
    AuditEntry {
        actor: actor.to_owned(),
        action: "resume".to_owned(),
        from: Some(pause.to_string()),
        to: None,
        reason: Some("the time of the pause is over".to_owned()),
    }
}
