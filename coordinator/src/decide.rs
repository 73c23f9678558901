//! Whether a receipt is to be believed, and whether a window may commit. Pure.

use backends::ledger::{AcceptedReceipt, PartitionRecord, WindowRecord};
use protocol::{ArchiveIdentity, ContentHash, PartitionId, Receipt, Window, names};

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
        || receipt.range != partition.range()
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

/// Whether a receipt that answers the one partition answers the other as well: what is found out
/// about a partition takes time, and counts only if it is still the same work.
pub fn is_same_work(one: &PartitionRecord, other: &PartitionRecord) -> bool {
    one.partition == other.partition
        && one.manifest == other.manifest
        && one.manifest_size == other.manifest_size
        && one.range() == other.range()
        && one.rows == other.rows
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
    /// How many rows of a window of `rows` rows may fail.
    pub fn allowed(self, rows: u64) -> u64 {
        // The largest counts that matter are far below 2^52, where f64 is exact; a share of them
        // is not negative.
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "exact below 2^52 rows, and saturating beyond"
        )]
        let share = (self.ratio * rows as f64) as u64;
        share.max(self.files)
    }

    /// Whether a window may commit with `failed` rows failed: as many as are allowed, or as an
    /// operator accepted by releasing it.
    pub fn allow(self, window: &WindowRecord, failed: u64) -> bool {
        failed <= self.allowed(window.rows.rows)
            || window.released.is_some_and(|released| failed <= released)
    }
}

/// Numbers a partition.
pub fn partition_id(at: usize) -> PartitionId {
    PartitionId::try_from(at).unwrap_or(PartitionId::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::ledger::{Purpose, WindowState, WindowTotals};
    use protocol::{Digest, Tally};

    fn window(rows: u64, released: Option<u64>) -> WindowRecord {
        let at = |text: &str| text.parse().expect("a date");
        WindowRecord {
            window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision: 0,
            state: WindowState::Open,
            rows: Tally { rows, digest: Digest(1) },
            replaces: Vec::new(),
            totals: WindowTotals::default(),
            certificate: None,
            purpose: Purpose::Scan,
            findings: None,
            released,
            splits_before: 0,
            state_since: None,
            partition_rows: None,
        }
    }

    #[test]
    fn a_window_may_fail_up_to_the_larger_limit() {
        let limits = FailureLimits { files: 10, ratio: 0.001 };
        let allow = |rows, failed| limits.allow(&window(rows, None), failed);
        assert!(allow(5, 5) && allow(100, 10) && allow(100_000, 100));
        assert!(!allow(100, 11) && !allow(100_000, 101));
    }

    #[test]
    fn a_released_window_may_fail_as_far_as_it_was_released() {
        let limits = FailureLimits { files: 10, ratio: 0.001 };
        assert!(limits.allow(&window(100, Some(40)), 40));
        assert!(!limits.allow(&window(100, Some(40)), 41));
        assert!(limits.allow(&window(100, Some(0)), 10), "a release takes nothing away");
    }
}
