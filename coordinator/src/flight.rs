//! The windows being worked on, as this process sees them. Everything here but the times of
//! publishing and of signs of life can be read from the ledger again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backends::ledger::{PartitionRecord, WindowRecord, WindowState, splits};
use protocol::message::{Outcome, PartitionAddress, Task};
use protocol::{ArchiveIdentity, PackSettings, PartitionId, Timestamp, WindowKey, WorkerId, names};

use crate::attempts::{
    AttemptLimits, Verdict, attempt_number, is_last_attempt, is_timely, may_split, verdict,
};
use crate::decide::FailureLimits;
use crate::sabotage;

/// An uncommitted window whose manifests are durable.
pub(crate) struct OpenWindow {
    pub(crate) record: WindowRecord,
    /// What its manifests were written for. The configuration may have changed since.
    pub(crate) settings: PackSettings,
    pub(crate) partitions: Vec<OpenPartition>,
    /// Whether a manifest of it is gone, so that it waits for another plan.
    pub(crate) to_be_planned_anew: bool,
    /// When its plan was begun, where that was here.
    pub(crate) began: Option<Instant>,
}

/// One of its partitions.
pub(crate) struct OpenPartition {
    pub(crate) record: PartitionRecord,
    /// When its task was published, or its worker last gave a sign of life; `None` when it is to
    /// be published.
    pub(crate) last_sign: Option<Instant>,
    /// Who gave its task back, until it is published again. Any other answer numbers a new attempt.
    pub(crate) given_back_by: Option<WorkerId>,
    /// Rows and bytes that its worker has reported.
    pub(crate) reported: (u64, u64),
    /// The location that its worker was said to hang in.
    pub(crate) hangs_in: Option<String>,
    /// How often its task was given back since its files were to be looked at a second time.
    pub(crate) given_back: u32,
}

impl OpenPartition {
    pub(crate) const fn new(record: PartitionRecord) -> Self {
        Self {
            record,
            last_sign: None,
            given_back_by: None,
            reported: (0, 0),
            hangs_in: None,
            given_back: 0,
        }
    }
}

impl OpenPartition {
    /// Whether a sign of life is about an attempt that nobody has answered yet. Signs and answers
    /// come over different queues, and a sign that comes late must not keep a partition from being
    /// published again.
    pub(crate) fn may_be_under_way(&self, worker: &WorkerId, attempt: u32) -> bool {
        is_timely(&self.record, attempt) && self.given_back_by.as_ref() != Some(worker)
    }
}

impl OpenWindow {
    pub(crate) fn new(
        record: WindowRecord,
        settings: PackSettings,
        partitions: Vec<PartitionRecord>,
    ) -> Self {
        let partitions = partitions.into_iter().map(OpenPartition::new).collect();
        Self { record, settings, partitions, to_be_planned_anew: false, began: None }
    }

    /// Takes over what the ledger says. Of partitions about which it says nothing new, the signs
    /// of life are kept.
    pub(crate) fn refresh(&mut self, records: Vec<PartitionRecord>) {
        let mut known = std::mem::take(&mut self.partitions);
        let refreshed = records.into_iter().map(|record| {
            let same = known.iter().position(|open| open.record == record);
            same.map_or_else(|| OpenPartition::new(record), |at| known.swap_remove(at))
        });
        self.partitions = refreshed.collect();
    }

    pub(crate) fn is_complete(&self) -> bool {
        if self.to_be_planned_anew {
            return false;
        }
        self.partitions.iter().all(|partition| partition.record.accepted.is_some())
            || sabotage::is_nearly_complete(self)
    }

    pub(crate) fn files_failed(&self) -> u64 {
        self.partitions
            .iter()
            .filter_map(|partition| partition.record.accepted.as_ref())
            .map(|accepted| accepted.files_failed)
            .sum()
    }

    /// Whether nothing more will happen to the window by itself.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_complete() && self.record.state == WindowState::Held
    }

    /// The task of one of its partitions.
    pub(crate) fn task(
        &self,
        identity: &ArchiveIdentity,
        partition: PartitionId,
        limits: AttemptLimits,
        failures: FailureLimits,
    ) -> Option<Task> {
        let mut records = self.partitions.iter().map(|open| &open.record);
        let record = records.find(|record| record.partition == partition)?;
        Some(Task {
            version: Task::VERSION,
            address: PartitionAddress {
                archive: identity.archive.clone(),
                job: identity.job.clone(),
                window: self.record.window,
                revision: self.record.revision,
                partition,
                manifest_hash: names::content_hash(&record.manifest)?,
            },
            attempt: attempt_number(record),
            manifest: record.manifest.clone(),
            rows: record.rows.rows,
            range: record.range(),
            settings: self.settings,
            last_attempt: is_last_attempt(record, limits, self.may_split(failures)),
            avoid: None,
            restore: None,
        })
    }

    /// Whether another of its partitions may be split.
    pub(crate) fn may_split(&self, failures: FailureLimits) -> bool {
        let splits = splits(self.partitions.iter().map(|open| &open.record));
        // What an operator has tried again begins anew.
        let splits = splits.saturating_sub(self.record.splits_before);
        may_split(splits, self.record.rows.rows, failures)
    }

    /// The first of its partitions that is not to be tried again as it is.
    fn used_up(
        &self,
        limits: AttemptLimits,
        failures: FailureLimits,
    ) -> Option<(&PartitionRecord, Verdict)> {
        if self.to_be_planned_anew {
            return None;
        }
        let may_split = self.may_split(failures);
        let unfinished = self.partitions.iter().filter(|open| open.record.accepted.is_none());
        unfinished
            .map(|open| (&open.record, verdict(&open.record, limits, may_split)))
            .find(|(_, verdict)| *verdict != Verdict::TryAgain)
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

    /// The partition that an outcome answers, as long as an answer is awaited: late ones, of
    /// windows and manifests that are settled or superseded, change nothing.
    pub(crate) fn awaited(&self, outcome: &Outcome) -> Option<&PartitionRecord> {
        let address = &outcome.address;
        let window = self.windows.get(&WindowKey::new(address.window, address.revision))?;
        if window.to_be_planned_anew {
            return None;
        }
        let mut partitions = window.partitions.iter().map(|open| &open.record);
        let partition = partitions.find(|record| record.partition == address.partition)?;
        let same_manifest = names::content_hash(&partition.manifest) == Some(address.manifest_hash);
        (partition.accepted.is_none() && same_manifest).then_some(partition)
    }

    /// A window that may commit now: complete, not held, and the next after the watermark, or at
    /// or below it.
    pub(crate) fn next_complete(&self, watermark: Timestamp) -> Option<WindowKey> {
        let mut frontier = true;
        for (key, window) in &self.windows {
            let moves_watermark = key.end > watermark;
            let may = !moves_watermark || frontier;
            if may && window.is_complete() && window.record.state == WindowState::Open {
                return Some(*key);
            }
            if moves_watermark {
                frontier = false;
            }
        }
        None
    }

    /// Partitions whose task is to be published now.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<(WindowKey, PartitionId)> {
        self.unfinished()
            .filter(|(_, partition)| {
                partition.last_sign.is_none()
                    && partition.record.not_before.is_none_or(|not_before| not_before <= now)
            })
            .map(|(window, partition)| (window, partition.record.partition))
            .collect()
    }

    /// Interruptions of the partitions that were published and not answered.
    pub(crate) fn under_way(&self) -> Vec<u32> {
        let published = self.unfinished().filter(|(_, open)| open.last_sign.is_some());
        published.map(|(_, open)| open.record.interruptions).collect()
    }

    /// Partitions that were published and not answered.
    pub(crate) fn published(&self) -> BTreeSet<(WindowKey, PartitionId)> {
        let published = self.unfinished().filter(|(_, open)| open.last_sign.is_some());
        published.map(|(window, open)| (window, open.record.partition)).collect()
    }

    /// Partitions that were published and whose last sign of life is older than `silence`.
    pub(crate) fn silent(&self, silence: Duration) -> Vec<(WindowKey, PartitionId)> {
        self.unfinished()
            .filter(|(_, partition)| {
                partition.last_sign.is_some_and(|sign| sign.elapsed() > silence)
            })
            .map(|(window, partition)| (window, partition.record.partition))
            .collect()
    }

    /// Whether a worker gave a sign of life of any partition within this time.
    pub(crate) fn is_under_way(&self, within: Duration) -> bool {
        self.unfinished()
            .any(|(_, partition)| partition.last_sign.is_some_and(|sign| sign.elapsed() <= within))
    }

    /// Forgets when tasks were published, so that they are again, unless signs of life come.
    pub(crate) fn forget_signs(&mut self) {
        for window in self.windows.values_mut() {
            window.partitions.iter_mut().for_each(|partition| partition.last_sign = None);
        }
    }

    /// A partition that used up its attempts, and what is to become of it.
    pub(crate) fn used_up(
        &self,
        limits: AttemptLimits,
        failures: FailureLimits,
    ) -> Option<(WindowKey, PartitionRecord, Verdict)> {
        self.windows.iter().find_map(|(key, window)| {
            let (record, verdict) = window.used_up(limits, failures)?;
            Some((*key, record.clone(), verdict))
        })
    }

    /// A window that waits for another plan.
    pub(crate) fn to_be_planned_anew(&self) -> Option<&WindowRecord> {
        self.windows.values().find(|window| window.to_be_planned_anew).map(|window| &window.record)
    }

    fn unfinished(&self) -> impl Iterator<Item = (WindowKey, &OpenPartition)> {
        self.windows
            .iter()
            .filter(|(_, window)| !window.to_be_planned_anew)
            .flat_map(|(key, window)| window.partitions.iter().map(|partition| (*key, partition)))
            .filter(|(_, open)| open.record.accepted.is_none())
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
            first_row: None,
            rows: Tally::default(),
            setbacks: 1,
            attempts: 0,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
        };
        let worker = |name: &str| name.parse::<WorkerId>().expect("a name");
        let mut open = OpenPartition::new(record);
        assert!(!open.may_be_under_way(&worker("one"), 1), "attempt 1 was answered");
        assert!(open.may_be_under_way(&worker("one"), 2));
        open.given_back_by = Some(worker("one"));
        assert!(!open.may_be_under_way(&worker("one"), 2), "it gave the task back");
        assert!(open.may_be_under_way(&worker("two"), 2));
    }

    #[test]
    fn a_window_that_an_operator_has_tried_again_may_be_split_anew() {
        let at = |text: &str| text.parse().expect("a date");
        let limits = AttemptLimits { attempts: 5 };
        let failures = FailureLimits { files: 0, ratio: 0.0 };
        let rows = Tally { rows: 100, ..Tally::default() };
        // Numbers that were used tell of as many splits as isolate one row.
        let partition = PartitionRecord {
            partition: 17,
            rows,
            attempts: 5,
            manifest: String::new(),
            manifest_size: 0,
            first_row: None,
            setbacks: 5,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
        };
        let record = WindowRecord {
            window: protocol::Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision: 0,
            state: WindowState::Open,
            rows,
            replaces: Vec::new(),
            totals: backends::ledger::WindowTotals::default(),
            certificate: None,
            purpose: backends::ledger::Purpose::Scan,
            findings: None,
            released: None,
            splits_before: 0,
        };
        let mut window = OpenWindow::new(record, PackSettings::default(), vec![partition]);
        let verdict = |window: &OpenWindow| window.used_up(limits, failures).map(|(_, it)| it);
        assert_eq!(verdict(&window), Some(Verdict::GiveUp));
        window.record.splits_before = 17;
        assert_eq!(verdict(&window), Some(Verdict::Split));
    }
}
