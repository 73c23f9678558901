//! Committing: certificates and the watermark, in order.

use backends::ledger::{WindowCommit, WindowState};
use backends::{BackendError, crash};
use protocol::{PartitionId, Timestamp, Window, WindowKey};
use tracing::{info, warn};

use super::Leader;
use crate::attempts::setback_of_lost_object;
use crate::certify::{Certified, Certifier};
use crate::metrics;
use crate::service::Event;

impl Leader<'_> {
    /// Commits windows in order, as long as the first is complete; replays in any order.
    pub(super) async fn commit_complete(&mut self) -> Result<(), BackendError> {
        while let Some(key) = self.flight.next_complete(self.watermark) {
            let Some(window) = self.flight.windows.get(&key) else { break };
            let ledger = &self.it.ledger;
            // What failed before is written down, and is tried again for no worse than before.
            let known = match key.revision {
                0 => 0,
                _ => ledger.count_errors_of(key.end).await?,
            };
            let failed = window.files_failed().saturating_sub(known);
            if !self.it.settings.failures.allow(&window.record, failed) {
                ledger.set_window_state(&self.lease, key, WindowState::Held).await?;
                if let Some(window) = self.flight.windows.get_mut(&key) {
                    window.record.state = WindowState::Held;
                }
                continue;
            }
            let certifier = Certifier {
                store: &self.it.store,
                identity: &self.it.identity,
                settings: window.settings,
                writer: &self.it.id,
                epoch: self.lease.epoch,
                now: self.it.ledger.now().await?,
            };
            match certifier.certify(window).await? {
                Certified::Durable(commit) => self.commit(key, *commit).await?,
                Certified::NotSo(partition, why) => {
                    let open = self.flight.partition_mut(key, partition);
                    let Some(record) = open.map(|open| open.record.clone()) else { continue };
                    if !self.check_manifest(key, &record).await? {
                        self.reopen(key, partition, &why).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        key: WindowKey,
        mut commit: WindowCommit,
    ) -> Result<(), BackendError> {
        commit.advance_from = self.advance_from(commit.window)?;
        crash::point("before_commit");
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        crash::point("after_commit");
        self.watermark = self.watermark.max(key.end);
        let committed = self.flight.windows.remove(&key);
        let totals = commit.totals;
        metrics::committed(totals, committed.and_then(|window| window.began));
        info!(window = %commit.window, revision = commit.revision, files = totals.files_archived,
            failed = totals.files_failed, shards = totals.shards, "committed");
        self.report.windows += 1;
        let sum = &mut self.report.totals;
        sum.files_archived += totals.files_archived;
        sum.files_failed += totals.files_failed;
        sum.shards += totals.shards;
        sum.bytes_raw += totals.bytes_raw;
        sum.bytes_stored += totals.bytes_stored;
        self.tell(Event::Committed { window: commit.window, totals });
        Ok(())
    }

    async fn reopen(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        why: &str,
    ) -> Result<(), BackendError> {
        warn!(window = %window.end, partition, "to be done again: {why}");
        let now = self.it.ledger.now().await?;
        let Some(open) = self.flight.partition_mut(window, partition) else { return Ok(()) };
        let setback = setback_of_lost_object(&open.record, why, now);
        open.record.accepted = None;
        self.it.ledger.reopen(&self.lease, window, partition, &setback).await?;
        self.publish_again(window, partition, setback);
        Ok(())
    }

    /// Where a window that commits now moves the watermark from; `None` for one at or below it.
    ///
    /// # Errors
    /// When something between the watermark and the window is not settled: a mistake of ours,
    /// which must never move the watermark.
    pub(super) fn advance_from(&self, window: Window) -> Result<Option<Timestamp>, BackendError> {
        if window.end() <= self.watermark {
            return Ok(None);
        }
        if window.start() <= self.watermark {
            return Ok(Some(self.watermark));
        }
        Err(BackendError::Invalid {
            what: format!(
                "the window {window} is not next after the watermark {}: nothing is committed; \
                 please report this",
                self.watermark
            ),
        })
    }
}
