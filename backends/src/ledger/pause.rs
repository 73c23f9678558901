//! Pauses: an operator's word that no new work is begun, until it is taken back or its time is over.

use protocol::{Job, Timestamp};

use super::record::Record;
use super::scope::ALL_JOBS;
use super::session::{Param, Session};
use super::{AuditEntry, Scope, lease, operator};
use crate::error::{BackendError, Result};

/// A pause that an operator asked for: `des_pauses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Whether it is for this job or for all.
    pub scope: Scope,
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

    /// Of several pauses that stand the one that lasts longest; of such the job's own.
    fn longest(pauses: Vec<Self>) -> Option<Self> {
        pauses.into_iter().max_by_key(|it| (it.until.is_none(), it.until, it.scope == Scope::Job))
    }
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "paused since {} by {}", self.since, self.actor)?;
        if self.scope == Scope::AllJobs {
            f.write_str(", for all jobs,")?;
        }
        if let Some(until) = self.until {
            write!(f, " until {until}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The pause that holds the job back: its own or that of all jobs, whichever lasts longer. Unlocked.
pub(super) async fn read<S: Session>(session: &mut S, job: &Job) -> Result<Option<Pause>> {
    Ok(Pause::longest(read_all(session, job).await?))
}

async fn read_all<S: Session>(session: &mut S, job: &Job) -> Result<Vec<Pause>> {
    let select = "SELECT job, paused_at, actor, reason, until_time FROM des_pauses \
                  WHERE job IN ($1, $2)";
    let params = [Param::Text(job.as_str()), Param::Text(ALL_JOBS)];
    session.fetch(select, &params).await?.iter().map(Record::pause).collect()
}

async fn read_of<S: Session>(session: &mut S, job: &Job, scope: Scope) -> Result<Option<Pause>> {
    Ok(read_all(session, job).await?.into_iter().find(|it| it.scope == scope))
}

/// Records a pause in the name of `audit.actor`, with the audit row. One that stands and is over
/// makes room for it.
pub(super) async fn pause<S: Session>(
    session: &mut S,
    job: &Job,
    (scope, until): (Scope, Option<Timestamp>),
    audit: &AuditEntry,
) -> Result<Pause> {
    lease::lock(session, job).await?;
    let now = session.now().await?;
    if let Some(until) = until.filter(|until| *until <= now) {
        return Err(BackendError::Invalid {
            what: format!("a pause until {until} would be over already: it is {now} by the ledger"),
        });
    }
    let stands = |standing: String| BackendError::Conflict {
        what: format!(
            "{} {standing}. Nothing was changed; to give another reason or time, resume first",
            scope.are(job)
        ),
    };
    if let Some(standing) = read_of(session, job, scope).await? {
        if !standing.is_over(now) {
            return Err(stands(standing.to_string()));
        }
        delete(session, job, scope).await?;
        let over = over(&standing, &audit.actor);
        operator::append_audit_of(session, scope.key(job), &over).await?;
    }
    let reason = audit.reason.clone().unwrap_or_default();
    let pause = Pause { scope, since: now, actor: audit.actor.clone(), reason, until };
    let insert = "INSERT INTO des_pauses (job, paused_at, actor, reason, until_time) \
                  VALUES ($1, $2, $3, $4, $5) ON CONFLICT (job) DO NOTHING";
    let params = [
        Param::Text(scope.key(job)),
        Param::Time(pause.since),
        Param::Text(&pause.actor),
        Param::Text(&pause.reason),
        Param::OptTime(pause.until),
    ];
    // Whoever says something of all jobs holds the lock of one of them.
    if session.execute(insert, &params).await? == 0 {
        return Err(stands("paused, at this very moment, by somebody else".to_owned()));
    }
    operator::append_audit_of(session, scope.key(job), audit).await?;
    Ok(pause)
}

/// Ends the pause at an operator's word, with the audit row.
pub(super) async fn resume<S: Session>(
    session: &mut S,
    job: &Job,
    scope: Scope,
    audit: &AuditEntry,
) -> Result<Pause> {
    lease::lock(session, job).await?;
    let standing = read_of(session, job, scope).await?;
    let found = match standing {
        Some(standing) => (delete(session, job, scope).await? > 0).then_some(standing),
        None => None,
    };
    let Some(standing) = found else {
        let other = read(session, job).await?;
        let other = other.map_or_else(String::new, |other| match other.scope {
            Scope::AllJobs => format!(" by itself: all jobs are {other}; resume with --all-jobs"),
            Scope::Job => format!(": only job `{job}` is {other}"),
        });
        let whose = match scope {
            Scope::Job => format!("job `{job}` is not paused"),
            Scope::AllJobs => "all jobs together are not paused".to_owned(),
        };
        return Err(BackendError::Conflict {
            what: format!("{whose}{other}; nothing was changed"),
        });
    };
    let from = audit.from.clone().or_else(|| Some(standing.to_string()));
    let audit = AuditEntry { from, ..audit.clone() };
    operator::append_audit_of(session, scope.key(job), &audit).await?;
    Ok(standing)
}

/// Ends pauses of the job and of all jobs whose time is over, each with an audit row in the name of
/// `actor`, and returns the one that lasted longest.
pub(super) async fn end_if_over<S: Session>(
    session: &mut S,
    job: &Job,
    actor: &str,
) -> Result<Option<Pause>> {
    lease::lock(session, job).await?;
    let now = session.now().await?;
    let mut ended = Vec::new();
    for standing in read_all(session, job).await? {
        // The leader of another job may have ended that of all jobs just now.
        if standing.is_over(now) && delete(session, job, standing.scope).await? > 0 {
            let key = standing.scope.key(job);
            operator::append_audit_of(session, key, &over(&standing, actor)).await?;
            ended.push(standing);
        }
    }
    Ok(Pause::longest(ended))
}

async fn delete<S: Session>(session: &mut S, job: &Job, scope: Scope) -> Result<u64> {
    let delete = "DELETE FROM des_pauses WHERE job = $1";
    session.execute(delete, &[Param::Text(scope.key(job))]).await
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
