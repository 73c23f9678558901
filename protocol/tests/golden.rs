//! Shards that the reference implementation wrote are read to the last byte.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use protocol::codec::{self, CompressionCodec};
use protocol::shard::{HEADER_BYTES, IndexReader, Location, TailStep, check_header, read_tail};
use sha2::Digest as _;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden")
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string succeeds");
        hex
    })
}

/// What `listing.json` says of one file.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    uid: String,
    size: u64,
    sha256: String,
}

fn listing() -> Vec<(String, Vec<Listed>)> {
    let bytes = std::fs::read(golden().join("listing.json")).expect("listing.json is there");
    let json: serde_json::Value = serde_json::from_slice(&bytes).expect("listing.json is JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let listed = |file: &serde_json::Value| Listed {
        uid: text(&file["uid"]),
        size: file["size"].as_u64().expect("a size"),
        sha256: text(&file["sha256"]),
    };
    let shards = json.as_object().expect("an object of shards");
    shards
        .iter()
        .map(|(name, files)| {
            (name.clone(), files.as_array().expect("files").iter().map(listed).collect())
        })
        .collect()
}

/// Reads a whole shard by its index, and counts the codecs and big files it meets.
fn read(shard: &[u8], seen: &mut Vec<&'static str>) -> Vec<Listed> {
    let version = check_header(&shard[..usize::try_from(HEADER_BYTES).expect("eight")])
        .expect("the header is sound");
    let size = shard.len() as u64;
    let TailStep::Plain(plain) = read_tail(size, shard).expect("the tail is sound") else {
        panic!("a reference shard has no lookup extension");
    };
    let range = usize::try_from(plain.range.start).expect("small")
        ..usize::try_from(plain.range.end).expect("small");
    let mut index = IndexReader::new(version, &shard[range], plain.range.start).expect("an index");
    seen.push(if version == 1 { "version 1" } else { "version 2" });

    let mut files = Vec::new();
    while let Some(entry) = index.next_entry().expect("the entry is sound") {
        let raw = match entry.location {
            Location::Inside { offset, stored_size, codec, raw_size } => {
                seen.push(match codec {
                    CompressionCodec::None => "none",
                    CompressionCodec::Zstd => "zstd",
                    CompressionCodec::Lz4 => "lz4",
                });
                let from = usize::try_from(offset).expect("small");
                let to = from + usize::try_from(stored_size).expect("small");
                codec::decode(codec, &shard[from..to], raw_size).expect("the payload decodes")
            }
            Location::Beside { sha256, size } => {
                seen.push("big file");
                let bytes = std::fs::read(golden().join("_bigFiles").join(&sha256))
                    .expect("the big file is there");
                assert_eq!(bytes.len() as u64, size);
                bytes
            }
        };
        files.push(Listed { uid: entry.uid, size: raw.len() as u64, sha256: sha256(&raw) });
    }
    assert_eq!(index.remaining(), 0);
    assert_eq!(index.offset(), plain.range.end, "the index is read to its end");
    files
}

#[test]
fn every_file_of_every_golden_shard_reads_back() {
    let mut seen = Vec::new();
    let listing = listing();
    assert_eq!(listing.len(), 4);
    for (name, files) in listing {
        let shard = std::fs::read(golden().join(&name)).expect("the shard is there");
        assert_eq!(read(&shard, &mut seen), files, "{name}");
    }
    for kind in ["version 1", "version 2", "none", "zstd", "lz4", "big file"] {
        assert!(seen.contains(&kind), "the golden shards hold {kind}");
    }
}

#[test]
fn the_footer_alone_says_where_the_index_is() {
    for (name, _files) in listing() {
        let shard = std::fs::read(golden().join(&name)).expect("the shard is there");
        let size = shard.len() as u64;
        let TailStep::Need(bytes) = read_tail(size, &shard[shard.len() - 12..]).expect("a tail")
        else {
            panic!("twelve bytes cannot tell a plain shard from one with the extension");
        };
        let tail = &shard[shard.len() - usize::try_from(bytes).expect("small")..];
        assert!(matches!(read_tail(size, tail), Ok(TailStep::Plain(_))), "{name}");
    }
}

#[test]
fn truncated_golden_shards_are_refused() {
    for (name, _files) in listing() {
        let shard = std::fs::read(golden().join(&name)).expect("the shard is there");
        for len in 0..shard.len() {
            assert!(read_tail(len as u64, &shard[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}
