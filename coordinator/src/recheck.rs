//! Looking at committed windows again: whether the catalog still has the rows that it had.
//!
//! Late rows below the watermark are found by their number soon after a window's commit, and by
//! number and digest once some time later. No shard is read for it.

use std::time::{Duration, Instant};

use backends::catalog::RowBatch;
use backends::ledger::Look;
use backends::{BackendError, Catalog, Ledger};
use protocol::{Tally, Timestamp, Window};
use tokio::sync::mpsc;

use crate::findings::dropped;

/// Windows that are counted, or compared in full, in one round.
const WINDOWS_PER_ROUND: u32 = 32;
/// Batches of rows between the scan and the digest.
const BATCHES_IN_FLIGHT: usize = 4;
/// The longest pause between two windows that are compared in full.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a round found.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Ends of windows whose rows are not what they were.
    pub(crate) different: Vec<Timestamp>,
    /// Ends of windows that were compared in full, and are as they were.
    pub(crate) same: Vec<Timestamp>,
}

/// The rows that the catalog has for a window. Each is read; none is kept.
///
/// # Errors
/// When the catalog does not answer.
pub async fn tally(catalog: &dyn Catalog, window: Window) -> Result<Tally, BackendError> {
    let (batches, mut received) = mpsc::channel::<RowBatch>(BATCHES_IN_FLIGHT);
    let counting = tokio::task::spawn_blocking(move || {
        let mut tally = Tally::default();
        while let Some(batch) = received.blocking_recv() {
            batch.iter().for_each(|row| tally.count(row.uid, row.created_at()));
        }
        tally
    });
    let (scanned, counted) = tokio::join!(catalog.scan(window, batches), counting);
    scanned?;
    counted.map_err(|panicked| BackendError::Failed {
        what: format!("counting the rows of the window that ends at {}", window.end()),
        cause: panicked.into(),
    })
}

/// Counts the rows of the windows that were committed last, and compares in full those that were
/// committed, or over which a pass was dropped, at least `after` ago.
pub(crate) async fn round(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    after: Duration,
) -> Result<Round, BackendError> {
    let mut round = Round::default();
    let watermark = ledger.watermark().await?.map_or(Timestamp::MIN, |row| row.archived_until);
    // One above the watermark, which was moved back over it, is met again anyway.
    let settled = |look: &Look| look.window.end() <= watermark;
    let now = ledger.now().await?;
    // One whose pass was dropped is left alone as long as if it had been committed then.
    let rests = |look: &Look| dropped(look).is_some() && !is_due(look.looked_at, now, after);
    for look in ledger.looks_to_recheck(true, WINDOWS_PER_ROUND).await?.into_iter().filter(settled)
    {
        let (window, Some(then)) = (look.window, look.catalog) else { continue };
        if rests(&look) {
            continue;
        }
        let count = catalog.count(Some(window.start()), Some(window.end())).await?;
        if count.files != then.rows {
            round.different.push(window.end());
        }
    }
    let oldest = ledger.looks_to_recheck(false, WINDOWS_PER_ROUND).await?;
    for look in oldest.into_iter().filter(settled) {
        let window = look.window;
        if !is_due(look.looked_at, now, after) || round.different.contains(&window.end()) {
            continue;
        }
        let began = Instant::now();
        match look.catalog == Some(tally(catalog, window).await?) {
            true => round.same.push(window.end()),
            false => round.different.push(window.end()),
        }
        // The catalog is to have as much time for others as for us.
        tokio::time::sleep(began.elapsed().min(LONGEST_PAUSE)).await;
    }
    Ok(round)
}

/// Whether a window that was committed or last looked at then is to be compared in full.
fn is_due(looked_at: Timestamp, now: Timestamp, after: Duration) -> bool {
    let after = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    looked_at.saturating_add_micros(after) <= now
}

/// How long to wait between two rounds.
pub(crate) fn pause(after: Duration) -> Duration {
    (after / 4).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_due_some_time_after_its_commit() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a date") };
        let hour = Duration::from_secs(3_600);
        assert!(!is_due(at("2024-12-01T10:00"), at("2024-12-01T10:59:59"), hour));
        assert!(is_due(at("2024-12-01T10:00"), at("2024-12-01T11:00"), hour));
        assert!(!is_due(at("2024-12-01T10:00"), at("2024-12-01T11:00"), Duration::MAX));
        assert_eq!(pause(hour), Duration::from_secs(900));
        assert_eq!(pause(Duration::from_millis(1)), Duration::from_secs(1));
    }
}
