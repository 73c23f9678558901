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

use backends::ledger::{Override, Scope, Throttle};
use protocol::Timestamp;

pub use self::hours::Hours;
pub use self::operate::{ThrottleError, end, set, waited_for};
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
    /// A query; a number above 0 in a row of its answer means wait.
    pub query: Option<String>,
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
        self.query.is_some()
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
        };
        for throttle in live.iter().filter(|it| it.scope == Scope::Job) {
            let said = &throttle.limits;
            overrule(&mut limits.files_per_second, &said.files_per_second);
            overrule(&mut limits.bytes_per_second, &said.bytes_per_second);
            if said.not_between != Override::Unsaid {
                limits.not_between.clear();
            }
            limits.add_hours(&said.not_between);
        }
        for throttle in live.iter().filter(|it| it.scope == Scope::AllJobs) {
            let said = &throttle.limits;
            cap(&mut limits.files_per_second, &said.files_per_second);
            cap(&mut limits.bytes_per_second, &said.bytes_per_second);
            limits.add_hours(&said.not_between);
        }
        limits
    }

    fn add_hours(&mut self, said: &Override<String>) {
        if let Override::To(text) = said {
            match text.parse() {
                Ok(hours) => self.not_between.push(hours),
                Err(why) => self.unreadable = Some(format!("{text:?}: {why}")),
            }
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
        f.write_str(&if said.is_empty() { "no limits".to_owned() } else { said.join(", ") })
    }
}

fn overrule(limit: &mut Option<u64>, said: &Override<u64>) {
    match said {
        Override::Unsaid => {}
        Override::Off => *limit = None,
        Override::To(to) => *limit = Some(*to),
    }
}

fn cap(limit: &mut Option<u64>, said: &Override<u64>) {
    if let Override::To(most) = said {
        *limit = Some(limit.map_or(*most, |limit| limit.min(*most)));
    }
}

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
            Self::Query { value } => write!(
                f,
                "the throttle query on the source database answers {value}, and more than 0 means \
                 wait"
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
    use backends::ledger::LiveLimits;

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
            Reason::Query { value: 1.0 },
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
