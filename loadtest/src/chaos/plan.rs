//! Which fault comes when: a schedule that follows from the seed. Pure.

use std::time::Duration;

use super::dice::Dice;
use super::oracle::Sin;

/// The wait before a fault, counted from the one before, in milliseconds.
const PAUSE_MS: (u64, u64) = (150, 900);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Coordinator,
    Worker,
}

/// What stands behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Postgres,
    Broker,
    Store,
}

/// What a proxy does to the connections that go through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// Every piece of bytes comes late.
    Latency,
    /// Few bytes a second.
    Bandwidth,
    /// All connections end; new ones are turned away.
    Cut,
    /// All connections are reset, and new ones work.
    Reset,
    /// Nothing gets to the server, and the client is not told.
    BlackholeUp,
    /// Nothing comes back from the server.
    BlackholeDown,
    /// The server's side ends at once, the client's bytes are taken and thrown away for a while.
    SlowClose,
}

/// What the S3 server does to a part of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ill {
    InternalError,
    SlowDown,
    Forbidden,
    /// The object is written, and the connection ends before the answer.
    LostResponse,
    /// The body of an answer ends before its length.
    Truncated,
    /// Nothing can be written any more: 507, and the code that MinIO answers then.
    Full,
    Slow,
    /// No answer at all while the fault lasts.
    Hang,
}

/// What happens to the broker, or to what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BrokerHarm {
    Restart,
    /// The whole node, by SIGKILL; `./test` starts it again.
    Kill,
    CloseConnections,
    DeleteQueue,
    PurgeQueue,
    MemoryAlarm,
    DiskAlarm,
    /// Every task and every outcome is delivered three times.
    Repeat,
    /// Messages that nobody can parse, and outcomes that nobody has earned.
    Forge,
}

/// What happens to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DatabaseHarm {
    TerminateBackends,
    ReadOnly,
    ConnectionLimit,
    /// The server is stopped in this way, and started again.
    Restart(StopMode),
}

/// How a PostgreSQL server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopMode {
    /// Sessions are ended in order, and everything is written.
    Fast,
    /// At once, as in a crash: the next start replays the log.
    Immediate,
}

/// A fault of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill(Role),
    /// SIGSTOP, for a coordinator past its lease, and SIGCONT.
    Freeze(Role),
    /// SIGTERM.
    Terminate(Role),
    /// The process aborts at a named point in its code.
    Crash(CrashPoint),
    /// The process stops at a named point in its code, past the lease, and goes on.
    Stall(CrashPoint),
    /// Both coordinators come to a point, one after the other's lease has run out, and the first
    /// goes on.
    Duel(CrashPoint),
    Network(Link, Harm),
    Store(Ill),
    Broker(BrokerHarm),
    Database(DatabaseHarm),
}

/// A named point in the code of one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CrashPoint {
    pub(crate) role: Role,
    pub(crate) name: &'static str,
}

/// Every crash point that the binary has when it is compiled with them.
pub(crate) const CRASH_POINTS: [CrashPoint; 13] = [
    coordinator("after_manifest"),
    coordinator("after_ledger"),
    coordinator("before_publish"),
    coordinator("after_publish"),
    coordinator("before_accept"),
    coordinator("after_accept"),
    coordinator("before_certificate"),
    coordinator("before_commit"),
    coordinator("after_commit"),
    worker("after_upload"),
    worker("after_receipt"),
    worker("before_ack"),
    worker("after_ack"),
];

const fn coordinator(name: &'static str) -> CrashPoint {
    CrashPoint { role: Role::Coordinator, name }
}

const fn worker(name: &'static str) -> CrashPoint {
    CrashPoint { role: Role::Worker, name }
}

/// What a sabotage is tried under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harness {
    /// Rounds of a fleet.
    Fleet,
    /// Power failures under a local directory.
    Power,
}

/// A way in which a build with the feature `sabotage` can be told to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sabotage {
    pub(crate) name: &'static str,
    pub(crate) wrong: &'static str,
    /// What it has to be caught as.
    pub(crate) sin: Sin,
    /// Under what it has to be caught.
    pub(crate) by: &'static [Harness],
    /// The faults that bring it to light; none where it shows by itself.
    pub(crate) provoked_by: &'static [(Kind, (u64, u64))],
}

/// What the harness must catch.
pub(crate) const SABOTAGES: [Sabotage; 12] = [
    Sabotage {
        name: "ack_before_upload",
        wrong: "a task is acked before its shards are uploaded",
        sin: Sin::Wrong,
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Crash(worker("after_upload")), (0, 0))],
    },
    Sabotage {
        name: "commit_incomplete",
        wrong: "a window is committed with one partition missing",
        sin: Sin::Lost,
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "commit_without_epoch",
        wrong: "a window is committed whatever the lease's epoch",
        sin: Sin::DoubleCommit,
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Duel(coordinator("before_commit")), STALL_MS)],
    },
    Sabotage {
        name: "shard_overwritten",
        wrong: "a shard is overwritten in place",
        sin: Sin::Wrong,
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "failed_file_dropped",
        wrong: "a failed file is dropped silently",
        sin: Sin::Lost,
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "midnight_excluded",
        wrong: "a window's boundary is off by one at midnight",
        sin: Sin::Lost,
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "outcome_counted_twice",
        wrong: "an outcome that comes twice is counted twice",
        sin: Sin::Wrong,
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Broker(BrokerHarm::Repeat), (3_000, 5_000))],
    },
    Sabotage {
        name: "receipt_before_shards",
        wrong: "a receipt is written before its shards are durable",
        sin: Sin::Wrong,
        by: &[Harness::Fleet, Harness::Power],
        provoked_by: &[],
    },
    Sabotage {
        name: "stalled_leader_writes",
        wrong: "a manifest is overwritten by a leader that was stalled",
        sin: Sin::Wrong,
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Freeze(Role::Coordinator), (3_500, 4_500))],
    },
    Sabotage {
        name: "counts_from_message",
        wrong: "counts are taken from the message instead of the receipt",
        sin: Sin::Wrong,
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Broker(BrokerHarm::Forge), (0, 0))],
    },
    Sabotage {
        name: "flush_does_nothing",
        wrong: "a directory is not synced before what lies there is relied on",
        sin: Sin::Wrong,
        by: &[Harness::Power],
        provoked_by: &[],
    },
    Sabotage {
        name: "overwritten_unsynced",
        wrong: "an object that is relied on is replaced by bytes that are not synced yet",
        sin: Sin::Wrong,
        by: &[Harness::Power],
        provoked_by: &[],
    },
];

/// One fault of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// From the beginning of the fault before to the beginning of this one.
    pub(crate) pause: Duration,
    /// How long it lasts, where it lasts.
    pub(crate) lasts: Duration,
    /// Which one, where there are several: modulo their number.
    pub(crate) choice: u64,
    /// At which hit, for a crash point.
    pub(crate) hit: u64,
}

/// Kinds with their weights, and how long they last in milliseconds.
const KINDS: [(Kind, u64, (u64, u64)); 34] = [
    (Kind::Kill(Role::Worker), 12, (0, 0)),
    (Kind::Kill(Role::Coordinator), 5, (0, 0)),
    (Kind::Freeze(Role::Worker), 6, (300, 3_000)),
    (Kind::Freeze(Role::Coordinator), 3, (2_500, 4_500)),
    (Kind::Terminate(Role::Worker), 5, (0, 0)),
    (Kind::Terminate(Role::Coordinator), 2, (0, 0)),
    (Kind::Network(Link::Postgres, Harm::Latency), 2, (500, 2_000)),
    (Kind::Network(Link::Postgres, Harm::Cut), 3, (100, 1_500)),
    (Kind::Network(Link::Postgres, Harm::Reset), 3, (0, 0)),
    (Kind::Network(Link::Postgres, Harm::BlackholeUp), 2, (500, 3_500)),
    (Kind::Network(Link::Postgres, Harm::BlackholeDown), 2, (500, 3_500)),
    (Kind::Network(Link::Broker, Harm::Latency), 2, (500, 2_000)),
    (Kind::Network(Link::Broker, Harm::Cut), 3, (100, 1_500)),
    (Kind::Network(Link::Broker, Harm::Reset), 4, (0, 0)),
    (Kind::Network(Link::Broker, Harm::BlackholeUp), 2, (500, 3_000)),
    (Kind::Network(Link::Broker, Harm::SlowClose), 2, (300, 1_500)),
    (Kind::Network(Link::Store, Harm::Latency), 2, (500, 2_000)),
    (Kind::Network(Link::Store, Harm::Bandwidth), 2, (500, 2_000)),
    (Kind::Network(Link::Store, Harm::Cut), 3, (100, 1_000)),
    (Kind::Network(Link::Store, Harm::Reset), 4, (0, 0)),
    (Kind::Network(Link::Store, Harm::BlackholeDown), 2, (500, 2_500)),
    (Kind::Store(Ill::InternalError), 4, (300, 1_500)),
    (Kind::Store(Ill::SlowDown), 4, (300, 1_500)),
    (Kind::Store(Ill::Forbidden), 2, (300, 1_000)),
    (Kind::Store(Ill::LostResponse), 5, (300, 1_500)),
    (Kind::Store(Ill::Truncated), 4, (300, 1_500)),
    (Kind::Store(Ill::Slow), 2, (500, 1_500)),
    (Kind::Store(Ill::Hang), 2, (500, 2_500)),
    (Kind::Store(Ill::Full), 4, (300, 2_500)),
    (Kind::Broker(BrokerHarm::Repeat), 4, (500, 3_000)),
    (Kind::Broker(BrokerHarm::Forge), 1, (0, 0)),
    (Kind::Database(DatabaseHarm::TerminateBackends), 4, (0, 0)),
    (Kind::Database(DatabaseHarm::ReadOnly), 2, (500, 2_500)),
    (Kind::Database(DatabaseHarm::ConnectionLimit), 2, (800, 2_500)),
];

/// Kinds that take the servers' own tools, some of which are slow to start, or after which a task
/// is found only by its silence.
const RARE: [(Kind, u64, (u64, u64)); 9] = [
    (Kind::Broker(BrokerHarm::Restart), 1, (0, 500)),
    (Kind::Broker(BrokerHarm::Kill), 1, (0, 0)),
    (Kind::Broker(BrokerHarm::CloseConnections), 2, (0, 0)),
    (Kind::Broker(BrokerHarm::MemoryAlarm), 1, (500, 2_500)),
    (Kind::Broker(BrokerHarm::DiskAlarm), 2, (500, 2_500)),
    (Kind::Broker(BrokerHarm::DeleteQueue), 1, (0, 0)),
    (Kind::Broker(BrokerHarm::PurgeQueue), 1, (0, 0)),
    (Kind::Database(DatabaseHarm::Restart(StopMode::Fast)), 2, (0, 3_000)),
    (Kind::Database(DatabaseHarm::Restart(StopMode::Immediate)), 2, (0, 3_000)),
];

/// Weight of all crash points together, where the binary has them.
const CRASH_WEIGHT: u64 = 14;
/// How often in a crash point's share the process stops there instead, and goes on later.
const STALL_ONE_IN: u64 = 4;
/// How often, of coordinators, both stop there.
const DUEL_ONE_IN: u64 = 3;
/// How long a process that stopped at a point stays so: past the lease, in milliseconds.
const STALL_MS: (u64, u64) = (2_500, 4_000);

/// Which kinds of a schedule come, beside crashes: a bit for each, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Only(u64);

impl Only {
    pub(crate) const ALL: Self = Self(u64::MAX);

    /// The kinds in whose names one of the texts is; `None` when there is none.
    pub(crate) fn named(texts: &[String]) -> Option<Self> {
        let is_named = |kind: &Kind| {
            let name = kind.name();
            texts.iter().any(|text| name.contains(text.as_str()))
        };
        let kinds = KINDS.iter().chain(&RARE).enumerate();
        let named = kinds.filter(|(_, (kind, ..))| is_named(kind)).map(|(at, _)| 1_u64 << at);
        Some(named.sum()).filter(|mask| *mask > 0).map(Self)
    }

    fn kinds(self) -> impl Iterator<Item = &'static (Kind, u64, (u64, u64))> {
        let kinds = KINDS.iter().chain(&RARE).enumerate();
        kinds.filter(move |(at, _)| self.0 >> at & 1 == 1).map(|(_, kind)| kind)
    }
}

/// The fault with this number, from 0.
///
/// With crash points, the first faults are one crash at each.
pub(crate) fn fault(seed: u64, number: u64, with_crash_points: bool, only: Only) -> Fault {
    let mut dice = Dice::new(seed, "fault", number);
    let pause = Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1));
    let (choice, hit) = (dice.next(), dice.between(1, 4));
    let at = |kind, lasts, hit| Fault { number, kind, pause, lasts, choice, hit };
    if with_crash_points
        && let Some(point) = usize::try_from(number).ok().and_then(|at| CRASH_POINTS.get(at))
    {
        return at(Kind::Crash(*point), Duration::ZERO, 1);
    }
    let crashes = if with_crash_points { CRASH_WEIGHT } else { 0 };
    let weights: u64 = only.kinds().map(|(_, weight, _)| weight).sum();
    let mut left = dice.below(weights + crashes);
    for (kind, weight, (from, to)) in only.kinds() {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return at(*kind, Duration::from_millis(dice.between(*from, *to)), hit),
        }
    }
    let which = usize::try_from(dice.below(CRASH_POINTS.len() as u64)).unwrap_or_default();
    let point = CRASH_POINTS.get(which).copied().unwrap_or(CRASH_POINTS[0]);
    if dice.below(STALL_ONE_IN) == 0 {
        let lasts = Duration::from_millis(dice.between(STALL_MS.0, STALL_MS.1));
        let duel = point.role == Role::Coordinator && dice.below(DUEL_ONE_IN) == 0;
        let kind = if duel { Kind::Duel(point) } else { Kind::Stall(point) };
        return at(kind, lasts, hit);
    }
    at(Kind::Crash(point), Duration::ZERO, hit)
}

/// The fault with this number of a schedule that is to bring a sabotage to light.
pub(crate) fn provocation(seed: u64, number: u64, sabotage: &Sabotage) -> Option<Fault> {
    let mut dice = Dice::new(seed, sabotage.name, number);
    let pause = Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1));
    let which = usize::try_from(dice.below(sabotage.provoked_by.len() as u64)).ok()?;
    let (kind, (from, to)) = *sabotage.provoked_by.get(which)?;
    let lasts = Duration::from_millis(dice.between(from, to));
    // A leader is what is wanted, and the first time that it comes to a point.
    Some(Fault { number, kind, pause, lasts, choice: 1 + dice.below(1 << 20) * 4, hit: 1 })
}

impl Kind {
    /// The name of the kind, as reports have it.
    pub(crate) fn name(self) -> String {
        let role = |role| match role {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        };
        match self {
            Self::Kill(which) => format!("{} killed", role(which)),
            Self::Freeze(which) => format!("{} frozen", role(which)),
            Self::Terminate(which) => format!("{} terminated", role(which)),
            Self::Crash(point) => format!("crash at {}", point.name),
            Self::Stall(point) => format!("stalled at {}", point.name),
            Self::Duel(point) => format!("stalled both at {}", point.name),
            Self::Network(link, harm) => format!("{} {}", link.name(), harm.name()),
            Self::Store(ill) => format!("store {}", ill.name()),
            Self::Broker(harm) => format!("broker {}", harm.name()),
            Self::Database(harm) => format!("database {}", harm.name()),
        }
    }
}

impl Link {
    const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "database link",
            Self::Broker => "broker link",
            Self::Store => "store link",
        }
    }
}

impl Harm {
    const fn name(self) -> &'static str {
        match self {
            Self::Latency => "late",
            Self::Bandwidth => "narrow",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::BlackholeUp => "one-way up",
            Self::BlackholeDown => "one-way down",
            Self::SlowClose => "closed slowly",
        }
    }
}

impl Ill {
    const fn name(self) -> &'static str {
        match self {
            Self::InternalError => "500",
            Self::SlowDown => "503 SlowDown",
            Self::Forbidden => "403",
            Self::LostResponse => "response lost",
            Self::Truncated => "body truncated",
            Self::Slow => "slow",
            Self::Hang => "hanging",
            Self::Full => "507 without space",
        }
    }
}

impl BrokerHarm {
    const fn name(self) -> &'static str {
        match self {
            Self::Restart => "stopped and started",
            Self::Kill => "node killed",
            Self::CloseConnections => "closed all connections",
            Self::DeleteQueue => "queue deleted",
            Self::PurgeQueue => "queue purged",
            Self::MemoryAlarm => "memory alarm",
            Self::DiskAlarm => "disk alarm",
            Self::Repeat => "delivers everything again",
            Self::Forge => "forged messages",
        }
    }
}

impl DatabaseHarm {
    const fn name(self) -> &'static str {
        match self {
            Self::TerminateBackends => "backends terminated",
            Self::ReadOnly => "read-only",
            Self::ConnectionLimit => "connection limit",
            Self::Restart(StopMode::Fast) => "stopped (fast) and started",
            Self::Restart(StopMode::Immediate) => "stopped (immediate) and started",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn schedule(seed: u64, with_crash_points: bool) -> Vec<Fault> {
        (0..2_000).map(|number| fault(seed, number, with_crash_points, Only::ALL)).collect()
    }

    #[test]
    fn a_schedule_follows_from_its_seed() {
        assert_eq!(schedule(7, true), schedule(7, true));
        assert_ne!(schedule(7, true), schedule(8, true));
    }

    #[test]
    fn every_kind_comes_and_every_crash_point_first() {
        let faults = schedule(1, true);
        let first: Vec<Kind> = faults.iter().take(CRASH_POINTS.len()).map(|it| it.kind).collect();
        assert_eq!(first, CRASH_POINTS.map(Kind::Crash));
        let kinds: BTreeSet<Kind> = faults.iter().map(|it| it.kind).collect();
        for (kind, ..) in KINDS.iter().chain(&RARE) {
            assert!(kinds.contains(kind), "{kind:?} never comes");
        }
        assert!(kinds.iter().any(|kind| matches!(kind, Kind::Stall(_))));
        assert!(kinds.iter().any(|kind| matches!(kind, Kind::Duel(_))));
        let names: BTreeSet<String> = kinds.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), kinds.len(), "two kinds have one name");
    }

    #[test]
    fn a_schedule_of_few_kinds_has_all_of_them_and_no_other() {
        let texts = ["stopped (".to_owned(), "disk alarm".to_owned()];
        let only = Only::named(&texts).expect("there are such");
        let names: BTreeSet<String> =
            (0..200).map(|number| fault(1, number, false, only).kind.name()).collect();
        let wanted = [
            "broker disk alarm",
            "database stopped (fast) and started",
            "database stopped (immediate) and started",
        ];
        assert!(names.iter().eq(wanted), "{names:?}");
        assert_eq!(Only::named(&["no such fault".to_owned()]), None);
    }

    #[test]
    fn a_binary_without_crash_points_is_not_asked_for_them() {
        let crash = |it: &Fault| matches!(it.kind, Kind::Crash(_) | Kind::Stall(_) | Kind::Duel(_));
        assert!(!schedule(1, false).iter().any(crash));
    }
}
