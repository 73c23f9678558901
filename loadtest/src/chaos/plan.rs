//! Which fault comes when: a schedule that follows from the seed. Pure.

use std::time::Duration;

use super::dice::Dice;
use super::kind::{
    BrokerHarm, CRASH_POINTS, DatabaseHarm, Harm, Ill, Kind, Link, Queue, Role, StopMode, Whose,
};
use super::sabotage::{STALL_MS, Sabotage};

/// The wait before a fault, counted from the one before, in milliseconds.
const PAUSE_MS: (u64, u64) = (150, 900);

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
    /// Whether it is to meet a fleet that nothing else ails.
    pub(crate) is_alone: bool,
}

/// A kind with its weight, and how long it lasts in milliseconds.
type Weighted = (Kind, u64, (u64, u64));

/// Kinds beside those of the network.
const KINDS: [Weighted; 22] = [
    (Kind::Kill(Role::Worker), 24, (0, 0)),
    (Kind::Kill(Role::Coordinator), 10, (0, 0)),
    (Kind::Freeze(Role::Worker), 12, (300, 3_000)),
    (Kind::Freeze(Role::Coordinator), 6, (2_500, 4_500)),
    (Kind::Terminate(Role::Worker), 10, (0, 0)),
    (Kind::Terminate(Role::Coordinator), 4, (0, 0)),
    (Kind::CutOff(Role::Worker), 4, (500, 3_500)),
    (Kind::CutOff(Role::Coordinator), 6, (2_500, 4_500)),
    (Kind::Collect, 6, (1_000, 2_500)),
    (Kind::Store(Ill::InternalError), 8, (300, 1_500)),
    (Kind::Store(Ill::SlowDown), 8, (300, 1_500)),
    (Kind::Store(Ill::Forbidden), 4, (300, 1_000)),
    (Kind::Store(Ill::LostResponse), 10, (300, 1_500)),
    (Kind::Store(Ill::Truncated), 8, (300, 1_500)),
    (Kind::Store(Ill::Slow), 4, (500, 1_500)),
    (Kind::Store(Ill::Hang), 4, (500, 2_500)),
    (Kind::Store(Ill::Full), 8, (300, 2_500)),
    (Kind::Broker(BrokerHarm::Repeat), 8, (500, 3_000)),
    (Kind::Broker(BrokerHarm::Forge), 2, (0, 0)),
    (Kind::Database(DatabaseHarm::TerminateBackends), 8, (0, 0)),
    (Kind::Database(DatabaseHarm::ReadOnly), 4, (500, 2_500)),
    (Kind::Database(DatabaseHarm::ConnectionLimit), 4, (800, 2_500)),
];

/// What can be done to any link of anybody, with how long it lasts in milliseconds.
const NETWORK: [(Harm, (u64, u64)); 8] = [
    (Harm::Latency, (500, 2_000)),
    (Harm::Bandwidth, (500, 2_000)),
    (Harm::Cut, (100, 1_500)),
    (Harm::Reset, (0, 0)),
    (Harm::BlackholeUp, (500, 3_500)),
    (Harm::BlackholeDown, (500, 3_500)),
    (Harm::Blackhole, (500, 3_500)),
    (Harm::SlowClose, (300, 1_500)),
];

/// Kinds that take the servers' own tools, some of which are slow to start, or after which a task
/// is found only by its silence.
const RARE: [Weighted; 10] = [
    (Kind::Broker(BrokerHarm::Restart), 2, (0, 500)),
    (Kind::Broker(BrokerHarm::Kill), 2, (0, 0)),
    (Kind::Broker(BrokerHarm::CloseConnections), 4, (0, 0)),
    (Kind::Broker(BrokerHarm::MemoryAlarm), 2, (500, 2_500)),
    (Kind::Broker(BrokerHarm::DiskAlarm), 4, (500, 2_500)),
    (Kind::Broker(BrokerHarm::DeleteQueue), 2, (0, 0)),
    (Kind::Purge(Queue::Tasks), 2, (0, 0)),
    (Kind::Purge(Queue::Outcomes), 4, (0, 0)),
    (Kind::Database(DatabaseHarm::Restart(StopMode::Fast)), 4, (0, 3_000)),
    (Kind::Database(DatabaseHarm::Restart(StopMode::Immediate)), 4, (0, 3_000)),
];

/// Weight of all crash points together, where the binary has them.
const CRASH_WEIGHT: u64 = 28;
/// How often in a crash point's share the process stops there instead, and goes on later.
const STALL_ONE_IN: u64 = 4;
/// How often, of coordinators, both stop there.
const DUEL_ONE_IN: u64 = 3;

/// How often a fault that unseats a leader comes alone, so that it is seen how fast a standby is.
const ALONE_ONE_IN: u64 = 2;

/// Every kind, in an order that stays.
fn kinds() -> impl Iterator<Item = Weighted> {
    let whose = [Whose::All, Whose::Leader, Whose::Worker];
    let links = whose.into_iter().flat_map(|whose| Link::ALL.map(|link| (whose, link)));
    // A worker has no connection to the database.
    let links = links.filter(|it| *it != (Whose::Worker, Link::Postgres));
    let of_network = links.flat_map(|(whose, link)| {
        NETWORK.map(|(harm, lasts)| (Kind::Network(whose, link, harm), 1, lasts))
    });
    KINDS.into_iter().chain(RARE).chain(of_network)
}

/// Which kinds of a schedule come, beside crashes: a bit for each, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Only(u128);

impl Only {
    pub(crate) const ALL: Self = Self(u128::MAX);

    /// The kinds in whose names one of the texts is; `None` when there is none.
    pub(crate) fn named(texts: &[String]) -> Option<Self> {
        let is_named = |kind: Kind| {
            let name = kind.name();
            texts.iter().any(|text| name.contains(text.as_str()))
        };
        let named = kinds().enumerate().filter(|(_, (kind, ..))| is_named(*kind));
        Some(named.map(|(at, _)| 1_u128 << at).sum()).filter(|mask| *mask > 0).map(Self)
    }

    fn kinds(self) -> impl Iterator<Item = Weighted> {
        kinds().enumerate().filter(move |(at, _)| self.0 >> at & 1 == 1).map(|(_, kind)| kind)
    }
}

/// The fault with this number, from 0.
///
/// With crash points, the first faults are one crash at each.
pub(crate) fn fault(seed: u64, number: u64, with_crash_points: bool, only: Only) -> Fault {
    let mut dice = Dice::new(seed, "fault", number);
    let pause = Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1));
    let (choice, hit) = (dice.next(), dice.between(1, 4));
    let is_lucky = dice.below(ALONE_ONE_IN) == 0;
    let at = |kind: Kind, lasts, hit| {
        let is_alone = is_lucky && kind.unseats_leader();
        Fault { number, kind, pause, lasts, choice, hit, is_alone }
    };
    if with_crash_points
        && let Some(point) = usize::try_from(number).ok().and_then(|at| CRASH_POINTS.get(at))
    {
        return Fault { is_alone: true, ..at(Kind::Crash(*point), Duration::ZERO, 1) };
    }
    let crashes = if with_crash_points { CRASH_WEIGHT } else { 0 };
    let weights: u64 = only.kinds().map(|(_, weight, _)| weight).sum();
    let mut left = dice.below(weights + crashes);
    for (kind, weight, (from, to)) in only.kinds() {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return at(kind, Duration::from_millis(dice.between(from, to)), hit),
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
    Some(Fault {
        number,
        kind,
        pause,
        lasts,
        choice: 1 + dice.below(1 << 20) * 4,
        hit: 1,
        is_alone: true,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn schedule(seed: u64, with_crash_points: bool) -> Vec<Fault> {
        (0..6_000).map(|number| fault(seed, number, with_crash_points, Only::ALL)).collect()
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
        for (kind, ..) in super::kinds() {
            assert!(kinds.contains(&kind), "{kind:?} never comes");
        }
        assert!(super::kinds().count() <= 128, "a schedule has a bit for each");
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
