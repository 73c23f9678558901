//! Looking at committed windows again, beside everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::{AuditEntry, Purpose};
use tokio::task::{JoinError, JoinHandle};
use tracing::{info, warn};

use super::Leader;
use crate::recheck::{Round, pause, round};
use crate::service::Goal;

type Looking = JoinHandle<Result<Round, BackendError>>;

/// The looks at committed windows, as the leader knows them.
pub(super) struct Rechecking {
    /// How long after its commit a window is compared in full; `None` when nothing is looked at.
    after: Option<Duration>,
    next: Option<Instant>,
    under_way: Option<Looking>,
}

impl Drop for Rechecking {
    fn drop(&mut self) {
        if let Some(under_way) = &self.under_way {
            under_way.abort();
        }
    }
}

impl Rechecking {
    pub(super) fn new(after: Option<Duration>) -> Self {
        let next = after.map(|_| Instant::now());
        Self { after, next, under_way: None }
    }

    /// Waits for the look that is under way; for ever where there is none.
    pub(super) async fn next(&mut self) -> Result<Result<Round, BackendError>, JoinError> {
        match &mut self.under_way {
            Some(looking) => looking.await,
            None => std::future::pending().await,
        }
    }

    /// Whether no look is under way, nor one due that may begin.
    pub(super) fn is_over_for_now(&self, may_begin: bool) -> bool {
        let is_due = self.next.is_some_and(|next| next <= Instant::now());
        self.under_way.is_none() && !(is_due && may_begin)
    }

    /// Ends the look that is under way; the next one is due at once.
    pub(super) fn stop(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            under_way.abort();
        }
        self.next = self.after.map(|_| Instant::now());
    }
}

impl Leader<'_> {
    /// Begins to look, where that is due. Replays are not kept waiting for it.
    pub(super) fn begin_round(&mut self, goal: &Goal) {
        if matches!(goal, Goal::Replays(_)) {
            self.rechecking.next = None;
        }
        let Some(after) = self.rechecking.after else { return };
        if self.rechecking.under_way.is_some() || self.rechecking.is_over_for_now(true) {
            return;
        }
        let (ledger, catalog) = (Arc::clone(&self.it.ledger), Arc::clone(&self.it.catalog));
        let looking = tokio::spawn(async move { round(&*ledger, &*catalog, after).await });
        self.rechecking.under_way = Some(looking);
    }

    pub(super) async fn take_round(
        &mut self,
        looked: Result<Result<Round, BackendError>, JoinError>,
    ) -> Result<(), BackendError> {
        self.rechecking.under_way = None;
        self.rechecking.next = self.rechecking.after.map(|after| Instant::now() + pause(after));
        let looked = looked.unwrap_or_else(|panicked| {
            let what = "looking at committed windows again".to_owned();
            Err(BackendError::Failed { what, cause: panicked.into() })
        });
        let Round { different, same } = match looked {
            Ok(round) => round,
            // What is wrong with the catalog stops planning, and is told there.
            Err(error) => {
                warn!("committed windows were not looked at again: {error}");
                return Ok(());
            }
        };
        for end in same {
            self.it.ledger.note_rechecked(&self.lease, end).await?;
        }
        for end in different {
            info!(window = %end, "the catalog has other rows than when it was committed");
            let audit = AuditEntry {
                actor: self.it.id.to_string(),
                action: "reconcile".to_owned(),
                from: None,
                to: Some(end.to_string()),
                reason: Some("the catalog has other rows than when it was committed".to_owned()),
            };
            self.it.ledger.request_pass(end, Purpose::Reconcile, Some(&audit)).await?;
            self.next_look = Instant::now();
        }
        Ok(())
    }
}
