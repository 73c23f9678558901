//! No more rows than so many a second. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// When the next batch is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: u64,
    /// When the last batch was due.
    from: Instant,
    /// How many rows it had: they are paid off at the rate that holds meanwhile.
    rows: u64,
    /// When it was over.
    over: Instant,
}

impl Pace {
    /// At most `per_second` rows a second, from now on.
    pub(super) fn new(per_second: u64) -> Self {
        let now = Instant::now();
        Self { per_second: per_second.max(1), from: now, rows: 0, over: now }
    }

    /// At most `per_second` rows a second, also of those that the last batch had.
    pub(super) fn limit(&mut self, per_second: u64) {
        self.per_second = per_second.max(1);
    }

    /// When the next batch may begin.
    pub(super) fn due(&self) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch and of a second are few")]
        let share = Duration::from_secs_f64(self.rows as f64 / self.per_second as f64);
        (self.from + share).max(self.over)
    }

    /// A batch of `rows` is over at `now`. Time that nobody used is not made up for: whatever was
    /// waited for, a burst never follows.
    pub(super) fn took(&mut self, rows: u64, now: Instant) {
        (self.from, self.rows, self.over) = (self.due(), rows, now);
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

    #[test]
    fn a_rate_that_changes_counts_at_once() {
        let mut pace = Pace::new(1);
        let begin = pace.due();
        pace.took(1_000, begin);
        assert_eq!(pace.due() - begin, Duration::from_secs(1_000));
        pace.limit(100);
        assert_eq!(pace.due() - begin, Duration::from_secs(10));
        pace.limit(0);
        assert_eq!(pace.due() - begin, Duration::from_secs(1_000), "no rate is none at all");
    }
}
