//! How many rows a partition may have, so that it takes about as long as it should. Pure.
//!
//! What a row costs is measured: the time of the partitions that were accepted, as a moving average.
//! Sizes grow slowly and fall at once, since a partition that is too small costs a little, and one
//! that is too large may cost its worker's delivery.

use std::time::Duration;

/// The fewest rows that time alone makes a partition have: below this a manifest, a receipt, two
/// messages and two syncs are most of what there is.
const LEAST_ROWS: u64 = 100;
/// The most by which a partition grows from one window to the next.
const GROWTH: f64 = 1.2;
/// How much of the average one partition is.
const WEIGHT: f64 = 1.0 / 8.0;
/// By how much one partition may differ from the average and count in full: a read that hung, or a
/// clock that stood, is not what rows cost.
const CREDIBLE: f64 = 4.0;

/// The size of partitions, and what is known about their time.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// How long a partition should take, in seconds.
    wanted_seconds: f64,
    most_rows: u64,
    rows: u64,
    /// The moving average, of partitions measured so far.
    seconds_per_row: Option<f64>,
    /// Whether something was measured since the size was chosen last.
    is_news: bool,
}

impl Pace {
    /// Partitions that should take `wanted`, of at most `most_rows` rows. `before` is the size that
    /// was chosen last, by whoever led then.
    pub(crate) fn new(wanted: Duration, most_rows: u64, before: Option<u64>) -> Self {
        let most_rows = most_rows.max(1);
        let rows = before.unwrap_or(most_rows).clamp(LEAST_ROWS.min(most_rows), most_rows);
        let wanted_seconds = wanted.as_secs_f64();
        Self { wanted_seconds, most_rows, rows, seconds_per_row: None, is_news: false }
    }

    /// Takes into account that a partition of so many rows took so long, from its worker's first
    /// sign of life to its answer.
    pub(crate) fn measured(&mut self, rows: u64, took: Duration) {
        let took = took.as_secs_f64();
        if rows == 0 || took <= 0.0 {
            return;
        }
        let neutral = self.wanted_seconds / as_float(self.rows);
        let mut observed = took / as_float(rows);
        if took <= self.wanted_seconds {
            // What every partition costs, whatever its rows, makes small ones look slow. One that
            // was quick enough is no reason for smaller ones.
            observed = observed.min(neutral);
        }
        let average = self.seconds_per_row.unwrap_or(neutral);
        let observed = observed.clamp(average / CREDIBLE, average * CREDIBLE);
        self.seconds_per_row = Some(average + (observed - average) * WEIGHT);
        self.is_news = true;
    }

    /// The most rows of the partitions of a window that is planned now.
    pub(crate) fn next(&mut self) -> u64 {
        if let Some(seconds_per_row) = self.seconds_per_row
            && std::mem::take(&mut self.is_news)
        {
            let grown = as_float(self.rows) * GROWTH;
            let wanted = (self.wanted_seconds / seconds_per_row).min(grown);
            let least = LEAST_ROWS.min(self.most_rows);
            self.rows = as_rows(wanted).clamp(least, self.most_rows);
        }
        self.rows
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of partitions are far below 2^52")]
const fn as_float(rows: u64) -> f64 {
    rows as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and saturating"
)]
const fn as_rows(rows: f64) -> u64 {
    rows as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Duration = Duration::from_secs(120);
    const MOST: u64 = 50_000;

    fn pace() -> Pace {
        Pace::new(WANTED, MOST, None)
    }

    /// Partitions of the size chosen last that take so long a row.
    fn window(pace: &mut Pace, partitions: u32, per_row: Duration) -> u64 {
        let rows = pace.rows;
        let took = per_row * u32::try_from(rows).expect("few");
        (0..partitions).for_each(|_| pace.measured(rows, took));
        pace.next()
    }

    #[test]
    fn quick_partitions_are_as_large_as_they_may_be() {
        let mut pace = pace();
        assert_eq!(pace.next(), MOST);
        for _ in 0..10 {
            assert_eq!(window(&mut pace, 16, Duration::from_micros(30)), MOST);
        }
        // Small windows say nothing about what large ones cost.
        (0..100).for_each(|_| pace.measured(3, Duration::from_secs(1)));
        assert_eq!(pace.next(), MOST);
    }

    #[test]
    fn slow_partitions_become_smaller_until_they_take_what_they_should() {
        let mut pace = pace();
        // At 24 ms a row 50,000 rows take 20 minutes, and 5,000 take 120 s.
        let per_row = Duration::from_millis(24);
        assert!(window(&mut pace, 16, per_row) < 8_000, "it falls within a window");
        (0..4).for_each(|_| {
            window(&mut pace, 16, per_row);
        });
        assert!((4_900..=5_100).contains(&pace.rows), "{}", pace.rows);
    }

    #[test]
    fn they_grow_by_a_fifth_and_only_when_something_was_measured() {
        let mut pace = Pace::new(WANTED, MOST, Some(5_000));
        assert_eq!((pace.next(), pace.next()), (5_000, 5_000));
        assert_eq!(window(&mut pace, 64, Duration::from_micros(30)), 6_000);
        assert_eq!(pace.next(), 6_000, "nothing was measured since");
        assert_eq!(window(&mut pace, 64, Duration::from_micros(30)), 7_200);
        for _ in 0..20 {
            window(&mut pace, 64, Duration::from_micros(30));
        }
        assert_eq!(pace.rows, MOST);
    }

    #[test]
    fn one_partition_that_hung_is_not_what_rows_cost() {
        let mut pace = pace();
        window(&mut pace, 16, Duration::from_micros(2_400));
        assert_eq!(pace.rows, MOST);
        pace.measured(MOST, Duration::from_hours(24));
        assert!(pace.next() > MOST * 7 / 10, "{}", pace.rows);
        let mut pace = Pace::new(WANTED, MOST, None);
        pace.measured(0, Duration::from_hours(1));
        pace.measured(10, Duration::ZERO);
        assert_eq!(pace.next(), MOST, "nonsense is not measured");
    }

    #[test]
    fn sizes_stay_within_their_bounds() {
        let slowest = Duration::from_secs(20);
        let mut pace = pace();
        for _ in 0..20 {
            window(&mut pace, 64, slowest);
        }
        assert_eq!(pace.rows, LEAST_ROWS);
        assert_eq!(Pace::new(WANTED, 7, None).next(), 7);
        assert_eq!(Pace::new(WANTED, 7, Some(1_000)).next(), 7);
        assert_eq!(Pace::new(WANTED, MOST, Some(1)).next(), LEAST_ROWS);
        assert_eq!(Pace::new(WANTED, 0, None).next(), 1);
    }
}
