//! `des demo`: generated files, a SQLite catalog, a whole run, and the proof.

mod generate;
mod prove;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use coordinator::Goal;
use coordinator::board::Board;
use protocol::Timestamp;
use serde::Serialize;

use crate::cli::DemoArgs;
use crate::commands::{MigrateResult, RunOptions, run_embedded};
use crate::config::Config;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, Output, bytes, grouped, table};
use crate::progress::FileBar;
use crate::wiring::{self, Permissions};

use prove::Proof;

const LAG_DAYS: i64 = 7;
const MICROS_PER_DAY: i64 = 86_400_000_000;

#[derive(Serialize)]
struct DemoResult {
    files: u64,
    mismatches: u64,
    #[serde(flatten)]
    done: MigrateResult,
    files_per_second: f64,
    ratio: f64,
    rows_updated_in_source: u64,
    watermark_before: Timestamp,
    watermark_after: Timestamp,
    #[serde(flatten)]
    proof: Proof,
    directory: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<Exit, Failure> {
    let shutdown = shutdown_on_signals()?;
    let (directory, temporary) = directory(&args)?;
    let say = |line: &str| {
        if output.is_human() {
            tracing::info!("{line}");
            eprint_line(line);
        }
    };
    say(&format!("Generating {} files in {}", grouped(args.files), directory.display()));
    let now = Timestamp::from_chrono(chrono::Utc::now()).context("the clock is out of range")?;
    let end = now.saturating_add_micros(-LAG_DAYS * MICROS_PER_DAY).floor_to(MICROS_PER_DAY);
    let (count, folder) = (args.files, directory.join("files"));
    let mut bar = FileBar::new("generating", count);
    let files = tokio::task::spawn_blocking(move || {
        let files = generate::make_files(&folder, count, end, &mut |size| bar.advance(1, size));
        bar.finish();
        files
    });
    let files = files.await??;
    let catalog = directory.join("catalog.sqlite");
    generate::make_catalog(&catalog, &files).await?;
    let path = directory.join("des.yaml");
    std::fs::write(&path, configuration(&directory)).context("cannot write des.yaml")?;

    let config = Config::load(&path)?;
    let permissions = Permissions { migrate: true, accept_below: 0, reason: None };
    let fleet = wiring::connect(&config, permissions).await?;
    let watermark_before = fleet.archive.watermark.archived_until;
    let workers = args.workers.unwrap_or_else(wiring::cores);
    say(&format!("Archiving with {workers} local workers"));
    let options = RunOptions {
        goal: Goal::UpToCutoff,
        workers,
        bar: "archiving",
        continuous: false,
        board: Board::default(),
    };
    let done = run_embedded(&config, &fleet, options, &shutdown).await?;
    if shutdown.is_cancelled() {
        return Ok(Exit::Failed);
    }
    say("Reading every file back and comparing it");
    let proof = prove::prove(&fleet, files).await?;
    let seconds = done.seconds.max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let result = DemoResult {
        files: args.files,
        mismatches: proof.mismatched_files + proof.mismatched_sums,
        files_per_second: (done.files_archived as f64 / seconds).round(),
        ratio: (done.bytes_raw as f64 / done.bytes_stored.max(1) as f64 * 100.0).round() / 100.0,
        rows_updated_in_source: generate::count_writes(&catalog).await?,
        watermark_before,
        watermark_after: done.archived_until.unwrap_or(watermark_before),
        directory: args.keep.then(|| directory.clone()),
        proof,
        done,
    };
    output.result(&result, human)?;
    if args.keep {
        say(&format!(
            "Kept; try: des get {:?} --created-at {} --config {}",
            result.proof.example_uid,
            result.proof.example_created_at,
            path.display()
        ));
        if let Some(temporary) = temporary {
            let _kept = temporary.keep();
        }
    }
    let right =
        result.mismatches == 0 && result.rows_updated_in_source == 0 && result.done.held.is_empty();
    Ok(if right { Exit::Done } else { Exit::Failed })
}

fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _nowhere_to_tell = writeln!(std::io::stderr(), "{line}");
}

/// The directory to work in, and the guard that removes it at the end.
fn directory(args: &DemoArgs) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if let Some(directory) = &args.dir {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let absolute = directory.canonicalize()?;
        if absolute.read_dir()?.next().is_some() {
            return Err(Failure::usage(format!(
                "{} is not empty: the demo wants a directory of its own",
                absolute.display()
            )));
        }
        if args.keep {
            return Ok((absolute, None));
        }
        // What the demo made in a directory that was given goes away with it, too.
        let guard = tempfile::Builder::new().prefix("des-demo-").tempdir_in(&absolute)?;
        return Ok((guard.path().to_owned(), Some(guard)));
    }
    let guard = tempfile::Builder::new().prefix("des-demo-").tempdir()?;
    Ok((guard.path().to_owned(), Some(guard)))
}

/// The configuration of the run: the predecessor's keys, and one more. JSON strings are YAML
/// strings, whatever characters a path holds.
fn configuration(directory: &Path) -> String {
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let catalog = quoted(format!("sqlite:///{}/catalog.sqlite", directory.display()));
    let archive = quoted(directory.join("archive").display().to_string());
    let spool = quoted(directory.display().to_string());
    format!(
        "database:\n  url: {catalog}\n  table_name: files\n  uid_column: uid\n  \
         created_at_column: created_at\n  location_column: file_location\n  \
         size_column: size_bytes\n  lag_days: {LAG_DAYS}\n\
         packer:\n  output_dir: {archive}\n  n_bits: 4\n\
         watermark:\n  config_db_url: {catalog}\n\
         worker:\n  spool_dir: {spool}\ncoordinator:\n  spool_dir: {spool}\n"
    )
}

fn human(it: &DemoResult) -> String {
    let mut text = format!(
        "des get {:?} --created-at {}\n  {}\n\n",
        it.proof.example_uid, it.proof.example_created_at, it.proof.example_begins
    );
    text.push_str(&table(&[
        ("files", grouped(it.files)),
        ("windows", grouped(it.done.windows)),
        ("shards", grouped(it.done.shards)),
        ("raw bytes", bytes(it.done.bytes_raw)),
        ("stored bytes", format!("{} (ratio {})", bytes(it.done.bytes_stored), it.ratio)),
        ("files/s", format!("{} ({:.2} s)", it.files_per_second, it.done.seconds)),
        ("rows updated in the source", it.rows_updated_in_source.to_string()),
        ("watermark before", it.watermark_before.to_string()),
        ("watermark after", it.watermark_after.to_string()),
        ("files read back and compared", grouped(it.proof.files_compared)),
        ("counts and digests", it.proof.sums().to_owned()),
        ("mismatches", it.mismatches.to_string()),
    ]));
    for problem in &it.proof.problems {
        text.push_str(&format!("{problem}\n"));
    }
    for held in &it.done.held {
        text.push_str(&format!("held: the window that ends at {}: {}\n", held.end, held.reason));
    }
    text.push_str(if it.mismatches == 0 {
        "Every byte is right.\n"
    } else {
        "Something is WRONG.\n"
    });
    text
}
