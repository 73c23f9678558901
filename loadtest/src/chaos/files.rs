//! Source files and the catalog's rows, edge cases included. The same in every run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use protocol::{Tally, Timestamp, Window};
use tokio_util::sync::CancellationToken;

use super::dice::Dice;

/// Days that a round's rows are spread over.
pub(crate) const DAYS: u64 = 10;
const MICROS_PER_DAY: u64 = 86_400_000_000;
const FILES_PER_DIRECTORY: u64 = 1_000;
/// One row in so many lies exactly on a midnight.
const MIDNIGHT_ONE_IN: u64 = 10;
/// One file in so many is empty.
const EMPTY_ONE_IN: u64 = 53;
/// One row in so many names a file that is not there.
const MISSING_ONE_IN: u64 = 701;
/// Number and size of the one file that lies beside the shards, and is uploaded in parts.
const BIG: (u64, usize) = (4, 12_000_000);
/// Above this a file lies beside the shards.
pub(crate) const BIG_FILE_THRESHOLD: u64 = 1_000_000;

/// In an operated round, rows of these days (from 0) are hidden, one of so many.
const HIDDEN_ON: [u64; 3] = [1, 4, 7];
const HIDDEN_ONE_IN: u64 = 40;
/// In an operated round, one row in so many comes into the catalog late.
const LATE_ONE_IN: u64 = 211;
/// Files that are poison in a round with poison: over the first a worker dies, the others cannot be
/// read for the machine's reasons.
const DIES: [u64; 1] = [333];
const BROKEN: [u64; 2] = [555, 777];

/// What is special about a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manner {
    /// Nothing but faults.
    Plain,
    /// An operator is at work: files are hidden at first, rows come late, windows are held.
    Operated,
    /// Some files are poison, and partitions have few attempts.
    Poisoned,
}

/// A row of the catalog, and what the archive must hold for it.
#[derive(Clone, Debug)]
pub(crate) struct CatalogRow {
    pub(crate) uid: String,
    pub(crate) created_at: Timestamp,
    pub(crate) location: PathBuf,
    pub(crate) size: u64,
    /// Of the file's bytes; `None` when it cannot be archived.
    pub(crate) content: Option<blake3::Hash>,
    /// The one reason that an error row may have, where it cannot.
    pub(crate) reason: &'static str,
    /// It comes into the catalog when its window is committed already.
    pub(crate) is_late: bool,
    /// Its file is away until the operator puts it back.
    pub(crate) is_hidden: bool,
}

/// The source files, which all rounds share.
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    made: Vec<(PathBuf, u64, Option<blake3::Hash>)>,
}

impl Files {
    /// Makes `count` files below `root`, unless it is told to stop.
    pub(crate) fn make(root: &Path, count: u64, stop: &CancellationToken) -> anyhow::Result<Self> {
        let mut made = Vec::new();
        for number in 0..count {
            anyhow::ensure!(!stop.is_cancelled(), "interrupted");
            let folder = root.join(format!("{:04}", number / FILES_PER_DIRECTORY));
            if number % FILES_PER_DIRECTORY == 0 {
                std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            }
            let kind = match number {
                dies if DIES.contains(&dies) => "dies",
                broken if BROKEN.contains(&broken) => "broken",
                _ => "json",
            };
            let path = folder.join(format!("{number:07}.{kind}"));
            let bytes = content(number);
            let is_there = number % MISSING_ONE_IN != MISSING_ONE_IN - 1;
            if is_there {
                std::fs::write(&path, &bytes).with_context(|| path.display().to_string())?;
            }
            made.push((path, bytes.len() as u64, is_there.then(|| blake3::hash(&bytes))));
        }
        Ok(Self { root: root.to_owned(), made })
    }

    /// The rows of a round: the same files with other times.
    pub(crate) fn rows(&self, first_day: Timestamp, round: u64, manner: Manner) -> Vec<CatalogRow> {
        let rows = self.made.iter().enumerate().map(|(number, (location, size, content))| {
            let number = number as u64;
            let created_at = created_at(first_day, round, number);
            let poison = match manner {
                Manner::Poisoned if DIES.contains(&number) => Some("gave_up"),
                Manner::Poisoned if BROKEN.contains(&number) => Some("unreadable"),
                _ => None,
            };
            let since = created_at.as_micros() - first_day.as_micros() - 1;
            let day = u64::try_from(since).unwrap_or_default() / MICROS_PER_DAY;
            let is_there = content.is_some() && manner == Manner::Operated;
            CatalogRow {
                uid: uid(number),
                created_at,
                location: location.clone(),
                size: *size,
                content: content.filter(|_| poison.is_none()),
                reason: poison.unwrap_or("missing"),
                is_late: is_there && number % LATE_ONE_IN == 7,
                is_hidden: is_there && HIDDEN_ON.contains(&day) && number % HIDDEN_ONE_IN == 5,
            }
        });
        rows.collect()
    }
}

/// Where a hidden file is meanwhile.
pub(crate) fn hidden_path(location: &Path) -> PathBuf {
    location.with_extension("hidden")
}

fn uid(number: u64) -> String {
    match number % 7 {
        0 => format!("{}", 100_000_000_000 + number * 7_919),
        1 => format!("zażółć/gęślą \"jaźń\" {number}"),
        2 if number < 40 => format!("{number}-{}", "long".repeat(15_000)),
        _ => format!("doc-{number:08}.json"),
    }
}

fn created_at(first_day: Timestamp, round: u64, number: u64) -> Timestamp {
    let mut dice = Dice::new(round, "created_at", number);
    let after = if number % MIDNIGHT_ONE_IN == 3 {
        (1 + dice.below(DAYS)) * MICROS_PER_DAY
    } else {
        1 + dice.below(DAYS * MICROS_PER_DAY)
    };
    first_day.saturating_add_micros(i64::try_from(after).unwrap_or_default())
}

fn content(number: u64) -> Vec<u8> {
    if number == BIG.0 {
        return vec![7; BIG.1];
    }
    if number.is_multiple_of(EMPTY_ONE_IN) {
        return Vec::new();
    }
    let mut dice = Dice::new(0, "content", number);
    let size = usize::try_from(dice.between(100, 1_500)).unwrap_or(100);
    let mut bytes = format!("{{\"document\":{number},\"lines\":[").into_bytes();
    if number.is_multiple_of(3) {
        while bytes.len() < size {
            bytes.extend_from_slice(&dice.next().to_le_bytes());
        }
    } else {
        let line = format!("{{\"sku\":{},\"note\":\"as it was\"}},", number * 31);
        bytes.extend(line.bytes().cycle().take(size));
    }
    bytes
}

/// The rows of one round, to be asked for.
pub(crate) struct Expected {
    by_time: Vec<CatalogRow>,
    by_uid: HashMap<String, usize>,
}

impl Expected {
    pub(crate) fn new(mut rows: Vec<CatalogRow>) -> Self {
        rows.sort_by_key(|row| row.created_at);
        let by_uid = rows.iter().enumerate().map(|(at, row)| (row.uid.clone(), at)).collect();
        Self { by_time: rows, by_uid }
    }

    pub(crate) fn rows(&self) -> &[CatalogRow] {
        &self.by_time
    }

    /// Where the row of a uid stands in [`Expected::rows`].
    pub(crate) fn find(&self, uid: &str) -> Option<usize> {
        self.by_uid.get(uid).copied()
    }

    /// Count and digest of the rows that the catalog holds for a window from the first.
    pub(crate) fn tally(&self, window: Window) -> Tally {
        let mut tally = Tally::default();
        for row in self.in_window(window).iter().filter(|row| !row.is_late) {
            tally.count(&row.uid, row.created_at);
        }
        tally
    }

    /// Rows up to a time.
    pub(crate) fn up_to(&self, time: Timestamp) -> u64 {
        self.by_time.partition_point(|row| row.created_at <= time) as u64
    }

    fn in_window(&self, window: Window) -> &[CatalogRow] {
        let from = self.by_time.partition_point(|row| row.created_at <= window.start());
        let to = self.by_time.partition_point(|row| row.created_at <= window.end());
        self.by_time.get(from..to).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_its_end_and_not_its_beginning() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::make(dir.path(), 800, &CancellationToken::new()).expect("files");
        let first: Timestamp = "2024-06-01".parse().expect("a date");
        let day = |days: i64| first.saturating_add_micros(days * 86_400_000_000);
        let expected = Expected::new(files.rows(first, 1, Manner::Plain));
        let window = |from, to| Window::new(day(from), day(to)).expect("a window");
        let days = i64::try_from(DAYS).expect("few");
        let each: u64 = (0..days).map(|at| expected.tally(window(at, at + 1)).rows).sum();
        assert_eq!(each, 800);
        assert_eq!(expected.tally(window(0, days)).rows, 800);
        assert_eq!(expected.up_to(day(days)), 800);
        let rows = expected.rows();
        assert!(rows.iter().any(|row| row.content.is_none()), "no file is missing");
        assert!(rows.iter().any(|row| row.size == 0), "no file is empty");
        assert!(rows.iter().any(|row| row.size > BIG_FILE_THRESHOLD), "no file is big");
        let midnights = rows.iter().filter(|row| row.created_at == row.created_at.day().start());
        assert_eq!(midnights.count(), 80);
        let others = files.rows(first, 2, Manner::Plain);
        assert!(rows.iter().any(|row| {
            others.iter().any(|it| it.uid == row.uid && it.created_at != row.created_at)
        }));
    }

    #[test]
    fn each_manner_has_its_rows() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::make(dir.path(), 2_000, &CancellationToken::new()).expect("files");
        let first: Timestamp = "2024-06-01".parse().expect("a date");
        let count = |manner, is: fn(&CatalogRow) -> bool| {
            files.rows(first, 1, manner).iter().filter(|row| is(row)).count()
        };
        assert_eq!(count(Manner::Plain, |row| row.is_late || row.is_hidden), 0);
        assert!(count(Manner::Operated, |row| row.is_late) > 5);
        assert!(count(Manner::Operated, |row| row.is_hidden) > 10);
        assert_eq!(count(Manner::Poisoned, |row| row.reason == "gave_up"), DIES.len());
        assert_eq!(count(Manner::Poisoned, |row| row.reason == "unreadable"), BROKEN.len());
        let window = Window::new(first, first.saturating_add_micros(86_400_000_000 * 10));
        let window = window.expect("a window");
        let all = Expected::new(files.rows(first, 1, Manner::Operated));
        let late = all.rows().iter().filter(|row| row.is_late).count() as u64;
        assert_eq!(all.tally(window).rows, 2_000 - late);
    }
}
