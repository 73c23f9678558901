//! Asking for a status: seldom, however many watch, and never when nobody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::{BackendError, Catalog, Ledger, Store, TaskQueue};
use futures::future::BoxFuture;
use protocol::{Job, Timestamp};
use tokio::sync::Mutex;

use super::{Parts, Status};
use crate::board::{Board, now};
use crate::explain::{ExplainSettings, Facts, Trouble, ask_broker, ask_ledger};

/// How often everything is read, at most.
const EVERY: Duration = Duration::from_millis(900);
/// Reading takes at most this part of the time: one in so many.
const SHARE: u32 = 10;
/// However long reading takes, it is done again after so long.
const SELDOM: Duration = Duration::from_secs(10);
/// How often catalog and store are asked whether they answer.
const OUTSIDE_EVERY: Duration = Duration::from_secs(15);
/// How long anybody may take to answer: longer than a database's pool tries to connect, and looks why
/// it cannot, which is then told.
const LIMIT: Duration = Duration::from_secs(14);
/// Entries of the audit log that are told.
const AUDIT_TOLD: u32 = 12;

/// Reads statuses for whoever asks.
pub struct StatusReader(Arc<Reader>);

struct Reader {
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
        Self(Arc::new(Reader { job, board, ledger, catalog, store, queue, settings, known }))
    }

    /// The status, and when it was read. Who asks while it is young, or while another one has it read,
    /// is given the same; an equal one is the same `Arc`. Who gives up waiting does not end the
    /// reading: otherwise those who are in a hurry would have it begun again and again.
    pub fn read(&self) -> BoxFuture<'_, (Timestamp, Arc<Status>)> {
        let reader = Arc::clone(&self.0);
        Box::pin(async move {
            match tokio::spawn(async move { reader.read().await }).await {
                Ok(read) => read,
                // A panic; or the process ends, and this with it.
                Err(_) => self.0.read().await,
            }
        })
    }
}

impl Reader {
    async fn read(&self) -> (Timestamp, Arc<Status>) {
        let mut known = self.known.lock().await;
        if let Some(read) = known.status.as_ref().filter(|_| known.next > Some(Instant::now())) {
            return read.clone();
        }
        let began = Instant::now();
        let outside = async {
            match known.ask_outside.is_none_or(|time| time <= began) {
                true => Some(self.ask_outside().await),
                false => None,
            }
        };
        let ((mut parts, broker), outside) = tokio::join!(self.ask(), outside);
        if let Some(outside) = outside {
            known.outside = outside;
            known.ask_outside = Some(Instant::now() + OUTSIDE_EVERY);
        }
        for Trouble { what, text } in known.outside.iter().chain(&broker) {
            parts.facts.trouble(what, text.clone());
        }
        let at = now();
        let status = Status::new(parts, self.board.role(), at);
        let before = known.status.take().map(|(_, before)| before);
        let same = before.filter(|before| **before == status);
        let read = (at, same.unwrap_or_else(|| Arc::new(status)));
        known.status = Some(read.clone());
        known.next = Some(Instant::now() + (began.elapsed() * SHARE).clamp(EVERY, SELDOM));
        read
    }

    /// Asks ledger and broker beside each other, so that both together take no longer than one;
    /// what is wrong with the broker comes last.
    async fn ask(&self) -> (Parts, Vec<Trouble>) {
        let broker = async {
            let mut facts = Facts::default();
            if let Some(queue) = &self.queue {
                let asked = within(ask_broker(&mut facts, &**queue)).await;
                told(&mut facts, "broker", asked);
            }
            facts
        };
        let ledger = async {
            let mut facts = Facts::default();
            let asked = async {
                let windows = ask_ledger(&mut facts, &*self.ledger, None, self.settings).await?;
                Ok((windows, self.ledger.audit_log(AUDIT_TOLD).await?))
            };
            let asked = within(asked).await;
            let (windows, audit) = told(&mut facts, "ledger", asked).unwrap_or_default();
            (facts, windows, audit)
        };
        let ((mut facts, windows, audit), broker) = tokio::join!(ledger, broker);
        facts.broker = broker.broker;
        let live = self.board.live();
        let figures = self.board.figures();
        let job = self.job.to_string();
        (Parts { job, facts, windows, audit, live, figures }, broker.troubles)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::gated::{GatedCatalog, ledger_in};

    #[tokio::test]
    async fn who_gives_up_waiting_does_not_have_everything_read_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = Arc::new(ledger_in(directory.path()).await);
        let catalog = Arc::new(GatedCatalog::new(0, 0));
        let asked: Arc<dyn Catalog> = Arc::<GatedCatalog>::clone(&catalog);
        let who = ("files".parse().expect("a job"), Board::default());
        let settings = ExplainSettings { window_span_micros: 86_400_000_000 };
        let reader = StatusReader::new(who, ledger, asked, Store::memory(), None, settings);
        for _impatient in 0..5 {
            let given_up = tokio::time::timeout(Duration::from_millis(5), reader.read()).await;
            assert!(given_up.is_err(), "the catalog does not answer yet");
        }
        catalog.clock.add_permits(9);
        let (_, status) = reader.read().await;
        assert!(status.watermark.is_some() && status.troubles.is_empty(), "{status:?}");
        assert_eq!(catalog.asked.load(Ordering::Relaxed), 1, "they were all given the same");
    }
}
