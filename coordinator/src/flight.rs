//! The windows being worked on, as this process sees them. Everything here but the times of
//! publishing and of signs of life can be read from the ledger again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use backends::ledger::{PartitionRecord, WindowRecord, WindowState};
use protocol::{PackSettings, PartitionId, Timestamp, WindowKey, WorkerId};

use crate::decide::{AttemptLimits, is_stuck, is_timely};

/// An uncommitted window whose manifests are durable.
pub(crate) struct OpenWindow {
    pub(crate) record: WindowRecord,
    /// What its manifests were written for. The configuration may have changed since.
    pub(crate) settings: PackSettings,
    pub(crate) partitions: Vec<OpenPartition>,
}

/// One of its partitions.
pub(crate) struct OpenPartition {
    pub(crate) record: PartitionRecord,
    /// When its task was published, or its worker last gave a sign of life; `None` when it is to
    /// be published.
    pub(crate) last_sign: Option<Instant>,
    /// Who gave the last answer, which was not a receipt, until its task is published again.
    pub(crate) answered_by: Option<WorkerId>,
    /// Rows and bytes that its worker has reported.
    pub(crate) reported: (u64, u64),
}

impl OpenPartition {
    /// Whether a sign of life is about an attempt that nobody has answered yet. Signs and answers
    /// come over different queues, and a sign that comes late must not keep a partition from being
    /// published again.
    pub(crate) fn may_be_under_way(&self, worker: &WorkerId, attempt: u32) -> bool {
        is_timely(&self.record, attempt) && self.answered_by.as_ref() != Some(worker)
    }
}

impl OpenWindow {
    pub(crate) fn new(
        record: WindowRecord,
        settings: PackSettings,
        partitions: Vec<PartitionRecord>,
    ) -> Self {
        let open =
            |record| OpenPartition { record, last_sign: None, answered_by: None, reported: (0, 0) };
        Self { record, settings, partitions: partitions.into_iter().map(open).collect() }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.partitions.iter().all(|partition| partition.record.accepted.is_some())
    }

    pub(crate) fn files_failed(&self) -> u64 {
        self.partitions
            .iter()
            .filter_map(|partition| partition.record.accepted.as_ref())
            .map(|accepted| accepted.files_failed)
            .sum()
    }

    /// The first partition that has used up its attempts, if any.
    pub(crate) fn stuck(&self, limits: AttemptLimits) -> Option<&PartitionRecord> {
        self.partitions.iter().map(|partition| &partition.record).find(|p| is_stuck(p, limits))
    }

    /// Whether nothing more will happen to the window by itself.
    pub(crate) fn is_blocked(&self, limits: AttemptLimits) -> bool {
        self.partitions.iter().all(|partition| {
            partition.record.accepted.is_some() || is_stuck(&partition.record, limits)
        }) && (self.record.state == WindowState::Held || self.stuck(limits).is_some())
    }
}

/// All of them, by end and revision.
#[derive(Default)]
pub(crate) struct Flight {
    pub(crate) windows: BTreeMap<WindowKey, OpenWindow>,
}

impl Flight {
    pub(crate) fn partition_mut(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
    ) -> Option<&mut OpenPartition> {
        let partitions = &mut self.windows.get_mut(&window)?.partitions;
        partitions.iter_mut().find(|open| open.record.partition == partition)
    }

    /// Partitions whose task is to be published now.
    pub(crate) fn due(
        &self,
        now: Timestamp,
        limits: AttemptLimits,
    ) -> Vec<(WindowKey, PartitionId)> {
        self.unfinished(limits)
            .filter(|(_, partition)| {
                partition.last_sign.is_none()
                    && partition.record.not_before.is_none_or(|not_before| not_before <= now)
            })
            .map(|(window, partition)| (window, partition.record.partition))
            .collect()
    }

    /// Partitions that were published and whose last sign of life is older than `silence`.
    pub(crate) fn silent(
        &self,
        silence: Duration,
        limits: AttemptLimits,
    ) -> Vec<(WindowKey, PartitionId)> {
        self.unfinished(limits)
            .filter(|(_, partition)| {
                partition.last_sign.is_some_and(|sign| sign.elapsed() > silence)
            })
            .map(|(window, partition)| (window, partition.record.partition))
            .collect()
    }

    fn unfinished(
        &self,
        limits: AttemptLimits,
    ) -> impl Iterator<Item = (WindowKey, &OpenPartition)> {
        self.windows
            .iter()
            .flat_map(|(key, window)| window.partitions.iter().map(|partition| (*key, partition)))
            .filter(move |(_, open)| {
                open.record.accepted.is_none() && !is_stuck(&open.record, limits)
            })
    }

    /// The end of the last window that moves the watermark, if there is one.
    pub(crate) fn frontier(&self, watermark: Timestamp) -> Timestamp {
        self.windows.keys().map(|key| key.end).max().map_or(watermark, |end| end.max(watermark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Tally;

    #[test]
    fn a_sign_of_life_that_comes_after_its_answer_is_none() {
        let record = PartitionRecord {
            partition: 0,
            manifest: String::new(),
            manifest_size: 0,
            rows: Tally::default(),
            attempts: 1,
            interruptions: 0,
            not_before: None,
            trouble: None,
            accepted: None,
        };
        let worker = |name: &str| name.parse::<WorkerId>().expect("a name");
        let mut open =
            OpenPartition { record, last_sign: None, answered_by: None, reported: (0, 0) };
        assert!(!open.may_be_under_way(&worker("one"), 1), "attempt 1 was answered");
        assert!(open.may_be_under_way(&worker("one"), 2));
        open.answered_by = Some(worker("one"));
        assert!(!open.may_be_under_way(&worker("one"), 2), "it gave the task back");
        assert!(open.may_be_under_way(&worker("two"), 2));
    }
}
