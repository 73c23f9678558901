//! Rules, and what they add up to: how many tasks it takes to isolate rows that kill.

use super::*;
use backends::ledger::{PartitionRecord, splits};
use protocol::manifest::RowRange;
use protocol::{PartitionId, Tally};

const LIMITS: AttemptLimits = AttemptLimits { attempts: 5 };
const FAILURES: FailureLimits = FailureLimits { files: 10, ratio: 0.001 };

fn partition(attempts: u32, interruptions: u32) -> PartitionRecord {
    PartitionRecord {
        partition: 3,
        manifest: String::new(),
        manifest_size: 0,
        first_row: None,
        rows: Tally { rows: 50_000, ..Tally::default() },
        setbacks: attempts + interruptions,
        attempts,
        interruptions,
        not_before: None,
        trouble: None,
        first_look: None,
        under_way_by: None,
        accepted: None,
    }
}

fn part(rows: u64, attempts: u32, interruptions: u32) -> PartitionRecord {
    let rows = Tally { rows, ..Tally::default() };
    PartitionRecord { first_row: Some(7), rows, ..partition(attempts, interruptions) }
}

fn now() -> Timestamp {
    "2024-12-01".parse().expect("a date")
}

fn retry(class: RetryClass) -> TaskResult {
    TaskResult::Retry { class, detail: "why".to_owned() }
}

fn worker(name: &str) -> WorkerId {
    name.parse().expect("a worker")
}

#[test]
fn only_trouble_that_the_rows_may_cause_counts_against_them() {
    let refused = TaskResult::Refused { detail: "a stranger".to_owned() };
    for (result, counted) in [
        (retry(RetryClass::Source), (3, 1)),
        (retry(RetryClass::Panic), (3, 1)),
        (TaskResult::Interrupted, (2, 2)),
        (retry(RetryClass::Store), (2, 1)),
        (retry(RetryClass::Mount), (2, 1)),
        (retry(RetryClass::Local), (2, 1)),
        (refused, (2, 1)),
    ] {
        let setback = setback(&partition(2, 1), &result, now()).expect("trouble");
        assert_eq!((setback.attempts, setback.interruptions), counted, "{result:?}");
        assert_eq!(setback.setbacks, 4, "each is an attempt of its own: {result:?}");
        assert!(setback.not_before > Some(now()));
    }
    assert_eq!(setback(&partition(2, 1), &TaskResult::Returned, now()), None);
    assert_eq!(setback_of_receipt(&partition(2, 1), "why", now()).attempts, 3);
    assert_eq!(setback_of_lost_object(&partition(2, 1), "why", now()).attempts, 2);
}

#[test]
fn trouble_elsewhere_never_splits_and_never_gives_up() {
    let mut suffering = part(1, 0, 0);
    for _ in 0..10_000 {
        let setback = setback(&suffering, &retry(RetryClass::Store), now()).expect("trouble");
        suffering.setbacks = setback.setbacks;
        suffering.attempts = setback.attempts;
        suffering.interruptions = setback.interruptions;
        for may_split in [false, true] {
            assert_eq!(verdict(&suffering, LIMITS, may_split), Verdict::TryAgain);
            assert!(!is_last_attempt(&suffering, LIMITS, may_split));
        }
    }
}

#[test]
fn waits_grow_to_a_minute_and_are_longer_for_sources() {
    let waits = |class| -> Vec<i64> {
        let wait = |setbacks| {
            let suffering = PartitionRecord { setbacks, ..partition(0, 0) };
            let setback = setback(&suffering, &retry(class), now()).expect("trouble");
            setback.not_before.expect("a wait").seconds_since(now())
        };
        (0..40).map(wait).collect()
    };
    for (class, first) in [(RetryClass::Store, 1), (RetryClass::Source, 5)] {
        let waits = waits(class);
        assert_eq!(waits[0], first);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert!((60..80).contains(&waits[39]), "{waits:?}");
    }
    // A file server that is away for a minute holds no window.
    assert!(waits(RetryClass::Source)[..4].iter().sum::<i64>() >= 75);
}

#[test]
fn what_used_up_its_attempts_is_split_and_a_single_row_is_given_up() {
    let judge = |partition: PartitionRecord| verdict(&partition, LIMITS, true);
    assert_eq!(judge(partition(4, 4)), Verdict::TryAgain);
    assert_eq!(judge(partition(5, 0)), Verdict::Split);
    assert_eq!(judge(partition(0, 5)), Verdict::Split);
    assert_eq!(judge(part(2, 1, 1)), Verdict::TryAgain);
    assert_eq!(judge(part(2, 0, 2)), Verdict::Split);
    assert_eq!(judge(part(1, 4, 4)), Verdict::TryAgain, "what settles takes as long as at first");
    assert_eq!(judge(part(1, 5, 0)), Verdict::GiveUp);
    let impatient = AttemptLimits { attempts: 1 };
    assert_eq!(verdict(&part(1, 2, 0), impatient, true), Verdict::TryAgain);
    assert_eq!(verdict(&part(1, 3, 0), impatient, true), Verdict::GiveUp);
}

#[test]
fn a_window_that_splits_without_end_gives_up_what_is_left() {
    assert!(may_split(186, 1_000, FAILURES) && !may_split(187, 1_000, FAILURES));
    assert_eq!(verdict(&part(400, 0, 4), LIMITS, false), Verdict::TryAgain);
    assert_eq!(verdict(&part(400, 0, 5), LIMITS, false), Verdict::GiveUp);
    let numbered = |number: PartitionId| PartitionRecord { partition: number, ..partition(0, 0) };
    let count = |numbers: &[PartitionId]| {
        splits(numbers.iter().map(|&n| numbered(n)).collect::<Vec<_>>().iter())
    };
    assert_eq!(count(&[]), 0);
    assert_eq!(count(&[0, 1, 2]), 0);
    assert_eq!(count(&[0, 2, 3, 4]), 1);
    assert_eq!(count(&[0, 2, 4, 5, 6]), 2);
}

#[test]
fn the_last_attempt_is_told_that_it_is_the_last() {
    let last = |partition: PartitionRecord| is_last_attempt(&partition, LIMITS, true);
    assert!(!last(partition(3, 4)) && last(partition(4, 0)) && last(partition(9, 0)));
    assert!(!last(part(2, 0, 1)) && last(part(2, 1, 0)));
    assert!(!last(part(1, 3, 0)) && last(part(1, 4, 0)));
}

#[test]
fn an_answer_that_comes_twice_is_timely_once() {
    let before = partition(1, 1);
    assert!(is_timely(&before, 3) && !is_timely(&before, 2));
    let setback = setback(&before, &TaskResult::Interrupted, now()).expect("one");
    let after = PartitionRecord { setbacks: setback.setbacks, ..before };
    assert!(!is_timely(&after, 3) && is_timely(&after, 4));
}

#[test]
fn the_second_look_goes_to_another_worker_while_there_is_one() {
    let looked = PartitionRecord { first_look: Some(worker("first")), ..partition(0, 0) };
    assert_eq!(worker_to_avoid(&partition(0, 0), 0, 9), None, "nobody has looked yet");
    assert_eq!(worker_to_avoid(&looked, 0, 2), Some(worker("first")));
    assert_eq!(worker_to_avoid(&looked, 0, 1), None, "it is alone");
    assert_eq!(worker_to_avoid(&looked, 0, 0), None, "nothing is known of others");
    assert_eq!(worker_to_avoid(&looked, GIVE_BACKS, 2), None, "the others have no time");
    let interrupted = setback(&looked, &TaskResult::Interrupted, now()).expect("one");
    assert_eq!(interrupted.first_look, looked.first_look, "it is not forgotten over trouble");
    let without = TaskResult::Retry { class: RetryClass::Mount, detail: "gone".to_owned() };
    let without = |of| give_backs_of(&setback(of, &without, now()).expect("one"));
    assert!(2 * without(&looked) >= GIVE_BACKS, "who cannot look is asked twice");
    assert_eq!((without(&partition(0, 0)), give_backs_of(&interrupted)), (0, 0));
}

#[test]
fn tasks_that_were_given_back_together_do_not_stay_in_step() {
    let end = now();
    let waits = |revision, partition| -> Vec<i64> {
        let wait = |round| give_back_wait(WindowKey { end, revision }, partition, round);
        (0..GIVE_BACKS).map(wait).collect()
    };
    for partition in 0..100 {
        assert_ne!(waits(0, partition), waits(0, partition + 1));
        assert_ne!(waits(0, partition), waits(1, partition));
        assert!(waits(0, partition).iter().all(|wait| (500_000..=2_000_000).contains(wait)));
    }
}

/// What became of a window whose workers die over some of its rows.
#[derive(Debug, Default)]
struct Course {
    tasks: u64,
    /// Rows that were read or waited for, in all attempts: what the work took.
    rows_worked: u64,
    seconds_waited: i64,
    given_up: Vec<RowRange>,
    packed_rows: u64,
}

/// Plays a window of one partition of `rows` rows through the rules of this module.
fn play(rows: u64, kills: impl Fn(u64) -> bool) -> Course {
    let mut course = Course::default();
    let mut open = vec![PartitionRecord {
        partition: 0,
        rows: Tally { rows, ..Tally::default() },
        ..partition(0, 0)
    }];
    let (mut done, mut next_number): (Vec<PartitionRecord>, PartitionId) = (Vec::new(), 1);
    while !open.is_empty() {
        // As a queue does it: whoever failed comes after those that wait.
        let mut it = open.remove(0);
        let range = it.range().unwrap_or(RowRange { first: 0, rows });
        let may_split = may_split(splits(open.iter().chain(&done).chain([&it])), rows, FAILURES);
        match verdict(&it, LIMITS, may_split) {
            Verdict::Split => {
                for half in range.halves().expect("more than a row") {
                    let rows = Tally { rows: half.rows, ..Tally::default() };
                    let first_row = Some(half.first);
                    let new = PartitionRecord {
                        partition: next_number,
                        first_row,
                        rows,
                        ..partition(0, 0)
                    };
                    next_number += 1;
                    open.push(new);
                }
                continue;
            }
            Verdict::GiveUp => {
                course.given_up.push(range);
                done.push(it);
                continue;
            }
            Verdict::TryAgain => {}
        }
        course.tasks += 1;
        course.rows_worked += range.rows;
        if (range.first..range.first + range.rows).any(&kills) {
            let setback = setback(&it, &TaskResult::Interrupted, now()).expect("one");
            course.seconds_waited += setback.not_before.expect("a wait").seconds_since(now());
            (it.setbacks, it.interruptions) = (setback.setbacks, setback.interruptions);
            open.push(it);
        } else {
            course.packed_rows += range.rows;
            done.push(it);
        }
    }
    course
}

#[test]
fn a_row_that_kills_workers_is_isolated_with_few_tasks() {
    for poison in [0, 1, 24_999, 25_000, 31_337, 49_999] {
        let course = play(50_000, |row| row == poison);
        assert_eq!(course.given_up, [RowRange { first: poison, rows: 1 }], "{course:?}");
        assert_eq!(course.packed_rows, 49_999);
        // 5 tries of the whole, 16 levels with 2 tries of one half and 1 of the other, 5 tries of
        // the row.
        assert!(course.tasks <= 5 + 16 * 3 + 5, "{course:?}");
        assert!(course.rows_worked < 9 * 50_000, "the work of 8 attempts: {course:?}");
        assert!(course.seconds_waited <= 180, "{course:?}");
    }
}

#[test]
fn rows_that_kill_workers_are_isolated_as_long_as_the_window_may_lose_them() {
    let poison = |row: u64| row % 5_000 == 17;
    let course = play(50_000, poison);
    assert_eq!(course.given_up.len(), 10, "{course:?}");
    assert!(course.given_up.iter().all(|range| range.rows == 1 && poison(range.first)));
    assert_eq!(course.packed_rows, 49_990);
    assert!(course.tasks <= 5 + 10 * (16 * 3 + 5), "{course:?}");
}

#[test]
fn a_fleet_whose_workers_die_over_everything_stops_splitting() {
    let course = play(50_000, |_| true);
    assert_eq!(course.packed_rows, 0);
    assert_eq!(course.given_up.iter().map(|range| range.rows).sum::<u64>(), 50_000);
    // 51 × 17 splits, of which each makes two parts; the last of them are tried as often as a row.
    assert!(course.tasks <= 5 + 2 * 867 * 5, "{} tasks", course.tasks);
    assert!(course.given_up.len() == 868, "{} parts", course.given_up.len());
}

#[test]
fn what_a_process_may_have_died_over_is_worked_on_alone() {
    let due = |all: &[(&'static str, u32)]| all.to_vec();
    let all = [("a", 0), ("suspect", 1), ("b", 0), ("c", 0), ("suspect too", 2)];
    assert_eq!(next_alone(due(&all), &[], 2), ["a", "b"]);
    assert_eq!(next_alone(due(&all), &[0], 2), ["a"]);
    assert_eq!(next_alone(due(&all), &[0, 0], 2), [""; 0]);
    assert_eq!(next_alone(due(&all), &[1], 2), [""; 0], "nothing beside a suspect");
    let suspects = [all[1], all[4]];
    assert_eq!(next_alone(due(&suspects), &[], 2), ["suspect"]);
    assert_eq!(next_alone(due(&suspects), &[0], 2), [""; 0], "no suspect beside another");
    assert_eq!(next_alone(due(&all), &[], 0), ["a"], "before anybody consumes");
}
