//! The operator of a round: runs, while faults go on, the commands that operators run, harms shards
//! that a replay has to restore, and lets rows come late. Whatever moves the watermark back is
//! written down before.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use protocol::{Certificate, ContentHash, Timestamp, names};
use sqlx::Row as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::dice::Dice;
use super::files::{CatalogRow, Expected, hidden_path};
use super::fleet::{Commands, insert};
use super::oracle::{Bucket, Finding, Sin};
use super::report::OfCommand;
use super::watch::{Commit, connect};

/// The wait between two commands, in milliseconds.
const PAUSE_MS: (u64, u64) = (200, 1_500);
/// A command that takes longer under faults is killed; what it asked for stays on record.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// When faults are over, everything is done within this time.
const FINISH_LIMIT: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A round is not over before so many commands were run, well or not.
const LEAST_COMMANDS: u64 = 15;
/// Late rows that come, and hidden files that are put back, at a time.
const AT_A_TIME: usize = 12;
/// Days that the watermark is moved back at most.
const MOST_DAYS_BACK: u64 = 3;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What is committed, as the oracle last saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) commits: Vec<Commit>,
}

/// The operator of one round.
pub(crate) struct Operator {
    commands: Commands,
    direct_url: String,
    database: Arc<Database>,
    expected: Arc<Expected>,
    bucket: Arc<Bucket>,
    standing: Mutex<Standing>,
    /// Where the watermark is about to be moved back to, until the oracle has been told.
    adjustments: Mutex<Vec<Timestamp>>,
    left: Mutex<Left>,
    counts: Mutex<BTreeMap<&'static str, OfCommand>>,
}

/// What is still to be undone.
#[derive(Default)]
struct Left {
    /// Rows that have not come yet, and files that are away, by their place among the rows.
    late: Vec<usize>,
    hidden: Vec<usize>,
    /// Shards that were harmed, with the ends of their windows.
    harmed: Vec<(String, Timestamp)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operator {
    /// Takes the files away that are hidden at first.
    pub(crate) fn begin(
        commands: Commands,
        (direct_url, database): (&str, &Arc<Database>),
        expected: &Arc<Expected>,
        bucket: &Arc<Bucket>,
    ) -> anyhow::Result<Self> {
        let rows = expected.rows();
        let which = |is: fn(&CatalogRow) -> bool| {
            rows.iter().enumerate().filter(|(_, row)| is(row)).map(|(at, _)| at).collect()
        };
        let left = Left {
            late: which(|row| row.is_late),
            hidden: which(|row| row.is_hidden),
            harmed: Vec::new(),
        };
        let it = Self {
            commands,
            direct_url: direct_url.to_owned(),
            database: Arc::clone(database),
            expected: Arc::clone(expected),
            bucket: Arc::clone(bucket),
            standing: Mutex::default(),
            adjustments: Mutex::default(),
            counts: Mutex::default(),
            left: Mutex::default(),
        };
        for row in left.hidden.iter().filter_map(|at| rows.get(*at)) {
            std::fs::rename(&row.location, hidden_path(&row.location))
                .with_context(|| row.location.display().to_string())?;
        }
        *lock(&it.left) = left;
        Ok(it)
    }

    /// What the oracle saw.
    pub(crate) fn stands(&self, standing: Standing) {
        *lock(&self.standing) = standing;
    }

    /// Where the watermark may be moved back to, since the last time this was asked.
    pub(crate) fn take_adjustments(&self) -> Vec<Timestamp> {
        std::mem::take(&mut *lock(&self.adjustments))
    }

    /// Whether it has harmed this shard itself, and so has to make it good.
    pub(crate) fn has_harmed(&self, key: &str) -> bool {
        lock(&self.left).harmed.iter().any(|(harmed, _)| harmed == key)
    }

    pub(crate) fn counts(&self) -> Vec<OfCommand> {
        lock(&self.counts).values().cloned().collect()
    }

    /// Whether the round may end.
    pub(crate) fn did_enough(&self) -> bool {
        lock(&self.counts).values().map(|it| it.done + it.failed).sum::<u64>() >= LEAST_COMMANDS
    }

    /// Runs commands until `ended`.
    pub(crate) async fn work(
        &self,
        (seed, round): (u64, u64),
        ended: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut dice = Dice::new(seed, "operator", round);
        while !ended.is_cancelled() {
            let pause = Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1));
            tokio::select! {
                () = ended.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            // Under faults a command may fail: what it was to do is done again, by another.
            let _counted = self.step(&mut dice, &ended).await?;
        }
        Ok(())
    }

    async fn step(
        &self,
        dice: &mut Dice,
        ended: &CancellationToken,
    ) -> anyhow::Result<Result<(), String>> {
        if let Some(end) = self.held().await?.first() {
            let end = end.to_string();
            let by_release = dice.below(2) == 0;
            if !by_release && dice.below(4) > 0 {
                self.put_back(usize::MAX)?;
            }
            return Ok(match by_release {
                true => self.run(&["release", "--window", &end, "--reason", "chaos"], ended).await,
                false => self.run(&["retry", "--window", &end], ended).await,
            });
        }
        let Standing { watermark, commits } = lock(&self.standing).clone();
        let (Some(watermark), Some(commit)) = (watermark, pick(&commits, dice)) else {
            return Ok(Ok(()));
        };
        let harmed = lock(&self.left).harmed.first().cloned();
        Ok(match dice.below(10) {
            0..=2 => {
                let end = match harmed.filter(|(key, _)| !self.is_sound(key)) {
                    Some((_, end)) => end,
                    None => self.harm(commit, dice)?.unwrap_or_else(|| commit.window.end()),
                };
                self.run(&["replay", "--window", &end.to_string()], ended).await
            }
            3 => {
                let (from, to) = (commit.window.start().to_string(), watermark.to_string());
                self.run(&["replay", "--from", &from, "--to", &to], ended).await
            }
            4..=6 => {
                self.let_come(Some(watermark), AT_A_TIME).await?;
                self.run(&["reconcile", "--all"], ended).await
            }
            7..=8 => {
                self.put_back(AT_A_TIME)?;
                self.run(&["retry-failed", "--all"], ended).await
            }
            _ => {
                let days = i64::try_from(1 + dice.below(MOST_DAYS_BACK)).unwrap_or(1);
                let back = watermark.saturating_add_micros(-days * MICROS_PER_DAY);
                let lowest = commits.iter().map(|it| it.window.start()).min();
                let to = lowest.map_or(watermark, |lowest| back.max(lowest));
                lock(&self.adjustments).push(to);
                let words = ["adjust", "--set-date", &to.to_string(), "--reason", "chaos"];
                self.run(&words, ended).await
            }
        })
    }

    /// Runs a command, unless or until the round is over; counts how it ended.
    async fn run(&self, words: &[&str], ended: &CancellationToken) -> Result<(), String> {
        let done = tokio::select! {
            () = ended.cancelled() => return Err("the round is over".to_owned()),
            done = tokio::time::timeout(COMMAND_LIMIT, self.commands.run(words)) => done,
        };
        let done = match done {
            Ok(Ok(_printed)) => Ok(()),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_elapsed) => Err(format!("des {words:?} takes more than {COMMAND_LIMIT:?}")),
        };
        let name = NAMES.iter().find(|name| words.first() == Some(name)).copied();
        let mut counts = lock(&self.counts);
        let count = counts.entry(name.unwrap_or("other")).or_default();
        count.command = name.unwrap_or("other").to_owned();
        match done {
            Ok(()) => count.done += 1,
            Err(_) => count.failed += 1,
        }
        done
    }

    /// Ends of windows that are held.
    async fn held(&self) -> anyhow::Result<Vec<Timestamp>> {
        let _calm = self.database.calm().await;
        let mut connection = connect(&self.direct_url).await?;
        let sql = "SELECT window_end FROM des_windows WHERE state = 'held' ORDER BY window_end";
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        let end = |row: &sqlx::postgres::PgRow| {
            let end: sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc> = row.try_get(0)?;
            Timestamp::from_chrono(end).context("a time is out of range")
        };
        rows.iter().map(end).collect()
    }

    /// Lets some late rows come into the catalog, of windows that are committed.
    async fn let_come(&self, until: Option<Timestamp>, most: usize) -> anyhow::Result<()> {
        let rows = self.expected.rows();
        let may_come = |at: &usize| {
            rows.get(*at).is_some_and(|row| until.is_none_or(|until| row.created_at <= until))
        };
        let come: Vec<usize> = {
            let mut left = lock(&self.left);
            let come: Vec<usize> =
                left.late.iter().copied().filter(|at| may_come(at)).take(most).collect();
            left.late.retain(|at| !come.contains(at));
            come
        };
        let come: Vec<&CatalogRow> = come.iter().filter_map(|at| rows.get(*at)).collect();
        let _calm = self.database.calm().await;
        insert(&mut connect(&self.direct_url).await?, &come).await
    }

    /// Puts some hidden files back.
    pub(crate) fn put_back(&self, most: usize) -> anyhow::Result<()> {
        let mut left = lock(&self.left);
        let most = most.min(left.hidden.len());
        for at in left.hidden.drain(..most) {
            let Some(row) = self.expected.rows().get(at) else { continue };
            std::fs::rename(hidden_path(&row.location), &row.location)
                .with_context(|| row.location.display().to_string())?;
        }
        Ok(())
    }

    /// Removes, cuts short or changes a shard of a committed window, one that was not harmed before:
    /// it may still be gone. The window's end.
    fn harm(&self, commit: &Commit, dice: &mut Dice) -> anyhow::Result<Option<Timestamp>> {
        let certificate = Certificate::decode(&self.bucket.read(&commit.certificate)?)?;
        let replaced = self.replaced()?;
        let harmed: HashSet<String> =
            lock(&self.left).harmed.iter().map(|(key, _)| key.clone()).collect();
        let shards: Vec<_> = certificate
            .shards
            .iter()
            .filter(|it| !replaced.contains(&it.key) && !harmed.contains(&it.key))
            .collect();
        let which = usize::try_from(dice.below(shards.len() as u64)).unwrap_or_default();
        let Some(shard) = shards.get(which) else { return Ok(None) };
        let end = commit.window.end();
        lock(&self.left).harmed.push((shard.key.clone(), end));
        let key = format!("{}{}", self.bucket.prefix, shard.key);
        let path = self.bucket.bucket_dir.join(&key);
        let mut bytes = std::fs::read(&path).with_context(|| key.clone())?;
        self.bucket.journal.harmed(&key);
        match dice.below(3) {
            0 => std::fs::remove_file(&path)?,
            1 => std::fs::write(&path, bytes.get(..bytes.len() / 2).unwrap_or_default())?,
            _ => {
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 0x55;
                }
                std::fs::write(&path, bytes)?;
            }
        }
        Ok(Some(end))
    }

    /// Whether a shard is as its name says.
    fn is_sound(&self, key: &str) -> bool {
        let bytes = self.bucket.read(key).ok();
        bytes.is_some_and(|bytes| names::content_hash(key) == Some(ContentHash::of(&bytes)))
    }

    /// Shards that a later revision took the place of.
    fn replaced(&self) -> anyhow::Result<HashSet<String>> {
        let commits = lock(&self.standing).commits.clone();
        let certificates = commits.iter().map(|commit| {
            let certificate = Certificate::decode(&self.bucket.read(&commit.certificate)?)?;
            anyhow::Ok(certificate.replaces)
        });
        Ok(certificates.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// When faults are over: everything that was late, hidden, held or harmed is made good by
    /// commands, each of which has to succeed now.
    pub(crate) async fn finish(&self, cutoff: Timestamp) -> anyhow::Result<Option<Finding>> {
        self.put_back(usize::MAX)?;
        let deadline = Instant::now() + FINISH_LIMIT;
        let never = CancellationToken::new();
        let mut come = false;
        let mut to_do = vec!["retry-failed", "reconcile"];
        let mut last = String::new();
        while Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
            for end in self.held().await? {
                let words = ["release", "--window", &end.to_string(), "--reason", "the end"];
                last = self.run(&words, &never).await.err().unwrap_or(last);
            }
            if !self.is_settled(cutoff).await? {
                continue;
            }
            if !come {
                self.let_come(None, usize::MAX).await?;
                come = true;
            }
            let harmed = lock(&self.left).harmed.clone();
            let replaced = self.replaced()?;
            let unsound =
                harmed.iter().find(|(key, _)| !replaced.contains(key) && !self.is_sound(key));
            let done = if let Some((_, end)) = unsound {
                self.run(&["replay", "--window", &end.to_string()], &never).await
            } else if let Some(command) = to_do.last() {
                let done = self.run(&[command, "--all"], &never).await;
                if done.is_ok() {
                    to_do.pop();
                }
                done
            } else {
                return Ok(None);
            };
            last = done.err().unwrap_or(last);
        }
        let what = format!("with faults over, the operator cannot make everything good: {last}");
        Ok(Some(Finding::new(Sin::Stuck, 1, what)))
    }

    /// Whether no pass is under way, and the watermark is where it should be.
    async fn is_settled(&self, cutoff: Timestamp) -> anyhow::Result<bool> {
        let _calm = self.database.calm().await;
        let mut connection = connect(&self.direct_url).await?;
        let sql = "SELECT (SELECT count(*) FROM des_windows WHERE state <> 'committed'), \
                   (SELECT archived_until FROM des_archive_config)";
        let row = sqlx::query(sql).fetch_one(&mut connection).await?;
        let until: sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc> = row.try_get(1)?;
        let until = Timestamp::from_chrono(until).context("a time is out of range")?;
        Ok(row.try_get::<i64, _>(0)? == 0 && until >= cutoff)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // The next round has the same files.
        let _what_is_gone_is_missed_then = self.put_back(usize::MAX);
    }
}

/// Commands, as reports name them.
const NAMES: [&str; 6] = ["adjust", "reconcile", "release", "replay", "retry", "retry-failed"];

fn pick<'a>(commits: &'a [Commit], dice: &mut Dice) -> Option<&'a Commit> {
    commits.get(usize::try_from(dice.below(commits.len() as u64)).ok()?)
}
