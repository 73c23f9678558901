//! Makes the demonstration's files and its catalog.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use protocol::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

/// Days that the files are spread over.
pub(super) const DAYS: i64 = 14;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The one file over the big-file threshold of 10 MiB.
const BIG_FILE_BYTES: usize = 12 * 1024 * 1024;
/// Files per directory, so that none grows large.
const FILES_PER_DIRECTORY: u64 = 1_000;

/// A file that was made, as the catalog has it.
#[derive(Clone, Debug)]
pub(super) struct MadeFile {
    pub(super) uid: String,
    pub(super) created_at: Timestamp,
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// A stream of numbers that is the same in every run.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Makes `count` files below `directory`, created in the [`DAYS`] days before `end`: JSON, text,
/// incompressible, empty, and one big one.
pub(super) fn make_files(
    directory: &Path,
    count: u64,
    end: Timestamp,
    made_one: &mut dyn FnMut(u64),
) -> anyhow::Result<Vec<MadeFile>> {
    let mut files = Vec::new();
    let start = end.saturating_add_micros(-DAYS * MICROS_PER_DAY);
    for number in 0..count {
        let mut numbers = Numbers::new(number);
        let folder = directory.join(format!("{:03}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let (ending, content) = content(number, &mut numbers);
        let path = folder.join(format!("{number:07}.{ending}"));
        fs::write(&path, &content).with_context(|| format!("cannot write {}", path.display()))?;
        let size = content.len() as u64;
        files.push(MadeFile {
            uid: uid(number, ending),
            created_at: created_at(number, start, &mut numbers),
            path,
            size,
        });
        made_one(size);
    }
    Ok(files)
}

/// One in fifty lies exactly on midnight, where windows meet.
fn created_at(number: u64, start: Timestamp, numbers: &mut Numbers) -> Timestamp {
    let span = (DAYS * MICROS_PER_DAY).unsigned_abs();
    let after = if number % 50 == 7 {
        (1 + numbers.below(DAYS.unsigned_abs())) * MICROS_PER_DAY.unsigned_abs()
    } else {
        1 + numbers.below(span)
    };
    start.saturating_add_micros(i64::try_from(after).unwrap_or(1))
}

fn uid(number: u64, ending: &str) -> String {
    match number % 10 {
        0..=2 => format!("{}", 7_000_000_000_000 + number * 7_919),
        3 => format!("zażółć/gęślą jaźń {number}"),
        _ => format!("{ending}-{number:08}"),
    }
}

fn content(number: u64, numbers: &mut Numbers) -> (&'static str, Vec<u8>) {
    if number == 0 {
        let mut bytes = vec![0; BIG_FILE_BYTES];
        numbers.0.fill(&mut bytes);
        return ("bin", bytes);
    }
    let size = usize::try_from(500 + numbers.below(6_000)).unwrap_or(500);
    match number % 20 {
        0 => ("empty", Vec::new()),
        1..=5 => {
            let mut bytes = vec![0; size];
            numbers.0.fill(&mut bytes);
            ("jpg", bytes)
        }
        6..=8 => ("txt", text(size, numbers)),
        _ => ("json", json(number, size, numbers)),
    }
}

const WORDS: [&str; 16] = [
    "archive", "ledger", "window", "receipt", "shard", "catalog", "worker", "morning", "invoice",
    "customer", "river", "station", "answer", "quiet", "number", "paper",
];

fn text(size: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut text = String::with_capacity(size + 16);
    while text.len() < size {
        let word = usize::try_from(numbers.below(WORDS.len() as u64)).unwrap_or(0);
        text.push_str(WORDS[word]);
        text.push(' ');
    }
    text.into_bytes()
}

fn json(number: u64, size: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut length = 0;
    while length < size {
        let line = format!(
            "{{\"sku\":\"{:06}\",\"quantity\":{},\"price\":{}.{:02},\"note\":\"{}\"}}",
            numbers.below(1_000_000),
            numbers.below(100),
            numbers.below(1_000),
            numbers.below(100),
            WORDS[usize::try_from(numbers.below(WORDS.len() as u64)).unwrap_or(0)],
        );
        length += line.len() + 1;
        lines.push(line);
    }
    format!("{{\"document\":{number},\"lines\":[{}]}}\n", lines.join(",")).into_bytes()
}

/// Makes the catalog: the table, its index, and triggers that count every write to it, so that
/// the demonstration can show that there was none.
pub(super) async fn make_catalog(path: &Path, files: &[MadeFile]) -> anyhow::Result<()> {
    let mut catalog = open(path, true).await?;
    sqlx::raw_sql(
        "CREATE TABLE files (uid TEXT PRIMARY KEY, created_at TEXT NOT NULL, \
         file_location TEXT NOT NULL, size_bytes INTEGER NOT NULL); \
         CREATE INDEX files_created_at ON files (created_at); \
         CREATE TABLE writes_to_files (count INTEGER NOT NULL); \
         INSERT INTO writes_to_files VALUES (0);",
    )
    .execute(&mut catalog)
    .await?;
    let mut load = catalog.begin().await?;
    for file in files {
        sqlx::query("INSERT INTO files VALUES (?, ?, ?, ?)")
            .bind(&file.uid)
            .bind(file.created_at.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
            .bind(file.path.to_string_lossy().into_owned())
            .bind(i64::try_from(file.size)?)
            .execute(&mut *load)
            .await?;
    }
    load.commit().await?;
    for event in ["INSERT", "UPDATE", "DELETE"] {
        let trigger = format!(
            "CREATE TRIGGER count_{event} AFTER {event} ON files BEGIN \
             UPDATE writes_to_files SET count = count + 1; END"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger)).execute(&mut catalog).await?;
    }
    catalog.close().await?;
    Ok(())
}

/// How many rows of the table were written since it was made.
pub(super) async fn count_writes(path: &Path) -> anyhow::Result<u64> {
    let mut catalog = open(path, false).await?;
    let (count,): (i64,) =
        sqlx::query_as("SELECT count FROM writes_to_files").fetch_one(&mut catalog).await?;
    catalog.close().await?;
    Ok(u64::try_from(count)?)
}

async fn open(path: &Path, create: bool) -> anyhow::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .disable_statement_logging();
    options.connect().await.with_context(|| format!("cannot open {}", path.display()))
}
