//! What is being read now, by each of a task's threads: a read that hangs cannot tell itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::RowRef;
use protocol::message::Reading;

/// From then on a read is told: no file system that is well takes as long for files of this size.
pub(crate) const SUSPICIOUS_AFTER: Duration = Duration::from_secs(15);
/// Characters of a uid or location that are told.
const TOLD_CHARS: usize = 200;

/// The files that a task's threads read.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    slots: Mutex<Vec<Arc<Slot>>>,
}

/// The file that one thread reads.
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<Current>);

#[derive(Debug, Default)]
struct Current {
    since: Option<Instant>,
    uid: String,
    location: String,
}

/// A panic while the lock was held leaves nothing worse than a file that is told too long.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readings {
    /// A place for one more thread.
    pub(crate) fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        locked(&self.slots).push(Arc::clone(&slot));
        slot
    }

    /// The file that has been being read for longest, when that is suspiciously long by `now`.
    pub(crate) fn suspicious(&self, now: Instant) -> Option<Reading> {
        let slots = locked(&self.slots);
        let readings = slots.iter().filter_map(|slot| {
            let current = locked(&slot.0);
            let took = now.saturating_duration_since(current.since?);
            let told = |text: &str| text.chars().take(TOLD_CHARS).collect();
            (took >= SUSPICIOUS_AFTER).then(|| Reading {
                uid: told(&current.uid),
                location: told(&current.location),
                seconds: took.as_secs(),
            })
        });
        readings.max_by_key(|reading| reading.seconds)
    }
}

impl Slot {
    /// The thread begins to read a file.
    pub(crate) fn begin(&self, row: RowRef<'_>) {
        let mut current = locked(&self.0);
        current.uid.clear();
        current.uid.push_str(row.uid);
        current.location.clear();
        current.location.push_str(row.location.unwrap_or_default());
        current.since = Some(Instant::now());
    }

    /// It has read it, or could not.
    pub(crate) fn end(&self) {
        locked(&self.0).since = None;
    }
}

#[cfg(test)]
mod tests {
    use protocol::Row;

    use super::*;

    #[test]
    fn the_read_that_takes_longest_is_told() {
        let readings = Readings::default();
        let (first, second, idle) = (readings.slot(), readings.slot(), readings.slot());
        let row = |uid: &str| {
            let at = "2024-12-01".parse().expect("a date");
            Row::new(uid.to_owned(), at, Some(format!("/{uid}")), None)
        };
        let began = Instant::now();
        idle.begin(RowRef::from(&row("idle")));
        idle.end();
        first.begin(RowRef::from(&row(&"long".repeat(1_000))));
        second.begin(RowRef::from(&row("other")));
        assert_eq!(readings.suspicious(began), None);
        first.end();
        let later = Instant::now() + SUSPICIOUS_AFTER + Duration::from_secs(5);
        let told = readings.suspicious(later).expect("it takes long");
        assert_eq!((told.uid.as_str(), told.location.as_str()), ("other", "/other"));
        assert!(told.seconds >= SUSPICIOUS_AFTER.as_secs(), "{told:?}");
        second.end();
        assert_eq!(readings.suspicious(later), None);
        first.begin(RowRef::from(&row(&"long".repeat(1_000))));
        let told = readings.suspicious(later).expect("it takes long");
        assert_eq!(told.uid.len(), TOLD_CHARS);
    }
}
