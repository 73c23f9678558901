//! The rows of a window's earlier revisions, read from their manifests, with where each stands.

use std::collections::{HashMap, VecDeque};

use backends::{BackendError, Store};
use protocol::certificate::PartitionRef;
use protocol::manifest::ManifestReader;
use protocol::receipt::ShardRef;
use protocol::{ContentHash, FailedRow, NBits, Receipt, Row, RowRef, Timestamp, names};
use tracing::warn;

use crate::judge::Standing;
use crate::places::{may_hold, place};
use crate::receipts::MAX_RECEIPT_BYTES;
use crate::sort::SortedRow;
use crate::survey::MAX_MANIFEST_BYTES;

/// What became of a shard that is not simply there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A later revision accounts for its rows.
    Replaced,
    /// Gone or damaged.
    Lost,
    /// Gone or damaged, and its rows were taken up by a later revision, some of them in vain. Its
    /// number among the damaged shards.
    TakenUp(usize),
}

/// What is known of one earlier revision.
#[derive(Clone, Debug)]
pub(crate) struct KnownRevision {
    /// Its partitions, in row order.
    pub(crate) partitions: VecDeque<PartitionRef>,
    pub(crate) shards: Vec<ShardRef>,
    /// Of its shards, those that something happened to.
    pub(crate) fates: HashMap<String, Fate>,
    /// Its failed rows, and how many of each are not met yet.
    pub(crate) failed: Failed,
    /// Whether no later revision tried its failed rows again.
    pub(crate) failed_count: bool,
}

/// Failed rows and how many there are of each.
pub(crate) type Failed = HashMap<(String, Timestamp, Option<String>), usize>;

/// Partitions in row order. Planning numbers manifests in row order; the parts of a partition that
/// was split have higher numbers and its manifest.
pub(crate) fn in_row_order(partitions: &[PartitionRef]) -> VecDeque<PartitionRef> {
    let mut sorted = partitions.to_vec();
    sorted.sort_by_key(|it| {
        let number = names::manifest_number(&it.manifest).unwrap_or(it.partition);
        (number, it.range.map_or(0, |range| range.first))
    });
    sorted.into()
}

pub(crate) fn failed_rows(failures: &[FailedRow]) -> Failed {
    let mut failed = Failed::new();
    for row in failures {
        let key = (row.uid.clone(), row.created_at, row.location.clone());
        *failed.entry(key).or_default() += 1;
    }
    failed
}

impl KnownRevision {
    /// Whether the next of the rows like this one is among the failed.
    fn has_failed(&mut self, row: &Row) -> bool {
        if self.failed.is_empty() {
            return false;
        }
        let key = (row.uid.clone(), row.created_at(), row.location.clone());
        match self.failed.get_mut(&key) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    fn fate_in_doubt(&self, row: &SortedRow, n_bits: NBits) -> Option<Fate> {
        let prefix = names::shard_prefix(n_bits, row.row.created_at().day(), row.index);
        let may_hold = |shard: &&ShardRef| may_hold(shard, &prefix, row.fingerprint);
        let candidates = self.shards.iter().filter(may_hold);
        let fates = candidates.map(|shard| self.fates.get(&shard.key).copied());
        // A row that may be lost is rather tried again than taken for one that another revision
        // answers for.
        fates.max_by_key(|fate| match fate {
            Some(Fate::Lost) => 3,
            Some(Fate::TakenUp(_)) => 2,
            None => 1,
            Some(Fate::Replaced) => 0,
        })?
    }
}

/// The rows of several revisions, merged in row order. To be read on a thread that may block.
/// Memory: one manifest per revision.
pub(crate) struct KnownRows {
    store: Store,
    runtime: tokio::runtime::Handle,
    n_bits: NBits,
    revisions: Vec<(KnownRevision, VecDeque<(SortedRow, Standing)>)>,
}

impl KnownRows {
    pub(crate) fn new(store: Store, n_bits: NBits, revisions: Vec<KnownRevision>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let revisions = revisions.into_iter().map(|it| (it, VecDeque::new())).collect();
        Self { store, runtime, n_bits, revisions }
    }

    pub(crate) fn next_row(&mut self) -> Result<Option<(SortedRow, Standing)>, BackendError> {
        for (revision, rows) in &mut self.revisions {
            while rows.is_empty() {
                let Some(partition) = revision.partitions.pop_front() else { break };
                let read = read_rows(&self.store, revision, &partition, self.n_bits);
                *rows = self.runtime.block_on(read)?;
            }
        }
        let firsts = self.revisions.iter().enumerate();
        let firsts = firsts.filter_map(|(at, (_, rows))| Some((&rows.front()?.0, at)));
        let first = firsts.min().map(|(_, at)| at);
        Ok(first.and_then(|at| self.revisions[at].1.pop_front()))
    }
}

/// The rows of one partition for which the revision has to answer.
async fn read_rows(
    store: &Store,
    revision: &mut KnownRevision,
    partition: &PartitionRef,
    n_bits: NBits,
) -> Result<VecDeque<(SortedRow, Standing)>, BackendError> {
    let rows = read_manifest(store, partition).await?;
    let failed: Vec<bool> = rows.iter().map(|row| revision.has_failed(row)).collect();
    let shards = match revision.fates.is_empty() {
        true => Vec::new(),
        false => shards_of(store, partition).await?,
    };
    let is_touched = shards.iter().any(|shard| revision.fates.contains_key(&shard.key));
    let in_doubt = shards.is_empty() && !revision.fates.is_empty();
    let places = if is_touched { place(&rows, &failed, &shards, n_bits) } else { None };
    let mut known = VecDeque::with_capacity(rows.len());
    for (number, row) in rows.into_iter().enumerate() {
        let row = SortedRow::new(row, n_bits);
        let fate = match &places {
            _ if failed[number] || !(is_touched || in_doubt) => None,
            Some(places) => {
                let shard = places[number].and_then(|shard| shards.get(shard));
                shard.and_then(|shard| revision.fates.get(&shard.key).copied())
            }
            None => revision.fate_in_doubt(&row, n_bits),
        };
        let standing = match fate {
            _ if failed[number] && revision.failed_count => Standing::Failed,
            _ if failed[number] => continue,
            None => Standing::Settled,
            Some(Fate::Replaced) => continue,
            Some(Fate::Lost) => Standing::Lost,
            Some(Fate::TakenUp(shard)) => Standing::TakenUp(shard),
        };
        known.push_back((row, standing));
    }
    Ok(known)
}

/// The shards that the partition's receipt names; none where the receipt is gone or damaged, whose
/// loss is to cost nothing.
async fn shards_of(store: &Store, partition: &PartitionRef) -> Result<Vec<ShardRef>, BackendError> {
    Ok(read_receipt(store, &partition.receipt).await?.map(|it| it.shards).unwrap_or_default())
}

/// A receipt; `None` where it is gone or damaged.
pub(crate) async fn read_receipt(
    store: &Store,
    key: &str,
) -> Result<Option<Receipt>, BackendError> {
    let bytes = match store.get(key, MAX_RECEIPT_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_lost_or_damaged() => {
            warn!("{error}");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let sound = names::content_hash(key) == Some(ContentHash::of(&bytes));
    let receipt = sound.then(|| Receipt::decode(&bytes).ok()).flatten();
    if receipt.is_none() {
        warn!(receipt = key, "the receipt is damaged");
    }
    Ok(receipt)
}

/// The rows of a partition: its manifest's, or a range of them.
///
/// # Errors
/// When the manifest is gone or damaged.
pub(crate) async fn read_manifest(
    store: &Store,
    partition: &PartitionRef,
) -> Result<Vec<Row>, BackendError> {
    let key = &partition.manifest;
    let bytes = store.get(key, MAX_MANIFEST_BYTES).await?;
    let invalid = |why: String| BackendError::Invalid { what: format!("{key} in {store}: {why}") };
    if names::content_hash(key) != Some(ContentHash::of(&bytes)) {
        return Err(invalid("its bytes are not those that its name stands for".to_owned()));
    }
    let reader = ManifestReader::new(&bytes).map_err(|error| invalid(error.to_string()))?;
    let mut rows = Vec::new();
    let keep = |position, row: RowRef<'_>| {
        if partition.range.is_none_or(|range| range.contains(position)) {
            rows.push(row.to_row());
        }
    };
    reader.visit(keep).map_err(|error| invalid(error.to_string()))?;
    if rows.len() as u64 != partition.rows.rows {
        return Err(invalid(format!(
            "it holds {} of the {} rows of partition {}",
            rows.len(),
            partition.rows.rows,
            partition.partition
        )));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use protocol::Tally;
    use protocol::manifest::RowRange;

    use super::*;

    #[test]
    fn parts_of_a_partition_stand_where_their_rows_do() {
        let partition = |number, manifest: u32, first: Option<u64>| PartitionRef {
            partition: number,
            manifest: format!("_des/manifests/20241202T000000Z-r0000/p{manifest:06}-0.rows"),
            manifest_size: 1,
            range: first.map(|first| RowRange { first, rows: 5 }),
            rows: Tally::default(),
            receipt: String::new(),
            receipt_size: 1,
        };
        let certified = [
            partition(0, 0, None),
            partition(2, 2, None),
            partition(3, 1, Some(5)),
            partition(4, 1, Some(0)),
        ];
        let numbers: Vec<_> = in_row_order(&certified).iter().map(|it| it.partition).collect();
        assert_eq!(numbers, [0, 4, 3, 2]);
    }
}
