//! When the power fails: a schedule that follows from the seed. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::super::dice::Dice;
use super::super::kind::CRASH_POINTS;

/// Points that only a store with something to sync has.
const FLUSH_POINTS: [&str; 2] = ["before_flush", "after_flush"];
/// A point that is not met is tried again so often in all: a run may have nothing left to do there.
const TRIES: u32 = 4;
/// A random moment lies so long after the process leads, in microseconds.
const AFTER_LEADING_MICROS: u64 = 900_000;
/// Or, in one of so many of those, so long after its start, in microseconds: while it makes its tables
/// or its archive, or waits for the lease of the one before.
const AFTER_START_ONE_IN: u64 = 3;
const AFTER_START_MICROS: u64 = 250_000;
/// What comes beyond every point once, of so many cuts: as files appear, before a flush, at any
/// point, and otherwise at a random moment, at which most has been synced.
const OF: u64 = 10;
const AS_FILES_APPEAR: u64 = 4;
const BEFORE_A_FLUSH: u64 = 3;
const AT_ANY_POINT: u64 = 2;
/// The highest hit of a point that is waited for.
const MOST_HITS: u64 = 12;
/// The most files that are waited for, and the highest hit of a flush.
const MOST_WRITES: u64 = 60;
/// In one of so many cuts the process outlives its disk for a while.
const OUTLIVES_ONE_IN: u64 = 4;
const OUTLIVES_MICROS: u64 = 200_000;

/// The way to mount that forgives least: what a sabotage is tried on.
pub(crate) const HARSHEST: &str = MOUNT_OPTIONS[1];

/// How disks are mounted: as they are by default, and in ways that write less, or less in order.
const MOUNT_OPTIONS: [&str; 4] = [
    "",
    "commit=1,data=writeback,noauto_da_alloc",
    "nodelalloc,data=writeback",
    "data=writeback,journal_async_commit",
];

/// Where the ledger lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// On the disk that loses power, with everything else.
    Beside,
    /// On another one. It survives, and must never be ahead of what was durable.
    Outside,
}

/// When a cut comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    AfterStart(Duration),
    AfterLeading(Duration),
    /// As soon as so many more files lie beside the shards: what was written is hardly synced yet.
    AfterWrites(u64),
    /// At a hit, from 1, of a named point in the code.
    Point(&'static str, u64),
}

/// One cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) number: u64,
    pub(crate) moment: Moment,
    /// The file system has just committed its journal.
    pub(crate) journal_first: bool,
    /// The disk goes first, and the process lives on for so long.
    pub(crate) outlives: Option<Duration>,
}

impl Cut {
    /// What reports call it.
    pub(crate) fn kind(&self) -> String {
        match self.moment {
            Moment::AfterStart(_) => "soon after the start".to_owned(),
            Moment::AfterLeading(_) => "at a random moment".to_owned(),
            Moment::AfterWrites(_) => "as files appear".to_owned(),
            Moment::Point(name, _) => format!("at {name}"),
        }
    }
}

/// How the disk of a round is mounted, and where its ledger lies.
pub(crate) fn round_of(number: u64) -> (Place, &'static str) {
    let place = if number.is_multiple_of(2) { Place::Outside } else { Place::Beside };
    let which = usize::try_from(number.saturating_sub(1) / 2).unwrap_or_default();
    (place, MOUNT_OPTIONS.get(which % MOUNT_OPTIONS.len()).copied().unwrap_or_default())
}

/// The cuts that come.
pub(crate) struct Cuts {
    seed: u64,
    number: u64,
    with_points: bool,
    /// Points that are still to be met, each with the tries it had, where the ledger is beside and
    /// outside.
    left: [VecDeque<(&'static str, u32)>; 2],
}

impl Cuts {
    pub(crate) fn new(seed: u64, with_points: bool) -> Self {
        let all: VecDeque<_> =
            if with_points { points().map(|name| (name, 0)).collect() } else { VecDeque::new() };
        Self { seed, number: 0, with_points, left: [all.clone(), all] }
    }

    /// Whether every point was met, as far as it could be.
    pub(crate) fn met_every_point(&self) -> bool {
        self.left.iter().all(VecDeque::is_empty)
    }

    /// The next cut; of points that were not met yet the first.
    pub(crate) fn next(&mut self, place: Place) -> Cut {
        let number = self.number;
        self.number += 1;
        let mut dice = Dice::new(self.seed, "cut", number);
        let journal_first = dice.below(2) == 0;
        let outlives = (dice.below(OUTLIVES_ONE_IN) == 0)
            .then(|| Duration::from_micros(dice.below(OUTLIVES_MICROS)));
        let first = self.left[index(place)].pop_front();
        let moment = if let Some((name, tries)) = first {
            if tries + 1 < TRIES {
                self.left[index(place)].push_back((name, tries + 1));
            }
            Moment::Point(name, 1)
        } else {
            self.any_moment(&mut dice)
        };
        Cut { number, moment, journal_first, outlives }
    }

    fn any_moment(&self, dice: &mut Dice) -> Moment {
        let share = dice.below(OF);
        if share < AS_FILES_APPEAR || (!self.with_points && share + 1 < OF) {
            return Moment::AfterWrites(dice.between(1, MOST_WRITES));
        }
        if share < AS_FILES_APPEAR + BEFORE_A_FLUSH {
            return Moment::Point(FLUSH_POINTS[0], dice.between(1, MOST_WRITES));
        }
        if share < AS_FILES_APPEAR + BEFORE_A_FLUSH + AT_ANY_POINT {
            let which = usize::try_from(dice.below(points().count() as u64)).unwrap_or_default();
            let name = points().nth(which).unwrap_or(FLUSH_POINTS[0]);
            return Moment::Point(name, dice.between(1, MOST_HITS));
        }
        if dice.below(AFTER_START_ONE_IN) == 0 {
            return Moment::AfterStart(Duration::from_micros(dice.below(AFTER_START_MICROS)));
        }
        Moment::AfterLeading(Duration::from_micros(dice.below(AFTER_LEADING_MICROS)))
    }

    /// A cut met its point: it need not be tried again.
    pub(crate) fn met(&mut self, place: Place, cut: Cut) {
        if let Moment::Point(name, _) = cut.moment {
            self.left[index(place)].retain(|(left, _)| *left != name);
        }
    }
}

const fn index(place: Place) -> usize {
    match place {
        Place::Beside => 0,
        Place::Outside => 1,
    }
}

fn points() -> impl Iterator<Item = &'static str> {
    FLUSH_POINTS.into_iter().chain(CRASH_POINTS.into_iter().map(|point| point.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64) -> Vec<Cut> {
        let mut cuts = Cuts::new(seed, true);
        (0..400).map(|_| cuts.next(Place::Beside)).collect()
    }

    #[test]
    fn cuts_follow_from_the_seed() {
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }

    #[test]
    fn every_point_comes_first_and_again_until_it_is_met() {
        let mut cuts = Cuts::new(1, true);
        for place in [Place::Beside, Place::Outside] {
            for name in points() {
                let cut = cuts.next(place);
                assert_eq!(cut.moment, Moment::Point(name, 1));
                if name != "after_ack" {
                    cuts.met(place, cut);
                }
            }
            for _ in 1..TRIES {
                assert!(!cuts.met_every_point());
                assert_eq!(cuts.next(place).moment, Moment::Point("after_ack", 1));
            }
        }
        assert!(cuts.met_every_point(), "a point that is never met is given up");
    }

    #[test]
    fn moments_of_every_kind_come() {
        let drawn = drawn(1);
        let is = |of: fn(&Cut) -> bool| drawn.iter().filter(|cut| of(cut)).count();
        assert!(is(|cut| matches!(cut.moment, Moment::AfterStart(_))) > 2);
        assert!(is(|cut| matches!(cut.moment, Moment::AfterLeading(_))) > 5);
        assert!(is(|cut| matches!(cut.moment, Moment::AfterWrites(_))) > 50);
        assert!(is(|cut| matches!(cut.moment, Moment::Point(_, hit) if hit > 1)) > 50);
        assert!((50..350).contains(&is(|cut| cut.journal_first)));
        assert!((20..200).contains(&is(|cut| cut.outlives.is_some())));
    }

    #[test]
    fn a_binary_without_points_is_not_asked_for_them() {
        let mut cuts = Cuts::new(1, false);
        assert!(cuts.met_every_point());
        let points =
            (0..400).filter(|_| matches!(cuts.next(Place::Beside).moment, Moment::Point(..)));
        assert_eq!(points.count(), 0);
    }

    #[test]
    fn both_places_meet_every_way_of_mounting() {
        let rounds: Vec<_> = (1..=8).map(round_of).collect();
        for options in MOUNT_OPTIONS {
            assert!(rounds.contains(&(Place::Beside, options)), "{options}");
            assert!(rounds.contains(&(Place::Outside, options)), "{options}");
        }
    }
}
