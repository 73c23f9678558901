//! No more rows than so many a second. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// When the next batch is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: u64,
    due: Instant,
}

impl Pace {
    /// At most `per_second` rows a second, from now on.
    pub(super) fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), due: Instant::now() }
    }

    /// When the next batch may begin.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// A batch of `rows` is over at `now`. Time that nobody used is not made up for: whatever was
    /// waited for, a burst never follows.
    pub(super) fn took(&mut self, rows: u64, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch and of a second are few")]
        let share = Duration::from_secs_f64(rows as f64 / self.per_second as f64);
        self.due = (self.due + share).max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_far_apart_as_their_rows_take() {
        let mut pace = Pace::new(100);
        let begin = pace.due();
        for batch in 1..=10 {
            pace.took(50, begin);
            assert_eq!(pace.due() - begin, Duration::from_millis(500) * batch);
        }
    }

    #[test]
    fn a_long_wait_is_not_made_up_for() {
        let mut pace = Pace::new(100);
        let begin = pace.due();
        let later = begin + Duration::from_secs(60);
        pace.took(10, later);
        assert_eq!(pace.due(), later);
        pace.took(10, later);
        assert_eq!(pace.due() - later, Duration::from_millis(100));
    }
}
