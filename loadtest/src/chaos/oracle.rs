//! The oracle: what must never be, judged all the time from what the ledger and the bucket say.
//!
//! It believes no word of the product's: rows are those that the harness made, bytes those that
//! lie in the bucket.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use protocol::{Certificate, NBits, PartitionId, Receipt, Tally, Timestamp, WindowKey, names};
use serde::Serialize;

use super::files::Expected;
use super::fleet::N_BITS;
use super::journal::{Journal, Written};
use super::watch::{Accept, Commit, News, Step};

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sin {
    /// A row is neither in a shard nor an error row.
    Lost,
    /// Something is there, and is not what it claims to be.
    Wrong,
    /// The watermark went back, or over a window that is not committed.
    WatermarkRegression,
    /// A window was committed twice, or by an epoch that no longer led.
    DoubleCommit,
    /// The fleet did not end its work, or did not end.
    Stuck,
}

/// A sin that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) sin: Sin,
    /// Of rows or objects.
    pub(crate) count: u64,
    pub(crate) what: String,
}

impl Finding {
    pub(crate) fn new(sin: Sin, count: u64, what: impl Into<String>) -> Self {
        Self { sin, count, what: what.into() }
    }
}

/// Findings of one kind that are written down; more are only counted.
const MOST_FINDINGS: usize = 20;

/// Where an archive lies in the bucket, and how to read it past every fault.
pub(crate) struct Bucket {
    pub(crate) journal: Arc<Journal>,
    pub(crate) bucket_dir: std::path::PathBuf,
    /// What the names of this archive begin with in the bucket, with its slash.
    pub(crate) prefix: String,
}

impl Bucket {
    /// An object's bytes as they lie there.
    pub(crate) fn read(&self, key: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.bucket_dir.join(format!("{}{key}", self.prefix)))
    }
}

/// The judge of one round.
pub(crate) struct Oracle {
    expected: Arc<Expected>,
    bucket: Arc<Bucket>,
    watermark: Option<Timestamp>,
    /// Where the harness itself is about to move the watermark back to: once each.
    adjustments: Vec<Timestamp>,
    commits: BTreeMap<WindowKey, Commit>,
    /// Objects that a receipt or certificate names, with who names them first.
    named: HashMap<String, String>,
    /// Objects that a committed certificate names.
    certified: HashSet<String>,
    /// Objects that were removed since the look before: judged when the ledger has been asked again,
    /// which may have committed what they belong to.
    removed: Vec<String>,
    accepted: BTreeSet<(WindowKey, PartitionId)>,
    /// What lies under each name, as of the part of the journal that was read.
    there: HashMap<String, (blake3::Hash, u64)>,
    read_to: usize,
    findings: Vec<Finding>,
}

impl Oracle {
    pub(crate) fn new(expected: Arc<Expected>, bucket: Arc<Bucket>) -> Self {
        let (_, read_to) = bucket.journal.since(usize::MAX);
        Self {
            expected,
            bucket,
            watermark: None,
            adjustments: Vec::new(),
            commits: BTreeMap::new(),
            named: HashMap::new(),
            certified: HashSet::new(),
            removed: Vec::new(),
            accepted: BTreeSet::new(),
            there: HashMap::new(),
            read_to,
            findings: Vec::new(),
        }
    }

    /// The harness is about to move the watermark back itself, once, to this time.
    pub(crate) fn expect_adjustment(&mut self, to: Timestamp) {
        self.adjustments.push(to);
    }

    pub(crate) fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    pub(crate) fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.values()
    }

    /// Partitions with an accepted receipt.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(crate) fn found(&mut self, finding: Finding) {
        if self.findings.iter().filter(|it| it.sin == finding.sin).count() < MOST_FINDINGS {
            self.findings.push(finding);
        } else if let Some(last) = self.findings.iter_mut().rfind(|it| it.sin == finding.sin) {
            last.count += finding.count;
        }
    }

    /// Takes in what is new, and judges it.
    pub(crate) fn look(&mut self, news: &News) {
        let removed = std::mem::take(&mut self.removed);
        let (written, read_to) = self.bucket.journal.since(self.read_to);
        self.read_to = read_to;
        for object in &written {
            self.judge_object(object);
        }
        for accept in &news.accepts {
            self.judge_accept(accept);
        }
        for commit in &news.commits {
            self.judge_commit(commit);
        }
        for step in &news.steps {
            self.judge_step(*step);
        }
        for key in removed {
            self.judge_removal(&key);
        }
    }

    fn judge_object(&mut self, object: &Written) {
        let Some(key) = object.key.strip_prefix(&self.bucket.prefix).map(str::to_owned) else {
            return;
        };
        match object.content {
            Some(content) => self.there.insert(key.clone(), content),
            None => self.there.remove(&key),
        };
        if object.content.is_none() {
            return self.removed.push(key);
        }
        let staging = !key.starts_with('_') && names::content_hash(&key).is_none();
        if let Some(why) = object.complaint().filter(|_| !staging) {
            let who = self.named.get(&key).map(|who| format!("; {who} names it"));
            self.found(Finding::new(Sin::Wrong, 1, why + &who.unwrap_or_default()));
        }
        if key.starts_with(names::RECEIPTS) {
            self.judge_receipt(&key);
        }
    }

    /// An object that was removed: nothing may rely on it, or come to rely on it. Of a pass that is
    /// committed that is what its certificate names; of any other, whatever anybody named.
    fn judge_removal(&mut self, key: &str) {
        let n_bits = NBits::new(N_BITS).ok();
        let pass = n_bits.and_then(|bits| names::parse(key, bits)?.window());
        let is_over = pass.is_some_and(|pass| {
            let meets = |it: &Commit| it.window.start() < pass.end && pass.end < it.window.end();
            self.commits.contains_key(&pass) || self.commits.values().any(meets)
        });
        if let Some(who) = self.named.get(key)
            && (!is_over || self.certified.contains(key))
        {
            let what = format!("{key} was removed; {who} names it");
            self.found(Finding::new(Sin::Wrong, 1, what));
        }
    }

    /// A receipt that has just been written: everything it names must be there already.
    fn judge_receipt(&mut self, key: &str) {
        let decoded = self.bucket.read(key).map_err(|error| error.to_string());
        let receipt = match decoded
            .and_then(|bytes| Receipt::decode(&bytes).map_err(|error| error.to_string()))
        {
            Ok(receipt) => receipt,
            Err(why) => return self.found(Finding::new(Sin::Wrong, 1, format!("{key}: {why}"))),
        };
        let shards = receipt.shards.iter().map(|it| (it.key.as_str(), it.size));
        let big = receipt.big_files.iter().map(|it| (it.key.as_str(), it.size));
        for (named, size) in shards.chain(big) {
            if self.there.get(named).is_none_or(|there| there.1 != size) {
                let what = format!(
                    "the receipt {key} was written before {named}, which it names, was durable"
                );
                self.found(Finding::new(Sin::Wrong, 1, what));
            }
            self.named.entry(named.to_owned()).or_insert_with(|| key.to_owned());
        }
    }

    fn judge_accept(&mut self, accept: &Accept) {
        self.accepted.insert((accept.key, accept.partition));
        let key = &accept.receipt;
        let decoded = self.bucket.read(key).map_err(|error| error.to_string());
        let decoded = decoded.and_then(|bytes| {
            let size = bytes.len() as u64;
            Ok((Receipt::decode(&bytes).map_err(|error| error.to_string())?, size))
        });
        let why = match decoded {
            Err(why) => Some(format!("cannot be read ({why})")),
            Ok((receipt, size)) => {
                let stated = (receipt.failed.rows, size, receipt.packed.rows + receipt.failed.rows);
                let in_ledger = (accept.files_failed, accept.receipt_size, accept.rows);
                (stated != in_ledger).then(|| {
                    format!("states {stated:?} (failed, bytes, rows), and the ledger {in_ledger:?}")
                })
            }
        };
        if let Some(why) = why {
            let (window, partition) = (accept.key, accept.partition);
            let what = format!(
                "the ledger accepted for {window} partition {partition} {key}, which {why}"
            );
            self.found(Finding::new(Sin::Wrong, 1, what));
        }
        self.named.entry(key.clone()).or_insert_with(|| "the ledger".to_owned());
    }

    fn judge_commit(&mut self, commit: &Commit) {
        let key = commit.key;
        if let Some(before) = self.commits.get(&key) {
            if before.certificate != commit.certificate {
                let what = format!(
                    "{key} was committed twice: {} and {}",
                    before.certificate, commit.certificate
                );
                self.found(Finding::new(Sin::DoubleCommit, 1, what));
            }
            return;
        }
        self.commits.insert(key, commit.clone());
        let named_epoch = names::parse_certificate(&commit.certificate).map(|name| name.epoch);
        if named_epoch != Some(commit.lease_epoch) {
            let what = format!(
                "{key} was committed with {}, while the lease was at epoch {}: by a coordinator \
                 that no longer led",
                commit.certificate, commit.lease_epoch
            );
            self.found(Finding::new(Sin::DoubleCommit, 1, what));
        }
        let decoded = self.bucket.read(&commit.certificate).map_err(|error| error.to_string());
        match decoded.and_then(|bytes| Certificate::decode(&bytes).map_err(|it| it.to_string())) {
            Ok(certificate) => self.judge_certificate(commit, &certificate),
            Err(why) => {
                let what = format!("{key} was committed with {}: {why}", commit.certificate);
                self.found(Finding::new(Sin::Wrong, 1, what));
            }
        }
    }

    fn judge_certificate(&mut self, commit: &Commit, certificate: &Certificate) {
        let name = &commit.certificate;
        // A later revision holds only what the ones before it do not.
        let expected = self.expected.tally(commit.window);
        let stated = certificate.packed + certificate.failed;
        if commit.key.revision == 0 && stated != expected {
            let sin = if stated.rows < expected.rows { Sin::Lost } else { Sin::Wrong };
            let count = expected.rows.abs_diff(stated.rows).max(1);
            let what = format!(
                "{name} accounts for {} rows, and the catalog holds {} in {}",
                stated.rows, expected.rows, commit.window
            );
            self.found(Finding::new(sin, count, what));
        }
        let in_ledger = (commit.files_archived, commit.files_failed);
        if in_ledger != (certificate.packed.rows, certificate.failed.rows) {
            let what = format!(
                "the ledger counts {in_ledger:?} files archived and failed, and {name} {:?}",
                (certificate.packed.rows, certificate.failed.rows)
            );
            self.found(Finding::new(Sin::Wrong, 1, what));
        }
        let of_partitions: Tally = certificate.rows();
        let entries: u64 = certificate.shards.iter().map(|shard| shard.entries).sum();
        if of_partitions != stated || entries != certificate.packed.rows {
            let what = format!(
                "{name} counts {} rows packed and {} failed; its manifests hold {}, its shards {}",
                certificate.packed.rows, certificate.failed.rows, of_partitions.rows, entries
            );
            self.found(Finding::new(Sin::Wrong, 1, what));
        }
        for (object, size) in named_by(certificate) {
            if self.there.get(&object).is_none_or(|there| there.1 != size) {
                let what = format!("{name} names {object}, which is not there as it says");
                self.found(Finding::new(Sin::Wrong, 1, what));
            }
            self.certified.insert(object.clone());
            self.named.entry(object).or_insert_with(|| name.clone());
        }
        self.certified.insert(name.clone());
        self.named.entry(name.clone()).or_insert_with(|| "the ledger".to_owned());
    }

    fn judge_step(&mut self, Step { from, to }: Step) {
        let expected_from = self.watermark.unwrap_or(from);
        self.watermark = Some(to);
        let adjusted = self.adjustments.iter().position(|it| *it == to).filter(|_| to < from);
        let why = if let Some(at) = adjusted {
            self.adjustments.swap_remove(at);
            None
        } else if to < from {
            Some(format!("the watermark went back from {from} to {to}"))
        } else if from != expected_from {
            Some(format!(
                "the watermark moved from {from}, and it had been left at {expected_from}"
            ))
        } else {
            let covers = |it: &&Commit| it.window.end() == to && it.window.start() <= from;
            let covered = self.commits.values().find(covers).is_some();
            (!covered).then(|| {
                format!("the watermark passed {from} to {to}, which no committed window covers")
            })
        };
        if let Some(why) = why {
            self.found(Finding::new(Sin::WatermarkRegression, 1, why));
        }
    }
}

/// Every object that a certificate names, with its size.
pub(crate) fn named_by(certificate: &Certificate) -> Vec<(String, u64)> {
    let manifests = certificate.partitions.iter().map(|it| (it.manifest.clone(), it.manifest_size));
    let receipts = certificate.partitions.iter().map(|it| (it.receipt.clone(), it.receipt_size));
    let shards = certificate.shards.iter().map(|it| (it.key.clone(), it.size));
    let big = certificate.big_files.iter().map(|it| (it.key.clone(), it.size));
    manifests.chain(receipts).chain(shards).chain(big).collect()
}

#[cfg(test)]
mod tests;
