//! One round: a fresh disk, catalog and archive; cut after cut until everything is archived, the
//! judge looking after each; then everything is compared, and `des gc` has to leave what is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use protocol::Timestamp;

use super::super::audit::Audited;
use super::super::files::{Expected, Files, Manner};
use super::super::fleet::days_of;
use super::super::journal::Journal;
use super::super::leftovers;
use super::super::oracle::{Bucket, Sin};
use super::super::watch::now_micros;
use super::cuts::{Cuts, HARSHEST, Place, round_of};
use super::disk::Disk;
use super::judge::{Judge, list};
use super::ledger::{self, LedgerState};
use super::machine::{GC_GRACE, Machine, Met};
use super::report::{CutRecord, Dropped, PowerRound};

/// After so many cuts a round has not got on with its work.
const MOST_CUTS: usize = 200;

/// What all rounds of a run share.
pub(crate) struct Workshop {
    pub(crate) des: PathBuf,
    /// For what may be kept: logs, configurations, ledgers outside.
    pub(crate) dir: PathBuf,
    /// For the image and where it is mounted.
    pub(crate) images: PathBuf,
    pub(crate) files: Files,
    pub(crate) partition_rows: u64,
    pub(crate) sabotage: Option<&'static str>,
}

/// A round under way.
struct Round {
    disk: Disk,
    machine: Machine,
    judge: Judge,
    bucket: Arc<Bucket>,
    place: Place,
    cutoff: Timestamp,
    report: PowerRound,
}

impl Workshop {
    /// Runs a round to its end, or to its first finding.
    pub(crate) async fn round(&self, number: u64, cuts: &mut Cuts) -> anyhow::Result<PowerRound> {
        let now = Timestamp::from_micros(now_micros()).context("the clock is out of range")?;
        let (first_day, cutoff) = days_of(now);
        let expected = Arc::new(Expected::new(self.files.rows(first_day, number, Manner::Plain)));
        let (place, options) = round_of(number);
        let images = self.images.join(format!("disk-{number}"));
        let dir = self.dir.join(format!("round-{number}"));
        for each in [&images, &dir] {
            std::fs::create_dir_all(each).with_context(|| each.display().to_string())?;
        }
        let options = if self.sabotage.is_some() { HARSHEST } else { options };
        let disk = Disk::make(&images, options)?;
        let rows = (self.files.root.as_path(), expected.rows());
        let at = (dir.as_path(), &disk, place);
        let mut machine = Machine::make(&self.des, at, rows, self.partition_rows).await?;
        if let Some(name) = self.sabotage {
            machine.sabotage(name);
        }
        let archive = machine.archive.clone();
        let bucket = Arc::new(Bucket {
            journal: Arc::new(Journal::new(archive.clone())),
            bucket_dir: archive,
            prefix: String::new(),
        });
        let judge = Judge::new(expected, Arc::clone(&bucket));
        let report = PowerRound::default();
        let mut round = Round { disk, machine, judge, bucket, place, cutoff, report };
        round.all_cuts(cuts).await?;
        let mut report = round.report;
        report.findings = round.judge.findings().to_vec();
        drop(round.disk);
        std::fs::remove_dir_all(&images).with_context(|| images.display().to_string())?;
        Ok(report)
    }
}

impl Round {
    async fn all_cuts(&mut self, cuts: &mut Cuts) -> anyhow::Result<()> {
        loop {
            let cut = cuts.next(self.place);
            let met = self.machine.run_into(cut, &self.disk).await?;
            self.judge.heard(&self.machine.said());
            match met {
                Met::Running => {
                    cuts.met(self.place, cut);
                    self.note(cut.kind(), true)?;
                    self.after_a_cut().await?;
                }
                Met::Ended(status) if status.success() => return self.the_end().await,
                Met::Ended(status) => {
                    let what = format!(
                        "des migrate ended by itself with {status}: {}",
                        self.machine.last_words()
                    );
                    self.judge.found(Sin::Stuck, 1, what);
                }
                Met::Hung => {
                    let what = format!("des migrate hangs: {}", self.machine.last_words());
                    self.judge.found(Sin::Stuck, 1, what);
                }
            }
            if self.report.cuts.len() >= MOST_CUTS {
                let what = format!("after {MOST_CUTS} cuts it is still not done");
                self.judge.found(Sin::Stuck, 1, what);
            }
            if !self.judge.findings().is_empty() {
                return Ok(());
            }
        }
    }

    /// Lets the power come back, and notes what the cut took.
    fn note(&mut self, kind: String, met_process: bool) -> anyhow::Result<()> {
        let before = contents(&self.machine.archive)?;
        self.disk.power_on()?;
        let after = contents(&self.machine.archive)?;
        let dropped = dropped(&before, &after);
        self.report.cuts.push(CutRecord { kind, place: self.place, met_process, dropped });
        Ok(())
    }

    async fn look(&mut self, is_over: bool) -> anyhow::Result<(LedgerState, Audited)> {
        match ledger::read(&self.machine.ledger).await {
            Ok(ledger) => {
                let audited = self.judge.look(&ledger, is_over);
                Ok((ledger, audited))
            }
            Err(error) => {
                self.judge.found(Sin::Wrong, 1, format!("after a cut: {error:#}"));
                Ok((LedgerState::default(), Audited::default()))
            }
        }
    }

    async fn after_a_cut(&mut self) -> anyhow::Result<()> {
        let (ledger, _) = self.look(false).await?;
        // Without an archive, which the first run makes, there is nothing to verify.
        if !ledger.commits.is_empty() {
            self.verify().await;
        }
        Ok(())
    }

    async fn verify(&mut self) {
        if let Err(error) = self.machine.command(&["verify", "--deep"]).await {
            self.judge.found(Sin::Wrong, 1, format!("{error:#}"));
        }
    }

    /// Everything is archived, and des has said so. The power fails once more, and all of it is to
    /// be there.
    async fn the_end(&mut self) -> anyhow::Result<()> {
        let result = self.machine.result().context("des migrate printed no result")?;
        let told: Timestamp =
            result["archived_until"].as_str().context("no archived_until")?.parse()?;
        self.judge.was_told(Some(told));
        if told < self.cutoff {
            let what = format!("des migrate ended at {told}, before {}", self.cutoff);
            self.judge.found(Sin::Stuck, 1, what);
        }
        self.disk.commit_journal()?;
        self.disk.cut()?;
        self.note("after the end".to_owned(), false)?;
        let (ledger, audited) = self.look(true).await?;
        self.report.settled = audited.equal + audited.failed;
        self.report.windows = ledger.commits.len() as u64;
        self.verify().await;
        if self.judge.findings().is_empty() {
            self.report.objects_collected = self.collect_garbage().await?;
            let bucket = Arc::clone(&self.bucket);
            let commits = ledger.commits;
            let left = tokio::task::spawn_blocking(move || leftovers::judge(&bucket, &commits));
            for finding in left.await?? {
                self.judge.found(finding.sin, finding.count, finding.what);
            }
        }
        Ok(())
    }

    /// Runs `des gc`; the number of objects that it removed.
    async fn collect_garbage(&self) -> anyhow::Result<u64> {
        tokio::time::sleep(GC_GRACE * 2).await;
        let words = ["gc", "--reason", "the round is over", "--output", "json"];
        let report: serde_json::Value = serde_json::from_str(&self.machine.command(&words).await?)?;
        let kinds = ["certificates", "receipts", "shards", "manifests", "staging"];
        Ok(kinds.iter().filter_map(|kind| report[kind]["objects"].as_u64()).sum())
    }
}

type Contents = BTreeMap<String, (u64, Option<blake3::Hash>)>;

/// Every file below a directory, with size and hash of its bytes.
fn contents(root: &Path) -> anyhow::Result<Contents> {
    let mut found = BTreeMap::new();
    for name in list(root)? {
        // Right after a cut some bytes may be neither in memory nor on the disk.
        let bytes = std::fs::read(root.join(&name)).ok();
        let size = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        found.insert(name, (size, bytes.map(|bytes| blake3::hash(&bytes))));
    }
    Ok(found)
}

/// What was there and is not, or not as it was.
fn dropped(before: &Contents, after: &Contents) -> Dropped {
    let mut dropped = Dropped::default();
    for (name, (size, hash)) in before {
        let left = match after.get(name) {
            Some((_, left)) if left == hash => continue,
            // Of the right size, and of other bytes: all of it is gone.
            Some((left, _)) if left < size => *left,
            _ => 0,
        };
        dropped.files += 1;
        dropped.bytes += size - left;
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::names;

    #[test]
    fn what_a_cut_took_is_counted() {
        let file = |bytes: &[u8]| (bytes.len() as u64, Some(blake3::hash(bytes)));
        let before: Contents = [
            (names::ARCHIVE.to_owned(), file(b"stays")),
            ("gone".to_owned(), file(b"1234")),
            ("empty now".to_owned(), file(b"12")),
            ("garbage now".to_owned(), file(b"123")),
        ]
        .into();
        let mut after = before.clone();
        after.remove("gone");
        after.insert("empty now".to_owned(), file(b""));
        after.insert("garbage now".to_owned(), file(b"xyz"));
        assert_eq!(dropped(&before, &after), Dropped { files: 3, bytes: 9 });
        assert_eq!(dropped(&before, &before), Dropped::default());
    }
}
