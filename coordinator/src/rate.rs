//! What recently committed windows say of the future: how long what is pending will take, and
//! whether shards are smaller than they should be. Pure.

use backends::ledger::{ListedPass, WindowState};
use protocol::{NBits, Timestamp};
use serde::Serialize;

/// Windows of the past that are looked at.
pub(crate) const WINDOWS_LOOKED_AT: u32 = 100;
/// Those of them that the rate is measured on, so that it is that of late.
const WINDOWS_MEASURED: usize = 20;
/// Shards with fewer files, and fewer bytes, are tiny: objects and requests cost more than the bytes.
const TINY_FILES: f64 = 256.0;
const TINY_BYTES: f64 = 1024.0 * 1024.0;
/// With either of these a shard is large enough.
const ENOUGH_FILES: f64 = 1_024.0;
const ENOUGH_BYTES: f64 = 4.0 * 1024.0 * 1024.0;

/// How fast windows were done of late, and what that makes of what is pending.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// Committed windows that were measured.
    pub windows: u64,
    /// Their files, failed ones included.
    pub files: u64,
    /// Seconds in which at least one of them was being planned or worked on.
    pub busy_seconds: f64,
    /// Files over seconds.
    pub files_per_second: f64,
    /// Bytes of the archived files over seconds.
    pub bytes_per_second: f64,
    /// Seconds that what is pending takes at this rate.
    pub pending_seconds: u64,
    /// How this was computed, for a person.
    pub how: String,
}

/// The rate of the newest committed first passes that had files and were never held, over the time
/// in which any of them was being planned or worked on: when nobody worked does not count. `None` when
/// there is none such.
pub fn pace(passes: &[ListedPass], pending_files: u64) -> Option<Pace> {
    let measured: Vec<(&ListedPass, (Timestamp, Timestamp))> = passes
        .iter()
        .filter(|pass| is_first_and_committed(pass) && !pass.was_held)
        .filter_map(|pass| Some((pass, (pass.planned_at?, pass.since?))))
        .filter(|(_, (planned, committed))| planned < committed)
        .take(WINDOWS_MEASURED)
        .collect();
    let busy_seconds = busy_micros(measured.iter().map(|(_, times)| *times)) as f64 / 1e6;
    if busy_seconds <= 0.0 {
        return None;
    }
    let files = measured.iter().map(|(pass, _)| pass.record.rows.rows).sum::<u64>();
    let bytes = measured.iter().map(|(pass, _)| pass.record.totals.bytes_raw).sum::<u64>();
    let files_per_second = files as f64 / busy_seconds;
    let pending_seconds = pending_files as f64 / files_per_second;
    let windows = measured.len() as u64;
    Some(Pace {
        windows,
        files,
        busy_seconds,
        files_per_second,
        bytes_per_second: bytes as f64 / busy_seconds,
        #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is not negative")]
        pending_seconds: pending_seconds.ceil() as u64,
        how: format!(
            "pending files over the rate of the last {windows} committed windows that had files and \
             were never held: {files} files in the {busy_seconds:.1} s in which any of them was \
             being planned or worked on; with as many workers, and files like these"
        ),
    })
}

fn is_first_and_committed(pass: &ListedPass) -> bool {
    let record = &pass.record;
    record.state == WindowState::Committed && record.revision == 0 && record.rows.rows > 0
}

/// Length of the union of these stretches of time, in microseconds.
fn busy_micros(stretches: impl Iterator<Item = (Timestamp, Timestamp)>) -> i64 {
    let mut sorted: Vec<_> = stretches.collect();
    sorted.sort_unstable();
    let (mut busy, mut until) = (0, i64::MIN);
    for (from, to) in sorted {
        let (from, to) = (from.as_micros().max(until), to.as_micros());
        busy += (to - from).max(0);
        until = until.max(to);
    }
    busy
}

/// Why another n_bits would suit a new archive better.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BitsAdvice {
    /// What a new archive should have.
    pub n_bits: u8,
    /// What this one has, for its whole life.
    pub n_bits_now: u8,
    /// Files of a shard, on average, in the windows looked at.
    pub files_per_shard: f64,
    /// Stored bytes of a shard, on average.
    pub bytes_per_shard: f64,
    /// Shards of a window, on average.
    pub shards_per_window: f64,
    /// Shards that a window would have.
    pub shards_per_window_then: f64,
    /// All of it in a sentence or two, for a person.
    pub text: String,
}

/// Fewer bits for a new archive, when the shards of the newest committed windows are tiny. `None`
/// when they are not, or no window has shards.
pub fn advise_bits(passes: &[ListedPass], now: NBits) -> Option<BitsAdvice> {
    let measured =
        passes.iter().filter(|pass| is_first_and_committed(pass) && pass.record.totals.shards > 0);
    let (mut windows, mut files, mut bytes, mut shards) = (0.0, 0.0, 0.0, 0.0);
    for pass in measured {
        let totals = pass.record.totals;
        windows += 1.0;
        files += totals.files_archived as f64;
        bytes += totals.bytes_stored as f64;
        shards += totals.shards as f64;
    }
    if windows == 0.0 || files / shards >= TINY_FILES || bytes / shards >= TINY_BYTES {
        return None;
    }
    let (files_per_window, bytes_per_window) = (files / windows, bytes / windows);
    let enough = |bits: &u8| {
        let shards = expected_shards(*bits, files_per_window);
        files_per_window / shards >= ENOUGH_FILES || bytes_per_window / shards >= ENOUGH_BYTES
    };
    let mut fewer = (0..now.get()).rev().filter(|bits| NBits::new(*bits).is_ok());
    let least = fewer.clone().next_back()?;
    let n_bits = fewer.find(enough).unwrap_or(least);
    let then = expected_shards(n_bits, files_per_window);
    let (files_per_shard, bytes_per_shard) = (files / shards, bytes / shards);
    let shards_per_window = shards / windows;
    Some(BitsAdvice {
        n_bits,
        n_bits_now: now.get(),
        files_per_shard,
        bytes_per_shard,
        shards_per_window,
        shards_per_window_then: then,
        text: format!(
            "Shards are tiny: {files_per_shard:.0} files and {:.0} KiB each on average, \
             {shards_per_window:.0} a window, over the last {windows} committed windows. With \
             packer.n_bits {n_bits} instead of {now} there would be about {then:.0}. n_bits is fixed \
             for the life of an archive, so this is for a new one",
            bytes_per_shard / 1024.0,
            now = now.get(),
        ),
    })
}

/// Shard indexes that so many files fall on, when their uids are spread evenly.
fn expected_shards(bits: u8, files: f64) -> f64 {
    let indexes = 2_f64.powi(bits.into());
    (indexes * (1.0 - (1.0 - 1.0 / indexes).powf(files))).max(1.0)
}

#[cfg(test)]
mod tests {
    use backends::ledger::{PartitionCounts, Purpose, WindowRecord, WindowTotals};
    use protocol::{Digest, Tally, Window};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    /// A committed window of a day, with so many files and shards, done between two times of one day.
    fn pass(day: u8, (files, shards): (u64, u64), (from, to): (&str, &str)) -> ListedPass {
        let time = |time: &str| at(&format!("2024-12-20T{time}"));
        let window =
            Window::new(at(&format!("2024-12-{day:02}")), at(&format!("2024-12-{:02}", day + 1)));
        ListedPass {
            record: WindowRecord {
                window: window.expect("a window"),
                revision: 0,
                purpose: Purpose::Scan,
                state: WindowState::Committed,
                rows: Tally { rows: files, digest: Digest(0) },
                replaces: Vec::new(),
                partition_rows: None,
                totals: WindowTotals {
                    files_archived: files,
                    files_failed: 0,
                    shards,
                    bytes_raw: files * 3_000,
                    bytes_stored: files * 2_000,
                },
                certificate: None,
                findings: None,
                released: None,
                splits_before: 0,
                state_since: None,
            },
            planned_at: Some(time(from)),
            since: Some(time(to)),
            was_held: false,
            partitions: PartitionCounts::default(),
        }
    }

    #[test]
    fn only_time_in_which_windows_were_worked_on_counts() {
        // Two that overlap, 15 s together, and hours later one of 5 s.
        let passes = [
            pass(3, (1_000, 4), ("18:00:00", "18:00:05")),
            pass(2, (2_000, 4), ("10:00:05", "10:00:15")),
            pass(1, (3_000, 4), ("10:00:00", "10:00:10")),
        ];
        let pace = pace(&passes, 900).expect("a rate");
        assert_eq!((pace.windows, pace.files), (3, 6_000));
        assert!((pace.busy_seconds - 20.0).abs() < 1e-9, "{pace:?}");
        assert!((pace.files_per_second - 300.0).abs() < 1e-9, "{pace:?}");
        assert!((pace.bytes_per_second - 900_000.0).abs() < 1e-6, "{pace:?}");
        assert_eq!(pace.pending_seconds, 3);
        assert!(pace.how.contains("last 3 committed windows"), "{}", pace.how);
        assert!(pace.how.contains("6000 files in the 20.0 s"), "{}", pace.how);
    }

    #[test]
    fn what_tells_nothing_of_the_rate_is_left_out() {
        assert_eq!(pace(&[], 9), None);
        let good = pass(1, (1_000, 4), ("10:00:00", "10:00:10"));
        let mut others: Vec<_> = std::iter::repeat_n(good.clone(), 6).collect();
        others[0].was_held = true;
        others[1].record.revision = 1;
        others[2].record.state = WindowState::Open;
        others[3].record.rows = Tally::default();
        others[4].planned_at = None;
        // Of a rebuilt ledger: recorded after it was certified.
        others[5].planned_at = Some(at("2024-12-21"));
        assert_eq!(pace(&others, 9), None);
        others.push(good);
        assert_eq!(pace(&others, 100).map(|it| (it.windows, it.pending_seconds)), Some((1, 1)));
        let many: Vec<_> =
            (1..=25).map(|day| pass(day, (10, 1), ("10:00:00", "10:00:10"))).collect();
        assert_eq!(pace(&many, 0).map(|it| (it.windows, it.pending_seconds)), Some((20, 0)));
    }

    #[test]
    fn tiny_shards_ask_for_fewer_bits() {
        let bits = |bits| NBits::new(bits).expect("bits");
        let of = |files, shards| [pass(1, (files, shards), ("10:00:00", "10:00:10"))];
        // 4,000 files on 256 indexes: 16 a shard.
        let advice = advise_bits(&of(4_000, 256), bits(8)).expect("advice");
        assert_eq!((advice.n_bits, advice.n_bits_now), (4, 8), "{advice:?}");
        assert!(advice.text.contains("for a new one"), "{}", advice.text);
        assert!(advice.text.contains("16 files and 31 KiB each"), "{}", advice.text);
        let advice = advise_bits(&of(40_000, 256), bits(8)).expect("advice");
        assert_eq!((advice.n_bits, advice.shards_per_window_then.round()), (5, 32.0), "{advice:?}");
        // Few files on many indexes: most have one alone.
        let advice = advise_bits(&of(30, 30), bits(16)).expect("advice");
        assert_eq!(advice.n_bits, 4, "{advice:?}");
        assert_eq!(advise_bits(&of(1_000_000, 256), bits(8)), None);
        assert_eq!(advise_bits(&of(30, 2), bits(4)), None, "there is nothing less");
        assert_eq!(advise_bits(&of(0, 0), bits(8)), None);
        // Few files, but large ones.
        let mut large = of(100, 16);
        large[0].record.totals.bytes_stored = 100 << 20;
        assert_eq!(advise_bits(&large, bits(8)), None);
    }
}
