//! Committing: certificates and the watermark, in order.

use std::sync::Arc;
use std::time::Instant;

use backends::ledger::{WindowCommit, WindowState};
use backends::trace::{self, Span};
use backends::{BackendError, crash};
use protocol::{PartitionId, Timestamp, Window, WindowKey};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::Leader;
use super::waits::{Waits, What};
use crate::attempts::setback_of_lost_object;
use crate::certify::{Basis, Certifier, Compared};
use crate::metrics;
use crate::service::Event;

/// A window whose certificate is being made: its receipts and objects are compared beside
/// everything else.
pub(super) struct Certifying {
    key: WindowKey,
    basis: Arc<Basis>,
    certifier: Certifier,
    span: Span,
    comparing: AbortOnDropHandle<Result<Compared, BackendError>>,
}

/// Waits until the window is compared; for ever where there is none.
pub(super) async fn compared(
    certifying: &mut Option<Certifying>,
) -> Result<Result<Compared, BackendError>, JoinError> {
    match certifying {
        Some(certifying) => (&mut certifying.comparing).await,
        None => std::future::pending().await,
    }
}

impl Leader<'_> {
    /// Begins to certify the first window that may commit, unless one is being certified.
    pub(super) async fn commit_complete(&mut self) -> Result<(), BackendError> {
        let now = Instant::now();
        let waits = |waits: &Waits, key| waits.is_waiting(What::Compare(key), now);
        while self.certifying.is_none()
            && let Some(key) =
                self.flight.next_complete(self.watermark, |key| waits(&self.waits, key))
        {
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
                store: self.it.store.clone(),
                identity: self.it.identity.clone(),
                settings: window.settings,
                writer: self.it.id.clone(),
                epoch: self.lease.epoch,
                now: self.it.ledger.now().await?,
            };
            self.begin_certifying(key, certifier);
        }
        Ok(())
    }

    fn begin_certifying(&mut self, key: WindowKey, certifier: Certifier) {
        let Some(window) = self.flight.windows.get_mut(&key) else { return };
        let basis = Arc::new(Basis::of(window));
        let span = self.it.trace(key).child("certify");
        span.note_count("partitions", window.partitions.len() as u64);
        let kept = window.partitions.iter_mut().map(|open| open.kept.take()).collect();
        let comparing = tokio::spawn({
            let (basis, certifier) = (Arc::clone(&basis), certifier.clone());
            async move { certifier.compare(&basis, kept).await }
        });
        let comparing = AbortOnDropHandle::new(comparing);
        self.certifying = Some(Certifying { key, basis, certifier, span, comparing });
    }

    /// Writes the certificate of a window that was compared, and commits it. Both happen here, one
    /// after the other: nothing comes between what was found out and what follows from it.
    pub(super) async fn take_compared(
        &mut self,
        compared: Result<Result<Compared, BackendError>, JoinError>,
    ) -> Result<(), BackendError> {
        let Some(Certifying { key, basis, certifier, span, .. }) = self.certifying.take() else {
            return Ok(());
        };
        let compared = compared.unwrap_or_else(|panicked| {
            let what = format!("comparing the receipts of the window {key}");
            Err(BackendError::Failed { what, cause: panicked.into() })
        });
        let Some(window) = self.flight.windows.get(&key) else { return Ok(()) };
        if !self.flight.may_commit(key, self.watermark) || !basis.is_of(window) {
            // What was found out is about what it was before. If it may commit, that begins anew.
            return Ok(());
        }
        let compared = match compared {
            Ok(compared) => compared,
            // Nothing is written yet.
            Err(error) => return self.wait_out(What::Compare(key), key.end, error).await,
        };
        self.done(What::Compare(key), key.end).await?;
        let Some(window) = self.flight.windows.get(&key) else { return Ok(()) };
        match compared {
            Compared::Sound(certificate) => {
                // A write that failed may still happen, at any time: nothing else may be written
                // under its name, and only another epoch gives another.
                let written = certifier.write(*certificate, &window.record).await;
                drop(span);
                match written {
                    Ok(commit) => self.commit(key, commit).await,
                    Err(error) => {
                        self.note_waiting(key.end, &error).await;
                        Err(error)
                    }
                }
            }
            Compared::NotSo(partition, why) => {
                span.fail("lost");
                let open = self.flight.partition_mut(key, partition);
                let Some(record) = open.map(|open| open.record.clone()) else { return Ok(()) };
                if self.check_manifest(key, &record).await? {
                    return Ok(());
                }
                self.reopen(key, partition, &why).await
            }
        }
    }

    async fn commit(
        &mut self,
        key: WindowKey,
        mut commit: WindowCommit,
    ) -> Result<(), BackendError> {
        commit.advance_from = self.advance_from(commit.window)?;
        crash::point("before_commit");
        let committing = self.it.trace(key).child("commit");
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        drop(committing);
        crash::point("after_commit");
        self.watermark = self.watermark.max(key.end);
        let committed = self.flight.windows.remove(&key);
        let totals = commit.totals;
        metrics::committed(totals, committed.as_ref().and_then(|window| window.began));
        let met = committed.map_or_else(Instant::now, |window| window.began.unwrap_or(window.met));
        self.end_trace(key, &commit, met);
        info!(window = %key.end, revision = commit.revision, trace_id = self.trace_id(key),
            from = %commit.window.start(), files = totals.files_archived,
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

    /// Tells the trace of a settled window what became of it, in the window's own span, which began
    /// when this process met the window.
    pub(super) fn end_trace(&self, key: WindowKey, commit: &WindowCommit, met: Instant) {
        let span = self.it.trace(key).child_since(trace::WINDOW, met);
        let totals = commit.totals;
        span.note("job", &self.it.identity.job);
        span.note("window", key.end);
        span.note("from", commit.window.start());
        span.note_count("revision", key.revision.into());
        span.note_count("rows", totals.files_archived + totals.files_failed);
        span.note_count("files_failed", totals.files_failed);
        span.note_count("shards", totals.shards);
        span.note_count("bytes", totals.bytes_stored);
        span.note_count("epoch", self.lease.epoch);
    }

    async fn reopen(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        why: &str,
    ) -> Result<(), BackendError> {
        warn!(window = %window.end, partition, trace_id = self.trace_id(window),
            "to be done again: {why}");
        let now = self.it.ledger.now().await?;
        let Some(open) = self.flight.partition_mut(window, partition) else { return Ok(()) };
        let setback = setback_of_lost_object(&open.record, why, now);
        open.record.accepted = None;
        open.kept = None;
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
