//! Objects that version 1 of every format wrote. They stay readable for ever: a later release
//! adds a directory of its own and changes none of these files.

use std::path::PathBuf;

use protocol::codec::{CompressionCodec, Encoder};
use protocol::manifest::{ManifestReader, ManifestWriter};
use protocol::message::{Outcome, Progress, Task};
use protocol::shard::{
    Content, Entry, IndexReader, Payload, ShardWriter, TailStep, check_header, read_tail,
};
use protocol::{ArchiveIdentity, Certificate, Fingerprint, Receipt};

use crate::values::{
    archive, at, certificate, certificate_of_repair, certificate_with_parts, done, header, outcome,
    progress, receipt, receipt_of_a_part, restored, rows, task, task_of_a_part, task_to_restore,
};

/// The uid of the big file, which has the largest fingerprint of all.
const BIG: &str = "big-5";
const TEXT: &str = "A file of a few words, and again: a file of a few words. ";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(name)
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("the fixture is there")
}

/// Uid, created_at, codec and content of the files in `shard.des`; a big file beside them.
fn files() -> Vec<(&'static str, &'static str, CompressionCodec, String)> {
    vec![
        ("plain", "2024-12-01", CompressionCodec::None, TEXT.to_owned()),
        ("zażółć 🦀", "2024-12-01T12:30:45.678901Z", CompressionCodec::Zstd, TEXT.repeat(20)),
        ("0042", "2024-12-01T23:59:59.999999Z", CompressionCodec::Lz4, TEXT.repeat(20)),
        ("empty", "2024-12-01T00:00:00.000001Z", CompressionCodec::None, String::new()),
        ("large", "2024-12-01T01:00:00Z", CompressionCodec::Zstd, "des".repeat(70_000)),
    ]
}

fn shard() -> Vec<u8> {
    let mut files = files();
    files.sort_by_key(|(uid, ..)| Fingerprint::of(uid));
    let mut writer = ShardWriter::new(at("2024-12-01").day());
    for (uid, created_at, codec, raw) in files {
        let raw = raw.as_bytes();
        let mut encoder = Encoder::new(codec, 3).expect("an encoder");
        let mut stored = Vec::new();
        let codec = encoder.encode_onto(raw, true, &mut stored).expect("it encodes");
        let raw_size = u32::try_from(raw.len()).expect("short");
        let payload =
            Payload::File { codec, stored: &stored, raw_size, crc32c: crc32c::crc32c(raw) };
        let (fingerprint, created_at) = (Fingerprint::of(uid), at(created_at));
        writer.push(Entry { uid, fingerprint, created_at, payload }).expect("the entry fits");
    }
    let big = Payload::Big { sha256: [0xAB; 32], size: 20_000_000_000 };
    let created_at = at("2024-12-01T02:00:00Z");
    let fingerprint = Fingerprint::of(BIG);
    writer.push(Entry { uid: BIG, fingerprint, created_at, payload: big }).expect("it fits");
    writer.finish().0
}

fn manifest() -> Vec<u8> {
    let mut writer = ManifestWriter::new(&header()).expect("a writer");
    rows().iter().for_each(|row| writer.push(row).expect("the row is taken"));
    writer.finish().expect("it ends").0
}

fn written_today() -> [(&'static str, Vec<u8>); 14] {
    [
        ("shard.des", shard()),
        ("manifest.rows", manifest()),
        ("receipt.json", receipt().encode()),
        ("certificate.json", certificate().encode()),
        ("archive.json", archive().encode()),
        ("task.json", task().encode()),
        ("outcome.json", outcome(done()).encode()),
        ("progress.json", progress().encode()),
        ("task-of-a-part.json", task_of_a_part().encode()),
        ("receipt-of-a-part.json", receipt_of_a_part().encode()),
        ("certificate-with-parts.json", certificate_with_parts().encode()),
        ("certificate-repair.json", certificate_of_repair().encode()),
        ("task-restore.json", task_to_restore().encode()),
        ("outcome-restored.json", outcome(restored()).encode()),
    ]
}

/// Whoever changes what is written learns it here, and decides whether it is a new version. A
/// new release of a compression library may change compressed bytes of the shard or the manifest
/// without harm: then its name leaves this comparison, and the fixture stays. With
/// `DES_WRITE_FIXTURES` set, fixtures that are missing are written; none is ever replaced.
#[test]
fn what_is_written_today_is_what_was_written_then() {
    let write_missing = std::env::var_os("DES_WRITE_FIXTURES").is_some();
    for (name, bytes) in written_today() {
        if write_missing && !path(name).exists() {
            std::fs::write(path(name), &bytes).expect("the fixture is written");
        }
        assert!(bytes.len() < 20_000, "{name} has {} bytes", bytes.len());
        assert!(bytes == fixture(name), "the written bytes of {name} have changed");
    }
}

#[test]
fn the_documents_of_version_1_stay_readable() {
    assert_eq!(Receipt::decode(&fixture("receipt.json")), Ok(receipt()));
    assert_eq!(Certificate::decode(&fixture("certificate.json")), Ok(certificate()));
    assert_eq!(ArchiveIdentity::decode(&fixture("archive.json")), Ok(archive()));
    assert_eq!(Task::decode(&fixture("task.json")), Ok(task()));
    assert_eq!(Outcome::decode(&fixture("outcome.json")), Ok(outcome(done())));
    let repair = Certificate::decode(&fixture("certificate-repair.json"));
    assert_eq!(repair, Ok(certificate_of_repair()));
    assert_eq!(Task::decode(&fixture("task-restore.json")), Ok(task_to_restore()));
    assert_eq!(Outcome::decode(&fixture("outcome-restored.json")), Ok(outcome(restored())));
    assert_eq!(Progress::decode(&fixture("progress.json")), Ok(progress()));
    assert_eq!(Task::decode(&fixture("task-of-a-part.json")), Ok(task_of_a_part()));
    assert_eq!(Receipt::decode(&fixture("receipt-of-a-part.json")), Ok(receipt_of_a_part()));
    let certificate = Certificate::decode(&fixture("certificate-with-parts.json"));
    assert_eq!(certificate, Ok(certificate_with_parts()));
}

#[test]
fn the_manifest_of_version_1_stays_readable() {
    let bytes = fixture("manifest.rows");
    let reader = ManifestReader::new(&bytes).expect("it opens");
    assert_eq!(*reader.header(), header());
    let (read, totals) = reader.read_all().expect("it reads");
    assert_eq!(read.iter().map(|row| row.to_row()).collect::<Vec<_>>(), rows());
    assert_eq!(totals.rows.rows, 4);
    assert_eq!(totals.rows.digest.to_string(), "8eb8754d1e3fc72e9f8364f62e0833d3");
    assert_eq!(totals.locations.to_string(), "67bf6f064bb9d9566b0fb46d6c9a2001");
}

#[test]
fn the_shard_of_version_1_stays_readable() {
    let bytes = fixture("shard.des");
    let slice = |range: std::ops::Range<u64>| {
        &bytes[usize::try_from(range.start).expect("small")
            ..usize::try_from(range.end).expect("small")]
    };
    assert_eq!(check_header(slice(0..8)), Ok(2));
    let Ok(TailStep::Fast(tail)) = read_tail(bytes.len() as u64, &bytes) else {
        panic!("the shard has the lookup extension");
    };
    assert_eq!((tail.entries(), tail.blocks()), (6, 1));
    let (oldest, newest) = (at("2024-12-01"), at("2024-12-01T23:59:59.999999Z"));
    assert_eq!(tail.created_at_bounds(), (oldest, newest));

    let read = |uid: &str| {
        let fingerprint = Fingerprint::of(uid);
        let number = tail.blocks_for(fingerprint).next().expect("a block");
        let range = tail.block_range(number).expect("the block exists");
        let block = tail.parse_block(number, slice(range)).expect("a sound block");
        let entry = block.find(fingerprint).expect("the file is there");
        (entry.created_at, block.content(entry).expect("sound content"))
    };
    for (uid, created_at, _codec, raw) in files() {
        assert_eq!(read(uid), (at(created_at), Content::File(raw.into_bytes())), "{uid}");
    }
    let big = Content::Big { sha256: "ab".repeat(32), size: 20_000_000_000 };
    assert_eq!(read(BIG), (at("2024-12-01T02:00:00Z"), big));
    let index = slice(tail.index_range());
    tail.check_index(index).expect("a sound index");
    let mut index = IndexReader::new(2, index, tail.index_range().start).expect("an index");
    let mut uids = Vec::new();
    while let Some(entry) = index.next_entry().expect("a sound entry") {
        uids.push(entry.uid);
    }
    uids.sort();
    assert_eq!(uids, ["0042", BIG, "empty", "large", "plain", "zażółć 🦀"]);
}
