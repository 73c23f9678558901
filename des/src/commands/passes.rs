//! Passes over committed windows that an operator asks for: carried out, and reported.

use backends::ledger::{Purpose, WindowRecord};
use coordinator::board::Board;
use coordinator::operate::findings;
use coordinator::{Finding, Findings, Goal};
use protocol::Timestamp;
use serde::Serialize;

use super::migrate::{MigrateResult, RunOptions, run_embedded};
use crate::config::Config;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, grouped, table};
use crate::telemetry::Traces;
use crate::wiring::Fleet;

/// What the passes came to.
#[derive(Serialize)]
pub(super) struct PassesResult {
    /// What they found, all windows together.
    pub(super) found: Findings,
    #[serde(flatten)]
    pub(super) done: MigrateResult,
    /// Windows of which something is to be said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_done: Vec<NotDone>,
}

/// A window that the passes could not do anything for.
#[derive(Serialize)]
struct NotDone {
    end: Timestamp,
    reason: String,
}

/// Carries out passes that are on record as requested. Where another coordinator leads, it does so:
/// this one stands by until the requests are gone.
pub(super) async fn carry_out(
    config: &Config,
    fleet: &Fleet,
    requested: &[WindowRecord],
    (purpose, workers, bar): (Purpose, u16, &'static str),
) -> Result<PassesResult, Failure> {
    let keys = requested.iter().map(WindowRecord::key).collect();
    let shutdown = shutdown_on_signals()?;
    let _traces = Traces::start(config, "migrate")?;
    let goal = Goal::Replays(keys);
    let options = RunOptions { goal, workers, bar, continuous: false, board: Board::default() };
    let done = run_embedded(config, fleet, options, &shutdown).await?;
    let mut found = Findings::default();
    let mut not_done = Vec::new();
    for record in requested.iter().filter(|record| record.purpose != purpose) {
        let reason =
            format!("a {} of it was under way already: ask again", record.purpose.as_str());
        not_done.push(NotDone { end: record.window.end(), reason });
    }
    for (end, findings) in findings(&*fleet.ledger, requested).await? {
        let told = done.held.iter().any(|held| held.end == end);
        if let Some(reason) = findings.dropped.clone().filter(|_| !told) {
            not_done.push(NotDone { end, reason });
        }
        found.add(findings);
    }
    Ok(PassesResult { found, done, not_done })
}

impl PassesResult {
    /// 1 where something is left that an operator has to look at.
    pub(super) fn exit(&self) -> Exit {
        let good = self.done.exit() == Exit::Done
            && self.not_done.is_empty()
            && self.found.files_beyond_help == 0;
        if good { Exit::Done } else { Exit::Failed }
    }

    /// A table that begins with these rows, and what is to be said of windows and files.
    pub(super) fn human(&self, mut rows: Vec<(&'static str, String)>) -> String {
        let found = &self.found;
        for (label, count) in [
            ("shards checked", found.shards_checked),
            ("objects restored", found.objects_restored),
            ("shards repaired", found.shards_repaired),
            ("late rows", found.late_rows),
            ("failed rows tried again", found.retried_rows),
            ("rows gone from the catalog", found.vanished_rows),
            ("files that lie elsewhere now", found.moved_rows),
            ("files beyond help", found.files_beyond_help),
        ] {
            rows.push((label, grouped(count)));
        }
        rows.extend(self.done.rows().into_iter().map(|(label, value)| match label {
            "windows" => ("revisions committed", value),
            other => (other, value),
        }));
        let mut text = table(&rows);
        for named in &found.named {
            let what = match named.finding {
                Finding::Vanished => "gone from the catalog",
                Finding::Moved => "lies elsewhere now",
                Finding::BeyondHelp => "beyond help",
            };
            let uid: String = named.uid.chars().take(80).collect();
            let at = named.created_at.map_or_else(String::new, |at| format!(" {at}"));
            let location = named.location.as_deref().unwrap_or_default();
            text.push_str(&format!("{what}:{at} {uid} {location}\n"));
        }
        for held in &self.done.held {
            text.push_str(&format!(
                "held: the window that ends at {}: {}\n",
                held.end, held.reason
            ));
        }
        for NotDone { end, reason } in &self.not_done {
            text.push_str(&format!("not done: the window that ends at {end}: {reason}\n"));
        }
        text + &self.done.told_of_pause()
    }
}
