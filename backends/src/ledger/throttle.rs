//! Throttles that operators set while the fleet runs, and what the leader waits for because of one
//! or of its configuration.

use std::fmt;
use std::time::Duration;

use protocol::{Job, Timestamp};

use super::record::Record;
use super::scope::ALL_JOBS;
use super::session::{Param, Session};
use super::{AuditEntry, Lease, Scope, lease, operator};
use crate::error::{BackendError, Result};

/// What stands in a column of which 0 is a limit, for no such limit.
pub(super) const NO_SUCH_LIMIT: i64 = -1;

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

impl<T> Override<T> {
    /// The same of another type.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Override<U> {
        match self {
            Self::Unsaid => Override::Unsaid,
            Self::Off => Override::Off,
            Self::To(limit) => Override::To(of(limit)),
        }
    }
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
    /// A query on the source database; a number above 0 in a row of its answer means wait.
    pub query: Override<String>,
    /// By how much a standby may be behind, to the microsecond.
    pub max_replication_lag: Override<Duration>,
    /// How many sessions of the source database may be at work.
    pub max_active_connections: Override<u64>,
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

    /// Whether the source database is to be asked anything.
    pub fn ask_source(&self) -> bool {
        matches!(self.query, Override::To(_))
            || matches!(self.max_replication_lag, Override::To(_))
            || matches!(self.max_active_connections, Override::To(_))
    }

    /// Whether a limit is said to be none.
    pub fn lifts(&self) -> bool {
        let Self { files_per_second, bytes_per_second, not_between, query, .. } = self;
        [files_per_second, bytes_per_second, &self.max_active_connections].contains(&&Override::Off)
            || [not_between, query].contains(&&Override::Off)
            || self.max_replication_lag == Override::Off
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
        match &self.query {
            Override::Unsaid => {}
            Override::Off => said.push("no query".to_owned()),
            Override::To(query) => said.push(format!("not while {query:?} answers more than 0")),
        }
        match &self.max_replication_lag {
            Override::Unsaid => {}
            Override::Off => said.push("at any replication lag".to_owned()),
            Override::To(lag) => {
                said.push(format!("at most {} s of replication lag", lag.as_secs_f64()));
            }
        }
        match &self.max_active_connections {
            Override::Unsaid => {}
            Override::Off => said.push("at any number of active connections".to_owned()),
            Override::To(most) => said.push(format!("at most {most} active connections")),
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
                  not_between, query, max_replication_lag, max_active_connections \
                  FROM des_throttles WHERE job IN ($1, $2)";
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
                  bytes_per_second, not_between, query, max_replication_lag, \
                  max_active_connections) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                  ON CONFLICT (job) DO NOTHING";
    let lag = set.limits.max_replication_lag.clone();
    let lag = lag.map(|lag| u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
    let params = [
        Param::Text(scope.key(job)),
        Param::Time(set.since),
        Param::Text(&set.actor),
        Param::Text(&set.reason),
        number(&set.limits.files_per_second, 0),
        number(&set.limits.bytes_per_second, 0),
        text(&set.limits.not_between),
        text(&set.limits.query),
        number(&lag, NO_SUCH_LIMIT),
        number(&set.limits.max_active_connections, NO_SUCH_LIMIT),
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

/// A column of the row: NULL where nothing is said, `off` for no such limit.
fn number(limit: &Override<u64>, off: i64) -> Param<'static> {
    match limit {
        Override::Unsaid => Param::OptInt(None),
        Override::Off => Param::Int(off),
        Override::To(limit) => Param::count(*limit),
    }
}

fn text(limit: &Override<String>) -> Param<'_> {
    match limit {
        Override::Unsaid => Param::OptText(None),
        Override::Off => Param::Text(""),
        Override::To(text) => Param::Text(text),
    }
}
