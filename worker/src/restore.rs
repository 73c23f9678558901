//! Makes objects of a certified partition again, under their own names.
//!
//! The same rows over unchanged files give the same shards. A shard is uploaded only when it equals
//! what the certified receipt states of it, name, size and checksum, so that no other bytes can come
//! to stand under a name that is certified; and only when it was asked for, so that nothing sound is
//! written over.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use backends::Store;
use protocol::message::{Restore, Task};
use protocol::receipt::ShardRef;
use protocol::{ContentHash, NBits, Receipt, Rows, Tally, names};

use crate::task::{MAX_RECEIPT_BYTES, Undone};

/// What is to be made again of a partition.
#[derive(Debug)]
pub(crate) struct Wanted {
    shards: HashMap<String, ShardRef>,
    big_files: HashSet<String>,
    /// Big files that were made again.
    made: Mutex<HashSet<String>>,
    failed: HashMap<FailedKey, usize>,
}

type FailedKey = (String, i64, Option<String>);

impl Wanted {
    /// Reads the receipt that was certified.
    pub(crate) async fn read(
        store: &Store,
        task: &Task,
        restore: &Restore,
    ) -> Result<Self, Undone> {
        let bytes = store.get(&restore.receipt, MAX_RECEIPT_BYTES).await?;
        let refuse = |why: &str| Undone::Refused(format!("{}: {why}", restore.receipt));
        if names::content_hash(&restore.receipt) != Some(ContentHash::of(&bytes)) {
            return Err(refuse("its bytes are not those that its name stands for"));
        }
        let receipt = Receipt::decode(&bytes).map_err(|error| refuse(&error.to_string()))?;
        if receipt.archive != task.address.archive
            || receipt.manifest_hash != task.address.manifest_hash
            || receipt.range != task.range
        {
            return Err(refuse("it is about other rows than the task"));
        }
        Ok(Self::of(receipt, restore))
    }

    fn of(receipt: Receipt, restore: &Restore) -> Self {
        let asked: HashSet<&String> = restore.objects.iter().collect();
        let mut failed = HashMap::new();
        for row in receipt.failures {
            let key = (row.uid, row.created_at.as_micros(), row.location);
            *failed.entry(key).or_default() += 1;
        }
        let shards = receipt.shards.into_iter().filter(|shard| asked.contains(&shard.key));
        let big_files = receipt.big_files.into_iter().filter(|big| asked.contains(&big.key));
        Self {
            shards: shards.map(|shard| (shard.key.clone(), shard)).collect(),
            big_files: big_files.map(|big| big.key).collect(),
            made: Mutex::default(),
            failed,
        }
    }

    /// Which rows are not to be read: those that are not in the certified shards, since they failed
    /// then (a file that can be read today must not make another shard of it), and, where no big
    /// file is wanted, those of other days and shard indexes than the wanted shards.
    pub(crate) fn left_out(&self, rows: &Rows, n_bits: NBits) -> Vec<bool> {
        let mut left = self.failed.clone();
        let prefix = |key: &String| key.splitn(3, '_').take(2).collect::<Vec<_>>().join("_") + "_";
        let prefixes: HashSet<String> = self.shards.keys().map(prefix).collect();
        rows.iter()
            .map(|row| {
                let (day, index) = (row.created_at().day(), n_bits.shard_index(row.uid));
                if self.big_files.is_empty()
                    && !prefixes.contains(&names::shard_prefix(n_bits, day, index))
                {
                    return true;
                }
                let key =
                    (row.uid.to_owned(), row.created_at_micros, row.location.map(str::to_owned));
                left.get_mut(&key).is_some_and(|count| {
                    let failed = *count > 0;
                    *count = count.saturating_sub(1);
                    failed
                })
            })
            .collect()
    }

    /// Whether this is one of the wanted shards, byte for byte as far as its receipt can tell.
    pub(crate) fn is_wanted_shard(&self, (made, _): &(ShardRef, Tally)) -> bool {
        self.shards.get(&made.key) == Some(made)
    }

    /// Whether the big file of this name is to be uploaded.
    pub(crate) fn is_wanted_big_file(&self, key: &str) -> bool {
        self.big_files.contains(key)
    }

    /// Notes that a wanted big file was uploaded.
    pub(crate) fn note_big_file(&self, key: String) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Names of the big files that were uploaded.
    pub(crate) fn big_files_made(&self) -> Vec<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol::receipt::BigFileRef;
    use protocol::{FailedRow, FailureReason, Fingerprint, Row, RowRef, ShardIndex, Timestamp};

    use super::*;

    fn at() -> Timestamp {
        "2024-12-01T10:00".parse().expect("a date")
    }

    fn row(uid: &str) -> Row {
        Row::new(uid.to_owned(), at(), Some(format!("/{uid}")), None)
    }

    fn shard(index: u16) -> ShardRef {
        let prefix = names::shard_prefix(NBits::DEFAULT, at().day(), ShardIndex(index));
        ShardRef {
            key: format!("{prefix}20241202T000000Z_r0000_0000-0011223344556677.des"),
            size: 100,
            crc32c: 7,
            entries: 1,
            bytes_raw: 50,
            first_fingerprint: Fingerprint::default(),
            last_fingerprint: Fingerprint::default(),
            tail_bytes: 10,
        }
    }

    fn wanted(objects: &[&str]) -> Wanted {
        let failed = FailedRow {
            uid: "twice".to_owned(),
            created_at: at(),
            location: Some("/twice".to_owned()),
            reason: FailureReason::Missing,
            detail: String::new(),
        };
        let index = NBits::DEFAULT.shard_index("twice").0;
        let receipt = Receipt {
            version: Receipt::VERSION,
            archive: "a-1".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            window: protocol::Window::new("2024-12-01".parse().expect("a date"), at())
                .expect("a window"),
            revision: 0,
            partition: 0,
            manifest_hash: ContentHash::of(b""),
            range: None,
            attempt: 1,
            worker: "w".parse().expect("a worker"),
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            shards: vec![shard(index), shard(index + 1)],
            big_files: vec![BigFileRef { key: "_bigFiles/a".to_owned(), size: 9 }],
            failures: vec![failed],
        };
        let objects = objects.iter().map(|&key| key.to_owned()).collect();
        Wanted::of(receipt, &Restore { receipt: String::new(), objects })
    }

    #[test]
    fn only_what_equals_the_receipt_and_was_asked_for_is_wanted() {
        let index = NBits::DEFAULT.shard_index("twice").0;
        let wanted = wanted(&[&shard(index).key, "not certified"]);
        let is_wanted = |shard: ShardRef| wanted.is_wanted_shard(&(shard, Tally::default()));
        assert!(is_wanted(shard(index)));
        assert!(!is_wanted(shard(index + 1)), "nobody asked for it");
        assert!(!is_wanted(ShardRef { crc32c: 8, ..shard(index) }));
        assert!(!is_wanted(ShardRef { size: 101, ..shard(index) }));
        assert!(!wanted.is_wanted_big_file("_bigFiles/a") && !wanted.is_wanted_big_file("x"));
    }

    #[test]
    fn what_failed_then_and_what_lies_elsewhere_is_left_out() {
        let index = NBits::DEFAULT.shard_index("twice").0;
        let other = (0..).map(|n| format!("uid-{n}"));
        let other = other.filter(|uid| NBits::DEFAULT.shard_index(uid).0 != index);
        let rows = [row("twice"), row("twice"), row(&other.take(1).collect::<String>())];
        let rows: Rows = rows.iter().map(RowRef::from).collect();
        let left_out = |objects: &[&str]| wanted(objects).left_out(&rows, NBits::DEFAULT);
        assert_eq!(left_out(&[&shard(index).key]), [true, false, true], "one of two failed");
        assert_eq!(left_out(&["_bigFiles/a"]), [true, false, false], "it may be any row's");
    }
}
