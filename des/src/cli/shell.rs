//! The command line of what makes a shell and `man` know `des`.

use std::path::PathBuf;

use clap::Args;

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
