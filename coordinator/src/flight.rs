//! The windows being worked on, as this process sees them. Everything here but the times of
//! publishing and of signs of life can be read from the ledger again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backends::ledger::{PartitionRecord, WindowRecord, WindowState, splits};
use protocol::message::{Outcome, PartitionAddress, Task};
use protocol::{
    ArchiveIdentity, PackSettings, PartitionId, Receipt, Timestamp, WindowKey, WorkerId, names,
};

use crate::attempts::{
    AttemptLimits, Verdict, attempt_number, is_last_attempt, is_timely, may_split, verdict,
};
use crate::decide::{FailureLimits, is_same_work};
use crate::kept::Kept;
use crate::sabotage;
use crate::throttle::Charge;

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
    /// When this process met it.
    pub(crate) met: Instant,
}

/// One of its partitions.
pub(crate) struct OpenPartition {
    pub(crate) record: PartitionRecord,
    /// When its task was published, or its worker last gave a sign of life; `None` when it is to
    /// be published.
    pub(crate) last_sign: Option<Instant>,
    /// Who gave its task back, until it is published again. Any other answer numbers a new attempt.
    pub(crate) given_back_by: Option<WorkerId>,
    /// Whether it was published here, since it was answered last, so that the next sign of life is
    /// the first of its attempt.
    pub(crate) published_here: bool,
    /// When the attempt under way gave its first sign of life, where it was published here.
    pub(crate) first_sign: Option<Instant>,
    /// Rows and bytes that its worker has reported.
    pub(crate) reported: (u64, u64),
    /// The location that its worker was said to hang in.
    pub(crate) hangs_in: Option<String>,
    /// How often its task was given back since its files were to be looked at a second time.
    pub(crate) given_back: u32,
    /// Its accepted receipt as it was read, where there was room for it.
    pub(crate) kept: Option<Kept>,
    /// What its task was taken to hold when it was published last.
    pub(crate) charge: Option<Charge>,
}

impl OpenPartition {
    pub(crate) const fn new(record: PartitionRecord) -> Self {
        Self {
            record,
            last_sign: None,
            given_back_by: None,
            published_here: false,
            first_sign: None,
            reported: (0, 0),
            hangs_in: None,
            given_back: 0,
            kept: None,
            charge: None,
        }
    }

    /// Notes that its task was published.
    pub(crate) fn note_published(&mut self) {
        self.last_sign = Some(Instant::now());
        self.given_back_by = None;
        self.published_here = true;
        self.first_sign = None;
        self.reported = (0, 0);
    }

    /// Notes a sign of life.
    pub(crate) fn note_sign(&mut self) {
        let now = Instant::now();
        self.last_sign = Some(now);
        if self.published_here {
            self.first_sign.get_or_insert(now);
        }
    }

    /// How long the attempt took that this answer is about, as seen from here: nothing is known of
    /// one that somebody else published, that was answered before, or whose receipt was there
    /// already.
    pub(crate) fn took(&self, answer: &Outcome, receipt: &Receipt) -> Option<Duration> {
        let executed = receipt.attempt == answer.attempt && receipt.worker == answer.worker;
        let timely = is_timely(&self.record, answer.attempt);
        self.first_sign.filter(|_| executed && timely).map(|sign| sign.elapsed())
    }

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
        Self {
            record,
            settings,
            partitions,
            to_be_planned_anew: false,
            began: None,
            met: Instant::now(),
        }
    }

    /// Takes over what the ledger says. Of partitions that are the same work and were not answered
    /// since, the signs of life are kept: what else is written down of them, such as who works on
    /// them, says nothing about whether somebody does.
    pub(crate) fn refresh(&mut self, records: Vec<PartitionRecord>) {
        let mut known = std::mem::take(&mut self.partitions);
        let refreshed = records.into_iter().map(|record| {
            let same = known.iter().position(|open| is_same_attempt(&open.record, &record));
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

    /// Whether the partition is not to be tried again as it is.
    pub(crate) fn is_used_up(
        &self,
        partition: PartitionId,
        limits: AttemptLimits,
        failures: FailureLimits,
    ) -> bool {
        let may_split = self.may_split(failures);
        let mut records = self.partitions.iter().map(|open| &open.record);
        let record = records.find(|record| record.partition == partition);
        record.is_some_and(|it| verdict(it, limits, may_split) != Verdict::TryAgain)
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

/// Whether both are about the same attempt at the same work.
fn is_same_attempt(known: &PartitionRecord, record: &PartitionRecord) -> bool {
    is_same_work(known, record)
        && known.accepted == record.accepted
        && (known.setbacks, known.attempts, known.interruptions)
            == (record.setbacks, record.attempts, record.interruptions)
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

    /// The first window that may commit now, of those that are not to `wait`.
    pub(crate) fn next_complete(
        &self,
        watermark: Timestamp,
        wait: impl Fn(WindowKey) -> bool,
    ) -> Option<WindowKey> {
        self.complete(watermark).find(|key| !wait(*key))
    }

    /// Whether this window may commit now.
    pub(crate) fn may_commit(&self, window: WindowKey, watermark: Timestamp) -> bool {
        self.complete(watermark).any(|key| key == window)
    }

    /// Windows that may commit now: complete, not held, and the next after the watermark, or at or
    /// below it.
    fn complete(&self, watermark: Timestamp) -> impl Iterator<Item = WindowKey> {
        let frontier = self.windows.keys().find(|key| key.end > watermark);
        self.windows
            .iter()
            .filter(move |(key, _)| key.end <= watermark || Some(*key) == frontier)
            .filter(|(_, window)| window.is_complete() && window.record.state == WindowState::Open)
            .map(|(key, _)| *key)
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

    /// Whether a partition was published and not answered of whose size nothing was known.
    pub(crate) fn is_unmeasured(&self) -> bool {
        let unknown = |open: &OpenPartition| open.charge.is_some_and(|it| it.bytes.is_none());
        self.unfinished().any(|(_, open)| open.last_sign.is_some() && unknown(open))
    }

    /// Forgets when tasks were published, so that they are again, unless signs of life come.
    pub(crate) fn forget_signs(&mut self) {
        for window in self.windows.values_mut() {
            window.partitions.iter_mut().for_each(|partition| partition.last_sign = None);
        }
    }

    /// A partition that used up its attempts, and what is to become of it, in a window that is not
    /// to `wait`.
    pub(crate) fn used_up(
        &self,
        limits: AttemptLimits,
        failures: FailureLimits,
        wait: impl Fn(WindowKey) -> bool,
    ) -> Option<(WindowKey, PartitionRecord, Verdict)> {
        self.windows.iter().filter(|(key, _)| !wait(**key)).find_map(|(key, window)| {
            let (record, verdict) = window.used_up(limits, failures)?;
            Some((*key, record.clone(), verdict))
        })
    }

    /// Windows that wait for another plan.
    pub(crate) fn to_be_planned_anew(&self) -> impl Iterator<Item = &WindowRecord> {
        let lost = self.windows.values().filter(|window| window.to_be_planned_anew);
        lost.map(|window| &window.record)
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
    use protocol::message::TaskResult;
    use protocol::{ContentHash, Tally};

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
    fn only_an_attempt_that_was_seen_from_its_beginning_is_measured() {
        let worker: WorkerId = "one".parse().expect("a name");
        let answer = |attempt| Outcome {
            version: Outcome::VERSION,
            address: PartitionAddress {
                archive: "a".parse().expect("an id"),
                job: "j".parse().expect("a job"),
                window: window(),
                revision: 0,
                partition: 17,
                manifest_hash: ContentHash::of(b"manifest"),
            },
            attempt,
            worker: worker.clone(),
            result: TaskResult::Done { receipt: String::new(), receipt_size: 0 },
        };
        let receipt = |attempt| Receipt {
            version: Receipt::VERSION,
            archive: "a".parse().expect("an id"),
            job: "j".parse().expect("a job"),
            window: window(),
            revision: 0,
            partition: 17,
            manifest_hash: ContentHash::of(b"manifest"),
            range: None,
            attempt,
            worker: worker.clone(),
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            shards: Vec::new(),
            big_files: Vec::new(),
            failures: Vec::new(),
        };
        let mut open = OpenPartition::new(partition());
        let number = attempt_number(&open.record);
        open.note_sign();
        assert_eq!(
            open.took(&answer(number), &receipt(number)),
            None,
            "when it began is not known"
        );
        open.note_published();
        assert_eq!(open.took(&answer(number), &receipt(number)), None, "nobody was seen at it");
        open.note_sign();
        std::thread::sleep(Duration::from_millis(5));
        open.note_sign();
        let took = open.took(&answer(number), &receipt(number)).expect("it is known");
        assert!(took >= Duration::from_millis(5), "{took:?}");
        assert_eq!(open.took(&answer(number), &receipt(number - 1)), None, "it was there already");
        assert_eq!(open.took(&answer(number - 1), &receipt(number - 1)), None, "it is late");
        open.note_published();
        assert_eq!(open.took(&answer(number), &receipt(number)), None, "another begins");
    }

    fn window() -> protocol::Window {
        let at = |text: &str| text.parse().expect("a date");
        protocol::Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window")
    }

    /// Of 100 rows.
    fn record(state: WindowState) -> WindowRecord {
        WindowRecord {
            window: window(),
            revision: 0,
            state,
            rows: Tally { rows: 100, ..Tally::default() },
            replaces: Vec::new(),
            totals: backends::ledger::WindowTotals::default(),
            certificate: None,
            purpose: backends::ledger::Purpose::Scan,
            findings: None,
            released: None,
            splits_before: 0,
            state_since: None,
            partition_rows: None,
        }
    }

    /// Of 100 rows, with five attempts behind it.
    fn partition() -> PartitionRecord {
        PartitionRecord {
            partition: 17,
            rows: Tally { rows: 100, ..Tally::default() },
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
        }
    }

    #[test]
    fn what_is_under_way_stays_so_when_the_ledger_is_read_again() {
        let split = PartitionRecord { partition: 18, ..partition() };
        let record = record(WindowState::Open);
        let mut window = OpenWindow::new(record, PackSettings::default(), vec![partition(), split]);
        window.partitions.iter_mut().for_each(OpenPartition::note_published);
        // As the ledger has them after the second was split: who works on the first is written
        // down there, and when it was to be published before is not.
        let under_way_by = Some("process-1".parse().expect("a name"));
        let first = PartitionRecord { under_way_by, ..partition() };
        let half = |number, first_row| PartitionRecord {
            partition: number,
            first_row: Some(first_row),
            attempts: 0,
            setbacks: 0,
            rows: Tally { rows: 50, ..Tally::default() },
            ..partition()
        };
        window.refresh(vec![first.clone(), half(19, 0), half(20, 50)]);
        let published = |window: &OpenWindow| -> Vec<bool> {
            window.partitions.iter().map(|open| open.last_sign.is_some()).collect()
        };
        assert_eq!(published(&window), [true, false, false], "it would be worked on twice");
        let mut flight = Flight::default();
        flight.windows.insert(window.record.key(), window);
        assert_eq!(flight.under_way(), [0], "a suspect would run beside it");

        let set_back = PartitionRecord { setbacks: 6, attempts: 6, ..first };
        let window = flight.windows.values_mut().next().expect("a window");
        window.refresh(vec![set_back]);
        assert_eq!(published(window), [false], "it was answered since");
    }

    #[test]
    fn a_window_that_an_operator_has_tried_again_may_be_split_anew() {
        let limits = AttemptLimits { attempts: 5 };
        let failures = FailureLimits { files: 0, ratio: 0.0 };
        // Numbers that were used tell of as many splits as isolate one row.
        let partition = partition();
        let record = record(WindowState::Open);
        let mut window = OpenWindow::new(record, PackSettings::default(), vec![partition]);
        let verdict = |window: &OpenWindow| window.used_up(limits, failures).map(|(_, it)| it);
        assert_eq!(verdict(&window), Some(Verdict::GiveUp));
        window.record.splits_before = 17;
        assert_eq!(verdict(&window), Some(Verdict::Split));
    }
}
