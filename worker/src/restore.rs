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
use protocol::{ContentHash, NBits, Receipt, Row, Tally, names};

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
        {
            return Err(refuse("it is about another manifest than the task"));
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
    pub(crate) fn left_out(&self, rows: &[Row], n_bits: NBits) -> Vec<bool> {
        let mut left = self.failed.clone();
        let prefix = |key: &String| key.splitn(3, '_').take(2).collect::<Vec<_>>().join("_") + "_";
        let prefixes: HashSet<String> = self.shards.keys().map(prefix).collect();
        rows.iter()
            .map(|row| {
                let (day, index) = (row.created_at().day(), n_bits.shard_index(&row.uid));
                if self.big_files.is_empty()
                    && !prefixes.contains(&names::shard_prefix(n_bits, day, index))
                {
                    return true;
                }
                let key = (row.uid.clone(), row.created_at_micros, row.location.clone());
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
