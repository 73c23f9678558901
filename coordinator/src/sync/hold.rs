//! What holds a batch back, or makes it wait: a pause, hours, the source database, a rate.

use std::time::{Duration, Instant};

use backends::{BackendError, Catalog, Ledger};

use crate::pause::standing;
use crate::throttle::{Limits, Reason, SourceProtection, ThrottleSettings, ask_source};

/// Whether a batch may be begun.
pub(super) enum Hold {
    /// None, for this reason.
    Back(String),
    /// At most so many files a second; `None`: as many as one likes.
    Rate(Option<u64>),
}

/// What the source database said last, and when that was.
#[derive(Default)]
pub(super) struct Asked(Option<(Instant, Option<Reason>)>);

impl Asked {
    /// Whether an answer is there, and not older than `every`.
    fn is_fresh(&self, every: Duration, now: Instant) -> bool {
        self.0.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < every)
    }

    /// Why the source database is to be left alone; it is asked at most every `check_every`.
    async fn reason(&mut self, source: &SourceProtection, catalog: &dyn Catalog) -> Option<Reason> {
        if source.asks() && !self.is_fresh(source.check_every, Instant::now()) {
            let reason = ask_source(source, catalog).await;
            self.0 = Some((Instant::now(), reason));
        }
        self.0.as_ref().and_then(|(_, reason)| reason.clone())
    }
}

/// Whether pause and throttle let a batch begin, as they let a task: the first reason not to is told.
///
/// # Errors
/// When the ledger does not answer.
pub(super) async fn hold(
    ledger: &dyn Ledger,
    (throttle, catalog): (&ThrottleSettings, &dyn Catalog),
    asked: &mut Asked,
) -> Result<Hold, BackendError> {
    if let Some(pause) = standing(ledger).await? {
        return Ok(Hold::Back(pause.to_string()));
    }
    let limits = Limits::in_force(throttle, &ledger.throttles().await?);
    let mut reason = match limits.knows_hours() {
        true => limits.closed_at(ledger.now().await?),
        false => None,
    };
    if reason.is_none() {
        reason = asked.reason(&throttle.source, catalog).await;
    }
    Ok(match reason {
        Some(reason) => Hold::Back(reason.to_string()),
        None => Hold::Rate(limits.files_per_second),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_as_long_as_is_configured() {
        let (every, now) = (Duration::from_secs(10), Instant::now());
        assert!(!Asked::default().is_fresh(every, now), "nobody was asked");
        let asked = Asked(Some((now, Some(Reason::Query { value: 1.0 }))));
        assert!(asked.is_fresh(every, now + Duration::from_millis(9_999)));
        assert!(!asked.is_fresh(every, now + every));
    }
}
