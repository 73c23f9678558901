//! `des stats`: where the watermark stands and what lies on either side of it.

use coordinator::operate::{Stats, stats};

use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped, table};
use crate::wiring;

pub(super) async fn run(config: &Config, output: Output) -> Result<Exit, Failure> {
    let catalog = wiring::catalog(config).await?;
    let ledger = wiring::ledger_to_read(config).await?;
    let found = stats(&*ledger, &*catalog, config.coordinator.window_span_micros).await?;
    output.result(&found, human)?;
    Ok(Exit::Done)
}

fn human(it: &Stats) -> String {
    let pending_bytes =
        it.pending_bytes.map_or_else(|| "unknown (no size column)".to_owned(), bytes);
    let days = it.lag_seconds / 86_400;
    let mut text = table(&[
        ("archived until", it.archived_until.to_string()),
        ("target", format!("{} ({} days before now)", it.target_cutoff, it.lag_days)),
        ("behind", format!("{} s (about {days} days)", it.lag_seconds)),
        ("pending files", grouped(it.pending_files)),
        ("pending bytes", pending_bytes),
        ("open windows", grouped(it.open_windows)),
        ("held windows", grouped(it.held.len() as u64)),
        ("failed files", grouped(it.failed_files)),
        ("origin", it.origin.to_string()),
        ("uncovered files", grouped(it.uncovered_files)),
    ]);
    if let Some(paused) = &it.paused {
        let until =
            paused.until.map_or_else(|| "`des resume`".to_owned(), |until| until.to_string());
        text.push_str(&format!(
            "paused since {} until {until} by {}: {}\n",
            paused.since, paused.by, paused.reason
        ));
    }
    for held in &it.held {
        text.push_str(&format!("held: the window that ends at {}: {}\n", held.end, held.reason));
    }
    let unplaceable = it.null_uid + it.null_created_at + it.out_of_range_created_at;
    if unplaceable > 0 {
        text.push_str(&format!(
            "{} rows can never be archived: {} without uid, {} without created_at, {} with a \
             created_at that is infinite or out of range.\n",
            grouped(unplaceable),
            it.null_uid,
            it.null_created_at,
            it.out_of_range_created_at
        ));
    }
    if let Some(left) = it.moved_by_hand_from {
        text.push_str(&format!(
            "Somebody moved the watermark by hand: des left it at {left}. Nothing proceeds until it \
             is moved back, or moved with `des adjust`.\n"
        ));
    }
    text
}
