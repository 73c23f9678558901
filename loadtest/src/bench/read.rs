//! Reading one file: requests, time per read, reads a second; from a directory and over S3.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use backends::Store;
use backends::store::{S3Credentials, S3Settings};
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::NBits;
use protocol::shard::Content;
use retriever::{Archive, Found, Lookup, When};
use serde_json::json;

use super::Bench;
use super::embedded::Ground;
use super::s3::{CountingS3, Requests};
use crate::generate::{Row, Spec};
use crate::measure::line::{Line, Target};
use crate::measure::spread::Spread;

const FILES: u64 = 100_000;
const N_BITS: u8 = 4;
/// Reads of one run.
const READS: u64 = 2_000;
/// Reads at a time, for the rate.
const AT_A_TIME: usize = 8;
/// Steps from a file to the next one read: no factor of the number of files.
const STRIDE: u64 = 61_843;
const PREFIX: &str = "read";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let spec = Spec::usual(FILES, 1);
    let (des, dir, for_ground) = (bench.des.clone(), bench.dir.clone(), spec.clone());
    // It loads its catalog on a runtime of its own.
    let making = move || Ground::make(&des, &dir, &for_ground, N_BITS, &json!({}));
    let ground = tokio::task::spawn_blocking(making).await??;
    ground.clear()?;
    ground.migrate()?;
    let s3 = CountingS3::start(Duration::ZERO)?;
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(ground.archive())
        .arg(s3.server.bucket_dir.join(PREFIX))
        .status()?;
    ensure!(copied.success(), "the archive cannot be copied into the bucket");
    let reader = Reader { spec, root: bench.dir.join(format!("files-{FILES}")) };
    let (first, cold, warm) = reader.requests(&s3).await?;
    let line = Line::new(
        "read-requests",
        "GETs for one file over S3: the first of a shard, its certificate known",
        Target::AtMost(2.0),
        "GETs",
    )
    .measured(Spread::of([as_figure(cold)]))
    .one("a further file of the same shard", "GETs", as_figure(warm))
    .note(format!("the very first file: {} (listing, certificate, tail, block; and the archive's identity)", first.text()))
    .note("the reference retriever: cold 1 LIST + 6 requests, warm 1 LIST + 3 (issue 4; not measured here)");
    let directory = reader.rates(bench, Store::directory(&ground.archive())?).await?;
    let over_s3 = reader.rates(bench, store_of(&s3)?).await?;
    ground.clear()?;
    let rates = Line::new(
        "read",
        format!("one warm read of {FILES} files in 16 shards, one after the other, in one process (`retriever`)"),
        Target::Told,
        "µs from a directory",
    )
    .measured(directory.micros)
    .figure("over S3 on loopback, no latency added", "µs", over_s3.micros)
    .figure("from a directory, one at a time", "reads/s", directory.single)
    .figure(format!("from a directory, {AT_A_TIME} at a time"), "reads/s", directory.many)
    .figure("over S3, one at a time", "reads/s", over_s3.single)
    .figure(format!("over S3, {AT_A_TIME} at a time"), "reads/s", over_s3.many)
    .note("the S3 server runs on the same cores as the reader");
    Ok(vec![line, rates])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn as_figure(number: u64) -> f64 {
    number as f64
}

fn store_of(s3: &CountingS3) -> anyhow::Result<Store> {
    Ok(Store::s3(&S3Settings {
        bucket: s3.server.bucket.clone(),
        prefix: PREFIX.to_owned(),
        endpoint: Some(s3.server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        path_style: true,
        storage_class: None,
        server_side_encryption: None,
        sse_kms_key_id: None,
        credentials: Some(S3Credentials {
            access_key_id: s3.server.access_key.clone(),
            secret_access_key: s3.server.secret_key.clone(),
        }),
    })?)
}

/// What was measured of one store.
struct Rates {
    /// Of single reads, one after the other: medians of the runs.
    micros: Spread,
    single: Spread,
    many: Spread,
}

/// Reads files that it knows the size of.
struct Reader {
    spec: Spec,
    root: PathBuf,
}

impl Reader {
    fn row(&self, number: u64) -> Row {
        self.spec.row(&self.root, number % FILES)
    }

    async fn read(&self, archive: &Archive, number: u64) -> anyhow::Result<()> {
        let row = self.row(number);
        match archive.get(&row.uid, When::Exactly(row.created_at)).await? {
            Lookup::Archived(Found { content: Content::File(bytes), .. })
                if bytes.len() as u64 == row.size =>
            {
                Ok(())
            }
            other => bail!("{}: not the file: {other:?}", row.uid),
        }
    }

    /// Requests for the very first file, and GETs for the first of another shard and a second one
    /// of it.
    async fn requests(&self, s3: &CountingS3) -> anyhow::Result<(Requests, u64, u64)> {
        let n_bits = NBits::new(N_BITS)?;
        let of_shard = |number: &u64| n_bits.shard_index(&self.row(*number).uid);
        let first = of_shard(&0);
        let other = (1..FILES).find(|number| of_shard(number) != first).context("a shard")?;
        let shard = of_shard(&other);
        let again = (other + 1..FILES).find(|number| of_shard(number) == shard);
        let again = again.context("a second file of a shard")?;
        let start = s3.requests();
        let archive = Archive::open(store_of(s3)?).await?;
        self.read(&archive, 0).await?;
        let opened = s3.requests();
        self.read(&archive, other).await?;
        let cold = s3.requests();
        self.read(&archive, again).await?;
        let warm = s3.requests().since(cold);
        let cold = cold.since(opened);
        ensure!(cold.list + cold.head + warm.list + warm.head == 0, "more than GETs were sent");
        Ok((opened.since(start), cold.get, warm.get))
    }

    async fn rates(&self, bench: &Bench, store: Store) -> anyhow::Result<Rates> {
        let archive = Archive::open(store).await?;
        let (mut micros, mut single, mut many) = (Vec::new(), Vec::new(), Vec::new());
        // The first round warms up: every shard's tail is known after it.
        for round in 0..=bench.runs as u64 {
            let mut each = Vec::new();
            let began = Instant::now();
            for at in 0..READS {
                let read = Instant::now();
                self.read(&archive, (round * READS + at) * STRIDE).await?;
                each.push(read.elapsed().as_secs_f64() * 1e6);
            }
            let alone = as_figure(READS) / began.elapsed().as_secs_f64();
            let began = Instant::now();
            let archive = &archive;
            futures::stream::iter(0..READS)
                .map(|at| self.read(archive, (round * READS + at) * STRIDE + 1))
                .buffer_unordered(AT_A_TIME)
                .try_collect::<()>()
                .await?;
            if round > 0 {
                micros.push(Spread::of(each).median);
                single.push(alone);
                many.push(as_figure(READS) / began.elapsed().as_secs_f64());
            }
        }
        Ok(Rates { micros: Spread::of(micros), single: Spread::of(single), many: Spread::of(many) })
    }
}
