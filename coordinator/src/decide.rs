//! What follows from a worker's answer, and from what a window adds up to. Pure.

use backends::ledger::{AcceptedReceipt, PartitionRecord, Setback};
use protocol::message::{RetryClass, TaskResult};
use protocol::{ArchiveIdentity, ContentHash, PartitionId, Receipt, Timestamp, Window, names};

/// The wait after the first setback, doubled with each further one.
const FIRST_WAIT_MICROS: i64 = 1_000_000;
/// The longest wait between two attempts.
const LONGEST_WAIT_MICROS: i64 = 60_000_000;

/// How much a partition may suffer before it is left to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Attempts that ended in trouble, and, counted on their own, interruptions.
    pub attempts: u32,
}

/// Class of the trouble of a partition some of whose files are looked at a second time.
const SECOND_LOOK: &str = "files";

/// Whether a partition has used up its attempts, so that it is not published again. The second
/// look at files is not counted: it is no trouble of the partition's.
pub fn is_stuck(partition: &PartitionRecord, limits: AttemptLimits) -> bool {
    let attempts = partition.attempts.saturating_sub(u32::from(is_second_look(partition)));
    partition.accepted.is_none()
        && (attempts >= limits.attempts || partition.interruptions >= limits.attempts)
}

fn is_second_look(partition: &PartitionRecord) -> bool {
    partition.trouble.as_ref().is_some_and(|(class, _)| class == SECOND_LOOK)
}

/// Whether an answer is about the attempt that is under way, and not one that was answered
/// before or superseded. A late receipt without failures is as good as any.
pub fn is_timely(partition: &PartitionRecord, attempt: u32) -> bool {
    attempt == partition.attempts + 1
}

/// The setback that an answer without a receipt means; `None` for an answer that costs nothing
/// (a drained worker gave the task back).
pub fn setback(
    partition: &PartitionRecord,
    result: &TaskResult,
    now: Timestamp,
) -> Option<Setback> {
    let (attempts, interruptions, class, detail) = match result {
        TaskResult::Done { .. } | TaskResult::Restored { .. } | TaskResult::Returned => {
            return None;
        }
        // What is wrong with one worker says nothing about the partition.
        TaskResult::Retry { class: class @ RetryClass::Mount, detail } => {
            (0, 0, class.as_str(), detail.as_str())
        }
        TaskResult::Refused { detail } => (0, 0, "refused", detail.as_str()),
        TaskResult::Retry { class, detail } => (1, 0, class.as_str(), detail.as_str()),
        TaskResult::Interrupted => {
            (0, 1, "interrupted", "a worker ended, or lost its connection, while it had the task")
        }
    };
    Some(after_trouble(partition, (attempts, interruptions), class, detail, now))
}

/// The setback of a partition whose receipt, or what the receipt names, is not as it should be.
pub fn setback_of_receipt(partition: &PartitionRecord, why: &str, now: Timestamp) -> Setback {
    after_trouble(partition, (1, 0), "receipt", why, now)
}

/// The setback of a partition some of whose files deserve a second look.
pub fn setback_for_second_look(
    partition: &PartitionRecord,
    receipt: &Receipt,
    now: Timestamp,
) -> Setback {
    let first = receipt.failures.iter().find(|failed| failed.reason.deserves_second_attempt());
    let detail = first.map_or_else(String::new, |failed| {
        format!(
            "{} files failed, the first is {} ({}): looking a second time",
            receipt.failures.len(),
            failed.uid,
            failed.reason
        )
    });
    after_trouble(partition, (1, 0), SECOND_LOOK, &detail, now)
}

fn after_trouble(
    partition: &PartitionRecord,
    (attempts, interruptions): (u32, u32),
    class: &str,
    detail: &str,
    now: Timestamp,
) -> Setback {
    let (attempts, interruptions) =
        (partition.attempts + attempts, partition.interruptions + interruptions);
    let doublings = (attempts + interruptions).saturating_sub(1).min(16);
    let wait = (FIRST_WAIT_MICROS << doublings).min(LONGEST_WAIT_MICROS);
    // Partitions that failed together should not all come back at the same moment.
    let spread = i64::from(partition.partition % 16) * wait / 64;
    Setback {
        attempts,
        interruptions,
        not_before: Some(now.saturating_add_micros(wait + spread)),
        class: class.to_owned(),
        detail: detail.chars().take(1_000).collect(),
    }
}

/// What is known, without believing anybody, about the partition that a receipt claims to answer.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The archive.
    pub identity: &'a ArchiveIdentity,
    /// The window.
    pub window: Window,
    /// The pass.
    pub revision: u16,
    /// The partition, as the ledger has it.
    pub partition: &'a PartitionRecord,
}

/// Reads a receipt and compares it with the ledger. `key` is the name that it was found under.
///
/// # Errors
/// The reason why the receipt cannot be accepted.
pub fn check_receipt(key: &str, bytes: &[u8], expected: Expected<'_>) -> Result<Receipt, String> {
    let Expected { identity, window, revision, partition } = expected;
    if names::content_hash(key) != Some(ContentHash::of(bytes)) {
        return Err("its bytes are not those that its name stands for".to_owned());
    }
    let receipt = Receipt::decode(bytes).map_err(|error| error.to_string())?;
    let about = (&receipt.archive, &receipt.job, receipt.window, receipt.revision);
    if about != (&identity.archive, &identity.job, window, revision)
        || receipt.partition != partition.partition
        || Some(receipt.manifest_hash) != names::content_hash(&partition.manifest)
    {
        return Err("it is about another partition".to_owned());
    }
    if receipt.packed + receipt.failed != partition.rows {
        return Err(format!(
            "it accounts for {} rows of {}, or for others",
            receipt.packed.rows + receipt.failed.rows,
            partition.rows.rows
        ));
    }
    if receipt.tally_of_failures() != receipt.failed {
        return Err("its failed rows are not those that it counts".to_owned());
    }
    let entries: u64 = receipt.shards.iter().map(|shard| shard.entries).sum();
    if entries != receipt.packed.rows {
        return Err("its shards hold other than its packed rows".to_owned());
    }
    Ok(receipt)
}

/// Whether a receipt is to be accepted now, or its failed files deserve a second look first.
pub fn deserves_second_look(partition: &PartitionRecord, receipt: &Receipt) -> bool {
    !is_second_look(partition) && receipt.deserves_second_attempt()
}

/// The ledger's record of an accepted receipt.
pub fn accepted(key: &str, size: u64, receipt: &Receipt) -> AcceptedReceipt {
    AcceptedReceipt {
        receipt: key.to_owned(),
        receipt_size: size,
        files_failed: receipt.failed.rows,
    }
}

/// How many rows of a window may fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailureLimits {
    /// In any window.
    pub files: u64,
    /// As a share of its rows, 0 to 1.
    pub ratio: f64,
}

impl FailureLimits {
    /// Whether a window of `rows` rows may commit with `failed` of them failed.
    pub fn allow(self, rows: u64, failed: u64) -> bool {
        // The largest counts that matter are far below 2^52, where f64 is exact.
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^52 rows")]
        let (rows, failed_exact) = (rows as f64, failed as f64);
        failed <= self.files || failed_exact <= self.ratio * rows
    }
}

/// Numbers a partition.
pub fn partition_id(at: usize) -> PartitionId {
    PartitionId::try_from(at).unwrap_or(PartitionId::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Tally;

    fn partition(attempts: u32, interruptions: u32) -> PartitionRecord {
        PartitionRecord {
            partition: 3,
            manifest: String::new(),
            manifest_size: 0,
            rows: Tally::default(),
            attempts,
            interruptions,
            not_before: None,
            trouble: None,
            accepted: None,
        }
    }

    fn now() -> Timestamp {
        "2024-12-01".parse().expect("a date")
    }

    #[test]
    fn trouble_costs_an_attempt_and_waits_longer_each_time() {
        let result = TaskResult::Retry { class: RetryClass::Store, detail: "503".into() };
        let waits: Vec<i64> = (0..12)
            .map(|attempts| {
                let setback = setback(&partition(attempts, 0), &result, now()).expect("trouble");
                assert_eq!((setback.attempts, setback.interruptions), (attempts + 1, 0));
                setback.not_before.expect("a wait").seconds_since(now())
            })
            .collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert!(waits[0] <= 2 && waits[11] <= 90);
    }

    #[test]
    fn what_is_given_back_costs_nothing_and_what_was_interrupted_is_counted_apart() {
        assert_eq!(setback(&partition(2, 0), &TaskResult::Returned, now()), None);
        let interrupted = setback(&partition(2, 1), &TaskResult::Interrupted, now()).expect("one");
        assert_eq!((interrupted.attempts, interrupted.interruptions), (2, 2));
    }

    #[test]
    fn a_partition_is_stuck_when_its_attempts_are_used_up() {
        let limits = AttemptLimits { attempts: 5 };
        assert!(!is_stuck(&partition(4, 4), limits));
        assert!(is_stuck(&partition(5, 0), limits));
        assert!(is_stuck(&partition(0, 5), limits));
    }

    #[test]
    fn one_unfit_worker_costs_no_attempt() {
        for result in [
            TaskResult::Retry { class: RetryClass::Mount, detail: "gone".into() },
            TaskResult::Refused { detail: "a stranger".into() },
        ] {
            let setback = setback(&partition(3, 0), &result, now()).expect("a wait");
            assert_eq!((setback.attempts, setback.interruptions), (3, 0));
            assert!(setback.not_before > Some(now()));
        }
    }

    #[test]
    fn the_second_look_is_no_attempt_and_old_answers_are_known() {
        let mut looked = partition(1, 0);
        looked.trouble = Some((SECOND_LOOK.to_owned(), String::new()));
        assert!(!is_stuck(&looked, AttemptLimits { attempts: 1 }));
        assert!(is_stuck(&partition(1, 0), AttemptLimits { attempts: 1 }));
        assert!(is_timely(&looked, 2) && !is_timely(&looked, 1));
    }

    #[test]
    fn a_window_may_fail_up_to_the_larger_limit() {
        let limits = FailureLimits { files: 10, ratio: 0.001 };
        assert!(limits.allow(5, 5) && limits.allow(100, 10) && limits.allow(100_000, 100));
        assert!(!limits.allow(100, 11) && !limits.allow(100_000, 101));
    }
}
