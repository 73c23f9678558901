//! Throttles that operators set while the fleet runs, and what the leader waits for because of one
//! or of its configuration.

use std::fmt;

use protocol::{Job, Timestamp};

use super::record::Record;
use super::scope::ALL_JOBS;
use super::session::{Param, Session};
use super::{AuditEntry, Lease, Scope, lease, operator};
use crate::error::{BackendError, Result};

/// What a throttle says of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Override<T> {
    /// Nothing: it is as configured.
    #[default]
    Unsaid,
    /// There is no such limit.
    Off,
    /// This is the limit.
    To(T),
}

/// The limits that can be set while the fleet runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveLimits {
    /// Files in a second, at least 1.
    pub files_per_second: Override<u64>,
    /// Bytes of files in a second, at least 1.
    pub bytes_per_second: Override<u64>,
    /// Hours in which nothing is begun, in the words of the configuration.
    pub not_between: Override<String>,
}

/// A throttle that an operator set: `des_throttles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Whether it is for this job or for all.
    pub scope: Scope,
    /// Since when, by the database's clock.
    pub since: Timestamp,
    /// Who: user and host.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// What it says.
    pub limits: LiveLimits,
}

/// What the leader waits for at an operator's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Which kind of reason: a short, stable word.
    pub kind: String,
    /// Why, for a person.
    pub reason: String,
    /// Since when, by the database's clock.
    pub since: Timestamp,
}

impl LiveLimits {
    /// Whether nothing is said of anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LiveLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        let numbers = [("files", &self.files_per_second), ("bytes", &self.bytes_per_second)];
        for (what, limit) in numbers {
            match limit {
                Override::Unsaid => {}
                Override::Off => said.push(format!("no limit of {what} per second")),
                Override::To(limit) => said.push(format!("at most {limit} {what} per second")),
            }
        }
        match &self.not_between {
            Override::Unsaid => {}
            Override::Off => said.push("at any hour".to_owned()),
            Override::To(hours) => said.push(format!("not between {hours}")),
        }
        f.write_str(&if said.is_empty() { "as configured".to_owned() } else { said.join(", ") })
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, since, actor, reason, limits } = self;
        let whose = match scope {
            Scope::Job => "",
            Scope::AllJobs => " for all jobs",
        };
        write!(f, "throttled since {since} by {actor}{whose}, {limits}: {reason}")
    }
}

/// The throttles that stand: the job's own, then that of all jobs. Unlocked.
pub(super) async fn read<S: Session>(session: &mut S, job: &Job) -> Result<Vec<Throttle>> {
    let select = "SELECT job, set_at, actor, reason, files_per_second, bytes_per_second, \
                  not_between FROM des_throttles WHERE job IN ($1, $2)";
    let params = [Param::Text(job.as_str()), Param::Text(ALL_JOBS)];
    let rows = session.fetch(select, &params).await?;
    let mut found: Vec<_> = rows.iter().map(Record::throttle).collect::<Result<_>>()?;
    found.sort_by_key(|it| it.scope == Scope::AllJobs);
    Ok(found)
}

/// Sets a throttle in the name of `audit.actor`, in the place of the one that stands, with the audit
/// row.
pub(super) async fn set<S: Session>(
    session: &mut S,
    job: &Job,
    (scope, limits): (Scope, &LiveLimits),
    audit: &AuditEntry,
) -> Result<Throttle> {
    lease::lock(session, job).await?;
    let before = take(session, job, scope).await?;
    let reason = audit.reason.clone().unwrap_or_default();
    let (actor, limits) = (audit.actor.clone(), limits.clone());
    let set = Throttle { scope, since: session.now().await?, actor, reason, limits };
    let insert = "INSERT INTO des_throttles (job, set_at, actor, reason, files_per_second, \
                  bytes_per_second, not_between) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                  ON CONFLICT (job) DO NOTHING";
    let hours = match &set.limits.not_between {
        Override::Unsaid => None,
        Override::Off => Some(""),
        Override::To(hours) => Some(hours.as_str()),
    };
    let params = [
        Param::Text(scope.key(job)),
        Param::Time(set.since),
        Param::Text(&set.actor),
        Param::Text(&set.reason),
        Param::opt_count(number(&set.limits.files_per_second)),
        Param::opt_count(number(&set.limits.bytes_per_second)),
        Param::OptText(hours),
    ];
    if session.execute(insert, &params).await? == 0 {
        return Err(BackendError::Conflict {
            what: format!(
                "{} being throttled, at this very moment, by somebody else; nothing was changed",
                scope.are(job)
            ),
        });
    }
    let (from, to) = (before.map(|it| it.limits.to_string()), Some(set.limits.to_string()));
    let audit = AuditEntry { from, to, ..audit.clone() };
    operator::append_audit_of(session, scope.key(job), &audit).await?;
    Ok(set)
}

/// Takes a throttle back, with the audit row.
pub(super) async fn end<S: Session>(
    session: &mut S,
    job: &Job,
    scope: Scope,
    audit: &AuditEntry,
) -> Result<Throttle> {
    lease::lock(session, job).await?;
    let Some(ended) = take(session, job, scope).await? else {
        return Err(BackendError::Conflict {
            what: format!("{} not throttled; nothing was changed", scope.are(job)),
        });
    };
    let (from, to) = (Some(ended.limits.to_string()), Some(LiveLimits::default().to_string()));
    let audit = AuditEntry { from, to, ..audit.clone() };
    operator::append_audit_of(session, scope.key(job), &audit).await?;
    Ok(ended)
}

/// Takes the row away, and returns what it said.
async fn take<S: Session>(session: &mut S, job: &Job, scope: Scope) -> Result<Option<Throttle>> {
    let standing = read(session, job).await?.into_iter().find(|it| it.scope == scope);
    let delete = "DELETE FROM des_throttles WHERE job = $1";
    let deleted = session.execute(delete, &[Param::Text(scope.key(job))]).await?;
    Ok(standing.filter(|_| deleted > 0))
}

/// Records what the leader waits for, since now where it is something else than before, or that it
/// waits for nothing.
pub(super) async fn note_wait<S: Session>(
    session: &mut S,
    job: &Job,
    lease: &Lease,
    wait: Option<(&str, &str)>,
) -> Result<()> {
    lease::require(session, job, lease).await?;
    let before = wait_of(session, job).await?;
    let since = match wait {
        Some((kind, _)) => match before.filter(|before| before.kind == kind) {
            Some(before) => Some(before.since),
            None => Some(session.now().await?),
        },
        None => None,
    };
    let update = "UPDATE des_archives SET wait_kind = $2, wait_reason = $3, wait_since = $4 \
                  WHERE job = $1";
    let params = [
        Param::Text(job.as_str()),
        Param::OptText(wait.map(|(kind, _)| kind)),
        Param::OptText(wait.map(|(_, reason)| reason)),
        Param::OptTime(since),
    ];
    session.execute(update, &params).await?;
    Ok(())
}

/// What was recorded last of what the leader waits for.
pub(super) async fn wait_of<S: Session>(session: &mut S, job: &Job) -> Result<Option<Wait>> {
    let select = "SELECT wait_kind, wait_reason, wait_since FROM des_archives \
                  WHERE job = $1 AND wait_kind IS NOT NULL";
    let row = session.fetch_optional(select, &[Param::Text(job.as_str())]).await?;
    row.as_ref().map(Record::wait).transpose()
}

fn number(limit: &Override<u64>) -> Option<u64> {
    match limit {
        Override::Unsaid => None,
        Override::Off => Some(0),
        Override::To(limit) => Some(*limit),
    }
}
