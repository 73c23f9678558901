//! Pausing: no new load on sources and store, while what is under way comes to its end.
//!
//! The ledger says whether an operator paused, so that a successor finds the same. Tasks that
//! nobody began are taken out of the queue, a plan in the making is given up, and windows that are
//! complete commit. On resuming everything is as after a takeover.

use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::Pause;
use backends::queue::Lane;
use tracing::{info, warn};

use super::Leader;
use crate::service::{Event, Goal};

/// How often the log says that a pause still stands.
const REMIND_EVERY: Duration = Duration::from_secs(3_600);
/// A partition whose worker gave a sign of life within this time is being worked on: signs come
/// every second.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// A pause, as the leader knows it.
pub(super) struct Paused {
    pub(super) pause: Pause,
    remind: Instant,
}

impl Leader<'_> {
    /// Asks the ledger whether an operator paused or resumed, and ends a pause whose time is over.
    pub(super) async fn look_for_pause(&mut self) -> Result<(), BackendError> {
        let ledger = &self.it.ledger;
        let mut standing = ledger.pause_status().await?;
        if let Some(pause) = standing.as_ref().filter(|pause| pause.until.is_some())
            && pause.is_over(ledger.now().await?)
        {
            ledger.end_pause_if_over(self.it.id.as_str()).await?;
            // Somebody may have paused again meanwhile.
            standing = ledger.pause_status().await?;
        }
        match (standing, self.paused.take()) {
            (Some(pause), Some(known)) if pause == known.pause => {
                self.paused = Some(known);
                self.remind();
            }
            (Some(pause), _) => self.begin_pause(pause).await?,
            (None, Some(_)) => self.end_pause(),
            (None, None) => {}
        }
        Ok(())
    }

    async fn begin_pause(&mut self, pause: Pause) -> Result<(), BackendError> {
        warn!("{pause}. No new work is begun until `des resume`");
        self.tell(Event::Paused { pause: pause.clone() });
        self.paused = Some(Paused { pause, remind: Instant::now() + REMIND_EVERY });
        if let Some((.., planning)) = self.planning.take() {
            planning.abort();
        }
        self.restoring = None;
        (self.looking_ahead, self.seen) = (None, None);
        self.rechecking.stop();
        self.it.queue.purge(Lane::Tasks).await?;
        Ok(())
    }

    fn end_pause(&mut self) {
        info!("resumed: work goes on");
        self.tell(Event::Resumed);
        self.begin_again();
    }

    /// Begins to publish and to plan again, after tasks were taken out of the queue.
    pub(super) fn begin_again(&mut self) {
        // Which tasks were taken out of the queue is not known: whoever still has one says so.
        self.flight.forget_signs();
        let now = Instant::now();
        self.publish_from = self.publish_from.max(now + self.it.settings.takeover_wait);
        self.plan_not_before = now;
    }

    fn remind(&mut self) {
        if let Some(paused) = &mut self.paused
            && Instant::now() >= paused.remind
        {
            paused.remind = Instant::now() + REMIND_EVERY;
            warn!("still {}", paused.pause);
        }
    }

    /// Whether a run that does not wait for a resume ends now: paused, and nobody at work.
    pub(super) fn leaves(&self, goal: &Goal) -> bool {
        self.paused.is_some()
            && self.it.settings.leave_when_paused
            && *goal != Goal::Forever
            && self.answers.is_empty()
            && self.certifying.is_none()
            && !self.flight.is_under_way(UNDER_WAY)
    }
}
