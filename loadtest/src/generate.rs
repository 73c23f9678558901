//! Source files and catalogs of them, the same in every run: everything follows from a seed and a
//! row's number, so that nothing of them is kept in memory.

pub(crate) mod catalog;
mod content;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use protocol::Timestamp;
use serde::{Deserialize, Serialize};

use self::content::Random;

const FILES_PER_DIRECTORY: u64 = 1_000;
const MICROS_PER_DAY: u64 = 86_400_000_000;
/// Old enough for any lag.
const FIRST_DAY: &str = "2024-06-01T00:00:00Z";
/// How often a long run says where it stands.
const TELL_EVERY: u64 = 100_000;

/// How large files are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sizes {
    /// Evenly from 500 to 6,500 bytes: 3,500 on average.
    Even,
    /// All of so many bytes.
    Fixed(u64),
    /// Many small ones and few large ones, with this mean.
    Lognormal(u64),
}

impl std::str::FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number"));
        match text.split_once(':') {
            None if text == "even" => Ok(Self::Even),
            Some(("fixed", bytes)) => Ok(Self::Fixed(number(bytes)?)),
            Some(("lognormal", mean)) => Ok(Self::Lognormal(number(mean)?)),
            _ => Err(format!("`{text}` is not even, fixed:BYTES or lognormal:MEAN")),
        }
    }
}

/// What files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// Of 100 files 70 are JSON, the others incompressible.
    Mixed,
    /// Nothing that compresses.
    Noise,
    /// Files without blocks on disk, which read as zeros.
    Sparse,
}

/// What uids look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Uids {
    /// `document-0000000017`.
    Text,
    /// Numbers that with `n_bits` 4 fall into the first eight of the sixteen shards.
    EightShards,
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Rows of the catalog.
    pub(crate) rows: u64,
    /// Files; with fewer than rows, rows share them. 0: no file is made.
    pub(crate) files: u64,
    /// Days that the rows are spread over.
    pub(crate) days: u64,
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    pub(crate) content: Content,
    pub(crate) uids: Uids,
}

/// A row of the catalog.
pub(crate) struct Row {
    pub(crate) uid: String,
    pub(crate) created_at: Timestamp,
    pub(crate) location: PathBuf,
    pub(crate) size: u64,
}

impl Spec {
    /// The files of issue 4: 70 % JSON, 30 % incompressible, 3.5 KB on average.
    pub(crate) fn usual(rows: u64, days: u64) -> Self {
        Self {
            rows,
            files: rows,
            days,
            seed: 1,
            sizes: Sizes::Even,
            content: Content::Mixed,
            uids: Uids::Text,
        }
    }

    /// The row of this number, whose file lies below `root`.
    pub(crate) fn row(&self, root: &Path, number: u64) -> Row {
        let mut random = Random::new(self.seed, "row", number);
        let after = 1 + random.below(self.days.max(1) * MICROS_PER_DAY);
        let file = number % self.files.max(1);
        let uid = match self.uids {
            Uids::Text => format!("document-{number:010}"),
            Uids::EightShards => format!("{}", number / 8 * 16 + number % 8),
        };
        Row {
            uid,
            created_at: self.first_day().saturating_add_micros(after.cast_signed()),
            location: path(root, file),
            size: self.size(file),
        }
    }

    /// The midnight before the first row.
    pub(crate) fn first_day(&self) -> Timestamp {
        FIRST_DAY.parse().unwrap_or(Timestamp::MIN)
    }

    fn size(&self, file: u64) -> u64 {
        content::size(self.sizes, &mut Random::new(self.seed, "size", file))
    }

    /// Makes the files below `root`; the bytes in all of them. What an earlier run made from the
    /// same numbers is left as it is.
    pub(crate) fn make_files(&self, root: &Path) -> anyhow::Result<u64> {
        let bytes = (0..self.files).map(|file| self.size(file)).sum();
        let (stamp, wanted) = (root.with_extension("made.json"), self.of_files());
        let made = std::fs::read_to_string(&stamp).unwrap_or_default();
        if made == wanted {
            return Ok(bytes);
        }
        std::fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let next = AtomicU64::new(0);
        let folders = self.files.div_ceil(FILES_PER_DIRECTORY);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let work = || -> anyhow::Result<()> {
                loop {
                    let folder = next.fetch_add(1, Ordering::Relaxed);
                    if folder >= folders {
                        return Ok(());
                    }
                    self.make_folder(root, folder)?;
                    tell(folder * FILES_PER_DIRECTORY, self.files, "files made");
                }
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => Err(anyhow::anyhow!("a thread that makes files panicked")),
            })
        })?;
        std::fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
        Ok(bytes)
    }

    /// What the files, and not the catalog, follow from.
    fn of_files(&self) -> String {
        serde_json::json!([self.files, self.seed, self.sizes, self.content]).to_string()
    }

    fn make_folder(&self, root: &Path, folder: u64) -> anyhow::Result<()> {
        let first = folder * FILES_PER_DIRECTORY;
        let last = (first + FILES_PER_DIRECTORY).min(self.files);
        let directory = root.join(format!("{folder:05}"));
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        for file in first..last {
            let (path, size) = (path(root, file), self.size(file));
            let made = match self.content {
                Content::Sparse => std::fs::File::create(&path).and_then(|it| it.set_len(size)),
                _ => std::fs::write(&path, content::content(self, file, size)),
            };
            made.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

fn path(root: &Path, file: u64) -> PathBuf {
    root.join(format!("{:05}/{file:08}.dat", file / FILES_PER_DIRECTORY))
}

/// Says on stderr where a long run stands.
pub(crate) fn tell(done: u64, all: u64, what: &str) {
    use std::io::Write as _;
    if done > 0 && done.is_multiple_of(TELL_EVERY) && all > TELL_EVERY {
        let _nobody_reads = writeln!(std::io::stderr().lock(), "{done} of {all} {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_as_large_as_their_rows_say_and_the_same_every_time() {
        for content in [Content::Mixed, Content::Noise, Content::Sparse] {
            let dir = tempfile::tempdir().expect("a directory");
            let root = dir.path().join("files");
            let spec = Spec { files: 70, content, ..Spec::usual(140, 3) };
            spec.make_files(&root).expect("files");
            let first = std::fs::read(spec.row(&root, 3).location).expect("a file");
            for number in 0..140 {
                let row = spec.row(&root, number);
                let there = std::fs::metadata(&row.location).expect("a file").len();
                assert_eq!(there, row.size, "row {number}");
            }
            std::fs::remove_file(dir.path().join("files.made.json")).expect("a stamp");
            spec.make_files(&root).expect("files");
            assert_eq!(first, std::fs::read(spec.row(&root, 73).location).expect("a file"));
        }
    }

    #[test]
    fn sizes_have_the_mean_that_they_are_to_have() {
        for (sizes, mean) in
            [(Sizes::Even, 3_500), (Sizes::Fixed(77), 77), (Sizes::Lognormal(4_000), 4_000)]
        {
            let spec = Spec { sizes, ..Spec::usual(20_000, 1) };
            let all: u64 = (0..20_000).map(|number| spec.size(number)).sum();
            let found = all / 20_000;
            assert!(found.abs_diff(mean) * 20 <= mean, "{sizes:?}: {found}");
        }
    }

    #[test]
    fn rows_lie_in_their_days() {
        let spec = Spec::usual(1_000, 2);
        let first = spec.first_day();
        let end = first.saturating_add_micros(2 * MICROS_PER_DAY.cast_signed());
        let times = (0..1_000).map(|number| spec.row(Path::new("/x"), number).created_at);
        assert!(times.into_iter().all(|time| first < time && time <= end));
    }
}
