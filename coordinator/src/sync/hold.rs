//! What holds a batch back, or makes it wait: a pause, hours, the source database, a rate.

use std::time::Instant;

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
pub(super) struct Asked(Option<(Instant, SourceProtection, Option<Reason>)>);

impl Asked {
    /// The answer to this, unless it is older than `check_every`.
    fn fresh(&self, source: &SourceProtection, now: Instant) -> Option<&Option<Reason>> {
        let (at, asked, reason) = self.0.as_ref()?;
        let fresh = now.saturating_duration_since(*at) < source.check_every;
        (fresh && asked == source).then_some(reason)
    }

    /// Why the source database is to be left alone; it is asked at most every `check_every`.
    async fn reason(&mut self, source: &SourceProtection, catalog: &dyn Catalog) -> Option<Reason> {
        if let Some(reason) = self.fresh(source, Instant::now()) {
            return reason.clone();
        }
        let reason = ask_source(source, catalog).await;
        self.0 = Some((Instant::now(), source.clone(), reason.clone()));
        reason
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
        reason = asked.reason(&limits.source, catalog).await;
    }
    Ok(match reason {
        Some(reason) => Hold::Back(reason.to_string()),
        None => Hold::Rate(limits.files_per_second),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_counts_for_as_long_as_is_configured() {
        let (every, now) = (Duration::from_secs(10), Instant::now());
        let source = SourceProtection { check_every: every, ..SourceProtection::default() };
        assert_eq!(Asked::default().fresh(&source, now), None, "nobody was asked");
        let reason = Some(Reason::Query { query: "SELECT 1".to_owned(), value: 1.0 });
        let asked = Asked(Some((now, source.clone(), reason.clone())));
        let then = now + Duration::from_millis(9_999);
        assert_eq!(asked.fresh(&source, then), Some(&reason));
        assert_eq!(asked.fresh(&source, now + every), None);
        let other = SourceProtection { max_active_connections: Some(1), ..source };
        assert_eq!(asked.fresh(&other, then), None, "something else was asked");
    }
}
