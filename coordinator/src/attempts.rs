//! How much a partition may suffer, and what follows from it: waiting, a second look, being split,
//! being given up. Pure.
//!
//! Trouble counts against a partition's rows only where they may be its cause. What is wrong with
//! a store, a broker, a mount or one worker says nothing about them: it is waited out for ever.

use std::hash::{DefaultHasher, Hash, Hasher};

use backends::ledger::{PartitionRecord, Setback};
use protocol::message::{RetryClass, TaskResult};
use protocol::{PartitionId, Receipt, Timestamp, WindowKey, WorkerId};

use crate::decide::FailureLimits;

/// The wait after the first setback, doubled with each further one.
const FIRST_WAIT_MICROS: i64 = 1_000_000;
/// The same for trouble with sources, so that all attempts together (5 + 10 + 20 + 40 s) last
/// longer than a file server takes to come back.
const FIRST_SOURCE_WAIT_MICROS: i64 = 5_000_000;
/// The longest wait between two attempts.
const LONGEST_WAIT_MICROS: i64 = 60_000_000;
/// Attempts, and interruptions, of a part of more than a row. It is split once more afterwards,
/// which costs little and settles nothing, so that it takes fewer than a whole partition. Not one,
/// since a worker that dies over one partition interrupts the others that it holds.
const PATIENCE_WITH_A_PART: u32 = 2;
/// The least that is tried before rows are given up, whatever the configuration says.
const LEAST_PATIENCE_BEFORE_GIVING_UP: u32 = 3;
/// Splits that isolate one row of any partition: 2^17 rows are more than a partition has.
const SPLITS_PER_ROW: u64 = 17;
/// How often a task that avoids a worker may be given back before any worker will do.
const GIVE_BACKS: u32 = 10;
/// The least that such a task waits for another worker each time, and the most is four times it.
const GIVE_BACK_WAIT_MICROS: i64 = 500_000;

/// How much a partition may suffer before it is split, or its single row is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Attempts that ended in trouble, and, counted on their own, interruptions.
    pub attempts: u32,
}

/// What is to become of a partition without an accepted receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again.
    TryAgain,
    /// Two halves of it supersede it.
    Split,
    /// Its rows are written down as failed.
    GiveUp,
}

/// Judges a partition of a window that may or may not split any further.
pub fn verdict(partition: &PartitionRecord, limits: AttemptLimits, may_split: bool) -> Verdict {
    if partition.attempts.max(partition.interruptions) < patience(partition, limits, may_split) {
        return Verdict::TryAgain;
    }
    if can_be_split(partition, may_split) { Verdict::Split } else { Verdict::GiveUp }
}

/// Whether the partition's next attempt is the last one that trouble with its sources may end:
/// what cannot be read then is written down, file by file.
pub fn is_last_attempt(
    partition: &PartitionRecord,
    limits: AttemptLimits,
    may_split: bool,
) -> bool {
    partition.attempts.saturating_add(1) >= patience(partition, limits, may_split)
}

fn can_be_split(partition: &PartitionRecord, may_split: bool) -> bool {
    may_split && partition.rows.rows > 1
}

fn patience(partition: &PartitionRecord, limits: AttemptLimits, may_split: bool) -> u32 {
    match (can_be_split(partition, may_split), partition.first_row) {
        (false, _) => limits.attempts.max(LEAST_PATIENCE_BEFORE_GIVING_UP),
        (true, Some(_)) => limits.attempts.min(PATIENCE_WITH_A_PART),
        (true, None) => limits.attempts,
    }
}

/// Whether a window of `rows` rows may split another partition: as long as it was split less often
/// than it takes to isolate one row more than it may lose. Beyond that it will be held anyway, and
/// something is wrong that is no single row's.
pub fn may_split(splits: u64, rows: u64, failures: FailureLimits) -> bool {
    splits < failures.allowed(rows).saturating_add(1).saturating_mul(SPLITS_PER_ROW)
}

/// The number of the attempt that is under way, from 1.
pub fn attempt_number(partition: &PartitionRecord) -> u32 {
    partition.setbacks.saturating_add(1)
}

/// Whether an answer is about the attempt that is under way, and not one that was answered
/// before. A late receipt without failures is as good as any.
pub fn is_timely(partition: &PartitionRecord, attempt: u32) -> bool {
    attempt == attempt_number(partition)
}

/// Class of what is recorded of a partition whose worker hangs in a file.
pub(crate) const READING: &str = "reading";
/// Class of a task that the broker does not take.
pub(crate) const UNPUBLISHED: &str = "unpublished";

/// Whether what is recorded of a partition is what it waits for at this moment.
pub(crate) fn is_waited_for(class: &str) -> bool {
    [READING, UNPUBLISHED].contains(&class)
}

/// Whether it is of something that is wrong somewhere, and not only of a second look at files.
pub(crate) fn is_trouble(class: &str) -> bool {
    class != FILES && CLASSES.contains(&class)
}

/// Class of a task that a worker says it can never execute.
pub(crate) const REFUSED: &str = "refused";
/// Class of files that failed at a first look.
const FILES: &str = "files";
/// Every class of a setback.
pub(crate) const CLASSES: [&str; 10] = [
    "store",
    "source",
    "mount",
    "local",
    "panic",
    REFUSED,
    "interrupted",
    "receipt",
    "lost",
    FILES,
];

/// What trouble is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// The partition's rows, perhaps: an attempt is counted.
    Rows,
    /// The partition's rows, perhaps, or whoever ended the worker: counted apart.
    Interruption,
    /// Nothing in the partition: nothing is counted.
    Elsewhere,
}

/// The setback that an answer without a receipt means; `None` for an answer that costs nothing
/// (the task was given back).
pub fn setback(
    partition: &PartitionRecord,
    result: &TaskResult,
    now: Timestamp,
) -> Option<Setback> {
    let (blame, class, detail) = match result {
        TaskResult::Done { .. } | TaskResult::Restored { .. } | TaskResult::Returned => {
            return None;
        }
        TaskResult::Retry { class, detail } => {
            let blame = match class {
                RetryClass::Source | RetryClass::Panic => Blame::Rows,
                RetryClass::Store | RetryClass::Mount | RetryClass::Local => Blame::Elsewhere,
            };
            (blame, class.as_str(), detail.as_str())
        }
        TaskResult::Refused { detail } => (Blame::Elsewhere, REFUSED, detail.as_str()),
        TaskResult::Interrupted => (
            Blame::Interruption,
            "interrupted",
            "a worker ended, or lost its connection, while it had the task",
        ),
    };
    Some(after_trouble(partition, blame, class, detail, now))
}

/// The setback of a partition whose process ended over it, as its successor sees.
pub fn setback_of_lost_process(
    partition: &PartitionRecord,
    process: &WorkerId,
    now: Timestamp,
) -> Setback {
    let why = format!("{process} ended while it worked on it");
    after_trouble(partition, Blame::Interruption, "interrupted", &why, now)
}

/// Of partitions that are due, those that this process is to work on next, when it takes so many at
/// a time and works on these already: `interruptions` of each. One over which a process may have
/// died is worked on alone, so that no other is taken for it.
pub(crate) fn next_alone<T>(due: Vec<(T, u32)>, under_way: &[u32], at_a_time: usize) -> Vec<T> {
    if under_way.iter().any(|interruptions| *interruptions > 0) {
        return Vec::new();
    }
    let room = at_a_time.max(1).saturating_sub(under_way.len());
    let (suspects, others): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|(_, interruptions)| *interruptions > 0);
    let most = match (others.is_empty(), under_way.is_empty()) {
        (false, _) => return others.into_iter().take(room).map(|(it, _)| it).collect(),
        (true, true) => 1,
        (true, false) => 0,
    };
    suspects.into_iter().take(most).map(|(it, _)| it).collect()
}

/// The setback of a partition whose receipt is not as it should be.
pub fn setback_of_receipt(partition: &PartitionRecord, why: &str, now: Timestamp) -> Setback {
    after_trouble(partition, Blame::Rows, "receipt", why, now)
}

/// The setback of a partition whose receipt the store does not give us for now.
pub fn setback_of_store(partition: &PartitionRecord, why: &str, now: Timestamp) -> Setback {
    after_trouble(partition, Blame::Elsewhere, RetryClass::Store.as_str(), why, now)
}

/// The setback of an accepted partition of which an object is gone.
pub fn setback_of_lost_object(partition: &PartitionRecord, why: &str, now: Timestamp) -> Setback {
    after_trouble(partition, Blame::Elsewhere, "lost", why, now)
}

/// Whether a receipt is to be accepted now, or its failed files deserve a second look first.
pub fn deserves_second_look(partition: &PartitionRecord, receipt: &Receipt) -> bool {
    partition.first_look.is_none() && receipt.deserves_second_attempt()
}

/// The setback of a partition some of whose files deserve a second look. It is no trouble of the
/// partition's.
pub fn setback_for_second_look(
    partition: &PartitionRecord,
    receipt: &Receipt,
    now: Timestamp,
) -> Setback {
    let first = receipt.failures.iter().find(|failed| failed.reason.deserves_second_attempt());
    let detail = first.map_or_else(String::new, |failed| {
        format!(
            "{} files failed on {}, the first is {} ({}): looking a second time",
            receipt.failures.len(),
            receipt.worker,
            failed.uid,
            failed.reason
        )
    });
    let setback = after_trouble(partition, Blame::Elsewhere, FILES, &detail, now);
    Setback { first_look: Some(receipt.worker.clone()), ..setback }
}

/// What an answer counts of the give-backs after which any worker will do. One without the mount
/// cannot look, however often it is asked, and must not keep the others from it.
pub(crate) fn give_backs_of(setback: &Setback) -> u32 {
    let cannot_look = setback.first_look.is_some() && setback.class == RetryClass::Mount.as_str();
    if cannot_look { GIVE_BACKS / 2 } else { 0 }
}

/// The worker that is not to have the second look, as long as there is another that may.
pub fn worker_to_avoid(
    partition: &PartitionRecord,
    given_back: u32,
    workers: u64,
) -> Option<WorkerId> {
    let first = partition.first_look.as_ref()?;
    (workers > 1 && given_back < GIVE_BACKS).then(|| first.clone())
}

/// How long a task that was given back waits for another worker. Brokers deal tasks out in turn:
/// two that wait equally long would come to the same two workers each time.
pub(crate) fn give_back_wait(window: WindowKey, partition: PartitionId, given_back: u32) -> i64 {
    let mut hasher = DefaultHasher::new();
    (window, partition, given_back).hash(&mut hasher);
    let [byte, ..] = hasher.finish().to_le_bytes();
    (1 + i64::from(byte % 4)) * GIVE_BACK_WAIT_MICROS
}

fn after_trouble(
    partition: &PartitionRecord,
    blame: Blame,
    class: &str,
    detail: &str,
    now: Timestamp,
) -> Setback {
    let source = class == RetryClass::Source.as_str();
    let first_wait = if source { FIRST_SOURCE_WAIT_MICROS } else { FIRST_WAIT_MICROS };
    let wait = (first_wait << partition.setbacks.min(16)).min(LONGEST_WAIT_MICROS);
    // Partitions that failed together should not all come back at the same moment.
    let spread = i64::from(partition.partition % 16) * wait / 64;
    Setback {
        setbacks: partition.setbacks.saturating_add(1),
        attempts: partition.attempts + u32::from(blame == Blame::Rows),
        interruptions: partition.interruptions + u32::from(blame == Blame::Interruption),
        not_before: Some(now.saturating_add_micros(wait + spread)),
        class: class.to_owned(),
        detail: detail.chars().take(1_000).collect(),
        first_look: partition.first_look.clone(),
    }
}

#[cfg(test)]
#[path = "attempts/tests.rs"]
mod tests;
