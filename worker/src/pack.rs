//! Packs the rows of one manifest into shards: a few threads read and compress in path order,
//! batch by batch, while this one lays out the batch before in fingerprint order.

use std::collections::BTreeSet;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use backends::buffers::Buffers;
use backends::store::UploadCheck;
use backends::{BackendError, Store};
use protocol::codec::{CompressionCodec, Encoder, is_compressed_name};
use protocol::layout::{Layout, Run, lay_out};
use protocol::message::RetryClass;
use protocol::names;
use protocol::receipt::BigFileRef;
use protocol::shard::{Entry, Payload};
use protocol::{FailedRow, FailureReason, Fingerprint, PackSettings, RowRef, Rows, WindowKey};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::assemble::{Assembler, FinishedShard, Placing, ShardMemory};
use crate::metrics::Reads;
use crate::payload::{PayloadRef, PayloadWriter, Payloads, SegmentMemory, segment_buffers};
use crate::reading::{Readings, Slot};
use crate::restore::Wanted;
use crate::source::{OpenFile, SourceError, SourceReader, Sources, classify};

/// Rows that are read together, in path order.
const BATCH_ROWS: usize = 4_096;
/// One that is read, and the one before, which is laid out.
const BATCHES_AT_A_TIME: usize = 2;
/// Rows that a thread takes from a batch at a time.
const STRIDE: usize = 16;
/// Files larger than this are read one at a time in a partition, and their buffers given back.
const LARGE_FILE_BYTES: u64 = 1024 * 1024;
const HASH_CHUNK_BYTES: usize = 256 * 1024;

/// What one partition may use.
#[derive(Clone, Debug)]
pub(crate) struct PackLimits {
    /// Bytes of memory, roughly.
    pub(crate) memory: usize,
    /// Threads that read and compress.
    pub(crate) readers: usize,
    /// Where spool files go.
    pub(crate) spool_dir: PathBuf,
    /// What all partitions use in turn.
    pub(crate) buffers: PackBuffers,
}

/// Buffers that serve one partition after the other.
#[derive(Clone, Debug)]
pub(crate) struct PackBuffers {
    segments: Arc<Buffers>,
    shards: Arc<Buffers>,
}

impl PackBuffers {
    /// For so many partitions at a time, each of which may use `memory` bytes and has so many readers.
    pub(crate) fn new(slots: usize, memory: usize, readers: usize) -> Self {
        let last = BATCHES_AT_A_TIME * readers.max(1);
        let building = building(memory);
        Self {
            segments: segment_buffers(slots, segments(memory), last),
            // One that is being built, and those that wait for their upload. Buffers double.
            shards: Buffers::new(0, 2 * building, slots * (1 + finished(memory) / building.max(1))),
        }
    }
}

/// What payloads may take of a partition's memory, before they are spooled.
const fn segments(memory: usize) -> usize {
    memory / 4
}

/// What finished shards may take.
const fn finished(memory: usize) -> usize {
    memory / 4
}

/// What the shard that is being built may take, before it is spooled.
const fn building(memory: usize) -> usize {
    memory / 8
}

/// How far a partition is, for whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) readings: Readings,
}

/// Everything that packing needs, shared with the thread it runs on.
pub(crate) struct PackInput {
    pub(crate) rows: Rows,
    pub(crate) settings: PackSettings,
    /// Whether a file that cannot be read for the machine's reasons fails by itself, rather than
    /// the whole partition.
    pub(crate) last_attempt: bool,
    pub(crate) window: WindowKey,
    pub(crate) sources: Arc<Sources>,
    pub(crate) limits: PackLimits,
    pub(crate) store: Store,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cancel: Arc<AtomicBool>,
    /// Where certified objects are to be made again: which.
    pub(crate) wanted: Option<Arc<Wanted>>,
    /// Rows that are not read, since they are in no shard that is to be made again.
    pub(crate) left_out: Vec<bool>,
}

/// What packing found besides the shards that it handed on.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) failures: Vec<FailedRow>,
    pub(crate) big_files: BTreeSet<BigFileRef>,
}

/// Why packing ended early.
#[derive(Debug)]
pub(crate) enum PackError {
    /// Trouble that may pass.
    Retry(RetryClass, String),
    /// Nobody wants the result any more.
    Cancelled,
}

impl PackError {
    fn local(error: &std::io::Error) -> Self {
        Self::Retry(RetryClass::Local, format!("the spool or memory of this worker: {error}"))
    }
}

/// A row's place in the output, in order.
struct Place<'a> {
    run: &'a Run,
    row: u32,
    fingerprint: Fingerprint,
    /// Whether the run ends with this row.
    last_of_run: bool,
}

/// Rows that are read together.
struct Batch<'a> {
    number: usize,
    places: Vec<Place<'a>>,
    /// Positions in `places`, in the order of their paths, which is kinder to disks.
    reading_order: Vec<u32>,
    next: AtomicUsize,
}

/// What became of one row.
enum Item {
    Stored { payload: PayloadRef, codec: CompressionCodec, raw_size: u32, crc32c: u32 },
    Big { sha256: [u8; 32], size: u64 },
    Failed(FailureReason, String),
}

/// One thread's part of a batch.
struct Share<'m> {
    batch: usize,
    payloads: Payloads<'m>,
    items: Vec<(u32, Item)>,
}

/// Packs, handing every finished shard to `emit`, which returns false when nobody wants more.
/// Blocks; to be called on a thread that may.
pub(crate) fn pack(
    input: &PackInput,
    mut emit: impl FnMut(FinishedShard) -> bool,
) -> Result<Packed, PackError> {
    let Layout { runs, surplus } = lay_out(input.rows.iter(), input.settings.n_bits);
    let mut packed = Packed::default();
    for row in input.rows.iter() {
        if let Some(defect) = row.defect {
            let detail = "the catalog's row itself cannot be archived".to_owned();
            packed.failures.push(row.failed(defect.reason(), detail));
        }
    }
    for number in surplus {
        packed.failures.push(no_part_left(input.rows.get(number as usize)));
    }
    let mut places = runs.iter().flat_map(|run| {
        let last = run.rows.len() - 1;
        run.rows.iter().enumerate().map(move |(at, &(row, fingerprint))| Place {
            run,
            row,
            fingerprint,
            last_of_run: at == last,
        })
    });
    let mut batches = (0..).map_while(|number| {
        let places: Vec<_> = places.by_ref().take(BATCH_ROWS).collect();
        (!places.is_empty()).then(|| Arc::new(Batch::new(number, places, &input.rows)))
    });

    let PackLimits { memory, buffers, .. } = &input.limits;
    let segment_memory = SegmentMemory::new(segments(*memory), Arc::clone(&buffers.segments));
    let finished_kib = finished(*memory).div_ceil(1024).max(1);
    let shard_memory = ShardMemory {
        building: building(*memory),
        finished: Arc::new(Semaphore::new(finished_kib)),
        buffers: Arc::clone(&buffers.shards),
    };
    let one_large_file = Mutex::new(());
    let readers = input.limits.readers.max(1);

    std::thread::scope(|scope| {
        let (shares, from_readers) = mpsc::channel();
        let to_readers: Vec<_> = (0..readers)
            .map(|_| {
                let (sender, receiver) = mpsc::channel::<Arc<Batch<'_>>>();
                let shares = shares.clone();
                let reader = Reader::new(input, &segment_memory, &one_large_file);
                scope.spawn(move || read_batches(reader, &receiver, &shares));
                sender
            })
            .collect();
        drop(shares);
        // A reader that is gone has told why through the other channel.
        let mut dispatch = || {
            let batch = batches.next()?;
            to_readers.iter().for_each(|reader| drop(reader.send(Arc::clone(&batch))));
            Some(batch)
        };
        let mut dispatched = dispatch();
        let mut early: Vec<Share<'_>> = Vec::new();
        let mut assembler = Assembler::new(
            &input.settings,
            input.window,
            &input.limits.spool_dir,
            &shard_memory,
            input.runtime.clone(),
        );
        while let Some(batch) = dispatched {
            dispatched = dispatch();
            let (mut of_batch, later): (Vec<_>, Vec<_>) =
                early.drain(..).partition(|share| share.batch == batch.number);
            early = later;
            while of_batch.len() < readers {
                let share = from_readers.recv().map_err(|_gone| PackError::Cancelled)??;
                if share.batch == batch.number { of_batch.push(share) } else { early.push(share) }
            }
            assemble_batch(input, &batch, &of_batch, &mut assembler, &mut packed, &mut emit)?;
        }
        Ok(())
    })?;
    Ok(packed)
}

impl<'a> Batch<'a> {
    fn new(number: usize, places: Vec<Place<'a>>, rows: &Rows) -> Self {
        let location = |place: &Place<'_>| rows.get(place.row as usize).location;
        let mut in_order: Vec<_> = places.iter().map(location).zip(0_u32..).collect();
        in_order.sort_unstable();
        let reading_order = in_order.into_iter().map(|(_location, position)| position).collect();
        Self { number, places, reading_order, next: AtomicUsize::new(0) }
    }
}

/// Lays out one batch whose rows have all been read.
fn assemble_batch(
    input: &PackInput,
    batch: &Batch<'_>,
    shares: &[Share<'_>],
    assembler: &mut Assembler<'_>,
    packed: &mut Packed,
    emit: &mut impl FnMut(FinishedShard) -> bool,
) -> Result<(), PackError> {
    let mut by_position: Vec<Option<(usize, &Item)>> = vec![None; batch.places.len()];
    for (number, share) in shares.iter().enumerate() {
        for (position, item) in &share.items {
            by_position[*position as usize] = Some((number, item));
        }
    }
    let mut scratch = Vec::new();
    for (place, item) in batch.places.iter().zip(by_position) {
        let row = input.rows.get(place.row as usize);
        let (share, item) = item.ok_or_else(|| {
            PackError::Retry(RetryClass::Panic, format!("uid {:?} was not read", row.uid))
        })?;
        let payload = match item {
            Item::Failed(reason, detail) => {
                packed.failures.push(row.failed(*reason, detail.clone()));
                None
            }
            Item::Stored { payload, codec, raw_size, crc32c } => {
                let stored = shares[share].payloads.get(*payload, &mut scratch);
                let stored = stored.map_err(|error| PackError::local(&error))?;
                let (codec, raw_size, crc32c) = (*codec, *raw_size, *crc32c);
                Some(Payload::File { codec, stored, raw_size, crc32c })
            }
            Item::Big { sha256, size } => Some(Payload::Big { sha256: *sha256, size: *size }),
        };
        if let Some(payload) = payload {
            let entry = Entry {
                uid: row.uid,
                fingerprint: place.fingerprint,
                created_at: row.created_at(),
                payload,
            };
            let placing = assembler.place(place.run.day, place.run.index, entry);
            match placing.map_err(|error| PackError::local(&error))? {
                Placing::NoPartLeft => packed.failures.push(no_part_left(row)),
                Placing::Placed => {
                    if let Payload::Big { sha256, size } = payload {
                        let key = names::big_file(&hex(&sha256));
                        packed.big_files.insert(BigFileRef { key, size });
                    }
                }
            }
        }
        if place.last_of_run || assembler.is_full() {
            let shard = assembler.close().map_err(|error| PackError::local(&error))?;
            if shard.is_some_and(|shard| !emit(shard)) {
                return Err(PackError::Cancelled);
            }
        }
    }
    Ok(())
}

/// One of the threads that read and compress.
struct Reader<'a> {
    input: &'a PackInput,
    memory: &'a SegmentMemory,
    one_large_file: &'a Mutex<()>,
    source: SourceReader<'a>,
    reading: Arc<Slot>,
    reads: Reads,
    raw: Vec<u8>,
}

fn read_batches<'a>(
    mut reader: Reader<'a>,
    batches: &mpsc::Receiver<Arc<Batch<'_>>>,
    shares: &mpsc::Sender<Result<Share<'a>, PackError>>,
) {
    let _told = TellOfPanic(shares);
    let settings = &reader.input.settings;
    let mut encoder = match Encoder::new(settings.codec, settings.level) {
        Ok(encoder) => encoder,
        Err(error) => {
            let _gone = shares.send(Err(PackError::local(&error)));
            return;
        }
    };
    while let Ok(batch) = batches.recv() {
        let share = reader.read(&batch, &mut encoder);
        let stop = share.is_err();
        if shares.send(share).is_err() || stop {
            return;
        }
    }
}

/// Without this, a reader that panics would leave the others, and whoever waits for them, waiting.
struct TellOfPanic<'a, 'm>(&'a mpsc::Sender<Result<Share<'m>, PackError>>);

impl Drop for TellOfPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "a reading thread panicked".to_owned();
            let _gone = self.0.send(Err(PackError::Retry(RetryClass::Panic, why)));
        }
    }
}

impl<'a> Reader<'a> {
    fn new(input: &'a PackInput, memory: &'a SegmentMemory, one_large_file: &'a Mutex<()>) -> Self {
        let source = SourceReader::new(&input.sources);
        let reading = input.counters.readings.slot();
        let reads = Reads::new();
        Self { input, memory, one_large_file, source, reading, reads, raw: Vec::new() }
    }

    fn read(&mut self, batch: &Batch<'_>, encoder: &mut Encoder) -> Result<Share<'a>, PackError> {
        let mut payloads = PayloadWriter::new(self.memory, &self.input.limits.spool_dir);
        let mut items = Vec::new();
        loop {
            let from = batch.next.fetch_add(STRIDE, Ordering::Relaxed);
            let to = (from + STRIDE).min(batch.reading_order.len());
            let Some(taken) = batch.reading_order.get(from..to).filter(|taken| !taken.is_empty())
            else {
                break;
            };
            if self.input.cancel.load(Ordering::Relaxed) {
                return Err(PackError::Cancelled);
            }
            for &position in taken {
                let number = batch.places[position as usize].row as usize;
                let row = self.input.rows.get(number);
                if self.input.left_out.get(number) == Some(&true) {
                    let why = "it is in none of the objects that are made again".to_owned();
                    items.push((position, Item::Failed(FailureReason::Missing, why)));
                    continue;
                }
                self.reading.begin(row);
                let item = self.read_row(row, encoder, &mut payloads);
                self.reading.end();
                let item = match item {
                    Ok(item) => item,
                    Err(RowError::Source(SourceError::File(reason, detail))) => {
                        Item::Failed(reason, detail)
                    }
                    Err(RowError::Source(SourceError::Machine(why))) if self.input.last_attempt => {
                        Item::Failed(FailureReason::Unreadable, why)
                    }
                    Err(RowError::Source(SourceError::Machine(why))) => {
                        return Err(cannot_read(RetryClass::Source, row, &why));
                    }
                    Err(RowError::Source(SourceError::Worker(why))) => {
                        return Err(cannot_read(RetryClass::Local, row, &why));
                    }
                    Err(RowError::Pack(error)) => return Err(error),
                };
                items.push((position, item));
            }
            let rows = taken.len() as u64;
            self.input.counters.rows.fetch_add(rows, Ordering::Relaxed);
            self.reads.files.increment(rows);
        }
        let payloads = payloads.finish().map_err(|error| PackError::local(&error))?;
        Ok(Share { batch: batch.number, payloads, items })
    }

    fn read_row(
        &mut self,
        row: RowRef<'_>,
        encoder: &mut Encoder,
        payloads: &mut PayloadWriter<'_>,
    ) -> Result<Item, RowError> {
        let location = row.location.unwrap_or_default();
        let began = Instant::now();
        let mut open = self.source.open(location)?;
        if let Some(expected) = row.size.filter(|&expected| expected != open.size) {
            return Err(RowError::Source(SourceError::File(
                FailureReason::SizeMismatch,
                format!("it has {} bytes, and the catalog says {expected}", open.size),
            )));
        }
        self.input.counters.bytes.fetch_add(open.size, Ordering::Relaxed);
        self.reads.bytes.increment(open.size);
        if open.size > self.input.settings.big_file_threshold {
            return self.store_big_file(open);
        }
        let large = open.size > LARGE_FILE_BYTES;
        let _one_at_a_time =
            large.then(|| self.one_large_file.lock().unwrap_or_else(PoisonError::into_inner));
        let raw = open.read_into(&mut self.raw)?;
        self.reads.seconds.record(began.elapsed().as_secs_f64());
        let crc32c = crc32c::crc32c(raw);
        let try_compress = !is_compressed_name(location);
        let stored = payloads.push_with(|out| encoder.encode_onto(raw, try_compress, out));
        let (codec, payload) = stored.map_err(|error| RowError::Pack(PackError::local(&error)))?;
        let raw_size = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        if large {
            self.raw = Vec::new();
        }
        Ok(Item::Stored { payload, codec, raw_size, crc32c })
    }

    /// Hashes a big file, then uploads it, hashing it again on the way: the object comes into
    /// being only if both agree.
    fn store_big_file(&self, mut open: OpenFile) -> Result<Item, RowError> {
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; HASH_CHUNK_BYTES];
        let mut read = 0;
        loop {
            if self.input.cancel.load(Ordering::Relaxed) {
                return Err(RowError::Pack(PackError::Cancelled));
            }
            let count = open.file.read(&mut chunk).map_err(classify)?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            read += count as u64;
        }
        open.check_unchanged(read)?;
        open.file.rewind().map_err(classify)?;
        let sha256: [u8; 32] = hasher.finalize().into();
        let mut check = SameHash { expected: sha256, hasher: Sha256::new() };
        let key = names::big_file(&hex(&sha256));
        let wanted = self.input.wanted.as_ref();
        if wanted.is_some_and(|wanted| !wanted.is_wanted_big_file(&key)) {
            return Ok(Item::Big { sha256, size: open.size });
        }
        let upload = self.input.store.put_file(&key, open.file, open.size, &mut check);
        match self.input.runtime.block_on(upload) {
            Ok(()) => {
                if let Some(wanted) = wanted {
                    wanted.note_big_file(key);
                }
                Ok(Item::Big { sha256, size: open.size })
            }
            Err(BackendError::Invalid { what }) => {
                Err(RowError::Source(SourceError::File(FailureReason::Changed, what)))
            }
            Err(error) => {
                Err(RowError::Pack(PackError::Retry(RetryClass::Store, error.to_string())))
            }
        }
    }
}

enum RowError {
    Source(SourceError),
    Pack(PackError),
}

impl From<SourceError> for RowError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

fn cannot_read(class: RetryClass, row: RowRef<'_>, why: &str) -> PackError {
    let location = row.location.unwrap_or_default();
    PackError::Retry(class, format!("cannot read {location}: {why}"))
}

struct SameHash {
    expected: [u8; 32],
    hasher: Sha256,
}

impl UploadCheck for SameHash {
    fn see(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn verdict(&mut self) -> Result<(), String> {
        let found: [u8; 32] = std::mem::take(&mut self.hasher).finalize().into();
        if found == self.expected {
            Ok(())
        } else {
            Err("the file changed between hashing and uploading".to_owned())
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn no_part_left(row: RowRef<'_>) -> FailedRow {
    let detail = format!("its day and shard index have {} parts already", names::MAX_PART + 1);
    row.failed(FailureReason::TooManyParts, detail)
}

/// Checks that spool files can be made in `directory`.
pub(crate) fn check_spool(directory: &Path) -> std::io::Result<()> {
    tempfile::tempfile_in(directory).map(drop)
}
