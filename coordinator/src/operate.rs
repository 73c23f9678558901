//! What operators ask: where things stand, and for another pass over a window.

use std::collections::HashSet;

use backends::ledger::{AuditEntry, PassQuery, Purpose, WindowRecord};
use backends::{BackendError, Catalog, Ledger};
use protocol::Timestamp;
use tracing::warn;

use crate::cutting::cutoff;
use crate::explain::{PauseFacts, ThrottledFacts};
use crate::findings::Findings;
use crate::held::{HeldWindow, held_windows};
use crate::pause::standing;
use crate::rate::{BitsAdvice, Pace, WINDOWS_LOOKED_AT, advise_bits, pace};
use crate::throttle::waited_for;

/// Where the watermark stands, and what lies on either side of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Everything in `(origin, archived_until]` is settled.
    pub archived_until: Timestamp,
    /// The first watermark.
    pub origin: Timestamp,
    /// How far windows may reach now, on a boundary of the window span.
    pub target_cutoff: Timestamp,
    /// Days that files are left alone.
    pub lag_days: u32,
    /// Seconds from the watermark to the target; not negative.
    pub lag_seconds: i64,
    /// Rows between watermark and target.
    pub pending_files: u64,
    /// Their bytes; null without a size column.
    pub pending_bytes: Option<u64>,
    /// The smallest created_at of theirs; null when nothing is pending.
    pub oldest_pending: Option<Timestamp>,
    /// How fast windows were done of late, and how long what is pending takes at that rate; null
    /// while it is unknown.
    pub pace: Option<Pace>,
    /// When what is pending will be done at that rate, somebody working on it from now on; null when
    /// that is unknown.
    pub eta: Option<Timestamp>,
    /// Rows at or below the origin, which are not covered.
    pub uncovered_files: u64,
    /// Unresolved error rows.
    pub failed_files: u64,
    /// Rows that no window can hold: NULL uid.
    pub null_uid: u64,
    /// Rows that no window can hold: NULL created_at.
    pub null_created_at: u64,
    /// Rows that no window can hold: created_at infinite or outside the years 0001 to 9999.
    pub out_of_range_created_at: u64,
    /// Windows that are not committed.
    pub open_windows: u64,
    /// Those of them that wait for an operator.
    pub held: Vec<HeldWindow>,
    /// The pause that stands; null when there is none.
    pub paused: Option<PauseFacts>,
    /// What whoever leads waits for because of limits.
    pub throttled: Option<ThrottledFacts>,
    /// Where des left the watermark, when somebody moved it since.
    pub moved_by_hand_from: Option<Timestamp>,
    /// Fewer bits for a new archive, where the shards of this one are tiny; null where they are not.
    pub n_bits_advice: Option<BitsAdvice>,
}

/// Looks at everything; changes nothing.
///
/// # Errors
/// When the job has no watermark yet, or something does not answer.
pub async fn stats(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    span_micros: i64,
) -> Result<Stats, BackendError> {
    let (watermark, archive) = initialised(ledger).await?;
    let clocks = (catalog.now().await?, ledger.now().await?);
    let target = cutoff(clocks.0, clocks.1, watermark.lag_days, None, span_micros);
    let from = watermark.archived_until;
    let pending = if target > from {
        catalog.count(Some(from), Some(target)).await?
    } else {
        backends::catalog::RangeCount {
            files: 0,
            bytes: catalog.count(Some(from), Some(from)).await?.bytes,
        }
    };
    let unplaceable = catalog.unplaceable().await?;
    let oldest = catalog.oldest_after(Some(from)).await?;
    let recent = PassQuery { limit: WINDOWS_LOOKED_AT, ..PassQuery::default() };
    let recent = ledger.list_passes(recent).await?;
    let pace = pace(&recent, pending.files);
    let eta = pace.as_ref().map(|pace| {
        let micros = i64::try_from(pace.pending_seconds).unwrap_or(i64::MAX);
        clocks.1.saturating_add_micros(micros.saturating_mul(1_000_000))
    });
    Ok(Stats {
        archived_until: from,
        origin: archive.origin,
        target_cutoff: target,
        lag_days: watermark.lag_days,
        lag_seconds: target.seconds_since(from).max(0),
        pending_files: pending.files,
        pending_bytes: pending.bytes,
        oldest_pending: oldest.filter(|oldest| *oldest <= target),
        pace,
        eta,
        uncovered_files: catalog.count_files(None, Some(archive.origin)).await?,
        failed_files: ledger.count_errors().await?,
        null_uid: unplaceable.null_uid,
        null_created_at: unplaceable.null_created_at,
        out_of_range_created_at: unplaceable.out_of_range,
        open_windows: ledger.open_windows().await?.len() as u64,
        held: held_windows(ledger).await?,
        paused: standing(ledger).await?.as_ref().map(PauseFacts::from),
        throttled: waited_for(ledger).await?,
        moved_by_hand_from: (archive.settled_until != from).then_some(archive.settled_until),
        n_bits_advice: advise_bits(&recent, archive.n_bits),
    })
}

/// Number of rows between the watermark and the cutoff.
///
/// # Errors
/// When something does not answer.
pub async fn pending(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    span_micros: i64,
) -> Result<u64, BackendError> {
    let (watermark, _archive) = initialised(ledger).await?;
    let clocks = (catalog.now().await?, ledger.now().await?);
    let target = cutoff(clocks.0, clocks.1, watermark.lag_days, None, span_micros);
    if target <= watermark.archived_until {
        return Ok(0);
    }
    catalog.count_files(Some(watermark.archived_until), Some(target)).await
}

pub(crate) async fn initialised(
    ledger: &dyn Ledger,
) -> Result<(backends::ledger::WatermarkRow, backends::ledger::ArchiveRecord), BackendError> {
    match (ledger.watermark().await?, ledger.archive().await?) {
        (Some(watermark), Some(archive)) => Ok((watermark, archive)),
        _ => Err(BackendError::NotFound {
            what: "this job has no archive yet: run `des init` or `des migrate` first".to_owned(),
        }),
    }
}

/// Why no pass was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No such window is committed, or none that the watermark has passed.
    #[error("{0}")]
    Refused(String),
}

/// Ends of the committed windows that lie in `(after, until]`, in order.
///
/// # Errors
/// When there is none, saying which there are, or the ledger does not answer.
pub async fn committed_ends(
    ledger: &dyn Ledger,
    after: Option<Timestamp>,
    until: Timestamp,
) -> Result<Vec<Timestamp>, RequestError> {
    let mut ends = ends(ledger, after, Some(until)).await?;
    if ends.is_empty() {
        let there = ends_around(ledger, until).await?;
        return Err(RequestError::Refused(no_such_window(after, until, there)));
    }
    ends.dedup();
    Ok(ends)
}

async fn ends(
    ledger: &dyn Ledger,
    after: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Vec<Timestamp>, BackendError> {
    let committed = ledger.committed_windows(after, until, u32::MAX).await?;
    Ok(committed.iter().map(WindowRecord::window_end).collect())
}

/// How many windows are committed, and some of their ends: the first one, those next to `near`, and the
/// last one.
async fn ends_around(
    ledger: &dyn Ledger,
    near: Timestamp,
) -> Result<(usize, Vec<Timestamp>), BackendError> {
    let (mut before, mut after) =
        (ends(ledger, None, Some(near)).await?, ends(ledger, Some(near), None).await?);
    before.dedup();
    after.dedup();
    let around = [before.first(), before.last(), after.first(), after.last()];
    let mut around: Vec<_> = around.into_iter().flatten().copied().collect();
    around.dedup();
    Ok((before.len() + after.len(), around))
}

fn no_such_window(
    after: Option<Timestamp>,
    until: Timestamp,
    (count, some): (usize, Vec<Timestamp>),
) -> String {
    let asked = match after {
        Some(after) if after.saturating_add_micros(1) == until => format!("at {until}"),
        Some(after) => format!("after {after} and not after {until}"),
        None => format!("at or before {until}"),
    };
    let ends = some.iter().map(Timestamp::to_string).collect::<Vec<_>>().join(", ");
    let there = match (count, some.len()) {
        (0, _) => "nothing is committed yet".to_owned(),
        (1, _) => format!("the only one ends at {ends}"),
        (all, shown) if all == shown => format!("there are those that end at {ends}"),
        (all, _) => format!("there are {all}, for example those that end at {ends}"),
    };
    format!("no committed window ends {asked}: {there}; `des windows` lists them")
}

/// Asks for another pass over every committed window whose end lies in `(after, until]`.
///
/// # Errors
/// When there is none, or the ledger does not answer.
pub async fn request_replays(
    ledger: &dyn Ledger,
    after: Option<Timestamp>,
    until: Timestamp,
    audit: &AuditEntry,
) -> Result<Vec<WindowRecord>, RequestError> {
    let ends = committed_ends(ledger, after, until).await?;
    request_passes(ledger, &ends, Purpose::Replay, audit).await
}

/// Asks for another pass over the windows with these ends. That is one act, of which `audit` is written
/// down with the first of them.
///
/// # Errors
/// When one of them is not committed, when the watermark has yet to pass all of them, or the ledger
/// does not answer.
pub async fn request_passes(
    ledger: &dyn Ledger,
    ends: &[Timestamp],
    purpose: Purpose,
    audit: &AuditEntry,
) -> Result<Vec<WindowRecord>, RequestError> {
    let (watermark, _archive) = initialised(ledger).await?;
    let until = watermark.archived_until;
    let (due, above): (Vec<_>, Vec<_>) = ends.iter().copied().partition(|end| *end <= until);
    if let Some(first) = above.first() {
        let what = format!(
            "the watermark was moved back to {until}, and the window that ends at {first} is \
             verified and reconciled when it passes there again: run `des migrate`"
        );
        if due.is_empty() {
            return Err(RequestError::Refused(what));
        }
        warn!("{what}");
    }
    let mut requested = Vec::with_capacity(due.len());
    for end in due {
        let audit = requested.is_empty().then_some(audit);
        requested.push(ledger.request_pass(end, purpose, audit).await?);
    }
    Ok(requested)
}

/// What the passes found that were asked for, of windows whose passes are over.
///
/// # Errors
/// When the ledger does not answer.
pub async fn findings(
    ledger: &dyn Ledger,
    requested: &[WindowRecord],
) -> Result<Vec<(Timestamp, Findings)>, BackendError> {
    let open: HashSet<_> = ledger.open_windows().await?.iter().map(WindowRecord::key).collect();
    let mut found = Vec::with_capacity(requested.len());
    for record in requested.iter().filter(|record| !open.contains(&record.key())) {
        let end = record.window.end();
        let just_before = end.saturating_add_micros(-1);
        let look = ledger.looks(Some(just_before), Some(end), 1).await?.pop();
        let findings = Findings::decode(look.and_then(|look| look.findings).as_deref());
        found.push((end, findings));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_windows_that_are_there() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a date");
        let end = at("2024-12-09");
        let told = no_such_window(Some(end.saturating_add_micros(-1)), end, (0, Vec::new()));
        assert!(told.starts_with("no committed window ends at 2024-12-09T00:00:00Z: nothing is"));
        let told = no_such_window(Some(at("2024-12-01")), end, (1, vec![at("2024-12-10")]));
        assert!(told.contains("after 2024-12-01T00:00:00Z and not after 2024-12-09"), "{told}");
        assert!(told.contains("the only one ends at 2024-12-10"), "{told}");
        let two = vec![at("2024-12-10"), at("2024-12-20")];
        let told = no_such_window(None, end, (2, two.clone()));
        let ends = "those that end at 2024-12-10T00:00:00Z, 2024-12-20T00:00:00Z; `des windows`";
        assert!(told.contains(&format!("there are {ends}")), "{told}");
        let told = no_such_window(None, end, (11, two));
        assert!(told.contains(&format!("there are 11, for example {ends}")), "{told}");
    }
}
