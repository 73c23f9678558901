//! Files to write, and the shards made of them.

use protocol::codec::{CompressionCodec, Encoder};
use protocol::shard::{Content, Entry, Payload, ShardSummary, ShardWriter};
use protocol::{Day, Fingerprint, Timestamp};

/// The first microsecond of the day that all shards here are of.
pub(crate) const DAY_START: i64 = 1_733_011_200_000_000;
/// Microseconds of a day.
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

pub(crate) fn day() -> Day {
    at(0).day()
}

pub(crate) fn at(micros_of_day: i64) -> Timestamp {
    Timestamp::from_micros(DAY_START + micros_of_day).expect("a time of 2024")
}

#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) uid: String,
    pub(crate) created_at: Timestamp,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Inside { codec: CompressionCodec, raw: Vec<u8> },
    Big { sha256: [u8; 32], size: u64 },
}

impl File {
    pub(crate) fn new(
        uid: &str,
        created_at: Timestamp,
        codec: CompressionCodec,
        raw: &[u8],
    ) -> Self {
        let body = Body::Inside { codec, raw: raw.to_vec() };
        Self { uid: uid.to_owned(), created_at, body }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.uid)
    }

    /// What a reader must find.
    pub(crate) fn content(&self) -> Content {
        match &self.body {
            Body::Inside { raw, .. } => Content::File(raw.clone()),
            Body::Big { sha256, size } => Content::Big { sha256: hex(sha256), size: *size },
        }
    }

    pub(crate) fn raw_len(&self) -> u64 {
        match &self.body {
            Body::Inside { raw, .. } => raw.len() as u64,
            Body::Big { .. } => 0,
        }
    }

    /// Hands the file's entry to `push`.
    pub(crate) fn with_entry<T>(&self, push: impl FnOnce(Entry<'_>) -> T) -> T {
        let (uid, fingerprint, created_at) =
            (self.uid.as_str(), self.fingerprint(), self.created_at);
        match &self.body {
            Body::Inside { codec, raw } => {
                let mut encoder = Encoder::new(*codec, 3).expect("an encoder");
                let mut stored = Vec::new();
                let codec = encoder.encode_onto(raw, true, &mut stored).expect("it encodes");
                let raw_size = u32::try_from(raw.len()).expect("a small file");
                let crc32c = crc32c::crc32c(raw);
                let payload = Payload::File { codec, stored: &stored, raw_size, crc32c };
                push(Entry { uid, fingerprint, created_at, payload })
            }
            Body::Big { sha256, size } => {
                let payload = Payload::Big { sha256: *sha256, size: *size };
                push(Entry { uid, fingerprint, created_at, payload })
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no codec makes smaller.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) bytes: Vec<u8>,
    pub(crate) summary: ShardSummary,
}

/// Puts files into the order of their fingerprints, and drops all but one of each uid.
pub(crate) fn in_order(mut files: Vec<File>) -> Vec<File> {
    files.sort_by_key(File::fingerprint);
    files.dedup_by_key(|file| file.fingerprint());
    files
}

/// Writes files that are in order; `take` says after which of them the output is taken away.
pub(crate) fn write_taking(files: &[File], take: impl Fn(usize) -> bool) -> Shard {
    let mut writer = ShardWriter::new(day());
    let mut bytes = Vec::new();
    for (number, file) in files.iter().enumerate() {
        file.with_entry(|entry| writer.push(entry)).expect("the entry fits");
        if take(number) {
            let gathered = writer.output_len();
            let before = bytes.len();
            let refused = writer.drain_output(|_| Err("no room"));
            assert_eq!((refused, writer.output_len()), (Err("no room"), gathered));
            let taken: Result<(), ()> = writer.drain_output(|output| {
                bytes.extend_from_slice(output);
                Ok(())
            });
            assert_eq!((taken, bytes.len() - before), (Ok(()), gathered));
            assert_eq!(writer.output_len(), 0);
        }
    }
    assert_eq!(writer.entries(), files.len() as u64);
    assert_eq!(writer.bytes_raw(), files.iter().map(File::raw_len).sum::<u64>());
    let (rest, summary) = writer.finish();
    bytes.extend_from_slice(&rest);
    Shard { bytes, summary }
}

pub(crate) fn write(files: &[File]) -> Shard {
    write_taking(files, |_| false)
}
