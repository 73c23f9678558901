//! The last word on a round: every shard that the certificates name is read from its first byte
//! to its last, every file in it compared with its source, and every row of the catalog looked
//! for.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use protocol::receipt::ShardRef;
use protocol::shard::{
    Content, HEADER_BYTES, IndexReader, Location, TailStep, check_header, read_tail,
};
use protocol::{Certificate, ContentHash, Fingerprint, WindowKey, names};

use super::files::{CatalogRow, Expected};
use super::oracle::{Bucket, Finding, Sin};
use super::watch::Commit;

/// Rows that are named in one finding.
const EXAMPLES: usize = 3;

/// What was found in the archive.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    /// Rows of which the bytes in the archive are those of their source.
    pub(crate) equal: u64,
    /// Rows that are recorded as failed, and rightly so.
    pub(crate) failed: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Reads everything that the committed windows name, and looks for other certificates.
pub(crate) fn audit(
    bucket: &Bucket,
    expected: &Expected,
    standing: (&[Commit], Option<protocol::Timestamp>),
    errors: &[(String, String)],
) -> Audited {
    let mut found = audit_under_way(bucket, expected, standing, errors);
    found.compare_listing(bucket, standing.0);
    found
}

/// Reads everything that the committed windows name, while another may be just being committed.
pub(crate) fn audit_under_way(
    bucket: &Bucket,
    expected: &Expected,
    (commits, settled_until): (&[Commit], Option<protocol::Timestamp>),
    errors: &[(String, String)],
) -> Audited {
    let mut audit = Audit {
        bucket,
        expected,
        seen: vec![0; expected.rows().len()],
        replaced: HashSet::new(),
        settled_until,
        found: Audited::default(),
    };
    audit.note_replaced(commits);
    for commit in commits {
        if let Err(error) = audit.certificate(commit) {
            audit.wrong(format!("{}: {error:#}", commit.certificate));
        }
    }
    audit.settle(errors);
    audit.found
}

struct Audit<'a> {
    bucket: &'a Bucket,
    expected: &'a Expected,
    /// How often the row is in a shard.
    seen: Vec<u32>,
    /// Shards that a later revision took the place of.
    replaced: HashSet<String>,
    settled_until: Option<protocol::Timestamp>,
    found: Audited,
}

impl Audited {
    fn wrong(&mut self, what: String) {
        self.findings.push(Finding::new(Sin::Wrong, 1, what));
    }

    /// The archive explains itself: the certificates that count by their names are the ones that
    /// the ledger has.
    fn compare_listing(&mut self, bucket: &Bucket, commits: &[Commit]) {
        let folder = bucket.bucket_dir.join(format!("{}{}", bucket.prefix, names::CERTIFICATES));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let listed = entries.filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            names::parse_certificate(&format!("{}/{name}", names::CERTIFICATES))
        });
        let listed: BTreeMap<WindowKey, u64> = names::effective_certificates(listed)
            .into_iter()
            .map(|it| (it.window, it.epoch))
            .collect();
        let in_ledger: BTreeMap<WindowKey, u64> = commits
            .iter()
            .filter_map(|commit| names::parse_certificate(&commit.certificate))
            .map(|it| (it.window, it.epoch))
            .collect();
        if listed != in_ledger {
            let differ = in_ledger.iter().find(|(window, epoch)| listed.get(window) != Some(epoch));
            let differ = differ
                .or_else(|| listed.iter().find(|(window, _)| !in_ledger.contains_key(window)));
            self.wrong(format!(
                "the bucket's certificates are not the ledger's: {} and {}, such as {differ:?}",
                listed.len(),
                in_ledger.len()
            ));
        }
    }
}

impl Audit<'_> {
    fn wrong(&mut self, what: String) {
        self.found.wrong(what);
    }

    fn note_replaced(&mut self, commits: &[Commit]) {
        for commit in commits {
            let bytes = self.bucket.read(&commit.certificate).unwrap_or_default();
            // One that cannot be read is spoken of below.
            let certificate = Certificate::decode(&bytes).ok();
            self.replaced.extend(certificate.into_iter().flat_map(|it| it.replaces));
        }
    }

    fn certificate(&mut self, commit: &Commit) -> anyhow::Result<()> {
        let certificate = Certificate::decode(&self.bucket.read(&commit.certificate)?)?;
        let replaced = std::mem::take(&mut self.replaced);
        for shard in certificate.shards.iter().filter(|it| !replaced.contains(&it.key)) {
            if let Err(error) = self.shard(shard) {
                self.wrong(format!("{}: {error:#}", shard.key));
            }
        }
        self.replaced = replaced;
        Ok(())
    }

    fn shard(&mut self, shard: &ShardRef) -> anyhow::Result<()> {
        let bytes = self.bucket.read(&shard.key).context("cannot be read")?;
        let hash = ContentHash::of(&bytes);
        anyhow::ensure!(
            names::content_hash(&shard.key) == Some(hash),
            "has other bytes than its name says"
        );
        anyhow::ensure!(bytes.len() as u64 == shard.size, "has another size than certified");
        let version = check_header(bytes.get(..8).unwrap_or_default())?;
        debug_assert_eq!(HEADER_BYTES, 8);
        let TailStep::Fast(tail) = read_tail(shard.size, &bytes)? else {
            anyhow::bail!("has no lookup extension");
        };
        let index = tail.index_range();
        let piece = |from: u64, to: u64| {
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default()
        };
        let index_bytes = piece(index.start, index.end);
        tail.check_index(index_bytes)?;
        let mut entries = IndexReader::new(version, index_bytes, index.start)?;
        for number in 0..tail.blocks() {
            let range = tail.block_range(number).context("a block is gone")?;
            let block = tail.parse_block(number, piece(range.start, range.end))?;
            for entry in block.entries() {
                let listed = entries.next_entry()?.context("the index ends too early")?;
                anyhow::ensure!(
                    Fingerprint::of(&listed.uid) == entry.fingerprint,
                    "index and blocks disagree about {}",
                    listed.uid
                );
                let held = match block.content(entry)? {
                    Content::File(raw) => blake3::hash(&raw),
                    Content::Big { sha256, .. } => self.big_file(&sha256, &listed.location)?,
                };
                self.row(&listed.uid, entry.created_at, held, &shard.key);
            }
        }
        anyhow::ensure!(entries.remaining() == 0, "its index lists more than it holds");
        Ok(())
    }

    fn big_file(&self, sha256: &str, location: &Location) -> anyhow::Result<blake3::Hash> {
        let Location::Beside { sha256: listed, .. } = location else {
            anyhow::bail!("the index says that {sha256} is inside");
        };
        anyhow::ensure!(listed == sha256, "index and block name different big files");
        Ok(blake3::hash(&self.bucket.read(&names::big_file(sha256))?))
    }

    fn row(&mut self, uid: &str, created_at: protocol::Timestamp, held: blake3::Hash, shard: &str) {
        let Some(at) = self.expected.find(uid) else {
            return self
                .wrong(format!("{shard} holds {uid:.80}, which no row of the catalog names"));
        };
        let Some(row) = self.expected.rows().get(at) else { return };
        if row.created_at != created_at || row.content != Some(held) {
            return self.wrong(format!("{shard} holds other bytes or another time for {uid:.80}"));
        }
        if let Some(seen) = self.seen.get_mut(at) {
            *seen += 1;
        }
    }

    /// Every row, once: in a shard, or an error row with a reason that is true.
    fn settle(&mut self, errors: &[(String, String)]) {
        let mut reasons: HashMap<usize, &str> = HashMap::new();
        for (uid, reason) in errors {
            match self.expected.find(uid) {
                Some(at) => {
                    if reasons.insert(at, reason).is_some() {
                        self.wrong(format!("{uid:.80} is an error row twice"));
                    }
                }
                None => self.wrong(format!("{uid:.80} is an error row, and no row of the catalog")),
            }
        }
        let (mut lost, mut twice, mut unfair) = (Vec::new(), Vec::new(), Vec::new());
        for (at, row) in self.expected.rows().iter().enumerate() {
            let seen = self.seen.get(at).copied().unwrap_or_default();
            match (seen, reasons.get(&at)) {
                (1, None) => self.found.equal += 1,
                (0, Some(reason)) if row.content.is_none() && *reason == row.reason => {
                    self.found.failed += 1;
                }
                // What is not settled yet is not lost either.
                (0, None) if self.settled_until.is_none_or(|until| row.created_at > until) => {}
                (0, None) => lost.push(row),
                (0, Some(_)) => unfair.push(row),
                _ => twice.push(row),
            }
        }
        let mut report = |sin, rows: Vec<&CatalogRow>, what: &str| {
            if !rows.is_empty() {
                let examples: Vec<String> = rows
                    .iter()
                    .take(EXAMPLES)
                    .map(|row| format!("{:.60} of {}", row.uid, row.created_at))
                    .collect();
                let what = format!("{} rows {what}, such as {}", rows.len(), examples.join(", "));
                self.found.findings.push(Finding::new(sin, rows.len() as u64, what));
            }
        };
        report(Sin::Lost, lost, "are neither in a shard nor error rows");
        report(Sin::Wrong, twice, "are in the archive more than once, or an error row besides");
        report(Sin::Wrong, unfair, "are error rows for a reason that is not so");
    }
}
