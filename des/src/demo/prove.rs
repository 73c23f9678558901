//! Proves a run: every file is read back and compared, counts and digests with the catalog's.

use std::sync::Arc;

use anyhow::Context as _;
use futures::{StreamExt, stream};
use protocol::shard::Content;
use protocol::{Tally, Window};
use retriever::{Archive, Lookup, VerifyOptions, When};
use serde::Serialize;
use tokio::sync::mpsc;

use super::generate::MadeFile;
use crate::progress::FileBar;
use crate::wiring::{self, Fleet};

/// Files that are read back at a time.
const READS_IN_FLIGHT: usize = 8;
/// Problems that are named; the rest is counted.
const NAMED_PROBLEMS: usize = 10;
const EXAMPLE_CHARS: usize = 72;

/// What was compared, and what was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Proof {
    pub(super) files_compared: u64,
    pub(super) mismatched_files: u64,
    pub(super) catalog_rows: u64,
    pub(super) catalog_digest: String,
    pub(super) archive_rows: u64,
    pub(super) archive_digest: String,
    pub(super) mismatched_sums: u64,
    pub(super) example_uid: String,
    pub(super) example_created_at: String,
    pub(super) example_begins: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<String>,
}

impl Proof {
    pub(super) fn sums(&self) -> &'static str {
        if self.mismatched_sums == 0 { "the catalog's and the archive's agree" } else { "DIFFER" }
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < NAMED_PROBLEMS {
            self.problems.push(what);
        }
    }
}

pub(super) async fn prove(fleet: &Fleet, files: Vec<MadeFile>) -> anyhow::Result<Proof> {
    let archive = Archive::open(fleet.store.clone()).await?;
    let mut proof = Proof::default();
    compare_sums(fleet, &archive, &files, &mut proof).await?;
    show_example(&archive, &files, &mut proof).await?;

    let mut bar = FileBar::new("comparing", files.len() as u64);
    // In the order of time, so that a window's certificate is read once.
    let mut files = files;
    files.sort_by_key(|file| file.created_at);
    let archive = Arc::new(archive);
    let mut compared = stream::iter(files)
        .map(|file| {
            let archive = Arc::clone(&archive);
            tokio::spawn(async move {
                let problem = compare(&archive, &file).await.err();
                (file, problem)
            })
        })
        .buffer_unordered(READS_IN_FLIGHT);
    while let Some(done) = compared.next().await {
        let (file, problem) = done?;
        proof.files_compared += 1;
        bar.advance(1, file.size);
        if let Some(error) = problem {
            proof.mismatched_files += 1;
            proof.problem(format!("{}: {error:#}", file.uid));
        }
    }
    bar.finish();
    Ok(proof)
}

/// Reads the file from the archive by its uid and created_at, and compares it with its source.
async fn compare(archive: &Archive, file: &MadeFile) -> anyhow::Result<()> {
    let lookup = archive.get(&file.uid, When::Exactly(file.created_at)).await?;
    let Lookup::Archived(found) = lookup else { anyhow::bail!("it is not in the archive") };
    let archived = match found.content {
        Content::File(raw) => raw,
        Content::Big { sha256, size } => {
            let mut raw = Vec::new();
            archive.copy_big_file(&sha256, size, &mut raw).await?;
            raw
        }
    };
    let source = tokio::fs::read(&file.path).await.context("the source file")?;
    anyhow::ensure!(archived == source, "its bytes differ from its source's");
    Ok(())
}

/// Compares the catalog, scanned once more, with what the shards themselves hold.
async fn compare_sums(
    fleet: &Fleet,
    archive: &Archive,
    files: &[MadeFile],
    proof: &mut Proof,
) -> anyhow::Result<()> {
    let newest = files.iter().map(|file| file.created_at).max().context("no files")?;
    let (start, end) = (fleet.archive.identity.origin, newest.saturating_add_micros(999_999));
    let window = Window::new(start, end.floor_to(1_000_000))?;
    let (batches, mut received) = mpsc::channel(4);
    let catalog = Arc::clone(&fleet.catalog);
    let scan = tokio::spawn(async move { catalog.scan(window, batches).await });
    let mut rows = Tally::default();
    while let Some(batch) = received.recv().await {
        for row in batch.iter() {
            rows.count(row.uid, row.created_at());
        }
    }
    scan.await??;

    let mut held = Tally::default();
    archive.files(None, None, &mut |file| held.count(&file.uid, file.created_at)).await?;
    let parallel = wiring::cores().into();
    let options = VerifyOptions { deep: true, parallel, from: None, until: None };
    let verified = archive.verify(options, &mut |_files, _bytes| {}).await?;
    for problem in &verified.problems {
        proof.problem(format!("{}: {}", problem.object, problem.what));
    }
    proof.catalog_rows = rows.rows;
    proof.catalog_digest = rows.digest.to_string();
    proof.archive_rows = held.rows;
    proof.archive_digest = held.digest.to_string();
    let wrong = [
        rows != held,
        rows.rows != files.len() as u64,
        verified.files != rows.rows,
        !verified.problems.is_empty(),
    ];
    proof.mismatched_sums = wrong.into_iter().filter(|&wrong| wrong).count() as u64;
    Ok(())
}

async fn show_example(
    archive: &Archive,
    files: &[MadeFile],
    proof: &mut Proof,
) -> anyhow::Result<()> {
    let example = files.iter().find(|file| file.uid.starts_with("json")).or(files.first());
    let example = example.context("no files")?;
    proof.example_uid.clone_from(&example.uid);
    proof.example_created_at = example.created_at.to_string();
    let lookup = archive.get(&example.uid, When::Exactly(example.created_at)).await?;
    proof.example_begins = match lookup {
        Lookup::Archived(found) => match found.content {
            Content::File(raw) => {
                String::from_utf8_lossy(&raw).chars().take(EXAMPLE_CHARS).collect::<String>() + "…"
            }
            Content::Big { size, .. } => format!("a big file of {size} bytes"),
        },
        Lookup::Failed(_) | Lookup::NotFound { .. } => "NOT FOUND".to_owned(),
    };
    Ok(())
}
