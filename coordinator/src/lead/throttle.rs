//! Throttling while leading: which limits are in force, what the source database says, and what that
//! holds back.
//!
//! While a reason holds that stops everything, it is as while paused: tasks that nobody began are taken
//! out of the queue, and nothing is scanned. A plan that is in the making is finished, and so is what
//! workers hold. A rate only leaves due tasks where they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::queue::Lane;
use backends::{BackendError, Catalog};
use protocol::{PartitionId, WindowKey};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Leader;
use crate::service::Event;
use crate::throttle::{Limits, Rates, Reason, SourceProtection, ask_source};

/// How often the log says that a reason still holds.
const REMIND_EVERY: Duration = Duration::from_secs(3_600);

/// What the leader knows of it; nothing before the first look.
#[derive(Default)]
pub(super) struct Throttling {
    source: Option<SourceWatch>,
    /// Whether the source database had not said anything yet to what it is asked, when that was felt.
    asking: bool,
    limits: Limits,
    pub(super) rates: Rates,
    /// The hours that nothing is begun in now, as of the last look.
    closed: Option<Reason>,
    /// Why nothing is begun, since it was told.
    holding: Option<(Reason, Instant)>,
    /// Why a due task was not published, since the last look.
    spaced_out: Option<Reason>,
    /// Kind and text of what the ledger says is waited for; `None` where that is not known.
    noted: Option<Option<(String, String)>>,
}

impl Throttling {
    /// Whether nothing is to be begun: for a reason, or while the source database is being asked for
    /// the first time.
    pub(super) fn holds(&self) -> bool {
        self.holding.is_some() || self.asking
    }

    /// Whether nothing is begun only because the source database has not answered yet.
    pub(super) const fn only_asks(&self) -> bool {
        self.holding.is_none() && self.asking
    }

    /// The first reason that holds, of those that stop everything.
    fn reason(&mut self) -> Option<Reason> {
        let said = self.source.as_ref().map(SourceWatch::said);
        self.asking = matches!(said, Some(None));
        self.closed.clone().or_else(|| said??.err())
    }
}

impl Leader<'_> {
    /// Whether anything may be begun.
    pub(super) fn may_begin(&self) -> bool {
        self.paused.is_none() && !self.throttling.holds()
    }

    /// Asks the ledger what operators set, and whether hours are closed by its clock; and writes down
    /// there what is waited for.
    pub(super) async fn look_for_throttles(&mut self) -> Result<(), BackendError> {
        let ledger = &self.it.ledger;
        let limits = Limits::in_force(&self.it.settings.throttle, &ledger.throttles().await?);
        let it = &mut self.throttling;
        if limits != it.limits {
            info!("limits in force: {limits}");
            it.rates.limit(limits.files_per_second, limits.bytes_per_second, Instant::now());
            it.spaced_out = None;
            if limits.source != it.limits.source {
                let source = limits.source.asks().then_some(&limits.source);
                it.source = source.map(|source| SourceWatch::begin(source, &self.it.catalog));
            }
            it.limits = limits;
        }
        it.closed = match it.limits.knows_hours() {
            true => it.limits.closed_at(ledger.now().await?),
            false => None,
        };
        self.feel_reason().await?;
        // Until it answers: what the ledger says is waited for, since when, may turn out to hold still.
        if self.throttling.only_asks() && self.paused.is_none() {
            return Ok(());
        }
        self.note_wait().await
    }

    /// Writes down what is waited for, where that has changed.
    async fn note_wait(&mut self) -> Result<(), BackendError> {
        let (ledger, it) = (&self.it.ledger, &mut self.throttling);
        let holding = it.holding.as_ref().map(|(reason, _)| reason.clone());
        let waits = holding.or(it.spaced_out.take()).filter(|_| self.paused.is_none());
        let waits = waits.map(|reason| (reason.kind().to_owned(), reason.to_string()));
        let noted = match it.noted.take() {
            Some(noted) => noted,
            None => ledger.wait().await?.map(|wait| (wait.kind, wait.reason)),
        };
        if noted != waits {
            let told = waits.as_ref().map(|(kind, reason)| (kind.as_str(), reason.as_str()));
            ledger.note_wait(&self.lease, told).await?;
        }
        it.noted = Some(waits);
        Ok(())
    }

    /// Notices when a reason to begin nothing comes or goes.
    pub(super) async fn feel_reason(&mut self) -> Result<(), BackendError> {
        let asked = self.throttling.asking;
        let reason = self.throttling.reason();
        if reason.is_none() && self.throttling.asking {
            return Ok(()); // Until it answers it is as before, and nothing is begun.
        }
        let is_first_answer = asked && !self.throttling.asking;
        match (reason, self.throttling.holding.take()) {
            (Some(reason), Some((known, remind))) if known.kind() == reason.kind() => {
                let due = Instant::now() >= remind;
                if due {
                    warn!("still waiting: {reason}");
                }
                let remind = if due { Instant::now() + REMIND_EVERY } else { remind };
                self.throttling.holding = Some((reason, remind));
            }
            (Some(reason), known) => {
                warn!("waiting, nothing new is begun: {reason}");
                self.tell(Event::Waiting { reason: reason.to_string() });
                self.throttling.holding = Some((reason, Instant::now() + REMIND_EVERY));
                if known.is_none() {
                    self.it.queue.purge(Lane::Tasks).await?;
                }
            }
            // The pause's end will begin again.
            (None, Some(_)) if self.paused.is_some() => {}
            (None, Some(_)) => {
                info!("nothing is waited for any more: work goes on");
                self.tell(Event::Resumed);
                self.begin_again();
            }
            (None, None) => {}
        }
        match is_first_answer {
            true => self.note_wait().await,
            false => Ok(()),
        }
    }

    /// Of due tasks those that the rates let be published now.
    pub(super) fn within_rates(
        &mut self,
        due: Vec<(WindowKey, PartitionId)>,
    ) -> Vec<(WindowKey, PartitionId)> {
        if !self.throttling.rates.are_limited() {
            return due;
        }
        self.throttling.rates.refill(Instant::now());
        // What cannot be published after all is not to be paid for.
        let mut trial = self.throttling.rates.clone();
        let mut unmeasured = self.flight.is_unmeasured();
        let mut within = Vec::new();
        for at in due {
            if let Some(reason) = trial.refusal(unmeasured) {
                self.throttling.spaced_out = Some(reason);
                break;
            }
            let rows = self.flight.partition_mut(at.0, at.1).map_or(0, |it| it.record.rows.rows);
            unmeasured |= trial.charge(rows).bytes.is_none();
            within.push(at);
        }
        within
    }
}

/// What the source database says, asked again and again beside everything else.
struct SourceWatch {
    told: watch::Receiver<Option<Result<(), Reason>>>,
    asking: JoinHandle<()>,
}

impl SourceWatch {
    fn begin(source: &SourceProtection, catalog: &Arc<dyn Catalog>) -> Self {
        let (tell, told) = watch::channel(None);
        let (source, catalog) = (source.clone(), Arc::clone(catalog));
        let asking = tokio::spawn(async move {
            loop {
                let reason = ask_source(&source, &*catalog).await;
                let _nobody_listens = tell.send(Some(reason.map_or(Ok(()), Err)));
                tokio::time::sleep(source.check_every).await;
            }
        });
        Self { told, asking }
    }

    /// Its last answer: go on, or why to wait; `None` before the first.
    fn said(&self) -> Option<Result<(), Reason>> {
        if self.asking.is_finished() {
            // It never ends by itself.
            let why = "the source database is not asked any more, a fault in des".to_owned();
            return Some(Err(Reason::CannotTell { why }));
        }
        self.told.borrow().clone()
    }
}

impl Drop for SourceWatch {
    fn drop(&mut self) {
        self.asking.abort();
    }
}
