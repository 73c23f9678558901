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
    /// itself: until it is restored, or replaced, it says nothing about des.
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
