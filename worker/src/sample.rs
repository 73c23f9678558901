//! Reads some files as a worker would and compresses them, to say beforehand what archiving takes.
//! Keeps and writes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::codec::{Encoder, is_compressed_name};
use protocol::{FailureReason, PackSettings, Row};

use crate::source::{SourceError, SourceReader, Sources};

/// What a sample of files came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Files that were read.
    pub read: u64,
    /// Their bytes.
    pub bytes_raw: u64,
    /// Their bytes as they would be stored, without the shards' own.
    pub bytes_stored: u64,
    /// Files beyond the threshold, which are stored as they are, beside the shards: not read here.
    pub big: u64,
    /// Their bytes.
    pub bytes_big: u64,
    /// How long looking at, reading, and compressing took, on one thread.
    pub took: Duration,
    /// Files that would fail, by reason.
    pub failed: BTreeMap<FailureReason, u64>,
    /// Files that this machine could not read, which says nothing about them.
    pub unreadable: u64,
    /// What the system said of the first that was not read.
    pub first_trouble: Option<String>,
}

/// Reads and compresses the files of these rows, one after the other, under the same rules as a
/// worker, and begins none when `limit` is over. Blocks; to be called on a thread that may.
///
/// # Errors
/// When no compression context can be had, or compressing fails: memory is out.
pub fn take_sample(
    rows: &[Row],
    sources: &Sources,
    settings: &PackSettings,
    limit: Duration,
) -> std::io::Result<Sample> {
    let until = Instant::now() + limit;
    let mut encoder = Encoder::new(settings.codec, settings.level)?;
    let mut reader = SourceReader::new(sources);
    let (mut raw, mut stored) = (Vec::new(), Vec::new());
    let mut sample = Sample::default();
    for row in rows {
        let location = row.location.as_deref().unwrap_or_default();
        let began = Instant::now();
        if began >= until {
            break;
        }
        match read(&mut reader, row, settings, &mut raw) {
            Ok(Content::Whole(bytes)) => {
                stored.clear();
                // What a shard's entry carries of a file besides its bytes.
                std::hint::black_box(crc32c::crc32c(bytes));
                encoder.encode_onto(bytes, !is_compressed_name(location), &mut stored)?;
                sample.read += 1;
                sample.bytes_raw += bytes.len() as u64;
                sample.bytes_stored += stored.len() as u64;
                sample.took += began.elapsed();
            }
            Ok(Content::Big(size)) => {
                sample.big += 1;
                sample.bytes_big += size;
            }
            Err(error) => sample.note(row, error),
        }
    }
    Ok(sample)
}

enum Content<'b> {
    Whole(&'b [u8]),
    Big(u64),
}

fn read<'b>(
    reader: &mut SourceReader<'_>,
    row: &Row,
    settings: &PackSettings,
    raw: &'b mut Vec<u8>,
) -> Result<Content<'b>, SourceError> {
    if let Some(defect) = row.defect {
        let what = "the catalog's row itself cannot be archived".to_owned();
        return Err(SourceError::File(defect.reason(), what));
    }
    let Some(location) = &row.location else {
        return Err(SourceError::File(FailureReason::NoLocation, "it has none".to_owned()));
    };
    let mut file = reader.open(location)?;
    if let Some(size) = row.size.filter(|size| *size != file.size) {
        let what = format!("the catalog says {size} bytes, the file has {}", file.size);
        return Err(SourceError::File(FailureReason::SizeMismatch, what));
    }
    match file.size > settings.big_file_threshold {
        true => Ok(Content::Big(file.size)),
        false => file.read_into(raw).map(Content::Whole),
    }
}

impl Sample {
    fn note(&mut self, row: &Row, error: SourceError) {
        let (reason, what) = match error {
            SourceError::File(reason, what) => (Some(reason), what),
            SourceError::Machine(what) | SourceError::Worker(what) => (None, what),
        };
        match reason {
            Some(reason) => *self.failed.entry(reason).or_default() += 1,
            None => self.unreadable += 1,
        }
        let location = row.location.as_deref().unwrap_or("no location");
        self.first_trouble.get_or_insert_with(|| format!("{location}: {what}"));
    }

    /// Files that the sample speaks for: those that were read, and big ones.
    pub const fn told(&self) -> u64 {
        self.read + self.big
    }

    /// Rows that were looked at.
    pub fn rows(&self) -> u64 {
        self.told() + self.unreadable + self.failed.values().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use protocol::Timestamp;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn row(location: Option<&str>, size: Option<u64>) -> Row {
        let at: Timestamp = "2024-12-01".parse().expect("a date");
        let location = location.map(str::to_owned);
        Row { uid: "a".to_owned(), created_at_micros: at.as_micros(), location, size, defect: None }
    }

    #[test]
    fn a_sample_reads_by_the_rules_of_a_worker() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("made");
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let text = "as it was, ".repeat(1_000);
        let plain = file("root/plain", text.as_bytes());
        let packed = file("root/packed.gz", text.as_bytes());
        let big = file("root/big", &vec![7; 20_001]);
        let outside = file("outside", b"x");
        let gone = root.join("gone").display().to_string();
        let rows = [
            row(Some(&plain), Some(text.len() as u64)),
            row(Some(&packed), None),
            row(Some(&big), None),
            row(Some(&outside), None),
            row(Some(&plain), Some(3)),
            row(Some(&gone), None),
            row(None, None),
        ];
        let sources = Sources::new(&[root]).expect("roots");
        let settings = PackSettings { big_file_threshold: 20_000, ..PackSettings::default() };
        let sample = take_sample(&rows, &sources, &settings, LIMIT).expect("a sample");
        assert_eq!((sample.read, sample.bytes_raw), (2, 22_000), "{sample:?}");
        assert_eq!((sample.big, sample.bytes_big), (1, 20_001), "{sample:?}");
        let stored = sample.bytes_stored;
        assert!((11_000..12_000).contains(&stored), "only one of two is made smaller: {stored}");
        assert_eq!((sample.rows(), sample.unreadable), (7, 0), "{sample:?}");
        use FailureReason::{Missing, NoLocation, OutsideRoots, SizeMismatch};
        let expected = [Missing, OutsideRoots, SizeMismatch, NoLocation].map(|it| (it, 1));
        assert_eq!(sample.failed, BTreeMap::from(expected));
        let trouble = sample.first_trouble.expect("the first one");
        assert!(trouble.starts_with(&outside) && trouble.contains("source.roots"), "{trouble}");
        assert!(sample.took > Duration::ZERO);
        let none = take_sample(&rows, &sources, &settings, Duration::ZERO).expect("a sample");
        assert_eq!(none, Sample::default());
    }
}
