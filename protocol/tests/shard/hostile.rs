//! Bytes that somebody made up: no panic, no memory that the object's size does not justify.

use proptest::prelude::*;
use protocol::codec::{CompressionCodec, decode};
use protocol::shard::{Block, IndexReader, TailStep, check_header, read_tail};

use crate::files::{File, at, in_order, noise, write};
use crate::reading::{Store, get, walk};

const NUMBERS: [u64; 20] = [
    0,
    1,
    3,
    4,
    7,
    8,
    9,
    63,
    64,
    68,
    76,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 12,
    u64::MAX,
];

fn files() -> Vec<File> {
    let codecs = [CompressionCodec::None, CompressionCodec::Zstd, CompressionCodec::Lz4];
    let mut files: Vec<File> = (0..9_u8)
        .map(|n| {
            let raw = format!("{n} ").repeat(60);
            File::new(&n.to_string(), at(n.into()), codecs[usize::from(n) % 3], raw.as_bytes())
        })
        .collect();
    files.push(File::new("large", at(0), CompressionCodec::Zstd, &noise(1, 66_000)));
    in_order(files)
}

/// Recomputes the checksums of directory and trailer, and of the first block's mini-index, as
/// somebody would who makes up a shard.
fn seal(object: &mut [u8], directory: std::ops::Range<usize>, mini_index: usize) {
    let trailer = object.len() - 76;
    let crc = crc32c::crc32c(&object[directory]);
    object[trailer + 56..trailer + 60].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&object[trailer..trailer + 60]);
    object[trailer + 60..trailer + 64].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&object[8..8 + mini_index - 4]);
    object[8 + mini_index - 4..8 + mini_index].copy_from_slice(&crc.to_le_bytes());
}

fn read_everything(object: &[u8]) {
    for uid in ["0", "1", "2", "large", "absent"] {
        drop(get(&Store::new(object), uid, 80));
    }
    drop(walk(&Store::new(object)));
    drop(read_tail(object.len() as u64, object));
}

#[test]
fn every_number_in_every_field_with_the_checksums_made_to_fit() {
    let shard = write(&files()).bytes;
    let Ok(TailStep::Fast(tail)) = Store::new(&shard).tail(u64::MAX) else {
        panic!("a sound shard");
    };
    let directory_at = usize::try_from(tail.index_range().end).expect("small");
    let directory = directory_at..shard.len() - 76;
    let count = u32::from_le_bytes(shard[8..12].try_into().expect("four bytes"));
    let mini_index = 12 + 34 * count as usize + 4;
    let mut sealed = shard.clone();
    seal(&mut sealed, directory.clone(), mini_index);
    assert_eq!(sealed, shard, "the checksums lie where this test thinks");

    // The first file of every block.
    let mut uids: Vec<String> = files().into_iter().map(|file| file.uid).collect();
    uids.dedup_by_key(|uid| tail.blocks_for(protocol::Fingerprint::of(uid)));
    assert_eq!(uids.len(), tail.blocks());

    let metadata = (8..8 + mini_index).chain(directory.start..shard.len());
    for at in metadata {
        for number in NUMBERS {
            for width in [1, 2, 4, 5, 8] {
                let mut object = shard.clone();
                let width = width.min(object.len() - at);
                object[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                seal(&mut object, directory.clone(), mini_index);
                for uid in &uids {
                    drop(get(&Store::new(&object), uid, 80));
                }
                if width == 8 && at >= object.len() - 76 {
                    drop(walk(&Store::new(&object)));
                }
            }
        }
    }
}

#[test]
fn every_number_in_every_field_of_the_plain_index() {
    let shard = write(&files()).bytes;
    let Ok(TailStep::Fast(tail)) = Store::new(&shard).tail(u64::MAX) else {
        panic!("a sound shard");
    };
    let range = tail.index_range();
    let index = &shard
        [usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")];
    for version in [1, 2] {
        for at in 0..index.len() {
            for number in NUMBERS {
                for width in [1, 2, 4, 8] {
                    let mut index = index.to_vec();
                    let width = width.min(index.len() - at);
                    index[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                    let mut reader =
                        IndexReader::new(version, &index, range.start).expect("an entry count");
                    while let Ok(Some(_)) = reader.next_entry() {}
                }
            }
        }
    }
}

#[test]
fn counts_that_the_bytes_do_not_justify_allocate_nothing() {
    let counts = u32::MAX.to_le_bytes();
    for len in [4, 12, 16, 50, 1000] {
        let mut block = vec![0; len];
        block[..4].copy_from_slice(&counts);
        assert!(Block::parse(&block, 8).is_err());
        let mut index = IndexReader::new(2, &block, 8).expect("an entry count");
        assert_eq!(index.remaining(), u32::MAX);
        let mut read = 0;
        while let Ok(Some(_)) = index.next_entry() {
            read += 1;
        }
        assert!(read <= len);
    }
    let sound = write(&files()[..1]).bytes;
    let block_end = sound.len() - 76 - 16 - 4 - 2 - 1 - 1 - 8 - 8 - 1 - 8 - 8 - 4;
    assert!(Block::parse(&sound[8..block_end], 8).is_ok());
    for end in [block_end - 1, block_end + 1] {
        assert!(Block::parse(&sound[8..end], 8).is_err(), "payloads that do not fill the block");
    }
    for offset in [u64::MAX, u64::MAX - 10] {
        assert!(Block::parse(&[0; 64], offset).is_err());
    }
    assert!(read_tail(30, &[0; 31]).is_err(), "a tail longer than its object");
    assert!(read_tail(u64::MAX, &[0; 100]).is_err());
}

/// One entry of a block, and its payload.
#[derive(Clone, Copy)]
struct Made {
    fingerprint: u8,
    delta: u64,
    raw_size: u32,
    kind: u8,
    payload: &'static [u8],
}

const SOUND: Made = Made { fingerprint: 1, delta: 0, raw_size: 3, kind: 0, payload: b"abc" };

/// A block put together field by field.
fn made(base: i64, entries: &[Made]) -> Vec<u8> {
    let mut block = u32::try_from(entries.len()).expect("few").to_le_bytes().to_vec();
    block.extend_from_slice(&base.to_le_bytes());
    for entry in entries {
        block.extend_from_slice(&[entry.fingerprint; 16]);
        block.extend_from_slice(&entry.delta.to_le_bytes()[..5]);
        let stored = u32::try_from(entry.payload.len()).expect("short");
        block.extend_from_slice(&stored.to_le_bytes());
        block.extend_from_slice(&entry.raw_size.to_le_bytes());
        block.extend_from_slice(&crc32c::crc32c(entry.payload).to_le_bytes());
        block.push(entry.kind);
    }
    block.extend_from_slice(&crc32c::crc32c(&block).to_le_bytes());
    entries.iter().for_each(|entry| block.extend_from_slice(entry.payload));
    block
}

#[test]
fn blocks_that_are_sealed_but_wrong_are_refused() {
    let second = Made { fingerprint: 2, delta: (1 << 40) - 1, ..SOUND };
    let sound = made(-5, &[SOUND, second]);
    let block = Block::parse(&sound, 8).expect("a sound block");
    let times: Vec<i64> = block.entries().iter().map(|e| e.created_at.as_micros()).collect();
    assert_eq!(times, [-5, (1 << 40) - 6]);
    assert_eq!(
        block.entries().iter().map(|e| e.offset).collect::<Vec<_>>(),
        [8 + 12 + 68 + 4, 8 + 12 + 68 + 4 + 3]
    );

    let refused = |base, entries: &[Made]| Block::parse(&made(base, entries), 8).is_err();
    assert!(refused(0, &[second, SOUND]), "not in order");
    assert!(refused(0, &[SOUND, SOUND]), "one fingerprint twice");
    assert!(refused(0, &[Made { raw_size: (64 << 20) + 1, ..SOUND }]), "a raw size out of reach");
    for base in [i64::MIN, i64::MAX] {
        assert!(refused(base, &[second]), "a created_at outside the years 1 to 9999");
    }
    for kind in [3, 0x7F, 0x81, 0xFF] {
        let bytes = made(0, &[Made { kind, ..SOUND }]);
        let block = Block::parse(&bytes, 8).expect("other entries may be sound");
        assert!(block.content(&block.entries()[0]).is_err(), "kind {kind}");
    }
    let bytes = made(0, &[Made { kind: 0x80, ..SOUND }]);
    let block = Block::parse(&bytes, 8).expect("other entries may be sound");
    assert!(block.content(&block.entries()[0]).is_err(), "a big file of three bytes");
}

/// A block's entry belongs to that block.
#[test]
fn an_entry_of_another_block_is_an_error() {
    let shard = write(&files()).bytes;
    let Ok(TailStep::Fast(tail)) = Store::new(&shard).tail(u64::MAX) else {
        panic!("a sound shard");
    };
    let block = |number| {
        let range = tail.block_range(number).expect("the block exists");
        let range = usize::try_from(range.start).expect("small")
            ..usize::try_from(range.end).expect("small");
        tail.parse_block(number, &shard[range]).expect("a sound block")
    };
    let (first, last) = (block(0), block(tail.blocks() - 1));
    assert!(first.content(&last.entries()[0]).is_err());
    assert!(last.content(&first.entries()[0]).is_err());
}

/// Another packer's small shard whose last payload happens to look like a trailer's magic.
#[test]
fn a_payload_that_looks_like_the_extension_is_only_a_payload() {
    let mut payload = b"DESX".to_vec();
    payload.extend_from_slice(&[1; 80]);
    // Index: a count, and one entry with a uid of one byte and no meta.
    let mut index = 1_u32.to_le_bytes().to_vec();
    index.extend_from_slice(&[1, 0, b'u', 0]);
    index.extend_from_slice(&8_u64.to_le_bytes());
    index.extend_from_slice(&84_u64.to_le_bytes());
    index.push(0);
    index.extend_from_slice(&84_u64.to_le_bytes());
    index.extend_from_slice(&84_u64.to_le_bytes());
    index.extend_from_slice(&0_u32.to_le_bytes());
    assert!(index.len() < 64);
    // Cut the payload so that its magic stands where a trailer would.
    let magic_at = 84 - (64 - index.len());
    payload.rotate_right(magic_at);

    let mut object = b"DES2\x02\0\0\0".to_vec();
    object.extend_from_slice(&payload);
    object.extend_from_slice(&index);
    object.extend_from_slice(b"DESI");
    object.extend_from_slice(&(index.len() as u64).to_le_bytes());
    let trailer_at = object.len() - 76;
    assert_eq!(&object[trailer_at..trailer_at + 4], b"DESX");
    let content = get(&Store::new(&object), "u", 300).expect("it reads");
    assert_eq!(content, Some(protocol::shard::Content::File(payload)));
}

#[test]
fn headers_name_what_is_wrong_with_them() {
    assert_eq!(check_header(b"DES2\x01\0\0\0"), Ok(1));
    assert_eq!(check_header(b"DES2\x02\0\0\0"), Ok(2));
    let refused = |header: &[u8]| check_header(header).expect_err("refused").to_string();
    assert!(refused(b"DES2\x03\0\0\0").contains("version 3"));
    assert!(refused(b"DES2\x03\0\0\0").contains("up to 2"));
    assert!(refused(b"DES2\x00\0\0\0").contains("version 0 does not exist"));
    assert!(refused(b"DES2\x02\0\x01\0").contains("reserved"));
    assert!(refused(b"PK\x03\x04....").contains("DES2"));
    for short in [b"".as_slice(), b"DES", b"DES2", b"DES2\x02\0\0"] {
        assert!(refused(short).contains("shorter"));
    }
}

#[test]
fn a_newer_extension_is_refused_by_name() {
    let mut shard = write(&files()).bytes;
    let trailer = shard.len() - 76;
    shard[trailer + 4] = 2;
    let crc = crc32c::crc32c(&shard[trailer..trailer + 60]);
    shard[trailer + 60..trailer + 64].copy_from_slice(&crc.to_le_bytes());
    let error = read_tail(shard.len() as u64, &shard).expect_err("refused").to_string();
    assert!(error.contains("lookup extension version 2") && error.contains("up to 1"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn garbage_is_refused_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<u64>()) {
        drop(check_header(&bytes));
        drop(Block::parse(&bytes, at));
        for version in [1, 2] {
            if let Ok(mut index) = IndexReader::new(version, &bytes, at) {
                while let Ok(Some(_)) = index.next_entry() {}
            }
        }
        for codec in [CompressionCodec::None, CompressionCodec::Zstd, CompressionCodec::Lz4] {
            drop(decode(codec, &bytes, at));
        }
        read_everything(&bytes);
        // The same with a header and a footer that fit.
        let mut object = b"DES2\x02\0\0\0".to_vec();
        object.extend_from_slice(&bytes);
        let region = at % (bytes.len() as u64 + 1);
        object.extend_from_slice(b"DESI");
        object.extend_from_slice(&region.to_le_bytes());
        read_everything(&object);
    }

    #[test]
    fn garbled_frames_are_refused_calmly(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        raw_size in 0..100_000_u64,
        which in 0..4_usize,
    ) {
        let frames: [&[u8]; 4] = [
            include_bytes!("../../fixtures/lz4/b4-linked.lz4"),
            include_bytes!("../../fixtures/lz4/b4-independent.lz4"),
            include_bytes!("../../fixtures/lz4/b5-linked-level-12.lz4"),
            include_bytes!("../../fixtures/lz4/noise-block-checksums.lz4"),
        ];
        let mut frame = frames[which].to_vec();
        for (at, byte) in flips {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        drop(decode(CompressionCodec::Lz4, &frame, raw_size));
        drop(decode(CompressionCodec::Zstd, &frame, raw_size));
    }
}
