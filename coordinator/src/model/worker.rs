//! A worker, who may die, lie, or give up for reasons of his own.

use backends::ledger::PartitionRecord;
use protocol::message::{Outcome, RetryClass, Task, TaskResult};
use protocol::receipt::ShardRef;
use protocol::{ContentHash, FailureReason, Fingerprint, Receipt, WindowKey, names};

use super::leader::{failed, rows_of};
use super::world::{Nature, Truth, World};

/// Takes a task, any that waits, and answers it, as workers do.
pub(super) fn work(world: &mut World) {
    let Some(at) = world.rng.position(world.tasks.len()) else { return };
    let (task, redelivered) = world.tasks.swap_remove(at);
    let worker = format!("worker-{}", world.rng.below(3)).parse().expect("a name");
    if redelivered {
        world.counts.interrupted += 1;
        return answer(world, &task, worker, TaskResult::Interrupted);
    }
    if task.avoid.as_ref() == Some(&worker) {
        return answer(world, &task, worker, TaskResult::Returned);
    }
    let detail = String::new();
    let trouble = if world.kind { u64::MAX } else { world.rng.below(24) };
    match trouble {
        0 => return answer(world, &task, worker, TaskResult::Returned),
        1 => return answer(world, &task, worker, TaskResult::Refused { detail }),
        2 => return retry(world, &task, worker, RetryClass::Store),
        3 => return retry(world, &task, worker, RetryClass::Mount),
        4 => return retry(world, &task, worker, RetryClass::Panic),
        // Killed; the broker delivers it again.
        5 => return world.tasks.push((task, true)),
        _ => {}
    }
    if let Some(name) = earlier_receipt(world, &task)
        && world.manifests.contains_key(&task.manifest)
    {
        let result = TaskResult::Done { receipt: name, receipt_size: 1 };
        return answer(world, &task, worker, result);
    }
    if !world.manifests.contains_key(&task.manifest) {
        return retry(world, &task, worker, RetryClass::Store);
    }
    let rows = rows_of(world, &as_record(&task));
    let has = |nature| rows.iter().any(|row| world.rows[*row].1 == nature);
    if has(Nature::Deadly) {
        return world.tasks.push((task, true));
    }
    if has(Nature::Unreadable) && !task.last_attempt {
        return retry(world, &task, worker, RetryClass::Source);
    }
    let lie = if world.kind { u64::MAX } else { world.rng.below(16) };
    let (bytes, truth) = receipt(world, &task, &worker, &rows, lie);
    let key = WindowKey::new(task.address.window, task.address.revision);
    let address = &task.address;
    let hash = ContentHash::of(&bytes);
    let name = names::receipt(key, address.partition, address.manifest_hash, hash);
    world.receipts.entry(name.clone()).or_insert((bytes, truth));
    answer(world, &task, worker, TaskResult::Done { receipt: name, receipt_size: 1 });
    // Whoever dies after the answer and before the ack leaves the task to be delivered again.
    if !world.kind && world.rng.one_in(8) {
        world.tasks.push((task, true));
    }
}

fn retry(world: &mut World, task: &Task, worker: protocol::WorkerId, class: RetryClass) {
    answer(world, task, worker, TaskResult::Retry { class, detail: String::new() });
}

fn answer(world: &mut World, task: &Task, worker: protocol::WorkerId, result: TaskResult) {
    world.outcomes.push(Outcome {
        version: Outcome::VERSION,
        address: task.address.clone(),
        attempt: task.attempt,
        worker,
        result,
    });
}

/// As much of a partition as a task tells.
fn as_record(task: &Task) -> PartitionRecord {
    PartitionRecord {
        partition: task.address.partition,
        manifest: task.manifest.clone(),
        manifest_size: 0,
        first_row: task.range.map(|range| range.first),
        rows: protocol::Tally { rows: task.rows, ..protocol::Tally::default() },
        setbacks: 0,
        attempts: 0,
        interruptions: 0,
        not_before: None,
        trouble: None,
        first_look: None,
        under_way_by: None,
        accepted: None,
    }
}

fn earlier_receipt(world: &World, task: &Task) -> Option<String> {
    let address = &task.address;
    let key = WindowKey::new(address.window, address.revision);
    let (folder, stem) = names::receipts_for(key, address.partition, address.manifest_hash);
    let begins = format!("{folder}/{stem}");
    let mut found = world.receipts.range(begins.clone()..);
    let (name, (bytes, _)) = found.next().filter(|(name, _)| name.starts_with(&begins))?;
    let receipt = Receipt::decode(bytes).ok()?;
    (receipt.failed.rows == 0 && receipt.range == task.range).then(|| name.clone())
}

/// The receipt of rows that were read; one in several lies about them.
fn receipt(
    world: &mut World,
    task: &Task,
    worker: &protocol::WorkerId,
    rows: &[usize],
    lie: u64,
) -> (Vec<u8>, Truth) {
    let (mut packed, mut failures): (Vec<usize>, Vec<usize>) =
        rows.iter().partition(|row| world.rows[**row].1 == Nature::Sound);
    let mut partition = task.address.partition;
    match lie {
        // A row is passed over in silence.
        0 => drop(packed.pop()),
        1 => drop(failures.pop()),
        // It is about somebody else's partition.
        2 => partition += 1,
        _ => {}
    }
    world.counts.lies += u64::from(lie <= 2);
    let reason = |row: &usize| match world.rows[*row].1 {
        Nature::Missing => FailureReason::Missing,
        _ => FailureReason::GaveUp,
    };
    let failed_rows = failures.iter().map(|row| failed(world, *row, reason(row))).collect();
    let shard = ShardRef {
        key: "20241201_0_x.des".to_owned(),
        size: 1,
        crc32c: 0,
        entries: packed.len() as u64,
        bytes_raw: 0,
        first_fingerprint: Fingerprint::default(),
        last_fingerprint: Fingerprint::default(),
        tail_bytes: 0,
    };
    let mut receipt = Receipt {
        version: Receipt::VERSION,
        archive: task.address.archive.clone(),
        job: task.address.job.clone(),
        window: task.address.window,
        revision: task.address.revision,
        partition,
        manifest_hash: task.address.manifest_hash,
        range: task.range,
        attempt: task.attempt,
        worker: worker.clone(),
        packed: world.tally(&packed),
        failed: protocol::Tally::default(),
        bytes_raw: 0,
        bytes_stored: 0,
        shards: if packed.is_empty() { Vec::new() } else { vec![shard] },
        big_files: Vec::new(),
        failures: failed_rows,
    };
    receipt.failed = receipt.tally_of_failures();
    if lie == 0 && world.rng.one_in(2) {
        // It says so many rows as there were.
        receipt.packed.rows = rows.len() as u64 - receipt.failed.rows;
    }
    (receipt.encode(), Truth { packed, failed: failures })
}
