//! Reads rows back while a round goes on: every shard as soon as a certificate that counts names it,
//! and after that a few of the older ones at every look.
//!
//! It reads where the objects lie, past every proxy and the S3 server, and judges one state of the
//! ledger at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use protocol::receipt::ShardRef;
use protocol::{Certificate, Timestamp};

use super::audit::{Seen, When, settle};
use super::dice::Dice;
use super::files::Expected;
use super::oracle::{Bucket, Finding, Sin};
use super::shard;
use super::watch::Commit;

/// Shards that were read before and are read again at each look.
const AGAIN_AT_A_LOOK: usize = 2;

/// What is committed, in one state of the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) commits: Vec<Commit>,
    /// Rows that are recorded as failed, by uid, with their reasons.
    pub(crate) errors: Vec<(String, String)>,
}

/// What was read back in one round.
pub(crate) struct ReadBack {
    expected: Arc<Expected>,
    bucket: Arc<Bucket>,
    dice: Dice,
    /// By their names.
    certificates: HashMap<String, Certificate>,
    /// Rows of the shards that were read, as they were first found.
    held: BTreeMap<String, Vec<usize>>,
    /// Shards of which was told already what is wrong with them.
    told: HashSet<String>,
    /// The watermark and the number of commits that rows were last looked for under.
    settled: (Option<Timestamp>, usize),
    rows: u64,
}

impl ReadBack {
    pub(crate) fn new(
        expected: Arc<Expected>,
        bucket: Arc<Bucket>,
        (seed, round): (u64, u64),
    ) -> Self {
        Self {
            expected,
            bucket,
            dice: Dice::new(seed, "read back", round),
            certificates: HashMap::new(),
            held: BTreeMap::new(),
            told: HashSet::new(),
            settled: (None, 0),
            rows: 0,
        }
    }

    /// How many rows were compared with their sources, each time that they were.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads what is new and a little of what is old, and looks for every row at or below the
    /// watermark where anything moved. `is_harmed` tells of a shard that the harness has harmed
    /// itself: that it cannot be read says nothing about des. The end of the round judges those.
    pub(crate) fn look(
        &mut self,
        now: &Committed,
        is_harmed: impl Fn(&str) -> bool,
    ) -> Vec<Finding> {
        self.learn(&now.commits);
        let standing = self.standing(&now.commits);
        let (old, new): (Vec<_>, Vec<_>) =
            standing.values().partition(|it| self.held.contains_key(&it.key));
        let again: Vec<&ShardRef> = (0..AGAIN_AT_A_LOOK)
            .filter_map(|_| {
                let at = usize::try_from(self.dice.below(old.len() as u64)).ok()?;
                old.get(at).copied()
            })
            .collect();
        let mut findings = Vec::new();
        for shard in new.into_iter().chain(again) {
            self.read(shard, &is_harmed, &mut findings);
        }
        let moved = (now.watermark, now.commits.len());
        if self.settled != moved {
            self.settled = moved;
            let mut seen = Seen::none(&self.expected);
            for rows in standing.keys().filter_map(|key| self.held.get(key)) {
                seen.count(rows);
            }
            let when = (now.watermark, When::UnderWay);
            findings.extend(settle(&self.expected, &seen, &now.errors, when).findings);
        }
        findings
    }

    /// Reads certificates that are new. One that cannot be read is judged by the oracle.
    fn learn(&mut self, commits: &[Commit]) {
        for commit in commits {
            if !self.certificates.contains_key(&commit.certificate)
                && let Ok(bytes) = self.bucket.read(&commit.certificate)
                && let Ok(certificate) = Certificate::decode(&bytes)
            {
                self.certificates.insert(commit.certificate.clone(), certificate);
            }
        }
    }

    /// The shards that count, by name: those that no later revision took the place of.
    fn standing(&self, commits: &[Commit]) -> BTreeMap<String, ShardRef> {
        let read = || commits.iter().filter_map(|it| self.certificates.get(&it.certificate));
        let replaced: BTreeSet<&String> = read().flat_map(|it| &it.replaces).collect();
        let shards = read().flat_map(|it| &it.shards).filter(|it| !replaced.contains(&it.key));
        shards.map(|it| (it.key.clone(), it.clone())).collect()
    }

    fn read(
        &mut self,
        shard: &ShardRef,
        is_harmed: &impl Fn(&str) -> bool,
        findings: &mut Vec<Finding>,
    ) {
        let wrong = match shard::read(&self.bucket, &self.expected, shard) {
            Ok(held) => {
                self.rows += held.rows.len() as u64;
                self.held.entry(shard.key.clone()).or_insert(held.rows);
                held.wrong
            }
            // Whoever harms one says so before.
            Err(_) if is_harmed(&shard.key) => return,
            Err(error) => {
                self.held.entry(shard.key.clone()).or_default();
                vec![format!("{}: {error:#}", shard.key)]
            }
        };
        if !wrong.is_empty() && self.told.insert(shard.key.clone()) {
            let found = |what| Finding::new(Sin::Wrong, 1, format!("read back under way: {what}"));
            findings.extend(wrong.into_iter().map(found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::files::CatalogRow;
    use crate::chaos::journal::Journal;
    use protocol::codec::CompressionCodec;
    use protocol::shard::{Entry, Payload, ShardWriter};
    use protocol::{Fingerprint, Window, WindowKey, names};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn row(uid: &str, created_at: &str) -> CatalogRow {
        CatalogRow {
            uid: uid.to_owned(),
            created_at: at(created_at),
            location: "/nowhere".into(),
            size: 0,
            content: Some(blake3::hash(b"")),
            reason: "missing",
            is_late: false,
            is_hidden: false,
        }
    }

    /// A shard with these rows, whose files are empty, as it is named.
    fn shard(rows: &[CatalogRow]) -> (Vec<u8>, ShardRef) {
        let mut rows: Vec<&CatalogRow> = rows.iter().collect();
        rows.sort_by_key(|row| Fingerprint::of(&row.uid));
        let mut writer = ShardWriter::new(at("2024-06-01T12:00:00Z").day());
        for row in rows {
            let empty = Payload::File {
                codec: CompressionCodec::None,
                stored: b"",
                raw_size: 0,
                crc32c: 0,
            };
            let entry = Entry {
                uid: &row.uid,
                fingerprint: Fingerprint::of(&row.uid),
                created_at: row.created_at,
                payload: empty,
            };
            writer.push(entry).expect("it takes it");
        }
        let (bytes, summary) = writer.finish();
        let key = format!("20240601_0_20240602T000000Z_r0000_0000-{}.des", summary.hash);
        let shard = ShardRef::new(key, &summary);
        (bytes, shard)
    }

    /// One committed window, whose certificate names one shard.
    struct Place {
        dir: tempfile::TempDir,
        reading: ReadBack,
        now: Committed,
        key: String,
    }

    fn place(packed: &[CatalogRow], rows: Vec<CatalogRow>) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let (bytes, shard) = shard(packed);
        let key = shard.key.clone();
        let window = Window::new(at("2024-06-01"), at("2024-06-02")).expect("a window");
        let text = include_bytes!("../../../protocol/fixtures/v1/certificate.json");
        let mut certificate = Certificate::decode(text).expect("a certificate");
        (certificate.shards, certificate.replaces) = (vec![shard], Vec::new());
        let name = names::certificate(WindowKey::new(window, 0), 1);
        for (name, bytes) in [(&key, bytes), (&name, certificate.encode())] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
        let bucket = Bucket {
            journal: Arc::new(Journal::new(dir.path().to_owned())),
            bucket_dir: dir.path().to_owned(),
            prefix: String::new(),
        };
        let reading = ReadBack::new(Arc::new(Expected::new(rows)), Arc::new(bucket), (1, 1));
        let commit = Commit {
            window,
            key: WindowKey::new(window, 0),
            certificate: name,
            lease_epoch: 1,
            files_archived: 0,
            files_failed: 0,
        };
        let now =
            Committed { watermark: Some(window.end()), commits: vec![commit], errors: Vec::new() };
        Place { dir, reading, now, key }
    }

    fn two_rows() -> Vec<CatalogRow> {
        vec![row("a", "2024-06-01T10:00:00Z"), row("b", "2024-06-01T11:00:00Z")]
    }

    #[test]
    fn a_row_below_the_watermark_that_no_shard_holds_is_lost_unless_it_is_an_error_row() {
        let mut all = two_rows();
        all.push(row("c", "2024-06-01T12:00:00Z"));
        all.push(row("d", "2024-06-02T12:00:00Z"));
        let Place { mut reading, mut now, dir: _dir, .. } = place(&two_rows(), all);
        let found = reading.look(&now, |_| false);
        assert_eq!(found.iter().map(|it| (it.sin, it.count)).collect::<Vec<_>>(), [(Sin::Lost, 1)]);
        assert_eq!(reading.rows(), 2);
        now.errors.push(("c".to_owned(), "missing".to_owned()));
        now.watermark = Some(at("2024-06-01T23:00:00Z"));
        let unfair = reading.look(&now, |_| false);
        assert_eq!(unfair.iter().map(|it| it.sin).collect::<Vec<_>>(), [Sin::Wrong]);
    }

    #[test]
    fn a_shard_that_goes_bad_after_it_was_read_is_found_unless_the_harness_did_it() {
        let Place { mut reading, now, dir, key } = place(&two_rows(), two_rows());
        assert_eq!(reading.look(&now, |_| false), []);
        std::fs::write(dir.path().join(&key), b"something else").expect("written");
        assert_eq!(reading.look(&now, |harmed| harmed == key), []);
        let found = reading.look(&now, |_| false);
        assert!(matches!(&found[..], [it] if it.what.contains("other bytes")), "{found:?}");
        assert_eq!(reading.look(&now, |_| false), [], "it is told once");
    }
}
