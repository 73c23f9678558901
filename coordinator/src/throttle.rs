//! Throttling: which limits are in force, and the first reason why nothing new is begun. Pure, but for
//! an operator's words, and what the source database is asked.
//!
//! Two kinds of reasons: in some hours, or while the source database is busy, nothing at all is begun,
//! neither a scan of the catalog nor a task. A rate only spaces tasks out. Whatever is under way goes
//! on.

mod hours;
mod operate;
mod rates;
mod source;

use std::fmt;
use std::time::Duration;

use backends::ledger::{LiveLimits, Override, Scope, Throttle};
use protocol::Timestamp;

pub use self::hours::Hours;
pub use self::operate::{ThrottleError, end, set, try_asking, understood, waited_for};
pub(crate) use self::rates::{Charge, Rates};
pub use self::source::ask_source;

/// The limits of the configuration. The live ones of an operator may say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// Files of which the tasks are published in a second, at least 1.
    pub files_per_second: Option<u64>,
    /// Bytes of these files, at least 1.
    pub bytes_per_second: Option<u64>,
    /// Hours in which nothing is begun.
    pub not_between: Option<Hours>,
    /// What the source database is asked.
    pub source: SourceProtection,
}

/// When the source database is to be left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceProtection {
    /// Queries; a number above 0 in a row of an answer means wait.
    pub queries: Vec<String>,
    /// By how much a standby may be behind.
    pub max_replication_lag: Option<Duration>,
    /// How many sessions may be at work.
    pub max_active_connections: Option<u64>,
    /// How often that is asked, at most.
    pub check_every: Duration,
}

impl SourceProtection {
    /// Whether there is anything to be asked.
    pub const fn asks(&self) -> bool {
        !self.queries.is_empty()
            || self.max_replication_lag.is_some()
            || self.max_active_connections.is_some()
    }
}

/// The limits that count now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Files per second.
    pub files_per_second: Option<u64>,
    /// Bytes per second.
    pub bytes_per_second: Option<u64>,
    /// Hours in which nothing is begun.
    pub not_between: Vec<Hours>,
    /// Live hours that cannot be read, and why.
    pub unreadable: Option<String>,
    /// What the source database is asked.
    pub source: SourceProtection,
}

impl Limits {
    /// What the configuration says, as far as the job's own throttle does not say otherwise; and
    /// no more than the throttle of all jobs allows to each.
    pub fn in_force(configured: &ThrottleSettings, live: &[Throttle]) -> Self {
        let mut limits = Self {
            files_per_second: configured.files_per_second,
            bytes_per_second: configured.bytes_per_second,
            not_between: configured.not_between.iter().cloned().collect(),
            unreadable: None,
            source: configured.source.clone(),
        };
        let said_of = |scope| live.iter().filter(move |it| it.scope == scope).map(|it| &it.limits);
        said_of(Scope::Job).for_each(|said| limits.overrule(said));
        said_of(Scope::AllJobs).for_each(|said| limits.tighten(said));
        limits
    }

    fn overrule(&mut self, said: &LiveLimits) {
        overrule(&mut self.files_per_second, &said.files_per_second);
        overrule(&mut self.bytes_per_second, &said.bytes_per_second);
        overrule(&mut self.source.max_replication_lag, &said.max_replication_lag);
        overrule(&mut self.source.max_active_connections, &said.max_active_connections);
        if said.not_between != Override::Unsaid {
            self.not_between.clear();
        }
        if said.query != Override::Unsaid {
            self.source.queries.clear();
        }
        self.add(said);
    }

    fn tighten(&mut self, said: &LiveLimits) {
        cap(&mut self.files_per_second, &said.files_per_second);
        cap(&mut self.bytes_per_second, &said.bytes_per_second);
        cap(&mut self.source.max_replication_lag, &said.max_replication_lag);
        cap(&mut self.source.max_active_connections, &said.max_active_connections);
        self.add(said);
    }

    /// Of what may stand beside what is there already.
    fn add(&mut self, said: &LiveLimits) {
        if let Override::To(text) = &said.not_between {
            match text.parse() {
                Ok(hours) => self.not_between.push(hours),
                Err(why) => self.unreadable = Some(format!("{text:?}: {why}")),
            }
        }
        if let Override::To(query) = &said.query {
            self.source.queries.push(query.clone());
        }
    }

    /// Whether the clock matters.
    pub fn knows_hours(&self) -> bool {
        !self.not_between.is_empty() || self.unreadable.is_some()
    }

    /// Why nothing is begun at this time of the day and week, if so.
    pub fn closed_at(&self, now: Timestamp) -> Option<Reason> {
        if let Some(why) = &self.unreadable {
            let why = format!("the hours of the live throttle cannot be read: {why}");
            return Some(Reason::CannotTell { why });
        }
        let closed = self.not_between.iter().filter_map(|hours| Some((hours, hours.until(now)?)));
        let (hours, until) = closed.max_by_key(|(_, until)| *until)?;
        Some(Reason::Hours { hours: hours.clone(), until })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        said.extend(self.files_per_second.map(|it| format!("at most {it} files per second")));
        said.extend(self.bytes_per_second.map(|it| format!("at most {it} bytes per second")));
        said.extend(self.not_between.iter().map(|hours| format!("not between {hours}")));
        said.extend(self.unreadable.iter().map(|why| format!("not at hours that are {why}")));
        let SourceProtection { queries, max_replication_lag, max_active_connections, .. } =
            &self.source;
        said.extend(queries.iter().map(|it| format!("not while {it:?} answers more than 0")));
        said.extend(
            max_replication_lag
                .map(|it| format!("at most {} s of replication lag", it.as_secs_f64())),
        );
        said.extend(max_active_connections.map(|it| format!("at most {it} active connections")));
        f.write_str(&if said.is_empty() { "no limits".to_owned() } else { said.join(", ") })
    }
}

fn overrule<T: Copy>(limit: &mut Option<T>, said: &Override<T>) {
    match said {
        Override::Unsaid => {}
        Override::Off => *limit = None,
        Override::To(to) => *limit = Some(*to),
    }
}

fn cap<T: Copy + Ord>(limit: &mut Option<T>, said: &Override<T>) {
    if let Override::To(most) = said {
        *limit = Some(limit.map_or(*most, |limit| limit.min(*most)));
    }
}

/// Characters of a query that a reason shows.
const QUERY_SHOWN: usize = 100;

/// Why nothing, or nothing more just now, is begun.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// It is one of the hours in which nothing is begun.
    Hours {
        /// Which hours.
        hours: Hours,
        /// When they are over.
        until: Timestamp,
    },
    /// The query answers more than 0.
    Query {
        /// Which query, on one line.
        query: String,
        /// What it answers.
        value: f64,
    },
    /// A standby is behind.
    ReplicationLag {
        /// By how many seconds.
        seconds: f64,
        /// How many may be.
        most: Duration,
    },
    /// Sessions are at work.
    Connections {
        /// How many.
        active: f64,
        /// How many may be.
        most: u64,
    },
    /// What is to be asked cannot be; that counts as wait.
    CannotTell {
        /// Why.
        why: String,
    },
    /// As many files as may be were begun.
    Files {
        /// In a second.
        most: u64,
    },
    /// As many bytes as may be were begun.
    Bytes {
        /// In a second.
        most: u64,
    },
}

impl Reason {
    /// Every [`Reason::kind`].
    pub const KINDS: [&str; 7] = [
        "business_hours",
        "query",
        "replication_lag",
        "active_connections",
        "check_failed",
        "files_per_second",
        "bytes_per_second",
    ];

    /// A short, stable word for it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Hours { .. } => "business_hours",
            Self::Query { .. } => "query",
            Self::ReplicationLag { .. } => "replication_lag",
            Self::Connections { .. } => "active_connections",
            Self::CannotTell { .. } => "check_failed",
            Self::Files { .. } => "files_per_second",
            Self::Bytes { .. } => "bytes_per_second",
        }
    }

    /// Whether a reason of this kind only spaces work out.
    pub fn is_rate(kind: &str) -> bool {
        ["files_per_second", "bytes_per_second"].contains(&kind)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hours { hours, until } => {
                write!(f, "nothing is to be begun between {hours}; it goes on at {until}")
            }
            Self::Query { query, value } => write!(
                f,
                "the throttle query on the source database answers {value}, and more than 0 means \
                 wait: {query:.QUERY_SHOWN$}"
            ),
            Self::ReplicationLag { seconds, most } => write!(
                f,
                "replication from the source database is {seconds:.1} s behind, more than \
                 max_replication_lag allows ({} s)",
                most.as_secs_f64()
            ),
            Self::Connections { active, most } => write!(
                f,
                "the source database has {active} active connections, more than \
                 max_active_connections allows ({most})"
            ),
            Self::CannotTell { why } => {
                write!(f, "what has to be asked first cannot be, which counts as wait: {why}")
            }
            Self::Files { most } => {
                write!(f, "max_files_per_second lets at most {most} files per second begin")
            }
            Self::Bytes { most } => {
                write!(f, "max_bytes_per_second lets at most {most} bytes per second begin")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn live(scope: Scope, limits: LiveLimits) -> Throttle {
        let (actor, reason) = ("ada@console".to_owned(), "backup".to_owned());
        Throttle { scope, since: at("2024-12-01"), actor, reason, limits }
    }

    fn configured() -> ThrottleSettings {
        ThrottleSettings {
            files_per_second: Some(100),
            not_between: Some("Mon-Fri 08:00-18:00".parse().expect("hours")),
            ..ThrottleSettings::default()
        }
    }

    #[test]
    fn what_an_operator_says_goes_before_the_configuration() {
        let said = |limits| Limits::in_force(&configured(), &[live(Scope::Job, limits)]);
        let told = |limits| said(limits).to_string();
        assert_eq!(
            told(LiveLimits { bytes_per_second: Override::To(5), ..LiveLimits::default() }),
            "at most 100 files per second, at most 5 bytes per second, not between Mon-Fri \
             08:00-18:00 UTC",
            "what it does not speak of stays as it is"
        );
        let off = LiveLimits {
            files_per_second: Override::Off,
            not_between: Override::Off,
            ..LiveLimits::default()
        };
        assert_eq!(told(off), "no limits");
        let others = LiveLimits {
            files_per_second: Override::To(1_000),
            not_between: Override::To("22:00-23:00".to_owned()),
            ..LiveLimits::default()
        };
        assert_eq!(told(others), "at most 1000 files per second, not between 22:00-23:00 UTC");
    }

    #[test]
    fn what_the_source_database_is_asked_can_be_said_too() {
        let source = SourceProtection {
            queries: vec!["SELECT 1".to_owned()],
            max_replication_lag: Some(Duration::from_secs(30)),
            max_active_connections: None,
            check_every: Duration::from_secs(10),
        };
        let configured = ThrottleSettings { source, ..ThrottleSettings::default() };
        let told = |scope, limits| {
            let limits = Limits::in_force(&configured, &[live(scope, limits)]);
            assert_eq!(limits.source.check_every, Duration::from_secs(10));
            limits.to_string()
        };
        assert_eq!(
            told(Scope::Job, LiveLimits::default()),
            "not while \"SELECT 1\" answers more than 0, at most 30 s of replication lag"
        );
        let others = LiveLimits {
            query: Override::To("SELECT 2".to_owned()),
            max_replication_lag: Override::Off,
            max_active_connections: Override::To(80),
            ..LiveLimits::default()
        };
        assert_eq!(
            told(Scope::Job, others),
            "not while \"SELECT 2\" answers more than 0, at most 80 active connections"
        );
        let tighter = LiveLimits {
            query: Override::To("SELECT 2".to_owned()),
            max_replication_lag: Override::To(Duration::from_secs(60)),
            max_active_connections: Override::To(80),
            ..LiveLimits::default()
        };
        assert_eq!(
            told(Scope::AllJobs, tighter),
            "not while \"SELECT 1\" answers more than 0, not while \"SELECT 2\" answers more than \
             0, at most 30 s of replication lag, at most 80 active connections"
        );
        let off = LiveLimits {
            query: Override::Off,
            max_replication_lag: Override::Off,
            ..LiveLimits::default()
        };
        assert_eq!(told(Scope::Job, off), "no limits");
    }

    #[test]
    fn what_is_said_of_all_jobs_only_tightens() {
        let capped = |own: Option<u64>, all: u64| {
            let settings =
                ThrottleSettings { files_per_second: own, ..ThrottleSettings::default() };
            let limits =
                LiveLimits { files_per_second: Override::To(all), ..LiveLimits::default() };
            Limits::in_force(&settings, &[live(Scope::AllJobs, limits)]).files_per_second
        };
        assert_eq!(capped(None, 50), Some(50));
        assert_eq!(capped(Some(100), 50), Some(50));
        assert_eq!(capped(Some(10), 50), Some(10));
        let hours = LiveLimits {
            not_between: Override::To("20:00-21:00".to_owned()),
            ..LiveLimits::default()
        };
        let both = Limits::in_force(&configured(), &[live(Scope::AllJobs, hours)]);
        assert_eq!(both.not_between.len(), 2, "{both}");
        assert!(both.closed_at(at("2024-12-02T09:00")).is_some(), "a Monday morning");
        assert!(both.closed_at(at("2024-12-02T20:30")).is_some());
        assert_eq!(both.closed_at(at("2024-12-02T19:00")), None);
    }

    #[test]
    fn hours_that_cannot_be_read_count_as_wait() {
        let limits = LiveLimits {
            not_between: Override::To("some time".to_owned()),
            ..LiveLimits::default()
        };
        let limits = Limits::in_force(&configured(), &[live(Scope::Job, limits)]);
        let reason = limits.closed_at(at("2024-12-01")).expect("it waits");
        assert_eq!(reason.kind(), "check_failed");
        assert!(reason.to_string().contains("some time"), "{reason}");
    }

    #[test]
    fn every_kind_is_known() {
        let hours: Hours = "08:00-09:00".parse().expect("hours");
        let all = [
            Reason::Hours { hours, until: at("2024-12-01") },
            Reason::Query { query: "SELECT 1".to_owned(), value: 1.0 },
            Reason::ReplicationLag { seconds: 1.0, most: Duration::ZERO },
            Reason::Connections { active: 1.0, most: 0 },
            Reason::CannotTell { why: String::new() },
            Reason::Files { most: 1 },
            Reason::Bytes { most: 1 },
        ];
        assert_eq!(all.each_ref().map(Reason::kind), Reason::KINDS);
        let rates = all.iter().filter(|reason| Reason::is_rate(reason.kind())).count();
        assert_eq!(rates, 2);
    }
}
