//! Makes a directory's objects durable: one `syncfs` for all who ask for it at a time.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Syncs the file system of one directory.
pub(super) struct Flusher {
    root: PathBuf,
    /// Numbers of those who asked. What somebody wrote, he wrote before he took his number.
    numbers: AtomicU64,
    turn: Arc<Mutex<Turn>>,
}

/// What only one caller at a time does.
struct Turn {
    /// Kept open: the system tells a failed write once to every open file of the file system, and
    /// to those that are opened later only if nobody has heard of it.
    root: Option<File>,
    /// Whoever has no larger number than this is served.
    synced: u64,
    /// Up to which number a sync has failed, and how. Who comes after has to write anew.
    failed: Option<(u64, String)>,
}

impl Flusher {
    pub(super) fn new(root: PathBuf) -> Self {
        let turn = Turn { root: File::open(&root).ok(), synced: 0, failed: None };
        Self { root, numbers: AtomicU64::new(0), turn: Arc::new(Mutex::new(turn)) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns once everything that the caller has written is durable. Takes as long as the disk
    /// takes; a caller who does not wait for the end leaves the sync to those who come after.
    pub(super) async fn flush(self: Arc<Self>) -> std::io::Result<()> {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst) + 1;
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(answer) = turn.answer(number) {
            return answer;
        }
        let sync = tokio::task::spawn_blocking(move || {
            // Whoever has a number by now has written before the sync begins.
            let numbers = self.numbers.load(Ordering::SeqCst);
            let synced = turn.sync(&self.root);
            turn.note(numbers, &synced);
            synced
        });
        sync.await.map_err(std::io::Error::other)?
    }
}

impl Turn {
    /// What an earlier sync means for the caller with this number; `None` when it has to be done.
    fn answer(&self, number: u64) -> Option<std::io::Result<()>> {
        match &self.failed {
            Some((up_to, why)) if number <= *up_to => Some(Err(std::io::Error::other(why.clone()))),
            _ => (number <= self.synced).then_some(Ok(())),
        }
    }

    fn note(&mut self, numbers: u64, synced: &std::io::Result<()>) {
        match synced {
            Ok(()) => self.synced = numbers,
            Err(error) => self.failed = Some((numbers, error.to_string())),
        }
    }

    fn sync(&mut self, root: &Path) -> std::io::Result<()> {
        // Another file system may have been mounted there since.
        let now = std::fs::metadata(root)?;
        let same = |file: &File| {
            file.metadata().is_ok_and(|then| (then.dev(), then.ino()) == (now.dev(), now.ino()))
        };
        let open = match self.root.take().filter(same) {
            Some(open) => open,
            None => File::open(root)?,
        };
        let open = self.root.insert(open);
        Ok(rustix::fs::syncfs(open)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn() -> Turn {
        Turn { root: None, synced: 0, failed: None }
    }

    #[test]
    fn a_sync_serves_whoever_asked_before_it_began_and_nobody_else() {
        let mut turn = turn();
        assert!(turn.answer(1).is_none());
        turn.note(3, &Ok(()));
        assert!(matches!(turn.answer(3), Some(Ok(()))));
        assert!(turn.answer(4).is_none());
    }

    #[test]
    fn a_failed_sync_has_failed_for_all_whom_it_would_have_served() {
        let mut turn = turn();
        turn.note(3, &Err(std::io::Error::other("the disk is gone")));
        turn.note(5, &Ok(()));
        for number in 1..=3 {
            let answer = turn.answer(number).expect("it is known").expect_err("it failed");
            assert!(answer.to_string().contains("the disk is gone"), "{number}");
        }
        assert!(matches!(turn.answer(4), Some(Ok(()))));
    }

    #[tokio::test]
    async fn all_who_ask_at_a_time_are_answered() {
        let dir = tempfile::tempdir().expect("a directory");
        let flusher = Arc::new(Flusher::new(dir.path().to_owned()));
        let asked = (0..20).map(|_| Arc::clone(&flusher).flush());
        for answer in futures::future::join_all(asked).await {
            answer.expect("it is synced");
        }
        assert_eq!(flusher.turn.lock().await.synced, 20);
        drop(dir);
        Arc::clone(&flusher).flush().await.expect_err("the directory is gone");
    }
}
