//! The world around the coordinator, as plain values: rows, ledger, store, queues; and the oracle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;

use backends::ledger::{
    AcceptedReceipt, PartitionRecord, Purpose, Setback, WindowRecord, WindowState, WindowTotals,
};
use protocol::codec::CompressionCodec;
use protocol::message::{Outcome, Task};
use protocol::{
    ArchiveIdentity, NBits, PackSettings, PartitionId, Row, Tally, Timestamp, Window, WindowKey,
};

use super::leader::{Fell, Leader};
use super::worker;
use crate::attempts::AttemptLimits;
use crate::decide::FailureLimits;

const DAY: i64 = 86_400_000_000;
/// Steps in which something goes wrong now and then. Afterwards the world is kind.
const UNKIND_STEPS: u32 = 60;
/// No world needs longer to come to its end.
const MOST_STEPS: u32 = 20_000;
/// Every attempt is waited for at most a little longer than this.
const LONGEST_WAIT_SECONDS: u64 = 80;

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A position among `len` things.
    pub(super) fn position(&mut self, len: usize) -> Option<usize> {
        if len == 0 { None } else { usize::try_from(self.below(len as u64)).ok() }
    }
}

/// What happens to whoever reads the file of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Sound,
    Missing,
    Unreadable,
    /// The worker dies of it.
    Deadly,
}

/// What went on, so that a run in which nothing did is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) windows: u64,
    pub(super) takeovers: u64,
    pub(super) stale_refused: u64,
    pub(super) dropped: u64,
    pub(super) repeated: u64,
    pub(super) interrupted: u64,
    pub(super) lies: u64,
    pub(super) refused_receipts: u64,
    pub(super) splits: u64,
    pub(super) given_up: u64,
    pub(super) held: u64,
    pub(super) lost_objects: u64,
    pub(super) planned_anew: u64,
    pub(super) read_again: u64,
    pub(super) compared_in_vain: u64,
    pub(super) sound: u64,
    pub(super) sound_given_up: u64,
}

impl Counts {
    fn values(&mut self) -> [&mut u64; 17] {
        let Self { windows, takeovers, stale_refused, dropped, repeated, interrupted, .. } = self;
        let Self { lies, refused_receipts, splits, given_up, held, lost_objects, .. } = self;
        let Self { sound, sound_given_up, planned_anew, read_again, compared_in_vain, .. } = self;
        [
            windows,
            takeovers,
            stale_refused,
            dropped,
            repeated,
            interrupted,
            lies,
            refused_receipts,
            splits,
            given_up,
            held,
            lost_objects,
            planned_anew,
            read_again,
            compared_in_vain,
            sound,
            sound_given_up,
        ]
    }

    pub(super) fn is_busy(mut self) -> bool {
        self.values().into_iter().all(|value| *value > 0)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, value) in self.values().into_iter().zip(other.values()) {
            *sum += *value;
        }
    }
}

/// What a receipt's shards really hold, whatever it says.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub(super) packed: Vec<usize>,
    pub(super) failed: Vec<usize>,
}

/// A window in the ledger.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) record: WindowRecord,
    pub(super) partitions: Vec<PartitionRecord>,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Timestamp,
    pub(super) kind: bool,
    /// Whether receipts are accepted without a look: the mistake that the model is to notice.
    pub(super) gullible: bool,
    pub(super) identity: ArchiveIdentity,
    pub(super) settings: PackSettings,
    pub(super) limits: AttemptLimits,
    pub(super) failures: FailureLimits,
    pub(super) rows: Vec<(Row, Nature)>,
    pub(super) cutoff: Timestamp,
    // The ledger.
    pub(super) epoch: u64,
    pub(super) watermark: Timestamp,
    pub(super) windows: BTreeMap<WindowKey, Recorded>,
    // The store.
    pub(super) manifests: HashMap<String, Vec<usize>>,
    pub(super) receipts: BTreeMap<String, (Vec<u8>, Truth)>,
    // The broker.
    pub(super) tasks: Vec<(Task, bool)>,
    pub(super) outcomes: Vec<Outcome>,
    leaders: Vec<Leader>,
    settled: BTreeSet<usize>,
    pub(super) counts: Counts,
}

fn start() -> Timestamp {
    "2024-12-01".parse().expect("a date")
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let days = 1 + i64::try_from(rng.below(3)).expect("few");
        let count = rng.below(16);
        let rows = (0..count).map(|number| {
            let at = match rng.below(5) {
                0 => DAY * i64::try_from(1 + rng.below(3)).expect("few"),
                _ => 1 + i64::try_from(rng.below(3 * 86_400_000_000)).expect("three days"),
            };
            let at = start().saturating_add_micros(at);
            // Numbers share a few shard indexes, so that these are cut inside, too.
            let uid = if rng.one_in(2) { format!("{}", number * 16) } else { format!("n{number}") };
            let nature = match rng.below(24) {
                0..=2 => Nature::Missing,
                3 => Nature::Unreadable,
                4 => Nature::Deadly,
                _ => Nature::Sound,
            };
            (Row::new(uid, at, Some(format!("/{number}")), None), nature)
        });
        let rows: Vec<_> = rows.collect();
        let n_bits = NBits::new(4).expect("4 bits");
        Self {
            now: start().saturating_add_micros(10 * DAY),
            kind: false,
            gullible: false,
            identity: ArchiveIdentity {
                version: ArchiveIdentity::VERSION,
                archive: "a".parse().expect("an id"),
                job: "j".parse().expect("a job"),
                n_bits,
                origin: start(),
                shard_version: 2,
                created_at: start(),
            },
            settings: PackSettings {
                n_bits,
                codec: CompressionCodec::Zstd,
                level: 3,
                max_shard_size: 1 << 20,
                big_file_threshold: 1 << 20,
            },
            limits: AttemptLimits { attempts: 1 + u32::try_from(rng.below(5)).expect("few") },
            failures: FailureLimits { files: rng.below(3) * 5, ratio: 0.0 },
            cutoff: start().saturating_add_micros(days * DAY),
            rows,
            epoch: 0,
            watermark: start(),
            windows: BTreeMap::new(),
            manifests: HashMap::new(),
            receipts: BTreeMap::new(),
            tasks: Vec::new(),
            outcomes: Vec::new(),
            leaders: Vec::new(),
            settled: BTreeSet::new(),
            counts: Counts::default(),
            rng,
        }
    }

    /// A world whose coordinator accepts what it is told.
    pub(super) fn gullible(seed: u64) -> Self {
        Self { gullible: true, ..Self::new(seed) }
    }

    pub(super) fn run(mut self) -> Result<Counts, String> {
        self.take_over();
        for step in 0..MOST_STEPS {
            self.kind = step >= UNKIND_STEPS;
            if !self.kind {
                self.go_wrong();
            }
            self.go_on()?;
            if self.kind && self.is_over() {
                return self.at_the_end();
            }
        }
        Err(format!("it never came to an end: {:?} {:?}", self.watermark, self.windows))
    }

    fn is_over(&self) -> bool {
        let open = |it: &Recorded| it.record.state != WindowState::Committed;
        self.watermark >= self.cutoff && !self.windows.values().any(open)
    }

    fn take_over(&mut self) {
        self.epoch += 1;
        self.leaders.push(Leader::new(self.epoch));
        // A leader begins by emptying the queue of tasks.
        self.tasks.clear();
    }

    /// Something of what brokers, disks and schedulers do.
    fn go_wrong(&mut self) {
        match self.rng.below(12) {
            0 if self.rng.one_in(3) => {
                self.counts.takeovers += 1;
                self.take_over();
            }
            1 => {
                if let Some(at) = self.rng.position(self.tasks.len()) {
                    self.tasks.swap_remove(at);
                    self.counts.dropped += 1;
                }
            }
            2 => {
                if let Some(at) = self.rng.position(self.outcomes.len()) {
                    self.outcomes.swap_remove(at);
                    self.counts.dropped += 1;
                }
            }
            3 => {
                if let Some(at) = self.rng.position(self.tasks.len()) {
                    let redelivered = self.rng.one_in(2);
                    self.tasks.push((self.tasks[at].0.clone(), redelivered));
                    self.counts.repeated += 1;
                }
            }
            4 => {
                if let Some(at) = self.rng.position(self.outcomes.len()) {
                    self.outcomes.push(self.outcomes[at].clone());
                    self.counts.repeated += 1;
                }
            }
            5 if self.rng.one_in(8) => {
                if let Some(at) = self.rng.position(self.receipts.len())
                    && let Some(name) = self.receipts.keys().nth(at).cloned()
                    && !self.is_certified(&name)
                    && !self.leaders.iter().any(|leader| leader.has_looked_at(&name))
                {
                    self.receipts.remove(&name);
                    self.counts.lost_objects += 1;
                }
            }
            6 if self.rng.one_in(8) => {
                let open = |it: &&Recorded| it.record.state != WindowState::Committed;
                let partitions = self.windows.values().filter(open).flat_map(|it| &it.partitions);
                let manifests: Vec<_> = partitions.map(|it| it.manifest.clone()).collect();
                if let Some(at) = self.rng.position(manifests.len()) {
                    self.manifests.remove(&manifests[at]);
                    self.counts.lost_objects += 1;
                }
            }
            _ => {}
        }
    }

    fn is_certified(&self, receipt: &str) -> bool {
        let committed = self.windows.values().filter(|it| it.record.certificate.is_some());
        let mut accepted = committed.flat_map(|it| &it.partitions);
        accepted.any(|it| it.accepted.as_ref().is_some_and(|accepted| accepted.receipt == receipt))
    }

    /// Somebody does what is next for him: the leader, one who does not know that he leads no more,
    /// a worker; or time passes.
    fn go_on(&mut self) -> Result<(), String> {
        match self.rng.below(8) {
            0 => {
                let seconds = 1 + self.rng.below(LONGEST_WAIT_SECONDS);
                let micros = i64::try_from(seconds).expect("few") * 1_000_000;
                self.now = self.now.saturating_add_micros(micros);
            }
            1..=3 => worker::work(self),
            _ => {
                let at = self.rng.position(self.leaders.len()).unwrap_or_default();
                let mut leader = self.leaders.swap_remove(at);
                match leader.act(self) {
                    Ok(()) => self.leaders.push(leader),
                    Err(Fell::Stale) => self.counts.stale_refused += 1,
                    Err(Fell::Wrong(why)) => return Err(why),
                }
            }
        }
        if self.leaders.is_empty() {
            self.take_over();
        }
        Ok(())
    }

    /// Rows of a window, by number.
    pub(super) fn rows_in(&self, window: Window) -> Vec<usize> {
        let inside = |at: &usize| {
            let created_at = self.rows[*at].0.created_at();
            window.start() < created_at && created_at <= window.end()
        };
        (0..self.rows.len()).filter(inside).collect()
    }

    pub(super) fn tally(&self, rows: &[usize]) -> Tally {
        let mut tally = Tally::default();
        for row in rows {
            let row = &self.rows[*row].0;
            tally.count(&row.uid, row.created_at());
        }
        tally
    }

    // The ledger: every change under the lease, refused to whoever holds it no more.

    pub(super) fn require(&self, epoch: u64) -> Result<(), Fell> {
        if epoch == self.epoch { Ok(()) } else { Err(Fell::Stale) }
    }

    pub(super) fn add_window(&mut self, epoch: u64, new: Recorded) -> Result<(), Fell> {
        self.require(epoch)?;
        self.windows.entry(new.record.key()).or_insert(new);
        Ok(())
    }

    /// Another plan of a window that is open.
    pub(super) fn plan_again(&mut self, epoch: u64, new: Recorded) -> Result<(), Fell> {
        self.require(epoch)?;
        match self.windows.get_mut(&new.record.key()) {
            Some(known) if known.record.state != WindowState::Committed => {
                *known = new;
                Ok(())
            }
            _ => Err(Fell::Wrong("a window that is not open is planned again".to_owned())),
        }
    }

    pub(super) fn partition(
        &mut self,
        key: WindowKey,
        partition: PartitionId,
    ) -> Option<&mut PartitionRecord> {
        let partitions = &mut self.windows.get_mut(&key)?.partitions;
        partitions.iter_mut().find(|it| it.partition == partition)
    }

    pub(super) fn set_back(
        &mut self,
        epoch: u64,
        (key, partition): (WindowKey, PartitionId),
        setback: &Setback,
        reopen: bool,
    ) -> Result<(), Fell> {
        self.require(epoch)?;
        if let Some(record) = self.partition(key, partition)
            && (reopen || record.accepted.is_none())
        {
            apply(record, setback.clone());
            record.accepted = None;
        }
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        epoch: u64,
        (key, partition): (WindowKey, PartitionId),
        receipt: &AcceptedReceipt,
    ) -> Result<bool, Fell> {
        self.require(epoch)?;
        let Some(record) = self.partition(key, partition) else { return Ok(false) };
        match &record.accepted {
            Some(accepted) => Ok(accepted.receipt == receipt.receipt),
            None => {
                record.accepted = Some(receipt.clone());
                Ok(true)
            }
        }
    }

    /// The commit, and what the oracle says to it.
    pub(super) fn commit(
        &mut self,
        epoch: u64,
        key: WindowKey,
        advance_from: Timestamp,
    ) -> Result<(), Fell> {
        self.require(epoch)?;
        let wrong = |why: String| Err(Fell::Wrong(why));
        let Some(recorded) = self.windows.get(&key).cloned() else {
            return wrong(format!("{key} is committed and not in the ledger"));
        };
        let window = recorded.record.window;
        if recorded.record.state == WindowState::Committed {
            return wrong(format!("{key} is committed twice"));
        }
        if advance_from != self.watermark || window.start() > self.watermark {
            return wrong(format!("the watermark skips from {} to {window}", self.watermark));
        }
        let mut seen = BTreeSet::new();
        for partition in &recorded.partitions {
            let Some(accepted) = &partition.accepted else {
                return wrong(format!("{key} is committed without {}", partition.partition));
            };
            let Some((_, truth)) = self.receipts.get(&accepted.receipt) else {
                return wrong(format!("{} is certified and gone", accepted.receipt));
            };
            for row in truth.packed.iter().chain(&truth.failed) {
                if !seen.insert(*row) {
                    return wrong(format!("row {row} of {key} is settled twice"));
                }
            }
            for row in &truth.failed {
                let sound = self.rows[*row].1 == Nature::Sound;
                self.counts.sound_given_up += u64::from(sound);
            }
        }
        if let Some(row) = self.rows_in(window).into_iter().find(|row| !seen.contains(row)) {
            return wrong(format!("row {row} of {key} is neither in the archive nor failed"));
        }
        self.settled.extend(seen);
        self.watermark = window.end();
        self.counts.windows += 1;
        if let Some(recorded) = self.windows.get_mut(&key) {
            recorded.record.state = WindowState::Committed;
            recorded.record.certificate = Some(format!("{key}-e{epoch}"));
        }
        Ok(())
    }

    fn at_the_end(mut self) -> Result<Counts, String> {
        for (number, (row, nature)) in self.rows.iter().enumerate() {
            let due = row.created_at() <= self.cutoff;
            if due != self.settled.contains(&number) {
                return Err(format!("row {number} is due: {due}, and settled: {}", !due));
            }
            self.counts.sound += u64::from(due && *nature == Nature::Sound);
        }
        Ok(self.counts)
    }
}

/// What a setback makes of a partition.
pub(super) fn apply(record: &mut PartitionRecord, setback: Setback) {
    record.setbacks = setback.setbacks;
    record.attempts = setback.attempts;
    record.interruptions = setback.interruptions;
    record.not_before = setback.not_before;
    record.trouble = Some((setback.class, setback.detail));
    record.first_look = setback.first_look;
}

/// A window as it is recorded first.
pub(super) fn recorded(window: Window, rows: Tally, partitions: Vec<PartitionRecord>) -> Recorded {
    let record = WindowRecord {
        window,
        revision: 0,
        state: WindowState::Open,
        rows,
        replaces: Vec::new(),
        totals: WindowTotals::default(),
        certificate: None,
        purpose: Purpose::Scan,
        findings: None,
        released: None,
        splits_before: 0,
        state_since: None,
        partition_rows: None,
    };
    Recorded { record, partitions }
}
