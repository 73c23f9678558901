//! Rates: how many files, and bytes of them, may be begun. Pure.
//!
//! A task is published whole, and then what it takes is a debt that is paid off at the rate before the
//! next one is. So a rate holds over time, to the size of a partition. How many bytes a partition has
//! is known when it is done: until then it counts as much as those before it, and is corrected by its
//! receipt; of the first, nothing is known, and it goes alone.

use std::time::Instant;

use super::Reason;

/// What is not used is kept for so long, so that looking now and then loses nothing.
const KEPT_SECONDS: f64 = 1.0;

/// What may be begun in a second, and what was begun already.
#[derive(Clone, Debug)]
struct Bucket {
    per_second: u64,
    /// What may be begun at once; negative: a debt.
    balance: f64,
    at: Instant,
}

/// Both rates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    files: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Files and bytes of the receipts that were accepted.
    seen: (u64, u64),
}

/// What a published task was taken to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// `None`: nothing was known.
    pub(crate) bytes: Option<u64>,
}

impl Rates {
    /// Sets the limits; what is owed stays owed.
    pub(crate) fn limit(&mut self, files: Option<u64>, bytes: Option<u64>, now: Instant) {
        set(&mut self.files, files, now);
        set(&mut self.bytes, bytes, now);
    }

    /// Whether there is any limit.
    pub(crate) const fn are_limited(&self) -> bool {
        self.files.is_some() || self.bytes.is_some()
    }

    /// Lets time go by.
    pub(crate) fn refill(&mut self, now: Instant) {
        for bucket in [&mut self.files, &mut self.bytes].into_iter().flatten() {
            bucket.refill(now);
        }
    }

    /// Why no task may be published now. `unmeasured`: whether one is under way of which nothing was
    /// known.
    pub(crate) fn refusal(&self, unmeasured: bool) -> Option<Reason> {
        if let Some(files) = self.files.as_ref().filter(|files| files.balance < 0.0) {
            return Some(Reason::Files { most: files.per_second });
        }
        let bytes = self.bytes.as_ref()?;
        let waits = bytes.balance < 0.0 || (unmeasured && self.mean().is_none());
        waits.then_some(Reason::Bytes { most: bytes.per_second })
    }

    /// Takes a task of so many rows into account.
    pub(crate) fn charge(&mut self, rows: u64) -> Charge {
        let bytes = self.mean().map(|mean| rounded(mean * as_float(rows)));
        if let Some(files) = &mut self.files {
            files.balance -= as_float(rows);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.balance -= as_float(bytes.unwrap_or_default());
        }
        Charge { bytes }
    }

    /// Takes into account what a task came to, which was charged so, if it was.
    pub(crate) fn measured(&mut self, charge: Option<Charge>, files: u64, bytes: u64) {
        self.seen.0 = self.seen.0.saturating_add(files);
        self.seen.1 = self.seen.1.saturating_add(bytes);
        if let (Some(bucket), Some(charge)) = (&mut self.bytes, charge) {
            bucket.balance += as_float(charge.bytes.unwrap_or_default()) - as_float(bytes);
        }
    }

    /// Bytes of a file, by what was seen.
    fn mean(&self) -> Option<f64> {
        (self.seen.0 > 0).then(|| as_float(self.seen.1) / as_float(self.seen.0))
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let rate = as_float(self.per_second);
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.balance = (self.balance + rate * elapsed).min(rate * KEPT_SECONDS);
        self.at = now;
    }
}

fn set(bucket: &mut Option<Bucket>, per_second: Option<u64>, now: Instant) {
    *bucket = match (bucket.take(), per_second) {
        (_, None) => None,
        (Some(mut bucket), Some(per_second)) => {
            bucket.refill(now);
            Some(Bucket { per_second, ..bucket })
        }
        (None, Some(per_second)) => Some(Bucket { per_second, balance: 0.0, at: now }),
    };
}

#[expect(clippy::cast_precision_loss, reason = "a partition is far below 2^52 of anything")]
const fn as_float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Publishes partitions as soon as they may be, looking every `step`; gives when each was.
    fn publish(rates: &mut Rates, sizes: &[u64], began: Instant, step: Duration) -> Vec<Duration> {
        let (mut now, mut times) = (began, Vec::new());
        for rows in sizes {
            rates.refill(now);
            while rates.refusal(false).is_some() {
                now += step;
                rates.refill(now);
            }
            rates.charge(*rows);
            times.push(now - began);
        }
        times
    }

    #[test]
    fn a_partition_is_paid_off_before_the_next() {
        let now = Instant::now();
        let mut rates = Rates::default();
        assert!(!rates.are_limited() && rates.refusal(true).is_none());
        rates.limit(Some(10), None, now);
        rates.charge(50);
        for (seconds, reason) in [(0, true), (4, true), (5, false)] {
            rates.refill(now + Duration::from_secs(seconds));
            assert_eq!(rates.refusal(false).is_some(), reason, "after {seconds} s");
        }
        assert_eq!(rates.refusal(false), None);
        rates.charge(50);
        // A higher rate pays the same debt off sooner, and none forgets it.
        rates.limit(Some(100), None, now + Duration::from_secs(5));
        rates.refill(now + Duration::from_millis(5_400));
        assert_eq!(rates.refusal(false), Some(Reason::Files { most: 100 }));
        rates.refill(now + Duration::from_millis(5_600));
        assert_eq!(rates.refusal(false), None);
        rates.charge(1_000_000);
        rates.limit(None, None, now);
        assert_eq!(rates.refusal(false), None);
    }

    #[test]
    fn bytes_are_those_of_the_receipts() {
        let now = Instant::now();
        let mut rates = Rates::default();
        rates.limit(None, Some(1_000), now);
        let first = rates.charge(10);
        assert_eq!(first.bytes, None, "nothing is known yet");
        assert!(rates.refusal(false).is_none() && rates.refusal(true).is_some(), "it goes alone");
        rates.measured(Some(first), 10, 5_000);
        assert_eq!(rates.refusal(false), Some(Reason::Bytes { most: 1_000 }));
        let after = |rates: &mut Rates, millis| {
            rates.refill(now + Duration::from_millis(millis));
            rates.refusal(true).is_none()
        };
        assert!(!after(&mut rates, 4_900) && after(&mut rates, 5_100));
        let second = rates.charge(4);
        assert_eq!(second.bytes, Some(2_000), "500 bytes a file");
        assert!(!after(&mut rates, 6_900));
        // It had less, and the rest may be used.
        rates.measured(Some(second), 4, 1_000);
        assert!(after(&mut rates, 6_950));
        // Whatever somebody else published costs nothing here, but tells something.
        rates.measured(None, 14, 6_000_000);
        assert!(rates.charge(1).bytes > Some(1_000));
    }

    proptest! {
        #[test]
        fn a_rate_holds_over_time(
            per_second in 1_u64..5_000,
            sizes in prop::collection::vec(1_u64..10_000, 1..40),
            step in 1_u64..2_000,
        ) {
            let now = Instant::now();
            let mut rates = Rates::default();
            rates.limit(Some(per_second), None, now);
            let times = publish(&mut rates, &sizes, now, Duration::from_millis(step));
            let mut before = 0.0;
            for (time, rows) in times.iter().zip(&sizes) {
                let may = as_float(per_second) * (time.as_secs_f64() + KEPT_SECONDS);
                prop_assert!(before <= may + 1e-3, "{before} before {time:?}, and {may} may be");
                before += as_float(*rows);
            }
            // Nor is it much slower: each is late by a look at most, and late ones catch up.
            let all: u64 = sizes.iter().sum();
            let due = as_float(all - sizes.last().copied().unwrap_or_default());
            let looks = as_float(step) / 1_000.0 * as_float(sizes.len() as u64);
            let last = times.last().copied().unwrap_or_default().as_secs_f64();
            prop_assert!(last <= due / as_float(per_second) + looks + 1e-3);
        }
    }
}
