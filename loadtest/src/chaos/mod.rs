//! The chaos harness: real `des` processes under faults of every kind, judged by an oracle that
//! knows what the catalog held.

mod audit;
mod broker;
mod database;
mod dice;
mod files;
mod fleet;
mod ground;
mod inject;
mod journal;
mod oracle;
mod plan;
mod process;
mod proxy;
mod report;
mod round;
#[path = "../../../backends/tests/support/s3_server.rs"]
mod s3_server;
mod servers;
mod store_gate;
mod watch;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::ground::{Ground, has_crash_point};
use self::report::{Report, note_recovery};
use self::round::{RoundPlan, RoundReport};
use self::servers::Servers;

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
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Tell the product to do wrong in this way (it must be compiled with `sabotage`), and end
    /// with success when that is caught.
    #[arg(long, value_name = "NAME")]
    sabotage: Option<String>,
    /// The binary; default: `des` beside this program.
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
        all_rounds(args, servers, &stop).await
    });
    // Processes of a run that failed are killed with the tasks that keep them.
    drop(runtime);
    let report = done?;
    let text = match args.output {
        Output::Human => report.text(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let good = report.is_clean() == args.sabotage.is_none();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    servers: Servers,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let began = Instant::now();
    let temporary = tempfile::Builder::new().prefix("des-chaos-").tempdir()?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let des = match &args.des {
        Some(des) => des.clone(),
        None => std::env::current_exe()?.with_file_name("des"),
    };
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let with_crash_points = has_crash_point(&des, "start")?;
    let files = args.round_files.min(args.files).min(MOST_FILES_A_ROUND);
    let ground = Ground::prepare(servers, &dir, &des, files, args.sabotage.clone()).await?;
    let ground = Arc::new(ground);
    let mut rounds: Vec<RoundReport> = Vec::new();
    loop {
        let plan = RoundPlan {
            round: rounds.len() as u64 + 1,
            seed: args.seed,
            first_fault: rounds.iter().map(|round| round.faults.len() as u64).sum(),
            with_crash_points,
            partition_rows: args.partition_rows,
            until_found: args.sabotage.is_some(),
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
        if !report.is_clean()
            || (report.files >= args.files && report.faults_effective >= args.faults)
        {
            return Ok(report);
        }
    }
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
