//! `des replay`: verifies committed windows and archives again what is late, missing or damaged.

use backends::ledger::AuditEntry;
use coordinator::Goal;
use coordinator::operate::request_replays;
use protocol::Timestamp;
use serde::Serialize;

use super::migrate::{MigrateResult, RunOptions, run_embedded, workers};
use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, Output, table};
use crate::wiring::{self, Permissions};

#[derive(Serialize)]
struct ReplayResult {
    /// Windows that were replayed.
    replayed: Vec<Timestamp>,
    #[serde(flatten)]
    done: MigrateResult,
}

pub(super) async fn run(args: ReplayArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let workers = workers(&config, args.workers)?;
    let permissions = Permissions { migrate: false, accept_below: 0, reason: None };
    let fleet = wiring::connect(&config, permissions).await?;
    let (after, until) = match (args.window, args.to) {
        (Some(end), _) => (Some(end.saturating_add_micros(-1)), end),
        (None, Some(to)) => (args.from, to),
        (None, None) => return Err(Failure::usage("say --window, or --from and --to")),
    };
    let audit = AuditEntry {
        actor: wiring::actor(),
        action: "replay".to_owned(),
        from: after.map(|after| after.to_string()),
        to: Some(until.to_string()),
        reason: args.reason,
    };
    let requested = request_replays(&*fleet.ledger, after, until, &audit).await?;
    let keys: Vec<_> = requested.iter().map(backends::ledger::WindowRecord::key).collect();
    let shutdown = shutdown_on_signals()?;
    // Where another coordinator leads, it carries the request out: this one stands by until the
    // request is gone.
    let options = RunOptions { goal: Goal::Replays(keys), workers, bar: "replaying" };
    let done = run_embedded(&config, &fleet, options, &shutdown).await?;
    let held = !done.held.is_empty();
    let replayed = requested.iter().map(|record| record.window.end()).collect();
    let failed = fleet.ledger.count_errors().await?;
    output.result(&ReplayResult { replayed, done }, |result| human(result, failed))?;
    Ok(if held { Exit::Failed } else { Exit::Done })
}

fn human(result: &ReplayResult, failed: u64) -> String {
    let mut rows = vec![("windows replayed", result.replayed.len().to_string())];
    rows.extend(result.done.rows().into_iter().map(|(label, value)| match label {
        "windows" => ("revisions committed", value),
        other => (other, value),
    }));
    let mut text = table(&rows);
    if result.done.windows == 0 && result.done.held.is_empty() {
        text.push_str("Every row is settled and every shard is sound: nothing was changed.\n");
    }
    if failed > 0 {
        text.push_str(&format!(
            "{failed} files of the archive are recorded as failed in des_migration_errors; a \
             replay does not try them again for their own sake.\n"
        ));
    }
    for held in &result.done.held {
        text.push_str(&format!("held: the window that ends at {}: {}\n", held.end, held.reason));
    }
    text
}
