//! What was written to the bucket, in order, as the S3 server saw it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::{ContentHash, names};

/// An object that was written, or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Its name in the bucket.
    pub(crate) key: String,
    /// Of its bytes, and how many they are; `None` when it was deleted.
    pub(crate) content: Option<(blake3::Hash, u64)>,
    /// What was there before.
    pub(crate) before: Option<(blake3::Hash, u64)>,
}

impl Written {
    /// What is wrong with an object that was written, whoever wrote it, in the journal's own terms:
    /// names stand for one content.
    pub(crate) fn complaint(&self) -> Option<String> {
        let key = &self.key;
        let (hash, size) = self.content?;
        if self.before.is_some_and(|before| before != (hash, size)) {
            return Some(format!("{key} was overwritten with other bytes"));
        }
        match names::content_hash(key) {
            Some(named) if named != ContentHash::from_blake3(&hash) => {
                Some(format!("{key} was written with bytes that its name does not stand for"))
            }
            _ => None,
        }
    }
}

/// The journal of one bucket.
pub(crate) struct Journal {
    bucket_dir: PathBuf,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    now: HashMap<String, (blake3::Hash, u64)>,
    log: Vec<Written>,
    repeated: u64,
}

impl Journal {
    pub(crate) fn new(bucket_dir: PathBuf) -> Self {
        Self { bucket_dir, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an object was written, as it lies there now.
    pub(crate) fn wrote(&self, key: &str) {
        let Ok(bytes) = std::fs::read(self.bucket_dir.join(key)) else { return };
        let content = (blake3::hash(&bytes), bytes.len() as u64);
        let mut entries = self.entries();
        let before = entries.now.insert(key.to_owned(), content);
        entries.repeated += u64::from(before == Some(content));
        entries.log.push(Written { key: key.to_owned(), content: Some(content), before });
    }

    /// Notes that an object was deleted.
    pub(crate) fn deleted(&self, key: &str) {
        let mut entries = self.entries();
        if let Some(before) = entries.now.remove(key) {
            let before = Some(before);
            entries.log.push(Written { key: key.to_owned(), content: None, before });
        }
    }

    /// The harness is about to harm an object itself: whatever is written there next is new.
    pub(crate) fn harmed(&self, key: &str) {
        self.entries().now.remove(key);
    }

    /// What was noted since `from`, an earlier answer's end, and where that ends.
    pub(crate) fn since(&self, from: usize) -> (Vec<Written>, usize) {
        let entries = self.entries();
        (entries.log.get(from..).unwrap_or_default().to_vec(), entries.log.len())
    }

    /// Forgets everything but how often an object was written again: the round is over.
    pub(crate) fn forget(&self) {
        let mut entries = self.entries();
        (entries.now, entries.log) = (HashMap::new(), Vec::new());
    }

    /// How often an object was written again with the same bytes.
    pub(crate) fn repeated(&self) -> u64 {
        self.entries().repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_content() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::new(dir.path().to_owned());
        let write = |key: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(key), bytes).expect("written");
            let (_, from) = journal.since(0);
            journal.wrote(key);
            journal.since(from).0.first().and_then(Written::complaint)
        };
        let good = format!("part-{}.des", ContentHash::of(b"good"));
        assert_eq!(write(&good, b"good"), None);
        assert_eq!(write(&good, b"good"), None);
        assert_eq!(journal.repeated(), 1);
        assert!(write(&good, b"evil").is_some_and(|why| why.contains("overwritten")));
        let other = format!("other-{}.des", ContentHash::of(b"good"));
        assert!(write(&other, b"evil").is_some_and(|why| why.contains("stand for")));
        assert_eq!(write("plain.json", b"1"), None);
    }
}
