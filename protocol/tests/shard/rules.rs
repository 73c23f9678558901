//! What the writer refuses, and what the directory's 64 bits ask of it.

use protocol::Fingerprint;
use protocol::codec::CompressionCodec::{self, Zstd};
use protocol::shard::{Content, Entry, Payload, ShardWriteError, ShardWriter, TailStep, read_tail};

use crate::files::{DAY_MICROS, File, at, day, in_order, noise, write};
use crate::reading::Store;

fn entry<'a>(uid: &'a str, fingerprint: Fingerprint, stored: &'a [u8]) -> Entry<'a> {
    let payload = Payload::File {
        codec: CompressionCodec::None,
        stored,
        raw_size: u32::try_from(stored.len()).expect("small"),
        crc32c: crc32c::crc32c(stored),
    };
    Entry { uid, fingerprint, created_at: at(0), payload }
}

#[test]
fn refused_entries_leave_no_trace() {
    let files = in_order(
        (0..20).map(|n| File::new(&format!("uid-{n}"), at(n), Zstd, &noise(1, 5000))).collect(),
    );
    let too_long = "u".repeat(65_536);
    let too_large = vec![0; (64 << 20) + 1];
    let (lowest, highest) = (Fingerprint([0; 16]), Fingerprint([255; 16]));

    let mut writer = ShardWriter::new(day());
    for file in &files {
        file.with_entry(|entry| writer.push(entry)).expect("the entry fits");
        let refused = writer.push(file.with_entry(|entry| Entry { payload: big(), ..copy(entry) }));
        assert!(matches!(refused, Err(ShardWriteError::OutOfOrder(_))), "a duplicate: {refused:?}");
        let refused = writer.push(entry("u", lowest, b"x"));
        assert_eq!(refused, Err(ShardWriteError::OutOfOrder("u".to_owned())));
        let refused = writer.push(entry(&too_long, highest, b"x"));
        assert_eq!(refused, Err(ShardWriteError::UidTooLong(65_536)));
        for other in [at(-1), at(DAY_MICROS)] {
            let refused = writer.push(Entry { created_at: other, ..entry("u", highest, b"x") });
            assert_eq!(refused, Err(ShardWriteError::OtherDay(other)));
        }
    }
    let refused = writer.push(entry("u", highest, &too_large));
    assert_eq!(refused, Err(ShardWriteError::TooLarge((64 << 20) + 1)));
    let bomb = Payload::File { codec: Zstd, stored: b"x", raw_size: (64 << 20) + 1, crc32c: 0 };
    let refused = writer.push(Entry { payload: bomb, ..entry("u", highest, b"x") });
    assert_eq!(refused, Err(ShardWriteError::TooLarge((64 << 20) + 1)));

    let undisturbed = write(&files);
    assert_eq!(writer.finish(), (undisturbed.bytes, undisturbed.summary));
}

fn big() -> Payload<'static> {
    Payload::Big { sha256: [7; 32], size: 7 }
}

/// An entry that outlives its file's encoder.
fn copy(entry: Entry<'_>) -> Entry<'static> {
    Entry { uid: "duplicate", payload: big(), ..entry_of(entry) }
}

fn entry_of(entry: Entry<'_>) -> Entry<'static> {
    let Entry { fingerprint, created_at, .. } = entry;
    Entry { uid: "", fingerprint, created_at, payload: big() }
}

#[test]
fn the_largest_file_inside_a_shard_reads_back() {
    let raw = vec![b'x'; 64 << 20];
    let files = [File::new("largest", at(0), Zstd, &raw)];
    let shard = write(&files);
    let content = crate::reading::get(&Store::new(&shard.bytes), "largest", 4096);
    assert_eq!(content, Ok(Some(Content::File(raw))));
}

/// Uids that share 64 bits of BLAKE3 can be made on purpose. They stay in one block, so that one
/// block is still all that a lookup needs.
#[test]
fn fingerprints_that_share_their_first_half_share_a_block() {
    let fingerprint = |high: u8, low: u8| {
        let mut bytes = [0; 16];
        bytes[7] = high;
        bytes[15] = low;
        Fingerprint(bytes)
    };
    let payload = noise(0, 40_000);
    let mut writer = ShardWriter::new(day());
    let mut all = Vec::new();
    for (high, count) in [(0, 3), (1, 1), (2, 4), (9, 1), (10, 2)] {
        for low in 0..count {
            all.push(fingerprint(high, low));
            writer.push(entry("u", fingerprint(high, low), &payload)).expect("the entry fits");
        }
    }
    let (bytes, summary) = writer.finish();
    let Ok(TailStep::Fast(tail)) = read_tail(summary.size, &bytes) else {
        panic!("the shard has the extension");
    };
    assert_eq!(tail.blocks(), 5);
    let lookup = |fingerprint| {
        let numbers = tail.blocks_for(fingerprint);
        assert!(numbers.len() <= 1, "one block at most");
        numbers.into_iter().any(|number| {
            let range = tail.block_range(number).expect("the block exists");
            let range = usize::try_from(range.start).expect("small")
                ..usize::try_from(range.end).expect("small");
            let block = tail.parse_block(number, &bytes[range]).expect("a sound block");
            block.find(fingerprint).is_some_and(|entry| block.content(entry).is_ok())
        })
    };
    assert!(all.iter().all(|&fingerprint| lookup(fingerprint)));
    for absent in [fingerprint(0, 3), fingerprint(5, 0), fingerprint(9, 1), fingerprint(255, 0)] {
        assert!(!lookup(absent));
    }
}

/// The directory's own entry is enough to find the first file of a block: a lookup does not
/// look into the block before it, too.
#[test]
fn every_lookup_needs_one_block() {
    let files: Vec<File> = (0..50)
        .map(|n| File::new(&n.to_string(), at(n), CompressionCodec::None, &noise(9, 70_000)))
        .collect();
    let files = in_order(files);
    let shard = write(&files);
    let Ok(TailStep::Fast(tail)) = read_tail(shard.summary.size, &shard.bytes) else {
        panic!("the shard has the extension");
    };
    assert_eq!(tail.blocks(), 50);
    for (number, file) in files.iter().enumerate() {
        assert_eq!(tail.blocks_for(file.fingerprint()), number..number + 1);
    }
    assert_eq!(tail.blocks_for(Fingerprint([0; 16])), 0..0, "nothing comes before the first");
}
