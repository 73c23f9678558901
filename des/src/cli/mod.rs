//! The command line: what commands there are. Their arguments stand in the modules below, by what
//! they are for.

mod look;
mod read;
mod run;
mod shell;
mod turn;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use look::*;
pub(crate) use read::*;
pub(crate) use run::*;
pub(crate) use shell::*;
pub(crate) use turn::*;
pub(crate) use values::{number_or_none, size_or_none, span_or_none};

/// Packs everything older than N days into few large immutable shards, and proves that nothing
/// was lost. Reads the catalog, never writes it; one row, the watermark, says what is settled.
#[derive(Debug, Parser)]
#[command(name = "des", version, max_term_width = 100, subcommand_required = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 verify found \
damage, 4 not found.\nStart with: des demo")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How results are printed on stdout.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) output: Format,

    /// Which log lines go to stderr: error, warn, info, debug, or a filter such as
    /// coordinator=debug. Default: info for services, warn for the other commands.
    #[arg(long, global = true, env = "DES_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A self-contained run on generated files that proves itself.
    #[command(after_help = "Example: des demo --files 5000 --dir /tmp/des-demo --keep")]
    Demo(DemoArgs),
    /// Archive what is due: coordinator and local workers in one process.
    #[command(after_help = "Example: des migrate --config des.yaml --mode single --workers 4")]
    Migrate(MigrateArgs),
    /// Run the coordinator of a fleet; a hot standby while another leads.
    #[command(after_help = "Examples: des coordinator --config des.yaml\n          \
des coordinator --config invoices.yaml --config letters.yaml")]
    Coordinator(CoordinatorArgs),
    /// Run one worker of a fleet; run as many as you like.
    #[command(after_help = "Examples: des worker --config des.yaml --slots 4\n          \
des worker --config /etc/des/jobs")]
    Worker(WorkerArgs),
    /// Make the archive: identity, des's own tables, first watermark.
    #[command(after_help = "Example: des init --config des.yaml --print")]
    Init(InitArgs),
    /// What archiving will take, before the first byte is moved: windows, bytes, hours, requests.
    #[command(after_help = "Examples: des plan --config des.yaml --cores 16\n          \
des plan --config des.yaml --files-per-core-second 20000 --stored-ratio 0.5")]
    Plan(PlanArgs),
    /// Where the watermark stands and what is pending.
    #[command(after_help = "Example: des stats --config des.yaml --output json")]
    Stats(ConfigArgs),
    /// Why the watermark is, or is not, moving.
    #[command(after_help = "Example: des explain --config des.yaml")]
    Explain(ConfigArgs),
    /// Every pass over a window that the ledger knows, the newest first.
    #[command(after_help = "Examples: des windows --config des.yaml --limit 10\n          \
des windows --config des.yaml --from 2024-12-01 --to 2024-12-09 --output json")]
    Windows(WindowsArgs),
    /// Files that are recorded as failed, and why, the newest first.
    #[command(
        after_help = "Examples: des errors --config des.yaml --reason missing --limit 20\n          \
des errors --config des.yaml --summary"
    )]
    Errors(ErrorsArgs),
    /// Who works, on what and how fast: as the coordinator that leads hears it.
    #[command(after_help = "Examples: des workers --config des.yaml\n          \
des workers --url http://coordinator-1:8080 --output json")]
    Workers(FleetArgs),
    /// The archive and its fleet, live in a terminal; q ends it.
    #[command(after_help = "Examples: des top --config des.yaml\n          \
des top --url http://coordinator-1:8080 --once")]
    Top(TopArgs),
    /// Move the watermark.
    #[command(after_help = "Examples: des adjust --config des.yaml --days-offset -1\n          \
des adjust --config des.yaml --set-date 2024-12-01 --dry-run")]
    Adjust(AdjustArgs),
    /// Verify committed windows, and archive again what is late, missing or damaged.
    #[command(
        after_help = "Examples: des replay --config des.yaml --window 2024-12-02\n          \
des replay --config des.yaml --from 2024-12-01 --to 2024-12-09"
    )]
    Replay(ReplayArgs),
    /// Compare committed windows with the catalog, and archive what is late.
    #[command(after_help = "Examples: des reconcile --config des.yaml --all --dry-run\n          \
des reconcile --config des.yaml --from 2024-12-01 --to 2024-12-09")]
    Reconcile(ReconcileArgs),
    /// Try again what is recorded as failed.
    #[command(
        after_help = "Examples: des retry-failed --config des.yaml --all --reason restored\n          \
des retry-failed --config des.yaml --window 2024-12-02"
    )]
    RetryFailed(RetryFailedArgs),
    /// Commit a held window, with its failed files as error rows.
    #[command(after_help = "Example: des release --config des.yaml --window 2024-12-02 \
--reason 'deleted by their owner, ticket 17'")]
    Release(ReleaseArgs),
    /// Read the failed files of a held window again.
    #[command(after_help = "Example: des retry --config des.yaml --window 2024-12-02")]
    Retry(RetryArgs),
    /// Begin nothing new, until resumed: no load on catalog, sources and store but what is under way.
    #[command(
        after_help = "Examples: des pause --config des.yaml --reason 'file server moves'\n          \
des pause --config des.yaml --reason 'backup of the sources' --until 2024-12-02T06:00:00+01:00"
    )]
    Pause(PauseArgs),
    /// End a pause.
    #[command(after_help = "Example: des resume --config des.yaml --reason 'it has moved'")]
    Resume(ResumeArgs),
    /// Limit how much is begun, and when, while the fleet runs; without a limit, say which are in force.
    #[command(after_help = "Examples: des throttle --config des.yaml --max-files-per-second 200 \
--reason 'month end'\n          \
des throttle --config des.yaml --not-between 'Mon-Fri 08:00-18:00 +01:00' --reason 'office hours'\n          \
des throttle --config des.yaml --max-active-connections 80 --reason 'the shop is busy'\n          \
des throttle --config des.yaml --off")]
    Throttle(ThrottleArgs),
    /// Record again what the store proves, when the ledger was lost or restored to an older point.
    #[command(after_help = "Example: des rebuild-ledger --config des.yaml --dry-run\n\
Stop every coordinator first. docs/restore-drill.md goes through it.")]
    RebuildLedger(RebuildArgs),
    /// What operators did: who, when, from, to, why.
    #[command(after_help = "Examples: des audit --config des.yaml --limit 20\n          \
des audit export --config des.yaml --from 2024-12-01 --to 2025-01-01 --to-file december.csv")]
    Audit(AuditArgs),
    /// Mark in the table itself, in a column of it, which files are archived up to the watermark.
    #[command(after_help = "Examples: des sync-archived --config des.yaml --dry-run\n          \
des sync-archived --config des.yaml --reason 'the old reports still ask for it'\n\
The configuration names the column, and who may write it: sync_archived.")]
    SyncArchived(SyncArchivedArgs),
    /// Remove objects that nothing will ever name: leftovers of settled windows.
    #[command(after_help = "Example: des gc --config des.yaml --dry-run")]
    Gc(GcArgs),
    /// Read one file from the archive.
    #[command(after_help = "Example: des get invoice-17 --created-at 2024-12-01T08:30:00Z \
--config des.yaml > invoice-17.json")]
    Get(GetArgs),
    /// List the archive's windows, or its files.
    #[command(after_help = "Example: des ls --config des.yaml --files --from 2024-12-01")]
    Ls(LsArgs),
    /// Check that everything certified is there, and with --deep that every byte is right.
    #[command(after_help = "Example: des verify --config des.yaml --deep")]
    Verify(VerifyArgs),
    /// Print the reference configuration: every key, default, unit and meaning.
    #[command(after_help = "Example: des config > des.yaml")]
    Config,
    /// Ask a service that runs with this configuration whether it does its work: its /readyz.
    #[command(after_help = "Example: des ready --config des.yaml\n\
Exit code 0 when it does, which for a coordinator may be to stand by; else 1.")]
    Ready(ReadyArgs),
    /// Print the completions of a shell.
    #[command(after_help = "Example: des completions bash > \
/usr/local/share/bash-completion/completions/des")]
    Completions(CompletionsArgs),
    /// Write the man pages: of des, and of each of its commands.
    #[command(after_help = "Example: des man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file.
    #[arg(long, env = "DES_CONFIG", value_name = "FILE")]
    pub(crate) config: PathBuf,
}

impl Command {
    /// Whether the command is a service, whose log is what people read.
    pub(crate) const fn is_service(&self) -> bool {
        matches!(
            self,
            Self::Coordinator(_)
                | Self::Worker(_)
                | Self::Migrate(MigrateArgs { mode: Mode::Continuous, .. })
        )
    }
}
