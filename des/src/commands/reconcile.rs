//! `des reconcile`: compares committed windows with the catalog, and archives what is late.

use std::time::{Duration, Instant};

use backends::ledger::{AuditEntry, Look, Purpose};
use coordinator::operate::{committed_ends, request_passes};
use coordinator::recheck::tally;
use protocol::Timestamp;
use serde::Serialize;

use super::migrate::workers;
use super::passes::{PassesResult, carry_out};
use crate::cli::ReconcileArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring::{self, Fleet, Permissions};

/// Windows that are asked for at a time.
const PAGE: u32 = 1_000;
/// The pause after a window with `--all`, as a multiple of the time that the catalog took for it, so
/// that a sweep never takes more than half of what the catalog can do.
const PAUSE_PER_QUERY: u32 = 1;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct ReconcileResult {
    /// Windows that were compared with the catalog.
    compared: u64,
    /// Windows that were skipped over at somebody's word, and are not compared.
    skipped: u64,
    /// Those whose rows are not what they were.
    different: Vec<Different>,
    dry_run: bool,
    #[serde(flatten)]
    passes: Option<PassesResult>,
}

/// A window whose rows are not what they were when it was last looked at.
#[derive(Serialize)]
struct Different {
    end: Timestamp,
    rows_then: u64,
    rows_now: u64,
}

pub(super) async fn run(args: ReconcileArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let workers = workers(&config, args.workers)?;
    let permissions = Permissions { migrate: false, accept_below: 0, reason: None };
    let fleet = wiring::connect(&config, permissions).await?;
    if let Some(to) = args.to {
        committed_ends(&*fleet.ledger, args.from, to).await?;
    }
    let (mut compared, mut skipped, mut different) = (0, 0, Vec::new());
    let mut after = args.from;
    loop {
        let page = fleet.ledger.looks(after, args.to, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.window.end());
        for look in page {
            match compare(&fleet, &look, args.all).await? {
                None => skipped += 1,
                Some(found) => {
                    compared += 1;
                    different.extend(found);
                }
            }
        }
    }
    let passes = if different.is_empty() || args.dry_run {
        None
    } else {
        let audit = AuditEntry {
            actor: wiring::actor(),
            action: "reconcile".to_owned(),
            from: args.from.map(|from| from.to_string()),
            to: Some(args.to.map_or_else(|| "all".to_owned(), |to| to.to_string())),
            reason: args.reason,
        };
        let ends: Vec<_> = different.iter().map(|it| it.end).collect();
        let requested = request_passes(&*fleet.ledger, &ends, Purpose::Reconcile, &audit).await?;
        let how = (Purpose::Reconcile, workers, "reconciling");
        Some(carry_out(&config, &fleet, &requested, how).await?)
    };
    let exit = passes.as_ref().map_or(Exit::Done, PassesResult::exit);
    let dry_run = args.dry_run;
    let result = ReconcileResult { compared, skipped, different, dry_run, passes };
    output.result(&result, human)?;
    Ok(exit)
}

/// Compares one window; `None` for one that was skipped over.
async fn compare(
    fleet: &Fleet,
    look: &Look,
    sweep: bool,
) -> Result<Option<Option<Different>>, Failure> {
    let Some(then) = look.catalog else { return Ok(None) };
    let began = Instant::now();
    let now = tally(&*fleet.catalog, look.window).await?;
    if sweep {
        tokio::time::sleep((began.elapsed() * PAUSE_PER_QUERY).min(LONGEST_PAUSE)).await;
    }
    let end = look.window.end();
    let different = Different { end, rows_then: then.rows, rows_now: now.rows };
    Ok(Some((then != now).then_some(different)))
}

fn human(result: &ReconcileResult) -> String {
    let mut rows = vec![("windows compared", grouped(result.compared))];
    if result.skipped > 0 {
        rows.push(("windows skipped over", grouped(result.skipped)));
    }
    rows.push(("windows that differ", grouped(result.different.len() as u64)));
    let mut text = match &result.passes {
        Some(passes) => passes.human(rows),
        None => table(&rows),
    };
    if result.different.is_empty() {
        text.push_str("The catalog has the rows that it had: nothing was changed.\n");
    }
    if result.dry_run {
        for Different { end, rows_then, rows_now } in &result.different {
            text.push_str(&format!(
                "the window that ends at {end}: {rows_then} rows when it was last looked at, \
                 {rows_now} now\n"
            ));
        }
        text.push_str("Nothing was changed.\n");
    }
    text
}
