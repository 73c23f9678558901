//! A worker's memory while it fills eight shards of 1 GB at a time.
//!
//! Files are of 15,000 bytes: a partition of smaller ones would be cut, since its rows' bytes are
//! bounded, before it makes a shard of 1 GB. Nothing compresses, so that what is stored is as large as what is
//! read. Rows share files: what is read again is in the kernel's cache, not in the worker.

use serde_json::json;

use super::Bench;
use super::database::{COMMITTED, Source};
use super::fleet::{Fleet, Running};
use crate::generate::{Content, Sizes, Spec, Uids};
use crate::measure::line::{Line, Plot, Target};
use crate::measure::spread::Spread;

const SLOTS: u64 = 8;
const SHARED_FILES: u64 = 5_000;
const FILE_BYTES: u64 = 15_000;
const SHARD_BYTES: u64 = 1_000_000_000;
const SHARD_BYTES_QUICK: u64 = SHARD_BYTES / 8;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let shard_bytes = if bench.quick { SHARD_BYTES_QUICK } else { SHARD_BYTES };
    let rows_a_shard = shard_bytes / FILE_BYTES;
    let spec = Spec {
        rows: rows_a_shard * SLOTS,
        files: SHARED_FILES,
        sizes: Sizes::Fixed(FILE_BYTES),
        content: Content::Noise,
        uids: Uids::EightShards,
        ..Spec::usual(0, 1)
    };
    let source = Source::make(bench, &spec).await?;
    let mut shape = source.shape(4, rows_a_shard);
    shape.more["worker"] = json!({ "slots": SLOTS });
    let fleet = Fleet::make(bench, &shape).await?;
    let mut running =
        vec![fleet.start("coordinator", "coordinator")?, fleet.start("worker", "worker")?];
    fleet.until(COMMITTED, &mut running.iter_mut().collect::<Vec<_>>()).await?;
    let stopped: anyhow::Result<Vec<_>> = running.into_iter().map(Running::stop).collect();
    let partitions = fleet.number("SELECT count(*) FROM des_partitions").await?;
    let largest = largest_shard(&fleet.dir.join("archive"))?;
    fleet.remove().await?;
    source.database.remove().await?;
    let mut stopped = stopped?;
    let Some(worker) = stopped.pop() else { return Ok(Vec::new()) };
    let what = format!(
        "`des worker` with {SLOTS} slots that fills {SLOTS} partitions of {} MB, a shard each, at a time, worker.memory \
         192MiB: peak resident memory",
        shard_bytes / 1_000_000
    );
    let line = Line::new("worker-memory", what, Target::AtMost(256.0), "MiB")
        .measured(Spread::of([worker.memory.peak_mib]))
        .one("the largest shard", "MB", largest / 1e6)
        .one("processor time of the worker", "s", worker.cpu_seconds)
        .note(format!("{} files of {FILE_BYTES} bytes in {partitions} partitions", spec.rows))
        .plot(Plot {
            title: format!("Resident memory of a worker with {SLOTS} slots"),
            x: "seconds",
            y: "MiB",
            series: vec![("des worker".to_owned(), worker.memory.samples)],
        });
    Ok(vec![line])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn largest_shard(archive: &std::path::Path) -> anyhow::Result<f64> {
    let mut largest = 0;
    for entry in std::fs::read_dir(archive)? {
        let metadata = entry?.metadata()?;
        if metadata.is_file() {
            largest = largest.max(metadata.len());
        }
    }
    Ok(largest as f64)
}
