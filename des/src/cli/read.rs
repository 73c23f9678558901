//! The command line of what reads back from the store alone.

use std::path::PathBuf;

use clap::Args;
use protocol::Timestamp;

use super::ConfigArgs;

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
    pub(crate) from: Option<Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
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
    pub(crate) from: Option<Timestamp>,
    /// Windows that start before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Timestamp>,
}
