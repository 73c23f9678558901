//! A leader, who knows what the ledger told him last and decides by the coordinator's functions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use backends::ledger::{PartitionRecord, WindowState};
use protocol::message::{Outcome, TaskResult};
use protocol::{
    ContentHash, FailedRow, FailureReason, Fingerprint, PartitionId, Receipt, Tally, Timestamp,
    Window, WindowKey, names,
};

use super::world::{Recorded, Truth, World, apply, recorded};
use crate::answer::{Meaning, meaning};
use crate::attempts::{Verdict, attempt_number, setback_of_lost_object};
use crate::certify::Basis;
use crate::cutting::{Ahead, Next, next_window};
use crate::decide::{Expected, accepted, check_receipt, is_same_work};
use crate::flight::{Flight, OpenWindow};
use crate::partitions::{IndexLoad, PartitionLimits, cut};

const SPAN: i64 = 86_400_000_000;
const LIMITS: PartitionLimits = PartitionLimits { rows: 4, row_bytes: 1 << 20 };
const WINDOWS_IN_FLIGHT: usize = 2;

/// Why a leader leads no more.
pub(super) enum Fell {
    /// Another has the lease.
    Stale,
    /// He did what must never be done.
    Wrong(String),
}

pub(super) struct Leader {
    epoch: u64,
    flight: Flight,
    watermark: Timestamp,
    knows: bool,
    /// Answers whose receipts were read, with the partition that these were compared with then.
    /// They stay with the broker.
    read: VecDeque<(Outcome, Option<Read>)>,
    /// The window whose receipts were compared, as it was then, and what that came to.
    compared: Option<(WindowKey, Basis, Compared)>,
}

type Read = (PartitionRecord, Result<(Receipt, u64), String>);

/// What comparing a window's receipts came to.
enum Compared {
    Sound,
    /// A manifest of it is gone.
    Unplanned(PartitionId),
    NotSo(PartitionId, String),
}

impl Leader {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            flight: Flight::default(),
            watermark: Timestamp::MIN,
            knows: false,
            read: VecDeque::new(),
            compared: None,
        }
    }

    /// Whether this receipt was looked at for a certificate that is not written yet. The look and
    /// the writing are apart in time, and nobody claims that objects cannot vanish in between.
    pub(super) fn has_looked_at(&self, receipt: &str) -> bool {
        self.compared.as_ref().is_some_and(|(_, basis, _)| basis.names(receipt))
    }

    /// One thing that a leader does.
    pub(super) fn act(&mut self, world: &mut World) -> Result<(), Fell> {
        if !self.knows || world.rng.one_in(8) {
            self.look(world);
        }
        match world.rng.below(7) {
            0 => self.plan(world),
            1 => {
                self.publish(world);
                Ok(())
            }
            2 => self.settle_used_up(world),
            3 => match self.compared.take() {
                None => self.compare(world),
                Some(compared) => self.commit(world, compared),
            },
            4 => {
                self.take_outcome(world);
                Ok(())
            }
            _ => self.take_answer(world),
        }
    }

    fn look(&mut self, world: &World) {
        self.knows = true;
        self.watermark = world.watermark;
        let open = |it: &&Recorded| it.record.state != WindowState::Committed;
        self.flight.windows.retain(|key, _| world.windows.get(key).as_ref().is_some_and(open));
        for recorded in world.windows.values().filter(open) {
            let Recorded { record, partitions } = recorded.clone();
            match self.flight.windows.get_mut(&record.key()) {
                Some(open) => {
                    open.record = record;
                    open.refresh(partitions);
                }
                None => {
                    let open = OpenWindow::new(record, world.settings, partitions);
                    self.flight.windows.insert(open.record.key(), open);
                }
            }
        }
    }

    fn plan(&mut self, world: &mut World) -> Result<(), Fell> {
        let held = |it: &OpenWindow| it.record.state == WindowState::Held;
        let in_flight = self.flight.windows.len();
        if in_flight >= WINDOWS_IN_FLIGHT || self.flight.windows.values().any(held) {
            return Ok(());
        }
        let frontier = self.flight.frontier(self.watermark);
        let after = world.rows.iter().map(|(row, _)| row.created_at());
        let oldest_row = after.filter(|at| *at > frontier).min();
        let looked = world.rng.one_in(2).then_some(oldest_row);
        let ahead = Ahead { certified: None, oldest_row: looked };
        let Next::Fresh(window) = next_window(frontier, world.cutoff, SPAN, ahead) else {
            return Ok(());
        };
        let new = split(world, window);
        let record = new.record.clone();
        world.add_window(self.epoch, new)?;
        let Some(there) = world.windows.get(&record.key()).cloned() else { return Ok(()) };
        if there.record.state == WindowState::Open {
            let open = OpenWindow::new(there.record, world.settings, there.partitions);
            self.flight.windows.insert(open.record.key(), open);
        }
        Ok(())
    }

    fn publish(&mut self, world: &mut World) {
        for (key, partition) in self.flight.due(world.now) {
            let Some(window) = self.flight.windows.get(&key) else { continue };
            let task = window.task(&world.identity, partition, world.limits, world.failures);
            let Some(task) = task else { continue };
            world.tasks.push((task, false));
            if let Some(open) = self.flight.partition_mut(key, partition) {
                open.last_sign = Some(Instant::now());
            }
        }
        if world.tasks.is_empty() {
            // Time is not real here: whoever was published has been silent for long.
            for (key, partition) in self.flight.silent(Duration::ZERO) {
                if let Some(open) = self.flight.partition_mut(key, partition) {
                    open.last_sign = None;
                }
            }
        }
    }

    /// Takes up an answer, and reads the receipt that it names.
    fn take_outcome(&mut self, world: &mut World) {
        let Some(at) = world.rng.position(world.outcomes.len()) else { return };
        let outcome = world.outcomes[at].clone();
        let read = self.flight.awaited(&outcome).and_then(|about| read_for(world, &outcome, about));
        self.read.push_back((outcome, read));
    }

    /// Carries out what the next answer means. Its partition may be another by now.
    fn take_answer(&mut self, world: &mut World) -> Result<(), Fell> {
        let Some((outcome, read)) = self.read.pop_front() else { return Ok(()) };
        let awaited = self.flight.awaited(&outcome).cloned();
        let receipt = match (&awaited, &outcome.result, read) {
            (Some(now), TaskResult::Done { .. }, read) => match read {
                Some((then, checked)) if is_same_work(&then, now) => Some(checked),
                _ => {
                    world.counts.read_again += 1;
                    let read = read_for(world, &outcome, now);
                    self.read.push_front((outcome, read));
                    return Ok(());
                }
            },
            _ => None,
        };
        // Acked only after what it means is recorded.
        self.apply(world, &outcome, awaited, receipt)?;
        if let Some(at) = world.outcomes.iter().position(|it| *it == outcome) {
            world.outcomes.swap_remove(at);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        world: &mut World,
        outcome: &Outcome,
        awaited: Option<PartitionRecord>,
        receipt: Option<Result<(Receipt, u64), String>>,
    ) -> Result<(), Fell> {
        let Some(partition) = awaited else { return Ok(()) };
        let key = WindowKey::new(outcome.address.window, outcome.address.revision);
        let place = (key, outcome.address.partition);
        world.counts.refused_receipts += u64::from(matches!(receipt, Some(Err(_))));
        let setback = match meaning(&partition, outcome, receipt.as_ref(), world.now) {
            Meaning::Nothing => return Ok(()),
            Meaning::TakeBack => {
                if let Some(open) = self.flight.partition_mut(key, outcome.address.partition) {
                    open.last_sign = None;
                }
                return Ok(());
            }
            Meaning::Accept(receipt) => {
                if !world.accept(self.epoch, place, &receipt)? {
                    self.knows = false;
                    return Ok(());
                }
                if let Some(open) = self.flight.partition_mut(key, outcome.address.partition) {
                    open.record.accepted = Some(receipt);
                }
                return Ok(());
            }
            Meaning::TryAgain(setback) => setback,
        };
        if self.plan_anew(world, key, &partition)? {
            return Ok(());
        }
        world.set_back(self.epoch, place, &setback, false)?;
        if let Some(open) = self.flight.partition_mut(key, outcome.address.partition) {
            open.last_sign = None;
            apply(&mut open.record, setback);
        }
        Ok(())
    }

    /// Where the partition's manifest is gone, its window is planned anew.
    fn plan_anew(
        &mut self,
        world: &mut World,
        key: WindowKey,
        partition: &PartitionRecord,
    ) -> Result<bool, Fell> {
        if world.manifests.contains_key(&partition.manifest) {
            return Ok(false);
        }
        let Some(open) = self.flight.windows.remove(&key) else { return Ok(false) };
        let new = split(world, open.record.window);
        world.plan_again(self.epoch, new)?;
        world.counts.planned_anew += 1;
        self.look(world);
        Ok(true)
    }

    fn settle_used_up(&mut self, world: &mut World) -> Result<(), Fell> {
        let used_up = self.flight.used_up(world.limits, world.failures, |_| false);
        let Some((key, partition, verdict)) = used_up else { return Ok(()) };
        if self.plan_anew(world, key, &partition)? {
            return Ok(());
        }
        match verdict {
            Verdict::TryAgain => {}
            Verdict::Split => split_partition(world, self.epoch, key, &partition)?,
            Verdict::GiveUp => give_up(world, self.epoch, key, &partition)?,
        }
        self.look(world);
        Ok(())
    }

    /// Compares the receipts of the first window that may commit.
    fn compare(&mut self, world: &mut World) -> Result<(), Fell> {
        let Some(key) = self.flight.next_complete(self.watermark, |_| false) else {
            return release(world, self.epoch);
        };
        let Some(window) = self.flight.windows.get(&key) else { return Ok(()) };
        if !world.failures.allow(&window.record, window.files_failed()) {
            world.require(self.epoch)?;
            world.counts.held += 1;
            if let Some(recorded) = world.windows.get_mut(&key) {
                recorded.record.state = WindowState::Held;
            }
            self.look(world);
            return Ok(());
        }
        self.compared = Some((key, Basis::of(window), compare(world, window)?));
        Ok(())
    }

    /// What was found out some time ago counts only if the window is still what it was.
    fn commit(
        &mut self,
        world: &mut World,
        (key, basis, compared): (WindowKey, Basis, Compared),
    ) -> Result<(), Fell> {
        let Some(window) = self.flight.windows.get(&key) else { return Ok(()) };
        if !self.flight.may_commit(key, self.watermark) || !basis.is_of(window) {
            world.counts.compared_in_vain += 1;
            return Ok(());
        }
        let record = |number: PartitionId| {
            let mut records = window.partitions.iter().map(|open| &open.record);
            records.find(|it| it.partition == number).cloned()
        };
        match compared {
            Compared::Sound => world.commit(self.epoch, key, self.watermark)?,
            Compared::Unplanned(number) => {
                let Some(partition) = record(number) else { return Ok(()) };
                return self.plan_anew(world, key, &partition).map(drop);
            }
            Compared::NotSo(number, why) => {
                let Some(partition) = record(number) else { return Ok(()) };
                let setback = setback_of_lost_object(&partition, &why, world.now);
                world.set_back(self.epoch, (key, number), &setback, true)?;
            }
        }
        self.look(world);
        Ok(())
    }
}

/// What the receipts of a complete window come to.
fn compare(world: &World, window: &OpenWindow) -> Result<Compared, Fell> {
    let mut sum = Tally::default();
    for open in &window.partitions {
        let partition = &open.record;
        let name = partition.accepted.as_ref().map(|it| it.receipt.clone()).unwrap_or_default();
        if !world.manifests.contains_key(&partition.manifest) {
            return Ok(Compared::Unplanned(partition.partition));
        }
        match read(world, &name, window.record.window, partition) {
            Ok((receipt, _)) => sum += receipt.packed + receipt.failed,
            Err(why) => return Ok(Compared::NotSo(partition.partition, why)),
        }
    }
    if sum != window.record.rows && !world.gullible {
        let key = window.record.key();
        return Err(Fell::Wrong(format!("{key}: receipts do not add up to manifests")));
    }
    Ok(Compared::Sound)
}

/// An operator lets a held window go.
fn release(world: &mut World, epoch: u64) -> Result<(), Fell> {
    world.require(epoch)?;
    for recorded in world.windows.values_mut() {
        if recorded.record.state == WindowState::Held {
            let accepted = recorded.partitions.iter().filter_map(|it| it.accepted.as_ref());
            recorded.record.released = Some(accepted.map(|it| it.files_failed).sum());
            recorded.record.state = WindowState::Open;
        }
    }
    Ok(())
}

/// Reads the receipt that an outcome names, for the partition that awaits it.
fn read_for(world: &World, outcome: &Outcome, about: &PartitionRecord) -> Option<Read> {
    let TaskResult::Done { receipt, .. } = &outcome.result else { return None };
    Some((about.clone(), read(world, receipt, outcome.address.window, about)))
}

fn read(
    world: &World,
    name: &str,
    window: Window,
    partition: &PartitionRecord,
) -> Result<(Receipt, u64), String> {
    let Some((bytes, _)) = world.receipts.get(name) else { return Err("it is gone".to_owned()) };
    let expected = Expected { identity: &world.identity, window, revision: 0, partition };
    let receipt = match world.gullible {
        true => Receipt::decode(bytes).map_err(|error| error.to_string())?,
        false => check_receipt(name, bytes, expected)?,
    };
    Ok((receipt, bytes.len() as u64))
}

/// The window's manifests.
fn split(world: &mut World, window: Window) -> Recorded {
    let n_bits = world.settings.n_bits;
    let mut rows = world.rows_in(window);
    rows.sort_by_key(|row| {
        let row = &world.rows[*row].0;
        (n_bits.shard_index(&row.uid), Fingerprint::of(&row.uid), row.created_at_micros)
    });
    let mut loads = vec![IndexLoad::default(); n_bits.shard_count() as usize];
    for row in &rows {
        let row = &world.rows[*row].0;
        let load = &mut loads[usize::from(n_bits.shard_index(&row.uid).0)];
        load.rows += 1;
        load.row_bytes += row.heap_bytes() as u64;
    }
    let key = WindowKey::new(window, 0);
    let all = world.tally(&rows);
    let mut partitions = Vec::new();
    let mut rest = rows.as_slice();
    for (number, count) in (0..).zip(cut(&loads, LIMITS)) {
        let (of_partition, later) = rest.split_at(usize::try_from(count).expect("few"));
        rest = later;
        let bytes: Vec<u8> = of_partition.iter().flat_map(|row| row.to_le_bytes()).collect();
        let manifest = names::manifest(key, number, ContentHash::of(&bytes));
        partitions.push(PartitionRecord {
            partition: number,
            manifest: manifest.clone(),
            manifest_size: 1,
            first_row: None,
            rows: world.tally(of_partition),
            setbacks: 0,
            attempts: 0,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
        });
        world.manifests.insert(manifest, of_partition.to_vec());
    }
    recorded(window, all, partitions)
}

/// Rows of a partition, or of the part of one.
pub(super) fn rows_of(world: &World, partition: &PartitionRecord) -> Vec<usize> {
    let rows = world.manifests.get(&partition.manifest).cloned().unwrap_or_default();
    match partition.range() {
        None => rows,
        Some(range) => {
            let numbered = (0_u64..).zip(rows);
            numbered.filter(|(at, _)| range.contains(*at)).map(|(_, row)| row).collect()
        }
    }
}

fn split_partition(
    world: &mut World,
    epoch: u64,
    key: WindowKey,
    partition: &PartitionRecord,
) -> Result<(), Fell> {
    world.require(epoch)?;
    let rows = world.manifests.get(&partition.manifest).map_or(0, Vec::len) as u64;
    let whole = partition.range().unwrap_or(protocol::manifest::RowRange { first: 0, rows });
    let Some(halves) = whole.halves() else { return Ok(()) };
    let parts = halves.map(|half| {
        let mut part = partition.clone();
        part.first_row = Some(half.first);
        part.rows.rows = half.rows;
        part.rows = world.tally(&rows_of(world, &part));
        (part.setbacks, part.attempts, part.interruptions) = (0, 0, 0);
        (part.not_before, part.trouble, part.first_look) = (None, None, None);
        part
    });
    let Some(recorded) = world.windows.get_mut(&key) else { return Ok(()) };
    let unfinished = |it: &PartitionRecord| it.accepted.is_none();
    let is_it = |it: &PartitionRecord| it.partition == partition.partition && unfinished(it);
    let Some(at) = recorded.partitions.iter().position(is_it) else { return Ok(()) };
    let next = recorded.partitions.iter().map(|it| it.partition).max().unwrap_or(0) + 1;
    recorded.partitions.remove(at);
    for (number, mut part) in (next..).zip(parts) {
        part.partition = PartitionId::from(number);
        recorded.partitions.push(part);
    }
    world.counts.splits += 1;
    Ok(())
}

fn give_up(
    world: &mut World,
    epoch: u64,
    key: WindowKey,
    partition: &PartitionRecord,
) -> Result<(), Fell> {
    let rows = rows_of(world, partition);
    let Some(recorded) = world.windows.get(&key) else { return Ok(()) };
    let window = recorded.record.window;
    let failures = rows.iter().map(|row| failed(world, *row, FailureReason::GaveUp)).collect();
    let manifest_hash = names::content_hash(&partition.manifest)
        .ok_or_else(|| Fell::Wrong(format!("{} has no hash", partition.manifest)))?;
    let mut receipt = Receipt {
        version: Receipt::VERSION,
        archive: world.identity.archive.clone(),
        job: world.identity.job.clone(),
        window,
        revision: 0,
        partition: partition.partition,
        manifest_hash,
        range: partition.range(),
        attempt: attempt_number(partition),
        worker: "coordinator".parse().expect("a name"),
        packed: Tally::default(),
        failed: Tally::default(),
        bytes_raw: 0,
        bytes_stored: 0,
        shards: Vec::new(),
        big_files: Vec::new(),
        failures,
    };
    receipt.failed = receipt.tally_of_failures();
    let bytes = receipt.encode();
    let hash = ContentHash::of(&bytes);
    let name = names::receipt(key, partition.partition, manifest_hash, hash);
    let size = bytes.len() as u64;
    world.receipts.insert(name.clone(), (bytes, Truth { packed: Vec::new(), failed: rows }));
    world.counts.given_up += 1;
    world.accept(epoch, (key, partition.partition), &accepted(&name, size, &receipt))?;
    Ok(())
}

pub(super) fn failed(world: &World, row: usize, reason: FailureReason) -> FailedRow {
    let row = &world.rows[row].0;
    FailedRow {
        uid: row.uid.clone(),
        created_at: row.created_at(),
        location: row.location.clone(),
        reason,
        detail: String::new(),
    }
}
