//! A place of its own for a test: source files, a catalog, a configuration, an archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::catalog::Sql;
use super::process::{Run, Running};

/// Days that files are left alone.
pub(crate) const LAG_DAYS: u64 = 7;
/// Full days before the cutoff that tests put files in.
const DAYS: u64 = 10;
/// No command of a test takes longer, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// The catalog's table. The uid has no type, since some are numbers and some are texts.
const TABLE: &str = "CREATE TABLE files (uid, created_at TEXT, file_location TEXT, \
     size_bytes INTEGER); CREATE INDEX files_created_at ON files (created_at);";

/// A source file, and the row of it.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) uid: String,
    pub(crate) created_at: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// Everything of one test, below one temporary directory.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// Midnight of the first of the days.
    first_day: DateTime<Utc>,
    config: Value,
    /// Rows that are not in the catalog yet.
    pending: Vec<Vec<Value>>,
    files: usize,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self::without_catalog();
        place.sql().execute(TABLE);
        place
    }

    pub(crate) fn without_catalog() -> Self {
        let dir = tempfile::Builder::new().prefix("des-e2e-").tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("files")).expect("made");
        let config = json!({
            "database": {
                "url": format!("sqlite:///{}", dir.path().join("catalog.db").display()),
                "lag_days": LAG_DAYS,
            },
            "packer": { "output_dir": dir.path().join("archive"), "n_bits": 4 },
            "worker": { "slots": 2, "spool_dir": dir.path() },
            "coordinator": { "spool_dir": dir.path(), "lease_ttl": "2s" },
            "http": { "listen": "127.0.0.1:0" },
        });
        let place = Self { dir, first_day: first_day(), config, pending: Vec::new(), files: 0 };
        place.write_config();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.path("catalog.db")
    }

    pub(crate) fn sql(&self) -> Sql {
        Sql::new(&self.catalog())
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.path("archive")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("des.yaml")
    }

    /// Sets a key, such as `coordinator.lease_ttl`; null takes it away.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let (parents, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut section = &mut self.config;
        for name in parents.split('.').filter(|name| !name.is_empty()) {
            section = &mut section[name];
        }
        section[last] = value.into();
        self.write_config();
        self
    }

    /// JSON is YAML.
    fn write_config(&self) {
        std::fs::write(self.config(), self.config.to_string()).expect("written");
    }

    /// `after` midnight of day `day`, 0 to 9; day 10 at midnight is the cutoff.
    pub(crate) fn time(&self, day: u64, after: TimeDelta) -> String {
        let time = self.first_day + Days::new(day) + after;
        time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }

    /// Midnight at which day `day` begins, as `des` prints it.
    pub(crate) fn midnight(&self, day: u64) -> String {
        (self.first_day + Days::new(day)).format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub(crate) fn cutoff(&self) -> String {
        self.midnight(DAYS)
    }

    /// A source file with its row, `after` midnight of day `day`.
    pub(crate) fn file_at(&mut self, uid: &str, created_at: &str, bytes: Vec<u8>) -> Made {
        self.files += 1;
        let path = self.path("files").join(format!("{:05}", self.files));
        std::fs::write(&path, &bytes).expect("written");
        let size = i64::try_from(bytes.len()).expect("a size");
        self.row(json!([uid, created_at, path, size]));
        Made { uid: uid.to_owned(), created_at: created_at.to_owned(), path, bytes }
    }

    /// A small file, somewhere inside day `day`.
    pub(crate) fn file(&mut self, uid: &str, day: u64) -> Made {
        let seconds = 60 + i64::try_from(self.files).expect("few files");
        let at = self.time(day, TimeDelta::seconds(seconds));
        self.file_at(uid, &at, text(uid, 300))
    }

    /// `count` small files per day on each of `days`.
    pub(crate) fn fill(&mut self, days: std::ops::Range<u64>, count: usize) -> Vec<Made> {
        let mut made = Vec::new();
        for day in days {
            for number in 0..count {
                made.push(self.file(&format!("day{day}-{number}"), day));
            }
        }
        made
    }

    /// A row of the catalog: uid, created_at, location, size.
    pub(crate) fn row(&mut self, row: Value) {
        let Value::Array(values) = row else { panic!("a row is a list of values") };
        self.pending.push(values);
    }

    /// Puts into the catalog what was made since the last time.
    #[track_caller]
    pub(crate) fn load(&mut self) -> &mut Self {
        self.sql().insert("files", &std::mem::take(&mut self.pending));
        self
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_des"));
        command.current_dir(self.dir.path());
        command
    }

    /// `des` with these words and the configuration.
    pub(crate) fn start(&self, words: &str) -> Running {
        assert!(self.pending.is_empty(), "rows were not loaded");
        let config = self.config().display().to_string();
        let words = words.split_whitespace().map(str::to_owned);
        Running::start(self.command(), words.chain(["--config".to_owned(), config]))
    }

    #[track_caller]
    pub(crate) fn des(&self, words: &str) -> Run {
        self.start(words).end(LIMIT)
    }

    /// `des WORDS --output json`, which must succeed.
    #[track_caller]
    pub(crate) fn json(&self, words: &str) -> Value {
        self.des(&format!("{words} --output json")).expect(0).json()
    }

    /// `des migrate --mode single`, which must succeed.
    #[track_caller]
    pub(crate) fn migrate(&self) -> Value {
        self.json("migrate --mode single")
    }

    #[track_caller]
    pub(crate) fn get(&self, uid: &str, created_at: &str) -> Run {
        let config = self.config();
        let words = ["get", "--created-at", created_at, "--config"].map(std::ffi::OsStr::new);
        // A uid may begin with a dash.
        let words = words.into_iter().chain([config.as_os_str(), "--".as_ref(), uid.as_ref()]);
        Running::start(self.command(), words).end(LIMIT)
    }

    /// Reads the file from the archive and compares every byte.
    #[track_caller]
    pub(crate) fn assert_archived(&self, made: &Made) {
        let run = self.get(&made.uid, &made.created_at).expect(0);
        assert!(run.stdout == made.bytes, "{}: other bytes than its source's", made.uid);
    }

    /// `verify --deep`, which must find nothing; what it says.
    #[track_caller]
    pub(crate) fn verify_deep(&self) -> Value {
        self.json("verify --deep")
    }

    /// uid, created_at and size of every file in the archive, sorted.
    #[track_caller]
    pub(crate) fn listed(&self) -> Vec<(String, String, u64)> {
        let run = self.des("ls --files --output json").expect(0);
        let mut files: Vec<_> = run
            .text()
            .lines()
            .map(|line| {
                let file: Value = serde_json::from_str(line).expect("one JSON object a line");
                let text = |key: &str| file[key].as_str().expect(key).to_owned();
                (text("uid"), text("created_at"), file["size"].as_u64().expect("size"))
            })
            .collect();
        files.sort();
        files
    }

    /// Every object of the archive, by name, with its bytes' hash.
    pub(crate) fn objects(&self) -> BTreeMap<String, String> {
        tree(&self.archive())
    }

    /// The names of all shards.
    pub(crate) fn shards(&self) -> Vec<String> {
        let shards = std::fs::read_dir(self.archive()).into_iter().flatten();
        let names = shards.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".des")).collect();
        names.sort();
        names
    }

    /// Everything below the test's directory with hashes, but for the two files that SQLite may
    /// leave beside one that is only read.
    pub(crate) fn everything(&self) -> BTreeMap<String, String> {
        let mut everything = tree(self.dir.path());
        everything.retain(|name, _| !name.ends_with("-wal") && !name.ends_with("-shm"));
        everything
    }

    /// Unresolved and resolved rows of des_migration_errors: uid and reason.
    pub(crate) fn errors(&self) -> Vec<(String, String)> {
        let rows = self.sql().query("SELECT uid, reason FROM des_migration_errors ORDER BY 1");
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
    }

    pub(crate) fn watermark(&self) -> String {
        self.sql().value("SELECT archived_until FROM des_archive_config WHERE id = 1")
    }
}

/// The first of [`DAYS`] full days before the cutoff. Just before midnight, UTC, waits for it: a
/// test whose cutoff moves on its way would not be sure of its windows.
fn first_day() -> DateTime<Utc> {
    let midnight = |time: DateTime<Utc>| time.date_naive().and_time(NaiveTime::MIN).and_utc();
    let now = Utc::now();
    let left = midnight(now) + TimeDelta::days(1) - now;
    if left < TimeDelta::seconds(60) {
        std::thread::sleep(left.to_std().expect("it is before midnight") + Duration::from_secs(1));
    }
    midnight(Utc::now()) - Days::new(LAG_DAYS + DAYS)
}

/// `size` bytes of compressible text that differ by `seed`.
pub(crate) fn text(seed: &str, size: usize) -> Vec<u8> {
    let line = format!("{{\"document\": {seed:?}, \"note\": \"as it was\"}}\n");
    line.bytes().cycle().take(size).collect()
}

/// `size` bytes that nothing makes smaller.
pub(crate) fn incompressible(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root).expect("below it").display().to_string();
            if path.is_dir() {
                found.insert(name + "/", String::new());
                left.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap_or_default();
                found.insert(name, blake3::hash(&bytes).to_hex().to_string());
            }
        }
    }
    found
}
