//! A shard, read from its first byte to its last, and every file in it compared with its source.

use anyhow::{Context as _, bail, ensure};
use protocol::receipt::ShardRef;
use protocol::shard::{
    Content, HEADER_BYTES, IndexReader, Location, TailStep, check_header, read_tail,
};
use protocol::{ContentHash, Fingerprint, Timestamp, names};

use super::files::Expected;
use super::oracle::Bucket;

/// What a shard was found to hold.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Rows whose bytes are those of their sources, by their place in [`Expected::rows`].
    pub(crate) rows: Vec<usize>,
    /// What it holds, and should not.
    pub(crate) wrong: Vec<String>,
}

/// Reads a shard as a certificate names it.
///
/// # Errors
/// When it cannot be read, or is not what its name and the certificate say.
pub(crate) fn read(bucket: &Bucket, expected: &Expected, shard: &ShardRef) -> anyhow::Result<Held> {
    let bytes = bucket.read(&shard.key).context("cannot be read")?;
    ensure!(
        names::content_hash(&shard.key) == Some(ContentHash::of(&bytes)),
        "has other bytes than its name says"
    );
    ensure!(bytes.len() as u64 == shard.size, "has another size than certified");
    let version = check_header(bytes.get(..8).unwrap_or_default())?;
    debug_assert_eq!(HEADER_BYTES, 8);
    let TailStep::Fast(tail) = read_tail(shard.size, &bytes)? else {
        bail!("has no lookup extension");
    };
    let index = tail.index_range();
    let piece = |from: u64, to: u64| {
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default()
    };
    let index_bytes = piece(index.start, index.end);
    tail.check_index(index_bytes)?;
    let mut entries = IndexReader::new(version, index_bytes, index.start)?;
    let mut held = Held::default();
    for number in 0..tail.blocks() {
        let range = tail.block_range(number).context("a block is gone")?;
        let block = tail.parse_block(number, piece(range.start, range.end))?;
        for entry in block.entries() {
            let listed = entries.next_entry()?.context("the index ends too early")?;
            ensure!(
                Fingerprint::of(&listed.uid) == entry.fingerprint,
                "index and blocks disagree about {}",
                listed.uid
            );
            let content = match block.content(entry)? {
                Content::File(raw) => blake3::hash(&raw),
                Content::Big { sha256, .. } => big_file(bucket, &sha256, &listed.location)?,
            };
            match compare(expected, &listed.uid, entry.created_at, content) {
                Ok(row) => held.rows.push(row),
                Err(why) => held.wrong.push(format!("{} {why}", shard.key)),
            }
        }
    }
    ensure!(entries.remaining() == 0, "its index lists more than it holds");
    Ok(held)
}

fn big_file(bucket: &Bucket, sha256: &str, location: &Location) -> anyhow::Result<blake3::Hash> {
    let Location::Beside { sha256: listed, .. } = location else {
        bail!("the index says that {sha256} is inside");
    };
    ensure!(listed == sha256, "index and block name different big files");
    Ok(blake3::hash(&bucket.read(&names::big_file(sha256))?))
}

/// The row that an entry stands for; what is wrong where it stands for none.
fn compare(
    expected: &Expected,
    uid: &str,
    created_at: Timestamp,
    content: blake3::Hash,
) -> Result<usize, String> {
    let found = expected.find(uid).and_then(|at| Some((at, expected.rows().get(at)?)));
    let Some((at, row)) = found else {
        return Err(format!("holds {uid:.80}, which no row of the catalog names"));
    };
    if row.created_at != created_at || row.content != Some(content) {
        return Err(format!("holds other bytes or another time for {uid:.80}"));
    }
    Ok(at)
}
