//! Whatever is written is read back, by every path.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::codec::CompressionCodec::{self, Lz4, None as Raw, Zstd};
use protocol::shard::{Content, TAIL_GUESS_BYTES, TailStep};
use protocol::{ContentHash, Tally};

use crate::files::{Body, DAY_MICROS, File, Shard, at, in_order, noise, write, write_taking};
use crate::reading::{Store, Walked, get, walk};
use crate::reference::{self, Seen};

fn uid() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "\\PC{0,40}",
        4 => "[0-9]{1,30}",
        2 => "[٠-٩]{1,10}",
        4 => "[a-z]{3}-[0-9a-f]{8}",
        1 => any::<u64>().prop_map(|n| format!("{n:065535}")),
    ]
}

fn codec() -> impl Strategy<Value = CompressionCodec> {
    prop_oneof![Just(Raw), Just(Zstd), Just(Lz4)]
}

fn body() -> impl Strategy<Value = Body> {
    let content = prop_oneof![
        3 => Just(Vec::new()),
        8 => proptest::collection::vec(any::<u8>(), 1..300),
        8 => ("[a-z ]{1,40}", 1..200_usize).prop_map(|(words, n)| words.repeat(n).into_bytes()),
        2 => (any::<u64>(), 20_000..70_000_usize).prop_map(|(seed, len)| noise(seed, len)),
        1 => (any::<u8>(), 60_000..400_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    prop_oneof![
        12 => (codec(), content).prop_map(|(codec, raw)| Body::Inside { codec, raw }),
        1 => any::<([u8; 32], u64)>().prop_map(|(sha256, size)| Body::Big { sha256, size }),
    ]
}

fn files(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<File>> {
    let file = (uid(), 0..DAY_MICROS, body()).prop_map(|(uid, micros, body)| File {
        uid,
        created_at: at(micros),
        body,
    });
    proptest::collection::vec(file, count).prop_map(in_order)
}

fn check(files: &[File], shard: &Shard) {
    check_fast(files, shard);
    let walked = walk(&Store::new(&shard.bytes)).expect("the walk succeeds");
    let expected = files.iter().map(|File { uid, created_at, .. }| (uid.as_str(), *created_at));
    assert!(walked.iter().map(|w| (w.uid.as_str(), w.created_at)).eq(expected));
    assert!(
        walked.iter().zip(files).all(|(Walked { content, .. }, file)| *content == file.content())
    );

    let seen = reference::read(&shard.bytes).expect("reference readers read it");
    let expected = files.iter().map(|file| match file.content() {
        Content::File(raw) => (file.uid.clone(), Seen::File(raw)),
        Content::Big { sha256, size } => (file.uid.clone(), Seen::Big { sha256, size }),
    });
    assert!(seen.into_iter().eq(expected), "reference readers see the same files");
    check_summary(files, shard);
}

/// Two requests where the tail's size is known, one of them for exactly one block.
fn check_fast(files: &[File], shard: &Shard) {
    let tail_bytes = shard.summary.tail_bytes;
    let Ok(TailStep::Fast(tail)) = Store::new(&shard.bytes).tail(tail_bytes) else {
        panic!("the shard has the extension");
    };
    let largest = (0..tail.blocks())
        .filter_map(|number| tail.block_range(number))
        .map(|block| block.end - block.start)
        .max()
        .unwrap_or(0);
    for file in files {
        let store = Store::new(&shard.bytes);
        let content = get(&store, &file.uid, tail_bytes).expect("the file reads");
        assert_eq!(content, Some(file.content()), "{:?}", file.uid);
        assert_eq!(store.gets.get(), 2, "{:?}", file.uid);
        assert!(store.bytes.get() <= tail_bytes + largest);
    }
    for absent in ["nowhere", "", "17", "a-uid-that-no-strategy-makes"] {
        if files.iter().any(|file| file.uid == absent) {
            continue;
        }
        let store = Store::new(&shard.bytes);
        assert_eq!(get(&store, absent, tail_bytes), Ok(None));
        assert!(store.gets.get() <= 2);
    }
    if let Some(file) = files.first() {
        for guess in [0, 12, 76, tail_bytes - 1, tail_bytes + 1, TAIL_GUESS_BYTES, u64::MAX] {
            let store = Store::new(&shard.bytes);
            assert_eq!(get(&store, &file.uid, guess), Ok(Some(file.content())), "{guess}");
            assert!(store.gets.get() <= if guess < 76 { 4 } else { 3 }, "{guess}");
        }
    }
}

fn check_summary(files: &[File], Shard { bytes, summary }: &Shard) {
    assert_eq!(summary.size, bytes.len() as u64);
    assert_eq!(summary.crc32c, crc32c::crc32c(bytes));
    assert_eq!(summary.hash, ContentHash::of(bytes));
    assert_eq!(summary.bytes_raw, files.iter().map(File::raw_len).sum::<u64>());
    let mut tally = Tally::default();
    for file in files {
        tally.count(&file.uid, file.created_at);
    }
    assert_eq!(summary.packed, tally);
    let fingerprints: BTreeSet<_> = files.iter().map(File::fingerprint).collect();
    let bounds = fingerprints.first().zip(fingerprints.last());
    assert!(
        bounds
            .is_none_or(|(f, l)| (*f, *l) == (summary.first_fingerprint, summary.last_fingerprint))
    );
    // Not a byte more than is needed, and not one less.
    let tail_of = |len: u64| {
        let from = bytes.len() - usize::try_from(len).expect("small");
        protocol::shard::read_tail(summary.size, &bytes[from..]).expect("a sound tail")
    };
    let TailStep::Fast(tail) = tail_of(summary.tail_bytes) else { panic!("tail_bytes suffice") };
    assert_eq!(tail.entries(), files.len() as u64);
    assert!(matches!(tail_of(summary.tail_bytes - 1), TailStep::Need(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn what_is_written_is_read_by_every_path(
        files in files(1..40),
        takes in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let shard = write(&files);
        check(&files, &shard);
        // Equal input gives equal bytes, whenever the output is taken away.
        let again = write_taking(&files, |number| takes[number]);
        prop_assert_eq!(again.bytes, shard.bytes);
        prop_assert_eq!(again.summary, shard.summary);
    }
}

#[test]
fn an_empty_shard_is_one_too() {
    check(&[], &write(&[]));
}

#[test]
fn thousands_of_small_files_lie_in_many_blocks() {
    let files: Vec<File> = (0..5000_u32)
        .map(|n| {
            let raw = format!("{{\"n\": {n}, \"pad\": \"{}\"}}", "x".repeat((n % 200) as usize));
            let codec = [Raw, Zstd, Lz4][(n % 3) as usize];
            File::new(&n.to_string(), at(i64::from(n)), codec, raw.as_bytes())
        })
        .collect();
    let files = in_order(files);
    let shard = write(&files);
    check(&files, &shard);
    let Ok(TailStep::Fast(tail)) = Store::new(&shard.bytes).tail(u64::MAX) else {
        panic!("the shard has the extension");
    };
    assert!(tail.blocks() > 5);
    let lengths = (0..tail.blocks()).filter_map(|n| tail.block_range(n)).map(|r| r.end - r.start);
    assert!(lengths.into_iter().all(|length| length <= 64 * 1024));
}

#[test]
fn files_of_every_size_around_a_block_read_back() {
    let around = [1, 9, 65_000, 65_485, 65_486, 65_487, 65_535, 65_536, 65_537, 131_072, 300_000];
    let files = around
        .iter()
        .flat_map(|&len| {
            [(Raw, "none"), (Zstd, "zstd"), (Lz4, "lz4")].map(|(codec, name)| {
                File::new(&format!("{name}/{len}"), at(0), codec, &noise(len as u64, len))
            })
        })
        .collect();
    let files = in_order(files);
    check(&files, &write(&files));
}

#[test]
fn the_longest_uids_and_the_edges_of_the_day_fit() {
    let longest = "ż".repeat(32_767) + "x";
    assert_eq!(longest.len(), 65_535);
    let files = in_order(vec![
        File::new(&longest, at(0), Zstd, b"first microsecond"),
        File::new("", at(DAY_MICROS - 1), Lz4, b""),
        File::new("0", at(1), Raw, b""),
    ]);
    check(&files, &write(&files));
}

#[test]
fn an_empty_file_is_stored_as_nine_bytes_of_zstd() {
    let files = [File::new("empty", at(0), Raw, b"")];
    let shard = write(&files);
    // Header and the mini-index of one entry come before the payload.
    let frame = &shard.bytes[8 + 12 + 34 + 4..][..9];
    assert_eq!(frame, zstd::bulk::compress(b"", 3).expect("it compresses"));
    check(&files, &shard);
}
