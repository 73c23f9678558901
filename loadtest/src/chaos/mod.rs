//! The chaos harness: real `des` processes under faults of every kind, judged by an oracle that
//! knows what the catalog held.

mod audit;
mod broker;
mod database;
mod dice;
mod faults;
mod files;
mod fleet;
mod ground;
mod inject;
mod journal;
mod judge;
mod kind;
mod leftovers;
mod operate;
mod oracle;
mod page;
mod plan;
pub(crate) mod power;
mod process;
mod proxy;
mod read_back;
mod report;
mod round;
#[path = "../../../backends/tests/support/s3_server.rs"]
pub(crate) mod s3_server;
mod sabotage;
pub(crate) mod servers;
mod shard;
mod store_gate;
mod takeover;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::faults::Schedule;
use self::files::Manner;
use self::ground::{Ground, has_crash_point};
use self::judge::Verdict;
use self::plan::Only;
use self::report::{Report, note_recovery};
use self::round::{RoundPlan, RoundReport};
use self::sabotage::{Harness, SABOTAGES, Sabotage};
use self::servers::Servers;

/// Rounds after which a sabotage has got away.
const SABOTAGE_ROUNDS: u64 = 2;
/// What runs on threads may take so long to notice that the harness ends.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);
/// The most files that one round archives: rounds share their source files.
const MOST_FILES_A_ROUND: u64 = 50_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct ChaosArgs {
    /// File placements, over as many rounds as it takes; each round has a catalog, a ledger and an
    /// archive of its own.
    #[arg(long, default_value_t = 20_000)]
    files: u64,
    /// Faults that met something at work.
    #[arg(long, default_value_t = 40)]
    faults: u64,
    /// Everything but timing follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Files of one round.
    #[arg(long, default_value_t = 20_000)]
    round_files: u64,
    /// Files of one partition.
    #[arg(long, default_value_t = 250)]
    partition_rows: u64,
    /// All rounds in one manner; default: the three take turns.
    #[arg(long, value_enum)]
    manner: Option<Manner>,
    /// Only faults in whose names, as reports have them, this text is, such as `database stopped`;
    /// may be given several times.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["sabotage", "judge"])]
    only: Vec<String>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Write the report as a page of HTML, with a timeline.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Tell the product to do wrong in this way, and end with success when that is caught.
    #[arg(long, value_name = "NAME")]
    sabotage: Option<String>,
    /// Every sabotage, one after the other: what caught each.
    #[arg(long, conflicts_with_all = ["sabotage", "report"])]
    judge: bool,
    /// The binary; default: `des` beside this program, and for sabotage one that is built for it
    /// in `target/chaos`.
    #[arg(long, value_name = "PATH")]
    des: Option<PathBuf>,
    /// Keep logs and configurations below this directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Human,
    Json,
}

/// Runs the harness; the exit code is 1 when anything was found, or a sabotage was not.
pub(crate) fn run(args: &ChaosArgs) -> anyhow::Result<ExitCode> {
    let Some(servers) = Servers::from_environment() else {
        return Err(servers::start_again_with_servers());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let stop = stop_on_signals()?;
        if args.judge {
            judge_all(args, servers, &stop).await
        } else {
            one(args, servers, &stop).await
        }
    });
    // Processes of a run that failed are killed with the tasks that keep them.
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    let (text, good) = done?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn one(
    args: &ChaosArgs,
    servers: Servers,
    stop: &CancellationToken,
) -> anyhow::Result<(String, bool)> {
    let des = match (&args.des, &args.sabotage) {
        (Some(des), _) => des.clone(),
        (None, Some(_)) => judge::build()?,
        (None, None) => std::env::current_exe()?.with_file_name("des"),
    };
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let sabotage = args.sabotage.as_deref().map(known_sabotage).transpose()?;
    let (report, rounds) = all_rounds(args, (servers, &des), sabotage, stop).await?;
    if let Some(path) = &args.report {
        std::fs::write(path, page::page(&report, &rounds))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = match args.output {
        Output::Human => report.text(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    Ok((text, report.is_clean() == sabotage.is_none()))
}

async fn judge_all(
    args: &ChaosArgs,
    servers: Servers,
    stop: &CancellationToken,
) -> anyhow::Result<(String, bool)> {
    let des = args.des.clone().map_or_else(judge::build, Ok)?;
    let mut verdicts = Vec::new();
    for sabotage in SABOTAGES.iter().filter(|it| it.by.contains(&Harness::Fleet)) {
        let run = all_rounds(args, (servers.clone(), &des), Some(sabotage), stop);
        let report = run.await?.0;
        verdicts.push(Verdict::of(sabotage, &report.findings, report.seconds));
    }
    let good = verdicts.iter().all(Verdict::is_good);
    let text = match args.output {
        Output::Human => judge::table(&verdicts),
        Output::Json => serde_json::to_string_pretty(&verdicts)? + "\n",
    };
    Ok((text, good))
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

async fn all_rounds(
    args: &ChaosArgs,
    (servers, des): (Servers, &Path),
    sabotage: Option<&'static Sabotage>,
    stop: &CancellationToken,
) -> anyhow::Result<(Report, Vec<RoundReport>)> {
    let began = Instant::now();
    let temporary = tempfile::Builder::new().prefix("des-chaos-").tempdir_in(servers.dir()?)?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let for_sabotage = has_crash_point(des, "start_sabotage")?;
    ensure!(
        for_sabotage || sabotage.is_none(),
        "{} is not compiled for sabotage: leave --des away, or build it with --features sabotage",
        des.display()
    );
    let only = match args.only.as_slice() {
        [] => Only::ALL,
        texts => {
            Only::named(texts).with_context(|| format!("no fault's name has {texts:?} in it"))?
        }
    };
    let has_crash_points = for_sabotage || has_crash_point(des, "start")?;
    ensure!(
        has_crash_points || args.manner != Some(Manner::Poisoned),
        "nothing is poison to {}: build it with --features failpoints",
        des.display()
    );
    let with_crash_points = only == Only::ALL && has_crash_points;
    let files = args.round_files.min(args.files).min(MOST_FILES_A_ROUND);
    let name = sabotage.map(|it| it.name.to_owned());
    let ground = Ground::prepare(servers, &dir, des, files, name, stop).await?;
    let ground = Arc::new(ground);
    let mut rounds: Vec<RoundReport> = Vec::new();
    loop {
        let plan = RoundPlan {
            round: rounds.len() as u64 + 1,
            schedule: Schedule {
                seed: args.seed,
                first: rounds.iter().map(|round| round.faults.len() as u64).sum(),
                with_crash_points,
                only,
                sabotage,
            },
            manner: args.manner.unwrap_or_else(|| match sabotage {
                // It is looked for where nothing else is going on.
                Some(_) => Manner::Plain,
                None => manner_of(rounds.len(), has_crash_points),
            }),
            partition_rows: args.partition_rows,
        };
        let mut round = round::run(&ground, plan, stop).await?;
        note_recovery(&mut round);
        rounds.push(round);
        let report = Report::of(
            args.seed,
            &rounds,
            ground.journal.repeated(),
            began.elapsed().as_secs_f64(),
        );
        tell(&report)?;
        let enough = match sabotage {
            None => {
                report.files >= args.files
                    && report.faults_effective >= args.faults
                    && (!with_crash_points || report.came_to_every_crash_point())
            }
            Some(_) => report.rounds >= SABOTAGE_ROUNDS,
        };
        if enough || !report.is_clean() {
            return Ok((report, rounds));
        }
    }
}

/// Rounds take turns. What makes a file poison is compiled in with the crash points.
fn manner_of(rounds_before: usize, has_poison: bool) -> Manner {
    match rounds_before % 3 {
        1 => Manner::Operated,
        2 if has_poison => Manner::Poisoned,
        _ => Manner::Plain,
    }
}

fn known_sabotage(name: &str) -> anyhow::Result<&'static Sabotage> {
    let names: Vec<&str> = SABOTAGES.iter().map(|it| it.name).collect();
    let known = SABOTAGES.iter().find(|it| it.name == name);
    known.with_context(|| format!("no sabotage `{name}`: use {}", names.join(", ")))
}

/// Where a long run stands, after each round.
fn tell(report: &Report) -> anyhow::Result<()> {
    let line = format!(
        "round {}: {} files, {} effective faults, {} findings, {:.0} s\n",
        report.rounds,
        report.files,
        report.faults_effective,
        report.findings.len(),
        report.seconds
    );
    Ok(std::io::stderr().lock().write_all(line.as_bytes())?)
}
