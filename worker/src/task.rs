//! Executes one task: receipt there already? manifest, files, shards, receipt.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use backends::store::AcceptAll;
use backends::trace::Span;
use backends::{BackendError, Store, crash, sabotage};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::manifest::ManifestReader;
use protocol::message::{Restore, RetryClass, Task, TaskResult};
use protocol::receipt::ShardRef;
use protocol::{
    ArchiveIdentity, ContentHash, Receipt, RowRef, Rows, Tally, WindowKey, WorkerId, names,
};
use tokio::sync::mpsc;

use crate::assemble::{FinishedShard, ShardBody};
use crate::pack::{Counters, PackError, PackInput, PackLimits, Packed, pack};
use crate::restore::Wanted;
use crate::source::Sources;

/// Shards of one partition whose uploads are under way at a time; their memory is bounded
/// separately.
const UPLOADS_IN_FLIGHT: usize = 16;
/// Uploads of one partition that are seen in its trace; of the others it has their number.
const UPLOADS_TRACED: usize = 64;
/// The largest manifest that is read. Coordinators cut far below this.
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;
pub(crate) const MAX_RECEIPT_BYTES: u64 = 256 * 1024 * 1024;
/// Time for every source root to answer.
const ROOTS_TIMEOUT: Duration = Duration::from_secs(15);
/// From this many rows on, more than half of them missing means that a mount is.
const MOUNT_SUSPICION_ROWS: u64 = 10;

/// What every task of a worker shares.
pub(crate) struct TaskContext {
    pub(crate) identity: ArchiveIdentity,
    pub(crate) store: Store,
    pub(crate) sources: Arc<Sources>,
    pub(crate) limits: PackLimits,
    pub(crate) worker: WorkerId,
}

/// Why a task was not done.
pub(crate) enum Undone {
    Retry(RetryClass, String),
    Refused(String),
    Cancelled,
}

impl From<BackendError> for Undone {
    fn from(error: BackendError) -> Self {
        Self::Retry(RetryClass::Store, error.to_string())
    }
}

/// Executes `task`; sets nothing in motion that outlives it.
pub(crate) async fn execute(
    context: &TaskContext,
    task: &Task,
    (counters, cancel): (Arc<Counters>, Arc<AtomicBool>),
    span: &Span,
) -> TaskResult {
    let done = match &task.restore {
        Some(wanted) => restore(context, task, wanted, (counters, cancel), span).await,
        None => try_execute(context, task, (counters, cancel), span)
            .await
            .map(|(receipt, receipt_size)| TaskResult::Done { receipt, receipt_size }),
    };
    match done {
        Ok(result) => result,
        Err(Undone::Retry(class, detail)) => TaskResult::Retry { class, detail },
        Err(Undone::Refused(detail)) => TaskResult::Refused { detail },
        Err(Undone::Cancelled) => TaskResult::Returned,
    }
}

/// Makes certified objects again. No receipt is written: the certified one is true again.
async fn restore(
    context: &TaskContext,
    task: &Task,
    restore: &Restore,
    (counters, cancel): (Arc<Counters>, Arc<AtomicBool>),
    span: &Span,
) -> Result<TaskResult, Undone> {
    check_addressee(&context.identity, task)?;
    check_roots(&context.sources).await?;
    let wanted = Arc::new(Wanted::read(&context.store, task, restore).await?);
    let reading = span.child("read manifest");
    let (rows, _) = read_manifest(&context.store, task).await?;
    drop(reading);
    let input = PackInput {
        left_out: wanted.left_out(&rows, task.settings.n_bits),
        last_attempt: false,
        wanted: Some(Arc::clone(&wanted)),
        ..pack_input(context, task, rows, (counters, cancel))
    };
    let (_, shards, _) = pack_and_upload(&context.store, input, span.child("pack")).await?;
    context.store.flush().await?;
    let mut objects: Vec<String> = shards.into_iter().map(|shard| shard.key).collect();
    objects.extend(wanted.big_files_made());
    objects.sort();
    Ok(TaskResult::Restored { objects })
}

async fn try_execute(
    context: &TaskContext,
    task: &Task,
    (counters, cancel): (Arc<Counters>, Arc<AtomicBool>),
    span: &Span,
) -> Result<(String, u64), Undone> {
    check_addressee(&context.identity, task)?;
    check_roots(&context.sources).await?;
    let looking = span.child("look for receipt");
    if let Some(found) = earlier_receipt(&context.store, task).await? {
        return Ok(found);
    }
    drop(looking);
    let reading = span.child("read manifest");
    let (rows, expected) = read_manifest(&context.store, task).await?;
    drop(reading);
    let input = pack_input(context, task, rows, (counters, cancel));
    let packing = span.child("pack");
    let (packed, shards, packed_tally) = pack_and_upload(&context.store, input, packing).await?;
    crash::point("after_upload");
    let receipt = write_up(context, task, packed, shards, packed_tally);
    if receipt.packed + receipt.failed != expected {
        let why = "shards and failures do not add up to the manifest; please report this";
        return Err(Undone::Retry(RetryClass::Panic, why.to_owned()));
    }
    let missing = receipt
        .failures
        .iter()
        .filter(|failed| matches!(failed.reason, protocol::FailureReason::Missing));
    let missing = missing.count() as u64;
    // A later pass takes up what could not be read before, or was lost: much of it may be missing.
    let first_pass = task.address.revision == 0;
    let suspicious =
        first_pass && expected.rows >= MOUNT_SUSPICION_ROWS && missing * 2 > expected.rows;
    // At last it is believed, and left to the limits of the window, where a person sees it.
    if suspicious && !task.last_attempt {
        let why = format!("{missing} of {} files are missing: is a mount gone?", expected.rows);
        return Err(Undone::Retry(RetryClass::Source, why));
    }

    // Shards are durable before the receipt, and the receipt before anybody hears of it.
    let writing = span.child("write receipt");
    context.store.flush().await?;
    let bytes = Bytes::from(receipt.encode());
    let size = bytes.len() as u64;
    let hash = ContentHash::of(&bytes);
    let address = &task.address;
    let key = names::receipt(window_key(task), address.partition, address.manifest_hash, hash);
    context.store.put(&key, bytes).await?;
    context.store.flush().await?;
    drop(writing);
    crash::point("after_receipt");
    if sabotage::is("shard_overwritten")
        && let Some(shard) = receipt.shards.first()
    {
        context.store.put(&shard.key, Bytes::from_static(b"other bytes")).await?;
    }
    Ok((key, size))
}

/// All rows of a task, for shards that nobody has made yet.
fn pack_input(
    context: &TaskContext,
    task: &Task,
    rows: Rows,
    (counters, cancel): (Arc<Counters>, Arc<AtomicBool>),
) -> PackInput {
    PackInput {
        rows,
        settings: task.settings,
        last_attempt: task.last_attempt,
        window: window_key(task),
        sources: Arc::clone(&context.sources),
        limits: context.limits.clone(),
        store: context.store.clone(),
        runtime: tokio::runtime::Handle::current(),
        counters,
        cancel,
        wanted: None,
        left_out: Vec::new(),
    }
}

/// Looks whether the roots are there, on a thread that a dead mount may block.
async fn check_roots(sources: &Arc<Sources>) -> Result<(), Undone> {
    let mount = |why: String| Undone::Retry(RetryClass::Mount, why);
    let sources = Arc::clone(sources);
    let look = tokio::task::spawn_blocking(move || sources.check());
    match tokio::time::timeout(ROOTS_TIMEOUT, look).await {
        Ok(Ok(checked)) => checked.map_err(|error| mount(error.to_string())),
        Ok(Err(panicked)) => Err(Undone::Retry(RetryClass::Panic, panicked.to_string())),
        Err(_elapsed) => Err(mount("a source root does not answer: is its mount dead?".to_owned())),
    }
}

fn window_key(task: &Task) -> WindowKey {
    WindowKey::new(task.address.window, task.address.revision)
}

fn check_addressee(identity: &ArchiveIdentity, task: &Task) -> Result<(), Undone> {
    let address = &task.address;
    if address.archive != identity.archive || address.job != identity.job {
        return Err(Undone::Refused(format!(
            "the task is for archive {} (job {}), and this worker's store holds archive {} (job {})",
            address.archive, address.job, identity.archive, identity.job
        )));
    }
    if task.settings.n_bits != identity.n_bits {
        return Err(Undone::Refused(format!(
            "the task asks for n_bits {}, and the archive was made with {}",
            task.settings.n_bits, identity.n_bits
        )));
    }
    Ok(())
}

/// A receipt for these very rows, without failures, whose shards are all there. One with
/// failures is never taken up again: the files may be there now.
async fn earlier_receipt(store: &Store, task: &Task) -> Result<Option<(String, u64)>, Undone> {
    let address = &task.address;
    let (folder, stem) =
        names::receipts_for(window_key(task), address.partition, address.manifest_hash);
    let begins = format!("{folder}/{stem}");
    let mut listing = store.list(&folder);
    while let Some(object) = listing.try_next().await? {
        if !object.key.starts_with(&begins) {
            continue;
        }
        let bytes = store.get(&object.key, MAX_RECEIPT_BYTES).await?;
        if names::content_hash(&object.key) != Some(ContentHash::of(&bytes)) {
            continue;
        }
        let Ok(receipt) = Receipt::decode(&bytes) else { continue };
        let ours = receipt.archive == address.archive
            && receipt.manifest_hash == address.manifest_hash
            && receipt.range == task.range;
        // Without its manifest a receipt proves nothing, and no window can be certified with it.
        if receipt.failed.rows == 0
            && ours
            && objects_are_there(store, &receipt).await?
            && store.size(&task.manifest).await?.is_some()
        {
            // It may have been written by a process that died before it could sync.
            store.flush().await?;
            return Ok(Some((object.key, bytes.len() as u64)));
        }
    }
    Ok(None)
}

async fn objects_are_there(store: &Store, receipt: &Receipt) -> Result<bool, BackendError> {
    let shards = receipt.shards.iter().map(|shard| (shard.key.clone(), shard.size));
    let big_files = receipt.big_files.iter().map(|big| (big.key.clone(), big.size));
    let objects: Vec<_> = shards.chain(big_files).collect();
    stream::iter(objects)
        .map(|(key, size)| async move { Ok(store.size(&key).await? == Some(size)) })
        .buffer_unordered(UPLOADS_IN_FLIGHT)
        .try_fold(true, |all, there| async move { Ok(all && there) })
        .await
}

/// The rows to execute: all of the manifest, or the range of them that the task names.
async fn read_manifest(store: &Store, task: &Task) -> Result<(Rows, Tally), Undone> {
    let bytes = store.get(&task.manifest, MAX_MANIFEST_BYTES).await?;
    let address = task.address.clone();
    let (settings, range, key) = (task.settings, task.range, task.manifest.clone());
    let read = tokio::task::spawn_blocking(move || {
        let refuse = |why: String| Undone::Refused(format!("the manifest {key}: {why}"));
        if ContentHash::of(&bytes) != address.manifest_hash {
            return Err(refuse("its bytes are not those that its name stands for".to_owned()));
        }
        let reader = ManifestReader::new(&bytes).map_err(|error| refuse(error.to_string()))?;
        let header = reader.header();
        let same = header.archive == address.archive
            && header.job == address.job
            && header.window == address.window
            && header.revision == address.revision
            // Of a partition that was split, the parts have other numbers and its manifest.
            && (header.partition == address.partition || range.is_some())
            && header.settings == settings;
        if !same {
            return Err(refuse("it is about another partition than the task".to_owned()));
        }
        let mut rows = if range.is_some() { Rows::default() } else { reader.room() };
        let keep = |position, row: RowRef<'_>| {
            if range.is_none_or(|range| range.contains(position)) {
                rows.push(row);
            }
        };
        let totals = reader.visit(keep).map_err(|error| refuse(error.to_string()))?;
        let Some(range) = range else { return Ok((rows, totals.rows)) };
        let found = rows.len() as u64;
        if range.rows != found {
            return Err(refuse(format!(
                "it holds {found} of the {} rows from {} on",
                range.rows, range.first
            )));
        }
        let mut tally = Tally::default();
        rows.iter().for_each(|row| tally.count(row.uid, row.created_at()));
        Ok((rows, tally))
    });
    read.await.map_err(|panicked| Undone::Retry(RetryClass::Panic, panicked.to_string()))?
}

/// Packs on a thread of its own, and uploads what it finishes as it goes.
async fn pack_and_upload(
    store: &Store,
    input: PackInput,
    span: Span,
) -> Result<(Packed, Vec<ShardRef>, Tally), Undone> {
    let (finished, to_upload) = mpsc::channel::<FinishedShard>(1);
    let packing = tokio::task::spawn_blocking(move || {
        pack(&input, |shard| {
            let wanted = input.wanted.as_ref();
            let unwanted = wanted.is_some_and(|it| !it.is_wanted_shard(&shard.reference()));
            unwanted || finished.blocking_send(shard).is_ok()
        })
    });
    let uploads = stream::unfold(to_upload, |mut receiver| async move {
        receiver.recv().await.map(|shard| (shard, receiver))
    })
    .enumerate()
    .map(|(number, shard)| {
        let traced = number < UPLOADS_TRACED;
        upload(store, shard, if traced { span.child("upload") } else { Span::none() })
    })
    .buffer_unordered(UPLOADS_IN_FLIGHT)
    .try_fold(
        (Vec::new(), Tally::default()),
        |(mut shards, tally), (shard, packed)| async move {
            shards.push(shard);
            Ok((shards, tally + packed))
        },
    );
    // When an upload fails its end of the channel is dropped, and packing stops at the next shard.
    let (uploaded, packed) = tokio::join!(uploads, packing);
    let packed = match packed {
        Ok(Ok(packed)) => packed,
        Ok(Err(PackError::Retry(class, detail))) => return Err(Undone::Retry(class, detail)),
        Ok(Err(PackError::Cancelled)) => {
            return Err(uploaded.err().map_or(Undone::Cancelled, Undone::from));
        }
        Err(panicked) => return Err(Undone::Retry(RetryClass::Panic, panicked.to_string())),
    };
    let (mut shards, tally) = uploaded?;
    span.note_count("shards", shards.len() as u64);
    span.note_count("bytes", shards.iter().map(|shard| shard.size).sum());
    shards.sort_by(|a: &ShardRef, b| a.key.cmp(&b.key));
    Ok((packed, shards, tally))
}

/// Uploads a shard. It is PUT also when its name is there already: only a receipt proves that
/// what lies there is whole and durable.
async fn upload(
    store: &Store,
    shard: FinishedShard,
    span: Span,
) -> Result<(ShardRef, Tally), BackendError> {
    let (reference, packed) = shard.reference();
    span.note("object", &reference.key);
    span.note_count("bytes", reference.size);
    match shard.body {
        ShardBody::Memory(bytes) if sabotage::is("receipt_before_shards") => {
            let (store, key) = (store.clone(), reference.key.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                store.put(&key, bytes).await
            });
        }
        ShardBody::Memory(bytes) => store.put(&reference.key, bytes).await?,
        ShardBody::Spooled(file) => {
            store.put_file(&reference.key, file, reference.size, &mut AcceptAll).await?;
        }
    }
    drop(shard.memory);
    Ok((reference, packed))
}

fn write_up(
    context: &TaskContext,
    task: &Task,
    packed: Packed,
    shards: Vec<ShardRef>,
    packed_tally: Tally,
) -> Receipt {
    let Packed { mut failures, big_files } = packed;
    failures.sort_by(|a, b| {
        (a.created_at, &a.uid, &a.location).cmp(&(b.created_at, &b.uid, &b.location))
    });
    let big_bytes: u64 = big_files.iter().map(|big| big.size).sum();
    let address = &task.address;
    let mut receipt = Receipt {
        version: Receipt::VERSION,
        archive: address.archive.clone(),
        job: address.job.clone(),
        window: address.window,
        revision: address.revision,
        partition: address.partition,
        manifest_hash: address.manifest_hash,
        range: task.range,
        attempt: task.attempt,
        worker: context.worker.clone(),
        packed: packed_tally,
        failed: Tally::default(),
        bytes_raw: shards.iter().map(|shard| shard.bytes_raw).sum::<u64>() + big_bytes,
        bytes_stored: shards.iter().map(|shard| shard.size).sum::<u64>() + big_bytes,
        shards,
        big_files: big_files.into_iter().collect(),
        failures,
    };
    receipt.failed = receipt.tally_of_failures();
    receipt
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::manifest::{ManifestHeader, ManifestWriter, RowRange};
    use protocol::message::PartitionAddress;
    use protocol::{PackSettings, Row, Window};

    /// A store with the manifest of partition 3, of ten rows, and the task for all of it.
    async fn ten_rows() -> (Store, Task) {
        let at = |text: &str| text.parse().expect("a date");
        let header = ManifestHeader {
            archive: "a-1".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision: 0,
            partition: 3,
            settings: PackSettings::default(),
        };
        let mut manifest = ManifestWriter::new(&header).expect("a writer");
        for number in 0..10 {
            let row = Row::new(format!("uid-{number}"), at("2024-12-02"), None, None);
            manifest.push(&row).expect("it is taken");
        }
        let (bytes, totals) = manifest.finish().expect("it ends");
        let (window, hash) = (WindowKey::new(header.window, 0), ContentHash::of(&bytes));
        let key = names::manifest(window, 3, hash);
        let store = Store::memory();
        store.put(&key, bytes.into()).await.expect("it is written");
        let task = Task {
            version: Task::VERSION,
            address: PartitionAddress {
                archive: header.archive,
                job: header.job,
                window: header.window,
                revision: 0,
                partition: 3,
                manifest_hash: hash,
            },
            attempt: 1,
            manifest: key,
            rows: totals.rows.rows,
            range: None,
            settings: header.settings,
            last_attempt: false,
            avoid: None,
            restore: None,
        };
        (store, task)
    }

    #[tokio::test]
    async fn a_part_is_its_range_of_the_manifest_and_nothing_else() {
        let (store, mut task) = ten_rows().await;
        let read = read_manifest(&store, &task).await.unwrap_or_else(|_| panic!("it reads"));
        assert_eq!((read.0.len(), read.1.rows), (10, 10));

        task.address.partition = 17;
        let refused = read_manifest(&store, &task).await;
        assert!(matches!(refused, Err(Undone::Refused(why)) if why.contains("another partition")));
        task.range = Some(RowRange { first: 6, rows: 3 });
        let (rows, tally) =
            read_manifest(&store, &task).await.unwrap_or_else(|_| panic!("it reads"));
        let uids: Vec<_> = rows.iter().map(|row| row.uid).collect();
        assert_eq!(uids, ["uid-6", "uid-7", "uid-8"]);
        let mut expected = Tally::default();
        rows.iter().for_each(|row| expected.count(row.uid, row.created_at()));
        assert_eq!(tally, expected);

        task.range = Some(RowRange { first: 8, rows: 3 });
        let refused = read_manifest(&store, &task).await;
        assert!(matches!(refused, Err(Undone::Refused(why)) if why.contains("2 of the 3 rows")));
    }
}
