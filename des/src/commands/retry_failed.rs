//! `des retry-failed`: tries again what is recorded as failed.

use backends::ledger::{AuditEntry, Purpose, WindowRecord};
use coordinator::operate::{committed_ends, request_passes};
use protocol::Timestamp;
use serde::Serialize;

use super::migrate::workers;
use super::passes::{PassesResult, carry_out};
use crate::cli::RetryFailedArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output};
use crate::wiring::{self, Permissions};

#[derive(Serialize)]
struct RetryResult {
    /// Windows whose failed files were tried again.
    retried: Vec<Timestamp>,
    /// Files that are recorded as failed now, in the whole archive.
    still_failed: u64,
    #[serde(flatten)]
    passes: PassesResult,
}

pub(super) async fn run(args: RetryFailedArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let workers = workers(&config, args.workers)?;
    let permissions = Permissions { migrate: false, accept_below: 0, reason: None };
    let fleet = wiring::connect(&config, permissions).await?;
    if let Some(end) = args.window {
        committed_ends(&*fleet.ledger, Some(end.saturating_add_micros(-1)), end).await?;
    }
    let mut ends = fleet.ledger.windows_with_errors().await?;
    ends.retain(|end| args.window.is_none_or(|wanted| wanted == *end));
    let audit = AuditEntry {
        actor: wiring::actor(),
        action: "retry-failed".to_owned(),
        from: None,
        to: Some(args.window.map_or_else(|| "all".to_owned(), |end| end.to_string())),
        reason: args.reason,
    };
    let requested = request_passes(&*fleet.ledger, &ends, Purpose::Retry, &audit).await?;
    let how = (Purpose::Retry, workers, "trying again");
    let passes = carry_out(&config, &fleet, &requested, how).await?;
    let exit = passes.exit();
    let still_failed = fleet.ledger.count_errors().await?;
    let retried = requested.iter().map(WindowRecord::window_end).collect();
    output.result(&RetryResult { retried, still_failed, passes }, human)?;
    Ok(exit)
}

fn human(result: &RetryResult) -> String {
    if result.retried.is_empty() {
        return "No file is recorded as failed there: nothing was changed.\n".to_owned();
    }
    let mut text = result.passes.human(vec![("windows", result.retried.len().to_string())]);
    if result.still_failed > 0 {
        text.push_str(&format!(
            "{} files of the archive are still recorded as failed; des_migration_errors has their \
             latest reasons.\n",
            result.still_failed
        ));
    }
    text
}
