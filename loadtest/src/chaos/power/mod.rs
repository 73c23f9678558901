//! Power failures: `des migrate` onto a disk that loses what was not synced, cut at random moments
//! and at every crash point, and started again until it is done. Judged after every cut.

mod cuts;
mod disk;
mod judge;
mod ledger;
mod machine;
mod report;
mod round;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio_util::sync::CancellationToken;

use self::cuts::Cuts;
use self::report::{PowerReport, PowerRound};
use self::round::Workshop;
use super::files::Files;
use super::ground::has_crash_point;
use super::judge::{self as builds, Verdict};
use super::sabotage::{Harness, SABOTAGES, Sabotage};
use super::{Output, SHUTDOWN_LIMIT, stop_on_signals};

/// The exit code where no disk can be made that loses power: not root, or no loop devices.
pub(crate) const CANNOT_RUN: u8 = 77;
/// Cuts after which a sabotage has got away.
const SABOTAGE_CUTS: u64 = 150;
/// Says that this process has a mount namespace of its own.
const NAMESPACE: &str = "DES_POWER_NAMESPACE";

#[derive(Clone, Debug, Args)]
pub(crate) struct PowerArgs {
    /// Cuts that dropped something from under a running `des`. With crash points, and without
    /// `--short`, also each of them at least once where it can be met.
    #[arg(long, default_value_t = 60)]
    cuts: u64,
    /// Files of one round, each of which has a disk, a catalog and an archive of its own.
    #[arg(long, default_value_t = 3_000)]
    files: u64,
    /// Files of one partition.
    #[arg(long, default_value_t = 50)]
    partition_rows: u64,
    /// Everything but timing follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End with the round in which there were cuts enough, whatever crash points are left.
    #[arg(long)]
    short: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Tell the product to do wrong in this way, and end with success when that is caught.
    #[arg(long, value_name = "NAME")]
    sabotage: Option<String>,
    /// Every sabotage that power failures bring to light, one after the other.
    #[arg(long, conflicts_with = "sabotage")]
    judge: bool,
    /// The binary; default: `des` beside this program, and for sabotage one that is built for it
    /// in `target/chaos`.
    #[arg(long, value_name = "PATH")]
    des: Option<PathBuf>,
    /// Keep logs, configurations and ledgers below this directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the harness. The exit code is 1 when anything was found, or a sabotage was not, and
/// [`CANNOT_RUN`] where it cannot run.
pub(crate) fn run(args: &PowerArgs) -> anyhow::Result<ExitCode> {
    if std::env::var_os(NAMESPACE).is_none() && may_unshare() {
        return Err(in_namespace_of_its_own());
    }
    if let Err(why) = prove() {
        let text = format!("power failures NOT RUN: {why:#}\n");
        std::io::stderr().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::from(CANNOT_RUN));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let stop = stop_on_signals()?;
        if args.judge { judge_all(args, &stop).await } else { one(args, &stop).await }
    });
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    let (text, good) = done?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is mounted in a namespace of one's own is gone with the last process in it, also when
/// nobody is left to unmount it.
fn in_namespace_of_its_own() -> anyhow::Error {
    let again = || {
        let me = std::env::current_exe()?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(me);
        Err::<(), _>(command.args(std::env::args_os().skip(1)).env(NAMESPACE, "1").exec())
    };
    match again() {
        Err(error) => anyhow::Error::from(error).context("cannot start unshare"),
        Ok(()) => anyhow::anyhow!("unshare came back"),
    }
}

fn may_unshare() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn prove() -> anyhow::Result<()> {
    let dir = temporary()?;
    disk::prove(dir.path())
}

fn temporary() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("des-power-").tempdir()?)
}

async fn one(args: &PowerArgs, stop: &CancellationToken) -> anyhow::Result<(String, bool)> {
    let sabotage = args.sabotage.as_deref().map(known_sabotage).transpose()?;
    let des = match (&args.des, sabotage) {
        (Some(des), _) => des.clone(),
        (None, Some(_)) => builds::build()?,
        (None, None) => std::env::current_exe()?.with_file_name("des"),
    };
    let report = all_rounds(args, des, sabotage, stop).await?;
    let text = match args.output {
        Output::Human => report.text(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    Ok((text, report.is_clean() == sabotage.is_none()))
}

async fn judge_all(args: &PowerArgs, stop: &CancellationToken) -> anyhow::Result<(String, bool)> {
    let des = args.des.clone().map_or_else(builds::build, Ok)?;
    let mut verdicts = Vec::new();
    for sabotage in SABOTAGES.iter().filter(|it| it.by.contains(&Harness::Power)) {
        let report = all_rounds(args, des.clone(), Some(sabotage), stop).await?;
        verdicts.push(Verdict::of(sabotage, &report.findings, report.seconds));
    }
    let good = verdicts.iter().all(Verdict::is_good);
    let text = match args.output {
        Output::Human => builds::table(&verdicts),
        Output::Json => serde_json::to_string_pretty(&verdicts)? + "\n",
    };
    Ok((text, good))
}

async fn all_rounds(
    args: &PowerArgs,
    des: PathBuf,
    sabotage: Option<&'static Sabotage>,
    stop: &CancellationToken,
) -> anyhow::Result<PowerReport> {
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let began = Instant::now();
    let temporary = temporary()?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let for_sabotage = has_crash_point(&des, "start_sabotage")?;
    ensure!(
        for_sabotage || sabotage.is_none(),
        "{} is not compiled for sabotage: leave --des away, or build it with --features sabotage",
        des.display()
    );
    let with_points = for_sabotage || has_crash_point(&des, "start")?;
    let (root, count, stopped) = (dir.join("files"), args.files, stop.clone());
    let made = tokio::task::spawn_blocking(move || Files::make(&root, count, &stopped));
    let files = made.await??;
    let workshop = Workshop {
        des,
        dir: dir.canonicalize()?,
        images: temporary.path().to_owned(),
        files,
        partition_rows: args.partition_rows,
        sabotage: sabotage.map(|it| it.name),
    };
    let mut cuts = Cuts::new(args.seed, with_points);
    let mut rounds: Vec<PowerRound> = Vec::new();
    loop {
        let round = tokio::select! {
            round = workshop.round(rounds.len() as u64 + 1, &mut cuts) => round?,
            () = stop.cancelled() => anyhow::bail!("interrupted"),
        };
        rounds.push(round);
        let report = PowerReport::of(args.seed, &rounds, began.elapsed().as_secs_f64());
        tell(&report)?;
        let made: u64 = rounds.iter().map(|round| round.cuts.len() as u64).sum();
        let enough = match sabotage {
            None => report.cuts_effective >= args.cuts && (args.short || cuts.met_every_point()),
            Some(_) => made >= SABOTAGE_CUTS,
        };
        if enough || !report.is_clean() {
            return Ok(report);
        }
    }
}

/// Where a long run stands, after each round.
fn tell(report: &PowerReport) -> anyhow::Result<()> {
    let line = format!(
        "round {}: {} files, {} effective cuts, {} files dropped, {} findings, {:.0} s\n",
        report.rounds,
        report.files,
        report.cuts_effective,
        report.files_dropped,
        report.findings.len(),
        report.seconds
    );
    Ok(std::io::stderr().lock().write_all(line.as_bytes())?)
}

fn known_sabotage(name: &str) -> anyhow::Result<&'static Sabotage> {
    let of_ours = || SABOTAGES.iter().filter(|it| it.by.contains(&Harness::Power));
    let names: Vec<&str> = of_ours().map(|it| it.name).collect();
    let known = of_ours().find(|it| it.name == name);
    known.with_context(|| {
        format!("no sabotage `{name}` that power failures show: use {}", names.join(", "))
    })
}
