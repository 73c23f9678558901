//! What is stored, beside what the reference packer would store of the same files with zstd at
//! level 3.
//!
//! Its size is computed: the format leaves it no choice. A shard of version 2 is a header of 8 bytes,
//! the payloads, an index of 4 bytes and 40 and the uid per entry, and a footer of 12; the reference
//! stores every file whose name does not say that it is compressed already as one zstd frame, also
//! where that is longer than the file (`golden/` shows both). Frames are made here with the same
//! library and level. Metadata per entry, which the reference can add, is left out.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use protocol::NBits;
use serde_json::json;

use super::Bench;
use super::embedded::Ground;
use crate::generate::Spec;
use crate::measure::line::{Line, Target};
use crate::measure::spread::Spread;

const FILES: u64 = 100_000;
const LEVEL: i32 = 3;
const HEADER_BYTES: u64 = 8;
const INDEX_COUNT_BYTES: u64 = 4;
/// Length of the uid 2, flags 1, offset 8, length 8, codec 1, stored size 8, raw size 8, length of
/// the metadata 4.
const ENTRY_BYTES: u64 = 2 + 1 + 8 + 8 + 1 + 8 + 8 + 4;
const FOOTER_BYTES: u64 = 12;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let mut line = Line::new(
        "size",
        "stored size to the reference packer's with zstd level 3, indexes and lookup extension \
         included: 1 day, n_bits 4",
        Target::AtMost(1.02),
        "×",
    );
    for (days, n_bits) in [(1, 4), (28, 8)] {
        let spec = Spec::usual(FILES, days);
        let ground = Ground::make(&bench.des, &bench.dir, &spec, n_bits, &json!({}))?;
        ground.clear()?;
        ground.migrate()?;
        let (shards, all) = stored(&ground.archive())?;
        let reference = reference_bytes(&spec, &bench.dir.join(format!("files-{FILES}")), n_bits)?;
        ground.clear()?;
        let shape = format!("{days} days, n_bits {n_bits}");
        let ratio = quotient(shards, reference);
        if days == 1 {
            line = line.measured(Spread::of([ratio]));
        }
        line = line
            .one(format!("{shape}: shards to the reference's"), "×", ratio)
            .one(
                format!("{shape}: all objects, manifests and receipts too"),
                "×",
                quotient(all, reference),
            )
            .one(format!("{shape}: shards"), "bytes", exact(shards))
            .one(format!("{shape}: the reference's"), "bytes", exact(reference));
    }
    Ok(vec![
        line.note(
            "the reference's size is computed from its format and from zstd frames made here",
        ),
    ])
}

fn quotient(bytes: u64, reference: u64) -> f64 {
    exact(bytes) / exact(reference.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn exact(bytes: u64) -> f64 {
    bytes as f64
}

/// Bytes of the shards, and of all objects.
fn stored(archive: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut shards, mut all) = (0, 0);
    let mut folders = vec![archive.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = entry.metadata()?.len();
            all += bytes;
            if entry.path().extension().is_some_and(|it| it == "des") {
                shards += bytes;
            }
        }
    }
    Ok((shards, all))
}

/// What the reference packer would write of all rows.
fn reference_bytes(spec: &Spec, root: &Path, n_bits: u8) -> anyhow::Result<u64> {
    let n_bits = NBits::new(n_bits)?;
    let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
    let mut shards = HashMap::new();
    for number in 0..spec.rows {
        let row = spec.row(root, number);
        let raw =
            std::fs::read(&row.location).with_context(|| row.location.display().to_string())?;
        let frame = zstd.compress(&raw)?.len() as u64;
        let shard = (row.created_at.day(), n_bits.shard_index(&row.uid));
        *shards.entry(shard).or_insert(0) += ENTRY_BYTES + row.uid.len() as u64 + frame;
    }
    let around = HEADER_BYTES + INDEX_COUNT_BYTES + FOOTER_BYTES;
    Ok(shards.values().map(|bytes| bytes + around).sum())
}
