//! Whose content a big file is. Big files are named by their content, and whoever has lost one knows
//! it by its uid: the indexes of the shards beside it say which uids lead to it, and the manifests
//! what else is known of them.

use std::collections::{HashMap, HashSet};

use backends::{BackendError, Store};
use protocol::certificate::PartitionRef;
use protocol::receipt::{BigFileRef, ShardRef};
use protocol::shard::{IndexReader, Location, TailStep, read_tail};
use protocol::{Certificate, Row, names};
use tracing::warn;

use crate::findings::{Finding, Named};
use crate::known::{read_manifest, read_receipt};

/// The files whose content these big files are, each with the object that it is in; a big file of
/// which nobody can tell is named by the object alone.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn whose(
    store: &Store,
    certificates: &[Certificate],
    big_files: &[BigFileRef],
) -> Result<Vec<Named>, BackendError> {
    let wanted: HashSet<&str> = big_files.iter().map(|big| big.key.as_str()).collect();
    let mut found: HashMap<String, Vec<Named>> = HashMap::new();
    for certificate in certificates {
        if !certificate.big_files.iter().any(|big| wanted.contains(big.key.as_str())) {
            continue;
        }
        for partition in &certificate.partitions {
            of_partition(store, partition, &wanted, &mut found).await?;
        }
    }
    let named = big_files.iter().flat_map(|big| {
        let nobody = || vec![beyond_help(big.key.clone(), None)];
        found.remove(&big.key).unwrap_or_else(nobody)
    });
    Ok(named.collect())
}

fn beyond_help(uid: String, row: Option<&Row>) -> Named {
    Named {
        finding: Finding::BeyondHelp,
        uid,
        created_at: row.map(Row::created_at),
        location: row.and_then(|row| row.location.clone()),
    }
}

/// Adds a partition's files whose content is a wanted big file.
async fn of_partition(
    store: &Store,
    partition: &PartitionRef,
    wanted: &HashSet<&str>,
    found: &mut HashMap<String, Vec<Named>>,
) -> Result<(), BackendError> {
    let Some(receipt) = read_receipt(store, &partition.receipt).await? else { return Ok(()) };
    if !receipt.big_files.iter().any(|big| wanted.contains(big.key.as_str())) {
        return Ok(());
    }
    let mut uids = Vec::new();
    for shard in &receipt.shards {
        match uids_beside(store, shard, wanted).await {
            Ok(of_shard) => uids.extend(of_shard),
            Err(error) if error.is_lost_or_damaged() => {
                warn!("whose big files it leads to cannot be told: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    let rows = match read_manifest(store, partition).await {
        Ok(rows) => rows,
        Err(error) if error.is_lost_or_damaged() => Vec::new(), // only the uid is known
        Err(error) => return Err(error),
    };
    for (uid, object) in uids {
        let row = rows.iter().find(|row| row.uid == uid);
        let of_object = found.entry(object).or_default();
        if !of_object.iter().any(|known| known.uid == uid) {
            of_object.push(beyond_help(uid, row));
        }
    }
    Ok(())
}

/// The uids in a shard that lead to wanted big files, each with the big file's object.
async fn uids_beside(
    store: &Store,
    shard: &ShardRef,
    wanted: &HashSet<&str>,
) -> Result<Vec<(String, String)>, BackendError> {
    let key = shard.key.as_str();
    let damaged = |why: String| BackendError::Invalid { what: format!("{key}: {why}") };
    let tail_at = shard.size.saturating_sub(shard.tail_bytes);
    let tail = store.get_range(key, tail_at..shard.size).await?;
    let tail = match read_tail(shard.size, &tail).map_err(|error| damaged(error.to_string()))? {
        TailStep::Fast(tail) => tail,
        TailStep::Plain(_) | TailStep::Need(_) => {
            return Err(damaged("its end is not as its certificate states".to_owned()));
        }
    };
    let range = tail.index_range();
    let index = store.get_range(key, range.clone()).await?;
    tail.check_index(&index).map_err(|error| damaged(error.to_string()))?;
    let mut entries =
        IndexReader::new(2, &index, range.start).map_err(|error| damaged(error.to_string()))?;
    let mut uids = Vec::new();
    while let Some(entry) = entries.next_entry().map_err(|error| damaged(error.to_string()))? {
        if let Location::Beside { sha256, .. } = entry.location {
            let object = names::big_file(&sha256);
            if wanted.contains(object.as_str()) {
                uids.push((entry.uid, object));
            }
        }
    }
    Ok(uids)
}
