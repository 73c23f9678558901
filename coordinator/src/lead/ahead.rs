//! Finding out where the next window lies, beside everything else: a catalog that does not answer
//! keeps open windows from nothing.

use std::sync::Arc;

use backends::BackendError;
use protocol::Timestamp;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use super::waits::What;
use crate::cutting::Ahead;
use crate::service::reach;

/// What lies ahead of the windows in flight.
pub(super) struct Seen {
    /// Where they end.
    pub(super) frontier: Timestamp,
    /// How far windows may reach.
    pub(super) cutoff: Timestamp,
    pub(super) ahead: Ahead,
}

pub(super) type Looking = AbortOnDropHandle<Result<Seen, BackendError>>;

impl Leader<'_> {
    /// Begins to look what lies ahead of `frontier`.
    pub(super) fn look_ahead(&mut self, frontier: Timestamp) {
        let (ledger, catalog) = (Arc::clone(&self.it.ledger), Arc::clone(&self.it.catalog));
        let (until, span) = (self.until, self.it.settings.window_span_micros);
        // Else it is not worth asking how far the emptiness reaches.
        let ask_for_rows = self.last_was_empty;
        let looking = tokio::spawn(async move {
            let cutoff = match until {
                Some(until) => until,
                None => reach(&*ledger, &*catalog, span).await?,
            };
            let mut ahead = Ahead { certified: None, oldest_row: None };
            if frontier < cutoff {
                let certified = ledger.committed_windows(Some(frontier), None, 1).await?;
                ahead.certified = certified.first().map(|record| record.window);
                if ask_for_rows {
                    ahead.oldest_row = Some(catalog.oldest_after(Some(frontier)).await?);
                }
            }
            Ok(Seen { frontier, cutoff, ahead })
        });
        self.looking_ahead = Some(AbortOnDropHandle::new(looking));
    }

    pub(super) async fn take_seen(
        &mut self,
        seen: Result<Result<Seen, BackendError>, JoinError>,
    ) -> Result<(), BackendError> {
        self.looking_ahead = None;
        let seen = seen.unwrap_or_else(|panicked| {
            let what = "finding out where the next window lies".to_owned();
            Err(BackendError::Failed { what, cause: panicked.into() })
        });
        match seen {
            Ok(seen) => {
                let had_failed = self.waits.over(What::Ahead);
                if seen.frontier >= seen.cutoff {
                    self.waits.over(What::Next);
                }
                if had_failed || (seen.frontier >= seen.cutoff && self.unplanned_noted) {
                    self.forget_unplanned().await?;
                }
                self.seen = Some(seen);
                Ok(())
            }
            Err(error) => {
                let span = self.it.settings.window_span_micros;
                let frontier = self.flight.frontier(self.watermark);
                let end = frontier.floor_to(span).saturating_add_micros(span);
                self.wait_out(What::Ahead, end, error).await
            }
        }
    }

    /// Forgets that the next window could not be planned, unless it is one that the watermark cannot
    /// pass again.
    async fn forget_unplanned(&mut self) -> Result<(), BackendError> {
        let known = self.it.ledger.stuck().await?;
        let is_certified = |end| self.stuck.as_ref().is_some_and(|it| it.window.end() == end);
        if known.is_some_and(|known| known.end > self.watermark && !is_certified(known.end)) {
            self.it.ledger.note_stuck(&self.lease, None).await?;
        }
        self.unplanned_noted = false;
        Ok(())
    }
}

/// Waits for the look ahead; for ever where there is none.
pub(super) async fn seen(
    looking: &mut Option<Looking>,
) -> Result<Result<Seen, BackendError>, JoinError> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}
