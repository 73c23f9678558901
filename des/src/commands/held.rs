//! `des release` and `des retry`: let a held window go, as it is or after another look.

use backends::ledger::HeldPass;
use coordinator::held::{LetGo, let_go};
use protocol::{Revision, Timestamp};
use serde::Serialize;

use crate::cli::{ReleaseArgs, RetryArgs};
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring;

#[derive(Serialize)]
struct LetGoResult {
    /// The window's end.
    window: Timestamp,
    revision: Revision,
    /// Rows of the window.
    rows: u64,
    /// Those that failed.
    files_failed: u64,
    /// Partitions with failed rows, which `retry` has done again.
    partitions: u32,
    /// `release` or `retry`.
    action: &'static str,
}

pub(super) async fn release(args: ReleaseArgs, output: Output) -> Result<Exit, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty: say why these files may be missing"));
    }
    let config = Config::load(&args.config.config)?;
    carry_out(&config, args.window, LetGo::Release, Some(args.reason), output).await
}

pub(super) async fn retry(args: RetryArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    carry_out(&config, args.window, LetGo::Retry, args.reason, output).await
}

async fn carry_out(
    config: &Config,
    end: Timestamp,
    how: LetGo,
    reason: Option<String>,
    output: Output,
) -> Result<Exit, Failure> {
    let ledger = wiring::ledger(config, false).await?;
    let HeldPass { window, rows, files_failed, partitions } =
        let_go(&*ledger, end, how, (wiring::actor(), reason)).await?;
    let (window, revision, action) = (window.end, window.revision, how.as_str());
    let result = LetGoResult { window, revision, rows, files_failed, partitions, action };
    output.result(&result, |result| human(result, how))?;
    Ok(Exit::Done)
}

fn human(result: &LetGoResult, how: LetGo) -> String {
    let text = table(&[
        ("window", result.window.to_string()),
        ("files", grouped(result.rows)),
        ("files failed", grouped(result.files_failed)),
        ("partitions with failed files", result.partitions.to_string()),
    ]);
    let next = match how {
        LetGo::Release => "Released: it commits with its failed files as error rows",
        LetGo::Retry => "Its failed files are read again",
    };
    text + next + ", by the coordinator that leads within seconds, or by the next `des migrate`.\n"
}
