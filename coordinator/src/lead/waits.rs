//! What could not be done for now and is tried again. Whatever fails waits on its own, and keeps
//! nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::Stuck;
use protocol::{Timestamp, WindowKey};
use tracing::{debug, warn};

use super::Leader;
use crate::service::Event;

/// The wait after the first failure, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Something that the leader does beside its loop, or for one window alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Finding out where the next window lies.
    Ahead,
    /// Planning the next window.
    Next,
    /// Planning a pass that was asked for, or an open window anew.
    Pass(WindowKey),
    /// Comparing a complete window with the store.
    Compare(WindowKey),
    /// Splitting, or giving up, what used up its attempts.
    Isolate(WindowKey),
}

impl What {
    const fn window(self) -> Option<WindowKey> {
        match self {
            Self::Ahead | Self::Next => None,
            Self::Pass(key) | Self::Compare(key) | Self::Isolate(key) => Some(key),
        }
    }
}

#[derive(Debug)]
struct Wait {
    failures: u32,
    until: Instant,
    reason: String,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<What, Wait>);

impl Waits {
    /// Notes that it failed just now.
    pub(super) fn failed(&mut self, what: What, reason: String, now: Instant) {
        let failures = self.0.get(&what).map_or(0, |wait| wait.failures);
        let wait = (FIRST_WAIT * 2_u32.pow(failures.min(8))).min(LONGEST_WAIT);
        let failures = failures.saturating_add(1);
        self.0.insert(what, Wait { failures, until: now + wait, reason });
    }

    /// Notes that it was done, or is not to be done any more; whether it had failed before.
    pub(super) fn over(&mut self, what: What) -> bool {
        self.0.remove(&what).is_some()
    }

    /// Whether it failed and is not to be tried again yet.
    pub(super) fn is_waiting(&self, what: What, now: Instant) -> bool {
        self.0.get(&what).is_some_and(|wait| now < wait.until)
    }

    /// Whether it failed and was not done since.
    pub(super) fn has(&self, wanted: impl Fn(What) -> bool) -> bool {
        self.0.keys().any(|what| wanted(*what))
    }

    /// Forgets windows that are not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(WindowKey) -> bool) {
        self.0.retain(|what, _| what.window().is_none_or(&is_there));
    }

    /// Why something waits, if anything does: what keeps the watermark first.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.values().next().map(|wait| wait.reason.clone())
    }
}

impl Leader<'_> {
    /// Has what failed wait, and goes on leading. `end` is of the window that it is about.
    ///
    /// # Errors
    /// The error itself, where waiting does not cure it and the run is to end.
    pub(super) async fn wait_out(
        &mut self,
        what: What,
        end: Timestamp,
        error: BackendError,
    ) -> Result<(), BackendError> {
        self.note_waiting(end, &error).await;
        if !self.may_pass(&error) {
            return Err(error);
        }
        warn!("trying again: {error}");
        let reason = error.to_string();
        self.waits.failed(what, reason.clone(), Instant::now());
        self.tell(Event::Waiting { reason });
        Ok(())
    }

    /// Whether it is worth while to wait.
    pub(super) const fn may_pass(&self, error: &BackendError) -> bool {
        self.is_service || error.is_retryable()
    }

    /// Notes that it was done after all.
    pub(super) async fn done(&mut self, what: What, end: Timestamp) -> Result<(), BackendError> {
        if self.waits.over(what) && self.it.ledger.stuck().await?.is_some_and(|it| it.end == end) {
            self.it.ledger.note_stuck(&self.lease, None).await?;
        }
        Ok(())
    }

    /// Writes down what keeps a window, or a later pass over it, for whoever asks: as when there is
    /// no space for its manifests, and it has no partitions yet that could tell.
    pub(super) async fn note_waiting(&mut self, end: Timestamp, error: &BackendError) {
        let stuck = Stuck { end, reason: error.to_string() };
        let ledger = &self.it.ledger;
        let noted = match ledger.stuck().await {
            Ok(Some(known)) if known == stuck => Ok(()),
            // What keeps the watermark weighs more than what is done again below it.
            Ok(Some(known)) if known.end > self.watermark && end <= self.watermark => Ok(()),
            Ok(_) => ledger.note_stuck(&self.lease, Some(&stuck)).await,
            Err(unknown) => Err(unknown),
        };
        self.unplanned_noted = true;
        if let Err(unnoted) = noted {
            debug!("`des explain` does not know of it: {unnoted}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_waits_longer_and_keeps_nothing_else() {
        let end = "2024-12-02".parse().expect("a date");
        let [one, other] = [0, 1].map(|revision| What::Pass(WindowKey { end, revision }));
        let (mut waits, began) = (Waits::default(), Instant::now());
        let mut now = began;
        for seconds in [1, 2, 4, 8, 10, 10] {
            waits.failed(one, format!("for {seconds} s"), now);
            let wait = Duration::from_secs(seconds);
            assert!(waits.is_waiting(one, now + wait - Duration::from_millis(1)));
            assert!(!waits.is_waiting(one, now + wait) && !waits.is_waiting(other, now));
            now += wait;
        }
        waits.failed(What::Next, "no space".to_owned(), now);
        assert_eq!(waits.reason().as_deref(), Some("no space"));
        assert!(waits.over(What::Next) && !waits.over(What::Next));
        assert_eq!(waits.reason().as_deref(), Some("for 10 s"));
        waits.keep(|key| key.revision != 0);
        assert!(!waits.has(|_| true), "nobody asks for it any more");
    }
}
