//! What each command does.

mod adjust;
mod audit;
mod check;
mod errors;
mod explain;
mod export;
mod fleet;
mod gc;
mod held;
mod init;
mod jobs;
mod migrate;
mod passes;
mod pause;
mod plan;
mod read;
mod ready;
mod rebuild;
mod reconcile;
mod replay;
mod retry_failed;
mod services;
mod shell;
mod stats;
mod sync_archived;
mod throttle;
mod windows;

use crate::cli::{Cli, Command};
use crate::config::{Config, REFERENCE};
use crate::output::{Exit, Failure, Output};

pub(crate) use migrate::{MigrateResult, RunOptions, run_embedded};

pub(crate) async fn run(cli: Cli, output: &Output) -> Result<Exit, Failure> {
    match cli.command {
        Command::Demo(args) => crate::demo::run(args, *output).await,
        Command::Migrate(args) if args.check => {
            check::coordinator(&[Config::load(&args.config.config)?], *output).await
        }
        Command::Migrate(args) => migrate::run(args, *output).await,
        Command::Coordinator(args) if args.check => {
            check::coordinator(&Config::load_all(&args.config.config)?, *output).await
        }
        Command::Coordinator(args) => services::coordinator(args).await,
        Command::Worker(args) if args.check => {
            check::worker(&Config::load_all(&args.config.config)?, *output).await
        }
        Command::Worker(args) => services::worker(args).await,
        Command::Init(args) => init::run(args, *output).await,
        Command::Plan(args) => plan::run(args, *output).await,
        Command::Stats(args) => stats::run(&Config::load(&args.config)?, *output).await,
        Command::Explain(args) => explain::run(&Config::load(&args.config)?, *output).await,
        Command::Windows(args) => windows::run(args, *output).await,
        Command::Errors(args) => errors::run(args, *output).await,
        Command::Workers(args) => fleet::workers(args, *output).await,
        Command::Top(args) => fleet::top(args, *output).await,
        Command::Adjust(args) => adjust::run(args, *output).await,
        Command::Replay(args) => replay::run(args, *output).await,
        Command::Reconcile(args) => reconcile::run(args, *output).await,
        Command::RetryFailed(args) => retry_failed::run(args, *output).await,
        Command::Release(args) => held::release(args, *output).await,
        Command::Retry(args) => held::retry(args, *output).await,
        Command::Pause(args) => pause::pause(args, *output).await,
        Command::Resume(args) => pause::resume(args, *output).await,
        Command::Throttle(args) => throttle::run(args, *output).await,
        Command::RebuildLedger(args) => rebuild::run(args, *output).await,
        Command::Audit(args) => audit::run(args, *output).await,
        Command::SyncArchived(args) => sync_archived::run(args, *output).await,
        Command::Gc(args) => gc::run(args, *output).await,
        Command::Get(args) => read::get(args, *output).await,
        Command::Ls(args) => read::ls(args, *output).await,
        Command::Verify(args) => read::verify(args, *output).await,
        Command::Config => {
            output.raw(REFERENCE.as_bytes())?;
            Ok(Exit::Done)
        }
        Command::Ready(args) => ready::run(args, *output).await,
        Command::Completions(args) => shell::completions(args, *output),
        Command::Man(args) => shell::man(&args.dir, *output),
    }
}
