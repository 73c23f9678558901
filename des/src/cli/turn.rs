//! The command line of what an operator turns: each of these changes something, and is in the audit log.

use std::time::Duration;

use backends::ledger::Override;
use clap::Args;
use protocol::Timestamp;

use super::ConfigArgs;
use super::values::{number_or_none, size_or_none, span_or_none, text_or_none};

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "target")]
pub(crate) struct AdjustTarget {
    /// The new watermark: a date, or a date and time; UTC without offset.
    #[arg(long, value_name = "DATE", group = "target")]
    pub(crate) set_date: Option<Timestamp>,
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
    pub(crate) window: Option<Timestamp>,
    /// Every window that ends after this time …
    #[arg(long, value_name = "DATE", requires = "to")]
    pub(crate) from: Option<Timestamp>,
    /// … and not after this.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
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
    pub(crate) from: Option<Timestamp>,
    /// … and not after this.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
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
    pub(crate) window: Option<Timestamp>,
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
    pub(crate) window: Timestamp,
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
    pub(crate) window: Timestamp,
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
    pub(crate) until: Option<Timestamp>,
    /// Every job whose ledger is in the same database.
    #[arg(long)]
    pub(crate) all_jobs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ThrottleArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Files of which the work is begun in a second, on average; none: no limit, whatever is
    /// configured.
    #[arg(long, value_name = "N|none", value_parser = number_or_none)]
    pub(crate) max_files_per_second: Option<Override<u64>>,
    /// Bytes of files, such as 20MiB; none: no limit.
    #[arg(long, value_name = "SIZE|none", value_parser = size_or_none)]
    pub(crate) max_bytes_per_second: Option<Override<u64>>,
    /// Hours in which nothing is begun, such as 'Mon-Fri 08:00-18:00 +01:00'; none: at any hour.
    #[arg(long, value_name = "HOURS|none", value_parser = text_or_none)]
    pub(crate) not_between: Option<Override<String>>,
    /// A query on the source database; a number above 0 in its answer's first column means wait; none:
    /// no query.
    #[arg(long, value_name = "SQL|none", value_parser = text_or_none)]
    pub(crate) query: Option<Override<String>>,
    /// By how much a standby of the source database may be behind, such as 30s; none: no limit.
    #[arg(long, value_name = "SPAN|none", value_parser = span_or_none)]
    pub(crate) max_replication_lag: Option<Override<Duration>>,
    /// Sessions of the source database that may be at work; none: no limit.
    #[arg(long, value_name = "N|none", value_parser = number_or_none)]
    pub(crate) max_active_connections: Option<Override<u64>>,
    /// Take back what was said, so that the configuration counts again.
    #[arg(
        long,
        conflicts_with_all = [
            "max_files_per_second",
            "max_bytes_per_second",
            "not_between",
            "query",
            "max_replication_lag",
            "max_active_connections",
        ]
    )]
    pub(crate) off: bool,
    /// Every job whose ledger is in the same database, each by itself; it only tightens their limits.
    #[arg(long)]
    pub(crate) all_jobs: bool,
    /// Why, for everybody who asks, and for the audit log. Needed to set a limit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// End the pause of all jobs.
    #[arg(long)]
    pub(crate) all_jobs: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SyncArchivedArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Count the rows that would be set, set none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go through everything again, also what was brought up before.
    #[arg(long)]
    pub(crate) again: bool,
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
