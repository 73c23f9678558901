//! The command line of what looks at an archive and changes nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use protocol::{FailureReason, Timestamp};

use super::ConfigArgs;
use super::values::{positive, price, reason};

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
    pub(crate) from: Option<Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ErrorsArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Those of this reason.
    #[arg(long, value_parser = reason)]
    pub(crate) reason: Option<FailureReason>,
    /// Those of the window that ends at this time.
    #[arg(long, value_name = "END")]
    pub(crate) window: Option<Timestamp>,
    /// Also those that a later pass settled.
    #[arg(long)]
    pub(crate) resolved: bool,
    /// How many, those recorded last first.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Only how many there are, by reason.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) summary: bool,
    /// Instead, those that failed in windows that are held, from the receipts in the store: they are
    /// recorded when such a window is released.
    #[arg(long, conflicts_with_all = ["resolved", "summary"])]
    pub(crate) held: bool,
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

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// What became of every row, from certificates and shards alone: uid, created_at, archived_at,
    /// shard, offset, size, crc32c, status.
    #[command(after_help = "Examples: des audit export --config des.yaml --from 2024-12-01 \
--to 2025-01-01 --to-file december.csv\n          \
des audit export --config des.yaml --format parquet --to-file all.parquet")]
    Export(ExportArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Text, with a header.
    Csv,
    /// Apache Parquet, compressed with Zstandard.
    Parquet,
}

impl ExportFormat {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Rows created at or after this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<Timestamp>,
    /// Rows created before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    /// Write them here rather than to stdout, and print what they add up to.
    #[arg(long, value_name = "FILE")]
    pub(crate) to_file: Option<PathBuf>,
    /// Replace that file, if it is there.
    #[arg(long, requires = "to_file")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// The configuration file: the coordinator is asked on its http.listen, on this machine.
    #[arg(long, env = "DES_CONFIG", value_name = "FILE", required_unless_present = "url")]
    pub(crate) config: Option<PathBuf>,
    /// Where the coordinator serves its page, when it is elsewhere: http://host:8080, with ?job=NAME
    /// where it has several jobs.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Print one view and end; also where there is no terminal.
    #[arg(long)]
    pub(crate) once: bool,
}
