//! The judge of a machine that loses power: what it ever reported stands, and what anything that
//! is whole names is whole. It reads the disk as it is after the power is back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use protocol::{Certificate, ContentHash, Receipt, Timestamp, WindowKey, names};
use sha2::{Digest as _, Sha256};

use super::super::audit::{Audited, audit, audit_under_way};
use super::super::files::Expected;
use super::super::oracle::{Bucket, Finding, Sin, named_by};
use super::ledger::LedgerState;

/// Findings after which no more are written down.
const MOST_FINDINGS: usize = 20;

/// The judge of one round.
pub(crate) struct Judge {
    expected: Arc<Expected>,
    bucket: Arc<Bucket>,
    /// The highest watermark that was ever reported or seen.
    reported: Option<Timestamp>,
    /// Certificates of windows that were committed when somebody looked.
    commits: BTreeMap<WindowKey, String>,
    findings: Vec<Finding>,
}

impl Judge {
    pub(crate) fn new(expected: Arc<Expected>, bucket: Arc<Bucket>) -> Self {
        Self { expected, bucket, reported: None, commits: BTreeMap::new(), findings: Vec::new() }
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(crate) fn found(&mut self, sin: Sin, count: u64, what: impl Into<String>) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding::new(sin, count, what));
        }
    }

    /// Takes in what a run logged: windows that it said were committed.
    pub(crate) fn heard(&mut self, log: &str) {
        for line in log.lines() {
            self.reported = self.reported.max(committed_until(line));
        }
    }

    /// Takes in a watermark that a run reported as its result.
    pub(crate) fn was_told(&mut self, watermark: Option<Timestamp>) {
        self.reported = self.reported.max(watermark);
    }

    /// Judges ledger and disk after a cut, with everything that was promised before it.
    pub(crate) fn look(&mut self, ledger: &LedgerState, is_over: bool) -> Audited {
        self.judge_watermark(ledger);
        self.judge_commits(ledger);
        let mut objects = Objects { bucket: &self.bucket, seen: HashMap::new(), found: Vec::new() };
        objects.judge_ledger(ledger);
        if let Err(error) = objects.judge_store() {
            objects.found.push(format!("the archive cannot be listed: {error:#}"));
        }
        for what in std::mem::take(&mut objects.found) {
            self.found(Sin::Wrong, 1, what);
        }
        let judged = if is_over { audit } else { audit_under_way };
        let standing = (&ledger.commits[..], ledger.watermark);
        let mut audited = judged(&self.bucket, &self.expected, standing, &ledger.errors);
        for finding in std::mem::take(&mut audited.findings) {
            self.found(finding.sin, finding.count, finding.what);
        }
        audited
    }

    fn judge_watermark(&mut self, ledger: &LedgerState) {
        if self.reported > ledger.watermark {
            let what = format!(
                "the watermark was reported at {}, and after the cut the ledger says {}",
                said(self.reported),
                said(ledger.watermark)
            );
            self.found(Sin::WatermarkRegression, 1, what);
        }
        self.reported = self.reported.max(ledger.watermark);
        let mut reached = ledger.origin;
        for commit in ledger.commits.iter().filter(|commit| commit.key.revision == 0) {
            if reached.is_some_and(|reached| commit.window.start() <= reached) {
                reached = reached.max(Some(commit.window.end()));
            }
        }
        if ledger.watermark > reached {
            let what = format!(
                "the watermark stands at {}, and committed windows reach to {}",
                said(ledger.watermark),
                said(reached)
            );
            self.found(Sin::WatermarkRegression, 1, what);
        }
    }

    /// What was committed once stays so, with the same certificate.
    fn judge_commits(&mut self, ledger: &LedgerState) {
        let now: BTreeMap<WindowKey, String> =
            ledger.commits.iter().map(|it| (it.key, it.certificate.clone())).collect();
        for (key, before) in std::mem::take(&mut self.commits) {
            match now.get(&key) {
                Some(after) if *after == before => {}
                Some(after) => {
                    let what = format!("{key} was committed twice: {before} and {after}");
                    self.found(Sin::DoubleCommit, 1, what);
                }
                None => {
                    let what = format!("{key} was committed with {before}, and is not any more");
                    self.found(Sin::WatermarkRegression, 1, what);
                }
            }
        }
        self.commits = now;
    }
}

fn said(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "nothing".to_owned(), |time| time.to_string())
}

/// The end of the window that a line of the log says was committed.
fn committed_until(line: &str) -> Option<Timestamp> {
    let (_, end) = line.split_once(" committed window=")?;
    end.split(' ').next()?.parse().ok()
}

/// What lies on the disk, each object read once.
struct Objects<'a> {
    bucket: &'a Bucket,
    seen: HashMap<String, Result<u64, String>>,
    found: Vec<String>,
}

impl Objects<'_> {
    /// The ledger is never ahead of what was durable.
    fn judge_ledger(&mut self, ledger: &LedgerState) {
        for manifest in BTreeSet::from_iter(&ledger.manifests) {
            self.must_be_whole("the ledger", manifest, None);
        }
        for (receipt, _) in &ledger.receipts {
            self.must_be_whole("the ledger, as accepted,", receipt, None);
        }
    }

    /// Whatever is whole was written after what it names, and that was durable by then.
    fn judge_store(&mut self) -> anyhow::Result<()> {
        for key in list(&self.bucket.bucket_dir)? {
            let is_receipt = key.starts_with(names::RECEIPTS);
            if !is_receipt && !key.starts_with(names::CERTIFICATES) {
                continue;
            }
            let Ok(bytes) = self.bucket.read(&key) else { continue };
            if is_receipt {
                if names::content_hash(&key) != Some(ContentHash::of(&bytes)) {
                    continue;
                }
                let receipt = Receipt::decode(&bytes).with_context(|| key.clone())?;
                let shards = receipt.shards.into_iter().map(|it| (it.key, it.size));
                let big = receipt.big_files.into_iter().map(|it| (it.key, it.size));
                for (named, size) in shards.chain(big) {
                    self.must_be_whole(&format!("the receipt {key}"), &named, Some(size));
                }
            } else if let Ok(certificate) = Certificate::decode(&bytes) {
                for (named, size) in named_by(&certificate) {
                    self.must_be_whole(&format!("the certificate {key}"), &named, Some(size));
                }
            }
        }
        Ok(())
    }

    fn must_be_whole(&mut self, who: &str, key: &str, size: Option<u64>) {
        if !self.seen.contains_key(key) {
            let looked = self.look(key);
            self.seen.insert(key.to_owned(), looked);
        }
        let why = match (self.seen.get(key), size) {
            (Some(Err(why)), _) => why.clone(),
            (Some(Ok(found)), Some(size)) if *found != size => {
                format!("has {found} bytes instead of {size}")
            }
            _ => return,
        };
        self.found.push(format!(
            "{who} names {key}, which {why}: it was relied on before it was durable"
        ));
    }

    /// The size of an object whose bytes are those that its name stands for.
    fn look(&self, key: &str) -> Result<u64, String> {
        let bytes = self.bucket.read(key).map_err(|error| format!("cannot be read ({error})"))?;
        let is_right = match key.strip_prefix(names::BIG_FILES) {
            Some(sha256) => hex(&Sha256::digest(&bytes)) == sha256.trim_start_matches('/'),
            None => names::content_hash(key).is_none_or(|hash| hash == ContentHash::of(&bytes)),
        };
        if is_right { Ok(bytes.len() as u64) } else { Err("has other bytes".to_owned()) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names of all files below a directory; none where it is not there.
pub(crate) fn list(root: &Path) -> anyhow::Result<Vec<String>> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| directory.display().to_string()),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::super::journal::Journal;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn judge(dir: &Path) -> Judge {
        let journal = Arc::new(Journal::new(dir.to_owned()));
        let bucket = Bucket { journal, bucket_dir: dir.to_owned(), prefix: String::new() };
        Judge::new(Arc::new(Expected::new(Vec::new())), Arc::new(bucket))
    }

    #[test]
    fn a_line_says_how_far_it_came() {
        let line = "2026-11-23T03:00:00Z  INFO committed window=2026-11-06T00:00:00Z revision=0 \
                    from=2026-11-05T00:00:00Z files=3";
        assert_eq!(committed_until(line), Some(at("2026-11-06")));
        assert_eq!(committed_until("INFO planned window=2026-11-06T00:00:00Z revision=0"), None);
    }

    #[test]
    fn what_was_reported_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut it = judge(dir.path());
        it.was_told(Some(at("2026-11-06")));
        let ledger = LedgerState {
            watermark: Some(at("2026-11-05")),
            origin: Some(at("2026-11-05")),
            ..LedgerState::default()
        };
        it.look(&ledger, false);
        let sins: Vec<Sin> = it.findings().iter().map(|finding| finding.sin).collect();
        assert_eq!(sins, [Sin::WatermarkRegression], "{:?}", it.findings());
    }

    #[test]
    fn a_ledger_ahead_of_the_disk_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut it = judge(dir.path());
        let receipt = format!("{}/x/p0-{}.json", names::RECEIPTS, ContentHash::of(b"whole"));
        let path = dir.path().join(&receipt);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let ledger =
            LedgerState { receipts: vec![(receipt, String::new())], ..LedgerState::default() };
        it.look(&ledger, false);
        std::fs::write(&path, b"").expect("written");
        it.look(&ledger, false);
        assert_eq!(it.findings().len(), 2, "{:?}", it.findings());
        assert!(it.findings().iter().all(|it| it.what.contains("before it was durable")));
    }
}
