//! What a coordinator lets others see of itself: whether it leads, what is in its way, and the
//! figures of the ledger as long as they are its business. Serving that is for others.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::message::{Outcome, Progress};
use protocol::{PartitionId, Timestamp, WindowKey};

use crate::figures::Figures;
use crate::live::{Live, Tasks};
use crate::status::Role;

/// How long after its lease a leader's figures still count: one that fails and tries again takes the
/// lease anew every second.
const GRACE: Duration = Duration::from_secs(10);
/// Figures that could not be read again for so long are not shown any more; their age is.
const OLDEST_FIGURES: Duration = Duration::from_secs(120);

/// A coordinator's board. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Board {
    state: Arc<Mutex<State>>,
    /// Rows of partitions that were accepted, since the process began.
    accepted_rows: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Epoch of the lease, and until when it is ours for certain.
    lease: Option<(u64, Instant)>,
    /// What is in the way, while there is something.
    trouble: Option<String>,
    figures: Option<(Instant, Arc<Figures>)>,
    /// Since when this process is the one to show them.
    to_show_since: Option<Instant>,
    live: Live,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    StandingBy(String),
    Leading,
    /// A run reached its goal; the next one is to come.
    Resting,
}

impl Board {
    /// What the process does, or why it does not do its work.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn ready(&self) -> Result<String, String> {
        let state = self.locked();
        if let Some(trouble) = &state.trouble {
            return Err(trouble.clone());
        }
        match &state.phase {
            Phase::Starting => Err("starting".to_owned()),
            Phase::StandingBy(told) => Ok(told.clone()),
            Phase::Leading if state.valid_lease().is_none() => {
                Err("the lease has expired".to_owned())
            }
            Phase::Leading => Ok("leading".to_owned()),
            Phase::Resting => Ok("waiting for the next cycle".to_owned()),
        }
    }

    /// The epoch of the lease, while it is held for certain.
    pub fn epoch(&self) -> Option<u64> {
        self.locked().valid_lease()
    }

    /// The figures, where this process is the one to show them: it leads, did so until a moment ago,
    /// or rests. One that was frozen and finds the lease gone shows none. Nor are those shown that
    /// became too old.
    pub fn figures(&self) -> Option<Arc<Figures>> {
        let state = self.locked();
        let (at, figures) = state.figures.as_ref().filter(|_| state.may_show())?;
        (at.elapsed() < OLDEST_FIGURES).then(|| Arc::clone(figures))
    }

    /// How long ago they were read, also where they became too old; where they never were, how long
    /// this process has been the one to show them. `None` where it is not.
    pub fn figures_age(&self) -> Option<Duration> {
        let state = self.locked();
        let read = state.figures.as_ref().map(|(at, _)| *at).or(state.to_show_since);
        read.filter(|_| state.may_show()).map(|at| at.elapsed())
    }

    /// What the process is to the fleet just now, and what is in its way or what it does.
    pub(crate) fn role(&self) -> (Role, Result<String, String>) {
        let role = match self.locked().phase {
            Phase::Starting => Role::Starting,
            Phase::StandingBy(_) => Role::StandingBy,
            Phase::Leading => Role::Leading,
            Phase::Resting => Role::Resting,
        };
        (role, self.ready())
    }

    /// What is known at this moment, where this process is the one to show it.
    pub(crate) fn live(&self) -> Option<Live> {
        let state = self.locked();
        state.may_show().then(|| state.live.clone())
    }

    pub(crate) fn heard(&self, progress: &Progress) {
        self.locked().live.heard(progress, now());
    }

    pub(crate) fn answered(&self, outcome: &Outcome) {
        self.locked().live.answered(outcome, now());
    }

    pub(crate) fn publishes(&self, published: BTreeSet<(WindowKey, PartitionId)>) {
        self.locked().live.publishes(published);
    }

    /// How many tasks are on their way.
    pub(crate) fn tasks(&self) -> Tasks {
        self.locked().live.tasks(now())
    }

    pub(crate) fn may_show(&self) -> bool {
        self.locked().may_show()
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.locked().phase == Phase::Resting
    }

    pub(crate) fn leads(&self, epoch: u64, until: Instant) {
        let mut state = self.locked();
        state.lease = Some((epoch, until));
        state.phase = Phase::Leading;
        state.to_show_since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn renewed(&self, until: Instant) {
        if let Some((_, lease)) = &mut self.locked().lease {
            *lease = until;
        }
    }

    pub(crate) fn stands_by(&self, told: &str) {
        let mut state = self.locked();
        *state = State { phase: Phase::StandingBy(told.to_owned()), ..State::default() };
    }

    /// The lease was given back; the goal is reached, or it is tried again.
    pub(crate) fn gave_back(&self, reached: bool) {
        let mut state = self.locked();
        // The grace counts from now.
        if let Some((_, until)) = &mut state.lease {
            *until = (*until).min(Instant::now());
        }
        if reached {
            state.phase = Phase::Resting;
            state.trouble = None;
        }
    }

    /// What is in the way, if anything.
    pub fn tell(&self, trouble: Option<String>) {
        self.locked().trouble = trouble;
    }

    pub(crate) fn show(&self, figures: Option<Figures>) {
        let mut state = self.locked();
        if figures.is_none() {
            state.to_show_since = None;
        }
        state.figures = figures.map(|figures| (Instant::now(), Arc::new(figures)));
    }

    pub(crate) fn accepted(&self, rows: u64) {
        self.accepted_rows.fetch_add(rows, Ordering::Relaxed);
        self.locked().live.accepted(rows, now());
    }

    pub(crate) fn accepted_rows(&self) -> u64 {
        self.accepted_rows.load(Ordering::Relaxed)
    }

    /// A panic while the lock was held leaves the state whole: every change is a few assignments.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This process's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now()).unwrap_or(Timestamp::MIN)
}

impl State {
    fn valid_lease(&self) -> Option<u64> {
        self.lease.filter(|(_, until)| Instant::now() < *until).map(|(epoch, _)| epoch)
    }

    fn may_show(&self) -> bool {
        match self.phase {
            Phase::Starting | Phase::StandingBy(_) => false,
            Phase::Leading => self.lease.is_some_and(|(_, until)| Instant::now() < until + GRACE),
            Phase::Resting => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_leads_for_certain_shows_figures() {
        let board = Board::default();
        board.show(Some(Figures::default()));
        assert!(board.figures().is_none() && board.ready().is_err(), "it has just begun");
        board.stands_by("standing by: b leads");
        board.show(Some(Figures::default()));
        assert!(board.figures().is_none(), "they are another's");
        assert_eq!(board.ready(), Ok("standing by: b leads".to_owned()));

        let now = Instant::now();
        board.leads(3, now + Duration::from_secs(60));
        assert!(board.figures().is_some());
        assert_eq!((board.epoch(), board.ready()), (Some(3), Ok("leading".to_owned())));
        board.tell(Some("the broker is away".to_owned()));
        assert_eq!(board.ready(), Err("the broker is away".to_owned()));
        board.tell(None);
        // As after a freeze that lasted longer than the lease.
        board.renewed(now - GRACE - Duration::from_secs(1));
        assert!(board.figures().is_none() && board.epoch().is_none() && board.ready().is_err());
        board.gave_back(true);
        assert!(board.figures().is_some() && board.epoch().is_none());
        assert_eq!(board.ready(), Ok("waiting for the next cycle".to_owned()));
    }

    #[test]
    fn figures_that_became_too_old_are_not_shown_and_their_age_is() {
        let board = Board::default();
        assert_eq!(board.figures_age(), None, "it has nothing to show");
        let now = Instant::now();
        board.leads(3, now + Duration::from_secs(600));
        assert!(board.figures().is_none() && board.figures_age().is_some(), "none were read yet");
        let old = Duration::from_secs(400);
        let read = (now.checked_sub(old).expect("a time"), Arc::new(Figures::default()));
        board.locked().figures = Some(read);
        assert!(board.figures().is_none());
        assert!(board.figures_age().is_some_and(|age| age >= old));
        board.stands_by("standing by: b leads");
        assert_eq!(board.figures_age(), None, "they are another's");
    }
}
