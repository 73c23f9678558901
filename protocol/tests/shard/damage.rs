//! Every truncation and every flipped byte of a shard of ours is an error or harmless, by every
//! path: never wrong bytes, never a panic.

use protocol::codec::CompressionCodec::{Lz4, None as Raw, Zstd};
use protocol::shard::{Content, ShardError, TailStep};

use crate::files::{Body, File, Shard, at, in_order, noise, write};
use crate::reading::{Store, get, walk};

/// One file of every kind, in a shard of about 2 KB.
fn small() -> Vec<File> {
    let text = "the same words, and again the same words. ".repeat(6);
    in_order(vec![
        File::new("plain text", at(5), Raw, text.as_bytes()),
        File::new("zażółć gęślą jaźń", at(7_000_000), Zstd, text.as_bytes()),
        File::new("12345678901234567890", at(86_399_999_999), Lz4, text.as_bytes()),
        File::new("incompressible", at(1), Zstd, &noise(3, 60)),
        File::new("empty", at(2), Zstd, b""),
        File::new("empty too", at(2), Raw, b""),
        File::new("", at(0), Lz4, b"x"),
        File {
            uid: "big".to_owned(),
            created_at: at(3),
            body: Body::Big { sha256: [0xAB; 32], size: 1 << 40 },
        },
    ])
}

/// Some blocks of some files each, about 400 KB.
fn large() -> Vec<File> {
    let mut files = small();
    files.extend((0..14).map(|n| {
        let codec = [Raw, Zstd, Lz4][n % 3];
        File::new(&format!("noise-{n}"), at(9), codec, &noise(n as u64, 20_000 + 1000 * n))
    }));
    files.push(File::new("larger than a block", at(8), Zstd, &noise(99, 70_000)));
    files.push(File::new("zeros", at(8), Lz4, &vec![0; 200_000]));
    in_order(files)
}

/// What the reading paths made of a damaged object.
#[derive(Debug, Default, Clone, Copy)]
struct Noticed {
    by_walk: bool,
    by_crc: bool,
}

/// Reads `object` by every path and panics on wrong bytes.
fn examine(object: &[u8], files: &[File], crc32c: u32, what: &str) -> Noticed {
    for file in files {
        match get(&Store::new(object), &file.uid, 300) {
            Err(error) => names_an_offset(&error),
            Ok(content) => assert_eq!(content, Some(file.content()), "{what}: {:?}", file.uid),
        }
    }
    let by_walk = match walk(&Store::new(object)) {
        Err(error) => {
            names_an_offset(&error);
            true
        }
        Ok(walked) => {
            let expected = files.iter().map(|file| (&file.uid, file.created_at, file.content()));
            let walked = walked.iter().map(|w| (&w.uid, w.created_at, w.content.clone()));
            assert!(walked.eq(expected), "{what}: the walk gives other files");
            false
        }
    };
    Noticed { by_walk, by_crc: crc32c::crc32c(object) != crc32c }
}

fn names_an_offset(error: &ShardError) {
    let text = error.to_string();
    let says_where = match error {
        ShardError::Damaged { offset, .. } => text.contains(&offset.to_string()),
        ShardError::NotAShard(_) => text.contains("not a DES shard"),
        ShardError::Newer { found, .. } => text.contains(&found.to_string()),
    };
    assert!(says_where, "{text}");
}

/// Where flips may stay unseen without harm: inside compressed payloads, whose frames have bits
/// that decoders ignore, and in the magic that marks the extension, without which the v2 index
/// is read.
fn may_stay_unseen(shard: &Shard, files: &[File]) -> Vec<std::ops::Range<usize>> {
    let store = Store::new(&shard.bytes);
    let Ok(TailStep::Fast(tail)) = store.tail(u64::MAX) else { panic!("a sound shard") };
    let mut ranges = Vec::new();
    for number in 0..tail.blocks() {
        let range = tail.block_range(number).expect("the block exists");
        let start = usize::try_from(range.start).expect("small");
        let bytes = &shard.bytes[start..usize::try_from(range.end).expect("small")];
        let block = tail.parse_block(number, bytes).expect("a sound block");
        for entry in block.entries() {
            let file = files.iter().find(|file| file.fingerprint() == entry.fingerprint);
            let stored_raw =
                file.is_some_and(|file| file.raw_len() == u64::from(entry.stored_size));
            if !entry.is_big() && !stored_raw {
                let at = usize::try_from(entry.offset).expect("small");
                ranges.push(at..at + entry.stored_size as usize);
            }
        }
    }
    ranges
}

fn flip_and_examine(
    shard: &Shard,
    files: &[File],
    positions: impl Iterator<Item = usize>,
    patterns: &[u8],
) {
    let unseen = may_stay_unseen(shard, files);
    let mut object = shard.bytes.clone();
    for position in positions {
        for pattern in patterns {
            object[position] ^= pattern;
            let what = format!("byte {position} xor {pattern:#04x}");
            let noticed = examine(&object, files, shard.summary.crc32c, &what);
            assert!(noticed.by_crc, "{what}: the object's checksum");
            let harmless = unseen.iter().any(|range| range.contains(&position));
            assert!(noticed.by_walk || harmless, "{what}: the walk noticed nothing");
            object[position] ^= pattern;
        }
    }
}

#[test]
fn every_flipped_byte_of_a_small_shard() {
    let files = small();
    let shard = write(&files);
    assert!(shard.bytes.len() < 3000, "{}", shard.bytes.len());
    let patterns = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF, 0x03];
    flip_and_examine(&shard, &files, 0..shard.bytes.len(), &patterns);
}

#[test]
fn sampled_flipped_bytes_of_a_shard_of_many_blocks() {
    let files = large();
    let shard = write(&files);
    let store = Store::new(&shard.bytes);
    let Ok(TailStep::Fast(tail)) = store.tail(u64::MAX) else { panic!("a sound shard") };
    assert!(tail.blocks() >= 5);
    // Every byte of the index region is too much here: the small shard has shown them all.
    let index_at = usize::try_from(tail.index_range().start).expect("small");
    let ends = (0..tail.blocks())
        .filter_map(|number| tail.block_range(number))
        .flat_map(|block| [block.start, block.start + 1, block.start + 13, block.end - 1])
        .map(|at| usize::try_from(at).expect("small"));
    let sampled = (0..index_at).step_by(1501).chain((index_at..shard.bytes.len()).step_by(11));
    flip_and_examine(&shard, &files, sampled.chain(ends), &[0x01, 0xFF]);
}

#[test]
fn every_truncation_is_an_error() {
    for (files, step) in [(small(), 1), (large(), 97)] {
        let shard = write(&files);
        for len in (0..shard.bytes.len()).step_by(step) {
            let cut = &shard.bytes[..len];
            for file in &files {
                assert!(get(&Store::new(cut), &file.uid, 300).is_err(), "cut to {len} bytes");
            }
            assert!(walk(&Store::new(cut)).is_err(), "cut to {len} bytes");
        }
    }
}

#[test]
fn bytes_that_are_missing_or_added_anywhere_are_noticed() {
    let files = small();
    let shard = write(&files);
    for at in 0..=shard.bytes.len() {
        let mut longer = shard.bytes.clone();
        longer.insert(at, 0);
        assert!(examine(&longer, &files, 0, "a byte more").by_walk, "a byte more at {at}");
        if at < shard.bytes.len() {
            let mut shorter = shard.bytes.clone();
            shorter.remove(at);
            assert!(examine(&shorter, &files, 0, "a byte less").by_walk, "a byte less at {at}");
        }
    }
}

#[test]
fn zeroed_and_repeated_pages_are_noticed() {
    let files = large();
    let shard = write(&files);
    for start in (0..shard.bytes.len()).step_by(4096) {
        let end = (start + 4096).min(shard.bytes.len());
        let mut zeroed = shard.bytes.clone();
        zeroed[start..end].fill(0);
        assert!(examine(&zeroed, &files, 0, "a page of zeros").by_walk, "zeros at {start}");
        if start >= 4096 {
            let mut repeated = shard.bytes.clone();
            repeated.copy_within(start - 4096..start - 4096 + (end - start), start);
            assert!(examine(&repeated, &files, 0, "a stale page").by_walk, "repeated at {start}");
        }
    }
}

/// A store that answers with the bytes of another block of the same length must not make a file
/// look absent.
#[test]
fn a_sound_block_in_anothers_place_is_an_error() {
    let files: Vec<File> = (0..4)
        .map(|n| File::new(&n.to_string(), at(n), Raw, &noise(n.unsigned_abs(), 66_000)))
        .collect();
    let files = in_order(files);
    let shard = write(&files);
    let mut swapped = shard.bytes.clone();
    let block = 12 + 34 + 4 + 66_000;
    let (first, second) = swapped[8..].split_at_mut(block);
    first.swap_with_slice(&mut second[..block]);
    for (number, file) in files.iter().enumerate() {
        let read = get(&Store::new(&swapped), &file.uid, 300);
        if number < 2 {
            assert!(matches!(read, Err(ShardError::Damaged { .. })), "{read:?}");
        } else {
            assert_eq!(read, Ok(Some(file.content())));
        }
    }
}

/// Without the magic that marks it, a shard is what it is for every other reader.
#[test]
fn a_shard_whose_extension_is_not_recognised_reads_by_its_index() {
    let files = large();
    let mut bytes = write(&files).bytes;
    let magic_at = bytes.len() - 12 - 64;
    assert_eq!(&bytes[magic_at..magic_at + 4], b"DESX");
    bytes[magic_at] ^= 0x20;
    assert!(matches!(Store::new(&bytes).tail(300), Ok(TailStep::Plain(_))));
    for file in &files {
        assert_eq!(get(&Store::new(&bytes), &file.uid, 300), Ok(Some(file.content())));
    }
    assert_eq!(get(&Store::new(&bytes), "absent", 300), Ok::<Option<Content>, _>(None));
}
