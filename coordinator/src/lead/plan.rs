//! Planning: the next window, or a replay, into manifests and the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::{
    NewPartition, NewWindow, WindowCommit, WindowRecord, WindowState, WindowTotals,
};
use protocol::{Revision, Tally, Timestamp, Window, WindowKey};
use tokio::task::{JoinError, JoinHandle};
use tracing::{debug, info, warn};

use super::Leader;
use crate::cutting::{Ahead, Next, next_window};
use crate::flight::OpenWindow;
use crate::remaining::Findings;
use crate::service::{Event, Goal};
use crate::split::Split;
use crate::survey::survey;

/// How long to wait before looking again, when nothing is due.
const PLAN_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A plan in the making.
pub(super) type Planning = JoinHandle<Result<Plan, BackendError>>;

/// What a finished plan came to.
pub(super) struct Plan {
    window: Window,
    revision: Revision,
    replaces: Vec<String>,
    partitions: Vec<NewPartition>,
}

impl Leader<'_> {
    /// Begins to plan the next window, where there is room and one is due. True while windows
    /// remain to be planned.
    pub(super) async fn plan_next(&mut self, goal: &Goal) -> Result<bool, BackendError> {
        if self.planning.is_some() {
            return Ok(true);
        }
        let wanted = |key: WindowKey| match goal {
            Goal::Replays(keys) => keys.contains(&key),
            Goal::Forever | Goal::UpToCutoff => true,
        };
        if let Some(at) = self.requested.iter().position(|record| wanted(record.key())) {
            let requested = self.requested.swap_remove(at);
            self.begin_plan(requested.window, requested.revision, true);
            return Ok(true);
        }
        if matches!(goal, Goal::Replays(_)) {
            return Ok(false);
        }
        // Replays below the watermark neither take room nor stand in the way.
        let ahead = |end: Timestamp| end > self.watermark;
        let in_flight = self.flight.windows.keys().filter(|key| ahead(key.end)).count();
        let room = in_flight < self.it.settings.windows_in_flight;
        if self.blocked().iter().any(|(window, _)| ahead(window.end())) {
            return Ok(false);
        }
        if !room || Instant::now() < self.plan_not_before {
            return Ok(true);
        }
        let frontier = self.flight.frontier(self.watermark);
        let cutoff = match self.until {
            Some(until) => until,
            None => self.it.cutoff().await?,
        };
        if frontier >= cutoff {
            if *goal == Goal::Forever {
                self.plan_not_before = Instant::now() + PLAN_AGAIN_AFTER;
            }
            return Ok(false);
        }
        let ledger = &self.it.ledger;
        let certified = ledger.committed_windows(Some(frontier), None, 1).await?;
        let oldest_row = if self.last_was_empty {
            Some(self.it.catalog.oldest_after(Some(frontier)).await?)
        } else {
            None
        };
        let ahead = Ahead { certified: certified.first().map(|record| record.window), oldest_row };
        match next_window(frontier, cutoff, self.it.settings.window_span_micros, ahead) {
            Next::Nothing => Ok(false),
            Next::Fresh(window) => {
                self.begin_plan(window, 0, false);
                Ok(true)
            }
            // Whether there is anything to do for it is known only once it is planned, and if not
            // it moves the watermark at once: it has to be its turn.
            Next::Again(_) if frontier != self.watermark => Ok(true),
            Next::Again(window) => {
                let revision = self.next_revision(window).await?;
                self.begin_plan(window, revision, true);
                Ok(true)
            }
        }
    }

    async fn next_revision(&self, window: Window) -> Result<Revision, BackendError> {
        let of_end = self.revisions_of(window).await?;
        Ok(of_end.iter().map(|record| record.revision + 1).max().unwrap_or(0))
    }

    async fn revisions_of(&self, window: Window) -> Result<Vec<WindowRecord>, BackendError> {
        let just_before = window.end().saturating_add_micros(-1);
        let ledger = &self.it.ledger;
        ledger.committed_windows(Some(just_before), Some(window.end()), u32::MAX).await
    }

    fn begin_plan(&mut self, window: Window, revision: Revision, again: bool) {
        let splitter = self.it.splitter();
        let (ledger, store) = (Arc::clone(&self.it.ledger), self.it.store.clone());
        let planning = tokio::spawn(async move {
            let survey = if again {
                let just_before = window.end().saturating_add_micros(-1);
                let revisions = ledger
                    .committed_windows(Some(just_before), Some(window.end()), u32::MAX)
                    .await?;
                Some(survey(&store, &revisions).await?)
            } else {
                None
            };
            let damaged: Vec<String> = match &survey {
                Some(survey) => survey.damaged().map(str::to_owned).collect(),
                None => Vec::new(),
            };
            let Split { partitions, findings } = splitter.split(window, revision, survey).await?;
            let replaces = given_up(damaged, partitions.is_empty(), &findings);
            Ok(Plan { window, revision, replaces, partitions })
        });
        debug!(window = %window, revision, "planning");
        self.planning = Some((WindowKey::new(window, revision), planning));
    }

    pub(super) async fn take_plan(
        &mut self,
        planned: Result<Result<Plan, BackendError>, JoinError>,
    ) -> Result<(), BackendError> {
        let planned_key = self.planning.take().map(|(key, _)| key);
        let plan = planned.map_err(|panicked| BackendError::Failed {
            what: "planning a window".to_owned(),
            cause: panicked.into(),
        })?;
        let plan = match (plan, planned_key) {
            (Ok(plan), _) => plan,
            (Err(error), Some(key)) if !error.is_retryable() && key.end <= self.watermark => {
                return self.drop_request(key, error.to_string()).await;
            }
            (Err(error), _) => return Err(error),
        };
        let Plan { window, revision, replaces, partitions } = plan;
        let rows: Tally = partitions.iter().map(|partition| partition.rows).sum();
        self.last_was_empty = rows.rows == 0;
        let key = WindowKey::new(window, revision);
        if revision > 0 && rows.rows == 0 && replaces.is_empty() {
            return self.finish_without_work(window, revision).await;
        }
        let new = NewWindow { window, revision, replaces, partitions };
        self.it.ledger.add_window(&self.lease, &new).await?;
        info!(window = %window, revision, rows = rows.rows, partitions = new.partitions.len(), "planned");
        self.tell(Event::Planned { window, rows: rows.rows, partitions: new.partitions.len() });
        let records = self.it.ledger.partitions(key).await?;
        let record = WindowRecord {
            window,
            revision,
            state: WindowState::Open,
            rows,
            replaces: new.replaces,
            totals: WindowTotals::default(),
            certificate: None,
        };
        let settings = self.it.settings.pack;
        self.flight.windows.insert(key, OpenWindow::new(record, settings, records));
        Ok(())
    }

    /// Drops a replay that cannot be planned, so that it does not come again with every leader.
    async fn drop_request(&mut self, key: WindowKey, reason: String) -> Result<(), BackendError> {
        let open = self.it.ledger.open_windows().await?;
        if let Some(record) = open.iter().find(|record| record.key() == key) {
            warn!(window = %key.end, "the replay is dropped: {reason}");
            let commit = WindowCommit {
                window: record.window,
                revision: record.revision,
                certificate: None,
                totals: WindowTotals::default(),
                failures: Vec::new(),
                advance_from: None,
            };
            self.it.ledger.commit_window(&self.lease, &commit).await?;
            self.tell(Event::Held { window: record.window, reason: reason.clone() });
            self.unplannable.push((record.window, reason));
        }
        Ok(())
    }

    /// A replay of which every row is settled and every shard sound needs no certificate; the
    /// ones that are there prove it.
    async fn finish_without_work(
        &mut self,
        window: Window,
        revision: Revision,
    ) -> Result<(), BackendError> {
        let commit = WindowCommit {
            window,
            revision,
            certificate: None,
            totals: WindowTotals::default(),
            failures: Vec::new(),
            advance_from: self.advance_from(window)?,
        };
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        self.watermark = self.watermark.max(window.end());
        info!(window = %window, "verified: every row is settled, every shard is sound");
        self.tell(Event::Verified { window });
        Ok(())
    }
}

/// The damaged shards that the pass takes up: all of them, or, where nothing is packed, those all
/// files of which are elsewhere in the archive.
fn given_up(damaged: Vec<String>, packs_nothing: bool, findings: &Findings) -> Vec<String> {
    let numbered = damaged.into_iter().enumerate();
    let given_up = |number: &usize| !packs_nothing || !findings.needed.contains(number);
    numbered.filter(|(number, _)| given_up(number)).map(|(_, shard)| shard).collect()
}
