//! The command line of what runs archives: services, a first set-up, a trial.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ConfigArgs;
use super::values::interval;

/// Of a service, which may serve several jobs.
#[derive(Debug, Args)]
pub(crate) struct ConfigsArgs {
    /// The configuration file; given several times, one for each job that the process serves. A
    /// directory stands for its *.yaml.
    #[arg(long, env = "DES_CONFIG", value_name = "FILE", required = true)]
    pub(crate) config: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many files to generate.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) files: u64,
    /// Local workers; default: the number of cores.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Where to put everything; default: a temporary directory. Must be empty or absent.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave files, catalog, archive and configuration there.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Every window up to the cutoff at start, then exit.
    Single,
    /// Again and again.
    Continuous,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Once, or again and again.
    #[arg(long, value_enum, default_value_t = Mode::Single)]
    pub(crate) mode: Mode,
    /// Time between two cycles of continuous mode: seconds, or 15m, 1h.
    #[arg(long, default_value = "1h", value_parser = interval, value_name = "TIME")]
    pub(crate) interval: Duration,
    /// Local workers; default: the number of cores, or 0 with a broker.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) workers: Option<u16>,
    /// Validate, connect to everything, say what was found, change nothing.
    #[arg(long)]
    pub(crate) check: bool,
    /// Do not create or upgrade des's tables.
    #[arg(long)]
    pub(crate) no_migrate: bool,
    /// Accept that so many files lie at or below an existing watermark and stay unarchived.
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    pub(crate) accept_below: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    pub(crate) config: ConfigsArgs,
    /// Validate, connect to everything, say what was found, change nothing.
    #[arg(long)]
    pub(crate) check: bool,
    /// Do not create or upgrade des's tables.
    #[arg(long)]
    pub(crate) no_migrate: bool,
    /// Accept that so many files lie at or below an existing watermark and stay unarchived.
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    pub(crate) accept_below: u64,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) config: ConfigsArgs,
    /// Partitions worked on at a time; overrides worker.slots.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: Option<u16>,
    /// Validate, connect to store and broker, look at roots and spool, say what was found.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the SQL of des's tables and do nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Accept that so many files lie at or below an existing watermark and stay unarchived.
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    pub(crate) accept_below: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    #[command(flatten)]
    pub(crate) config: ConfigsArgs,
    /// How long it may take to answer: seconds, or 500ms, 5s.
    #[arg(long, default_value = "5s", value_parser = interval, value_name = "TIME")]
    pub(crate) timeout: Duration,
}
