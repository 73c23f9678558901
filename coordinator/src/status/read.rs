//! Asking for a status: seldom, however many watch, and never when nobody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::{BackendError, Catalog, Ledger, Store, TaskQueue};
use protocol::{Job, Timestamp};
use tokio::sync::Mutex;

use super::{Parts, Status};
use crate::board::{Board, now};
use crate::explain::{ExplainSettings, Facts, Trouble, ask_broker, ask_ledger};

/// How often everything is read, at most.
const EVERY: Duration = Duration::from_millis(900);
/// Reading takes at most this part of the time: one in so many.
const SHARE: u32 = 10;
/// How often catalog and store are asked whether they answer.
const OUTSIDE_EVERY: Duration = Duration::from_secs(15);
/// How long anybody may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Entries of the audit log that are told.
const AUDIT_TOLD: u32 = 12;

/// Reads statuses for whoever asks.
pub struct StatusReader {
    job: Job,
    board: Board,
    ledger: Arc<dyn Ledger>,
    catalog: Arc<dyn Catalog>,
    store: Store,
    /// `None` where everything happens in one process.
    queue: Option<Arc<dyn TaskQueue>>,
    settings: ExplainSettings,
    known: Mutex<Known>,
}

/// What was read last.
#[derive(Default)]
struct Known {
    status: Option<(Timestamp, Arc<Status>)>,
    next: Option<Instant>,
    /// What catalog and store said.
    outside: Vec<Trouble>,
    ask_outside: Option<Instant>,
}

impl StatusReader {
    /// Reads for the process that shows on `board`.
    pub fn new(
        (job, board): (Job, Board),
        ledger: Arc<dyn Ledger>,
        catalog: Arc<dyn Catalog>,
        store: Store,
        queue: Option<Arc<dyn TaskQueue>>,
        settings: ExplainSettings,
    ) -> Self {
        let known = Mutex::default();
        Self { job, board, ledger, catalog, store, queue, settings, known }
    }

    /// The status, and when it was read. Who asks while it is young, or while another one has it read,
    /// is given the same; an equal one is the same `Arc`.
    pub async fn read(&self) -> (Timestamp, Arc<Status>) {
        let mut known = self.known.lock().await;
        if let Some(read) = known.status.as_ref().filter(|_| known.next > Some(Instant::now())) {
            return read.clone();
        }
        let began = Instant::now();
        if known.ask_outside.is_none_or(|time| time <= began) {
            known.outside = self.ask_outside().await;
            known.ask_outside = Some(Instant::now() + OUTSIDE_EVERY);
        }
        let parts = self.ask(&known.outside).await;
        let at = now();
        let status = Status::new(parts, self.board.role(), at);
        let before = known.status.take().map(|(_, before)| before);
        let same = before.filter(|before| **before == status);
        let read = (at, same.unwrap_or_else(|| Arc::new(status)));
        known.status = Some(read.clone());
        known.next = Some(Instant::now() + EVERY.max(began.elapsed() * SHARE));
        read
    }

    async fn ask(&self, outside: &[Trouble]) -> Parts {
        let mut facts = Facts::default();
        let asked = within(ask_ledger(&mut facts, &*self.ledger, None, self.settings)).await;
        let windows = told(&mut facts, "ledger", asked).unwrap_or_default();
        let audit = within(self.ledger.audit_log(AUDIT_TOLD)).await;
        let audit = told(&mut facts, "ledger", audit).unwrap_or_default();
        for Trouble { what, text } in outside {
            facts.trouble(what, text.clone());
        }
        if let Some(queue) = &self.queue {
            let asked = within(ask_broker(&mut facts, &**queue)).await;
            told(&mut facts, "broker", asked);
        }
        let live = self.board.live();
        let figures = self.board.figures().map(|(figures, _age)| figures);
        Parts { job: self.job.to_string(), facts, windows, audit, live, figures }
    }

    async fn ask_outside(&self) -> Vec<Trouble> {
        let mut facts = Facts::default();
        let (catalog, store) = tokio::join!(within(self.catalog.now()), within(self.store.check()));
        told(&mut facts, "catalog", catalog);
        told(&mut facts, "store", store);
        facts.troubles
    }
}

fn told<T>(facts: &mut Facts, what: &str, asked: Result<T, String>) -> Option<T> {
    asked.map_err(|why| facts.trouble(what, why)).ok()
}

async fn within<T>(asked: impl Future<Output = Result<T, BackendError>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {LIMIT:?}")),
    }
}
