//! `des replay`: verifies committed windows, restores what is damaged or missing, and archives again
//! what cannot be restored, and what is late.

use backends::ledger::{AuditEntry, Purpose, WindowRecord};
use coordinator::operate::request_replays;
use protocol::Timestamp;
use serde::Serialize;

use super::migrate::workers;
use super::passes::{PassesResult, carry_out};
use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output};
use crate::wiring::{self, Permissions};

#[derive(Serialize)]
struct ReplayResult {
    /// Windows that were replayed.
    replayed: Vec<Timestamp>,
    #[serde(flatten)]
    passes: PassesResult,
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
    let how = (Purpose::Replay, workers, "replaying");
    let passes = carry_out(&config, &fleet, &requested, how).await?;
    let exit = passes.exit();
    let failed = fleet.ledger.count_errors().await?;
    let replayed = requested.iter().map(WindowRecord::window_end).collect();
    output.result(&ReplayResult { replayed, passes }, |result| human(result, failed))?;
    Ok(exit)
}

fn human(result: &ReplayResult, failed: u64) -> String {
    let rows = vec![("windows replayed", result.replayed.len().to_string())];
    let mut text = result.passes.human(rows);
    let done = &result.passes.done;
    if done.windows == 0 && done.held.is_empty() && result.passes.exit() == Exit::Done {
        text.push_str(match result.passes.found.objects_restored {
            0 => "Every row is settled and every shard is sound: nothing was changed.\n",
            _ => "Every row is settled and every shard is sound again.\n",
        });
    }
    if failed > 0 {
        text.push_str(&format!(
            "{failed} files of the archive are recorded as failed in des_migration_errors; a \
             replay does not try them again for their own sake: `des retry-failed` does.\n"
        ));
    }
    text
}
