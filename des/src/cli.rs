//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
des pause --config des.yaml --reason 'backup of the sources' --until 2024-12-02T06:00+01:00"
    )]
    Pause(PauseArgs),
    /// End a pause.
    #[command(after_help = "Example: des resume --config des.yaml --reason 'it has moved'")]
    Resume(ResumeArgs),
    /// Record again what the store proves, when the ledger was lost or restored to an older point.
    #[command(after_help = "Example: des rebuild-ledger --config des.yaml --dry-run\n\
Stop every coordinator first. docs/restore-drill.md goes through it.")]
    RebuildLedger(RebuildArgs),
    /// What operators did: who, when, from, to, why.
    #[command(after_help = "Examples: des audit --config des.yaml --limit 20\n          \
des audit export --config des.yaml --from 2024-12-01 --to 2025-01-01 --to-file december.csv")]
    Audit(AuditArgs),
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
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Believe a certificate of a skip that nothing later confirms: its command may have died.
    #[arg(long)]
    pub(crate) accept_skip: bool,
    /// Say what would be recorded, change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AuditCommand>,
    /// The configuration file.
    #[arg(long, env = "DES_CONFIG", value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// How many entries, the newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Files that are read and compressed to see what they are like, from all over the time ahead.
    #[arg(long, default_value_t = 400, value_name = "FILES", value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub(crate) sample: u32,
    /// Cores of all workers together; default: those of this machine.
    #[arg(long, value_parser = positive)]
    pub(crate) cores: Option<f64>,
    /// Files that one core packs in a second, instead of what the sample shows.
    #[arg(long, value_parser = positive, value_name = "FILES")]
    pub(crate) files_per_core_second: Option<f64>,
    /// Rows that the coordinator splits in a second: `loadtest bench` measures it.
    #[arg(long, value_parser = positive, value_name = "ROWS")]
    pub(crate) rows_per_second: Option<f64>,
    /// Mean size of a file, instead of what the catalog or the sample says.
    #[arg(long, value_parser = positive, value_name = "BYTES")]
    pub(crate) file_bytes: Option<f64>,
    /// Stored bytes to raw bytes, instead of what the sample shows.
    #[arg(long, value_parser = positive, value_name = "RATIO")]
    pub(crate) stored_ratio: Option<f64>,
    /// Price of 1,000 PUT, POST or LIST requests.
    #[arg(long, default_value_t = 0.005, value_parser = price, value_name = "PRICE")]
    pub(crate) put_price: f64,
    /// Price of 1,000 GET or HEAD requests.
    #[arg(long, default_value_t = 0.0004, value_parser = price, value_name = "PRICE")]
    pub(crate) get_price: f64,
    /// Price of a GB stored for a month.
    #[arg(long, default_value_t = 0.023, value_parser = price, value_name = "PRICE")]
    pub(crate) gb_month_price: f64,
    /// Price of a core for an hour.
    #[arg(long, default_value_t = 0.04, value_parser = price, value_name = "PRICE")]
    pub(crate) core_hour_price: f64,
}

#[derive(Debug, Args)]
pub(crate) struct WindowsArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How many, the newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// Windows that end at or after this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ErrorsArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Those of this reason.
    #[arg(long, value_parser = reason)]
    pub(crate) reason: Option<protocol::FailureReason>,
    /// Those of the window that ends at this time.
    #[arg(long, value_name = "END")]
    pub(crate) window: Option<protocol::Timestamp>,
    /// Also those that a later pass settled.
    #[arg(long)]
    pub(crate) resolved: bool,
    /// How many, those recorded last first.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Only how many there are, by reason.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) summary: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// What became of every row, from certificates and shards alone: uid, created_at, archived_at,
    /// shard, offset, size, crc32c, status.
    #[command(after_help = "Example: des audit export --config des.yaml --from 2024-12-01 \
--to 2025-01-01 --to-file december.csv")]
    Export(ExportArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
}

impl ExportFormat {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Rows created at or after this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// Rows created before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    /// Write them here rather than to stdout, and print what they add up to.
    #[arg(long, value_name = "FILE")]
    pub(crate) to_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "target")]
pub(crate) struct AdjustTarget {
    /// The new watermark: a date, or a date and time; UTC without offset.
    #[arg(long, value_name = "DATE", group = "target")]
    pub(crate) set_date: Option<protocol::Timestamp>,
    /// Days from where it is; negative is back.
    #[arg(long, value_name = "N", group = "target", allow_negative_numbers = true)]
    pub(crate) days_offset: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct AdjustArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) target: AdjustTarget,
    /// Say what would happen, change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Allow that files are skipped: never archived.
    #[arg(long)]
    pub(crate) allow_skip: bool,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The window that ends at this time.
    #[arg(long, value_name = "END", conflicts_with_all = ["from", "to"], required_unless_present = "to")]
    pub(crate) window: Option<protocol::Timestamp>,
    /// Every window that ends after this time …
    #[arg(long, value_name = "DATE", requires = "to")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// … and not after this.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
    /// Local workers; default: the number of cores, or 0 with a broker.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) workers: Option<u16>,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Every committed window, with pauses that leave the catalog half of its time.
    #[arg(long, conflicts_with_all = ["from", "to"], required_unless_present = "to")]
    pub(crate) all: bool,
    /// Every window that ends after this time …
    #[arg(long, value_name = "DATE", requires = "to")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// … and not after this.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
    /// Say which windows differ, change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Local workers; default: the number of cores, or 0 with a broker.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) workers: Option<u16>,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RetryFailedArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The files of every window.
    #[arg(long, conflicts_with = "window", required_unless_present = "window")]
    pub(crate) all: bool,
    /// The files of the window that ends at this time.
    #[arg(long, value_name = "END")]
    pub(crate) window: Option<protocol::Timestamp>,
    /// Local workers; default: the number of cores, or 0 with a broker.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) workers: Option<u16>,
    /// Why, for the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The held window that ends at this time.
    #[arg(long, value_name = "END")]
    pub(crate) window: protocol::Timestamp,
    /// Why its failed files may be missing from the archive, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The held window that ends at this time.
    #[arg(long, value_name = "END")]
    pub(crate) window: protocol::Timestamp,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Why, for everybody who asks, and for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Resume by itself at this time: a date, or a date and time; UTC without offset.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<protocol::Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Count what would be removed, remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The file's key.
    pub(crate) uid: String,
    /// When it was created: exactly, or the day.
    #[arg(long, value_name = "TIME")]
    pub(crate) created_at: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Write the file here rather than to stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// List files rather than windows.
    #[arg(long, conflicts_with = "failed")]
    pub(crate) files: bool,
    /// List the files that could not be archived, with the reason.
    #[arg(long)]
    pub(crate) failed: bool,
    /// Windows that end at or after this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Read and check every byte.
    #[arg(long)]
    pub(crate) deep: bool,
    /// Windows that end at or after this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<protocol::Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<protocol::Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How long it may take to answer: seconds, or 500ms, 5s.
    #[arg(long, default_value = "5s", value_parser = interval, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Whose.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where they go: des.1, des-migrate.1 and so on; made when it is not there.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) dir: PathBuf,
}

/// A reason, as it is stored.
fn reason(text: &str) -> Result<protocol::FailureReason, String> {
    let all = protocol::FailureReason::ALL;
    all.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|known| known.as_str()).collect();
        format!("there is no such reason; there are {}", known.join(", "))
    })
}

/// A number above zero.
fn positive(text: &str) -> Result<f64, String> {
    match price(text)? {
        number if number > 0.0 => Ok(number),
        _ => Err("it must be more than zero".to_owned()),
    }
}

/// A number that is not negative.
fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("it must be a number that is not negative".to_owned()),
    }
}

/// Seconds, or a number with a unit.
fn interval(text: &str) -> Result<Duration, String> {
    let length = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_no_number) => humantime::parse_duration(text).map_err(|error| {
            format!("{error}: use seconds, or a number with a unit, such as 90s, 15m or 1h")
        })?,
    };
    match length.is_zero() {
        true => Err("it must be more than zero".to_owned()),
        false => Ok(length),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_seconds_or_has_a_unit() {
        assert_eq!(interval("3600"), Ok(Duration::from_secs(3_600)));
        assert_eq!(interval("1h"), interval("3600"));
        assert_eq!(interval("1m 30s"), Ok(Duration::from_secs(90)));
        for bad in ["0", "0s", "soon", "-1", ""] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
