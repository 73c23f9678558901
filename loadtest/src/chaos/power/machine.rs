//! The machine that loses power: a catalog, and `des migrate` that archives it onto a [`Disk`],
//! all in one process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::super::files::CatalogRow;
use super::cuts::{Cut, Moment, Place};
use super::disk::Disk;

/// Beyond this a file lies beside the shards: low, so that there are many.
const BIG_FILE_THRESHOLD: u64 = 1_300;
/// What `des gc` leaves alone at the end of a round.
pub(crate) const GC_GRACE: Duration = Duration::from_secs(1);
/// A run that is not cut ends within this time.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// A command that only looks ends within this time.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Bytes of a log that a finding quotes, from its end.
const LAST_WORDS: usize = 600;

/// Catalog, configuration and logs of a round, and where its archive and ledger lie.
pub(crate) struct Machine {
    des: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    /// The archive's directory, on the disk.
    pub(crate) archive: PathBuf,
    /// The ledger's file.
    pub(crate) ledger: PathBuf,
    runs: u64,
}

/// How a run came to its end.
#[derive(Debug)]
pub(crate) enum Met {
    /// The power failed while it ran.
    Running,
    /// It had ended by itself before.
    Ended(ExitStatus),
    /// It neither came to its point nor to its end in time.
    Hung,
}

impl Machine {
    /// Writes catalog and configuration into `dir`; nothing runs yet.
    pub(crate) async fn make(
        des: &Path,
        (dir, disk, place): (&Path, &Disk, Place),
        (files, rows): (&Path, &[CatalogRow]),
        partition_rows: u64,
    ) -> anyhow::Result<Self> {
        let catalog = dir.join("catalog.sqlite");
        load(&catalog, rows).await?;
        let ledger = match place {
            Place::Beside => disk.path().join("ledger.sqlite"),
            Place::Outside => dir.join("ledger.sqlite"),
        };
        let archive = disk.path().join("archive");
        let url = |path: &Path| format!("sqlite:///{}", path.display());
        let config = json!({
            "database": {
                "url": url(&catalog), "table_name": "documents", "size_column": "size_bytes",
                "lag_days": 7,
            },
            "watermark": { "config_db_url": url(&ledger) },
            "packer": { "n_bits": 4, "big_file_threshold": BIG_FILE_THRESHOLD },
            "store": { "url": format!("file://{}", archive.display()) },
            "source": { "roots": [files] },
            "http": { "listen": "off" },
            "worker": { "spool_dir": disk.path(), "memory": "64MiB", "slots": 3 },
            "coordinator": {
                "spool_dir": disk.path(), "lease_ttl": "1s", "partition_rows": partition_rows,
                "windows_in_flight": 4, "max_failed_files": 100_000,
                "gc_grace": format!("{}s", GC_GRACE.as_secs()),
            },
        });
        let path = dir.join("des.yaml");
        std::fs::write(&path, config.to_string())?;
        Ok(Self {
            des: des.to_owned(),
            dir: dir.to_owned(),
            config: path,
            environment: Vec::new(),
            archive,
            ledger,
            runs: 0,
        })
    }

    /// Every later run does wrong in this way.
    pub(crate) fn sabotage(&mut self, name: &str) {
        self.environment.push(("DES_SABOTAGE".to_owned(), name.to_owned()));
    }

    /// Runs `des migrate` until the moment of the cut, and lets the power fail.
    pub(crate) async fn run_into(&mut self, cut: Cut, disk: &Disk) -> anyhow::Result<Met> {
        let mut child = self.start(cut)?;
        let met = self.until(&mut child, cut.moment).await?;
        if let Met::Ended(_) = met {
            return Ok(met);
        }
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = id.context("the process is gone before it was cut")?;
        let outlives = cut.outlives.filter(|_| matches!(met, Met::Running));
        // What does not outlive its disk stands still before: the two end at one instant.
        if outlives.is_none() {
            kill_process(pid, Signal::STOP)?;
        }
        if cut.journal_first {
            disk.commit_journal()?;
        }
        disk.cut()?;
        if let Some(outlives) = outlives {
            kill_process(pid, Signal::CONT)?;
            tokio::time::sleep(outlives).await;
        }
        child.kill().await?;
        Ok(met)
    }

    fn start(&mut self, cut: Cut) -> anyhow::Result<Child> {
        self.runs += 1;
        let (log, result) = (File::create(self.log())?, File::create(self.dir.join("result"))?);
        // Whoever kills the harness leaves no process behind that stands still at its point.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.des)
            .args(["migrate", "--mode", "single", "--output", "json", "--config"])
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("DES_LOG", "info")
            .stdin(Stdio::null())
            .stdout(result)
            .stderr(log)
            .kill_on_drop(true);
        if let Moment::Point(name, hit) = cut.moment {
            command.env("DES_FAILPOINT", format!("{name}:{hit}:stop"));
        }
        command.spawn().context("cannot start setpriv: is util-linux installed?")
    }

    async fn until(&self, child: &mut Child, moment: Moment) -> anyhow::Result<Met> {
        let began = Instant::now();
        let mut leads_since = None;
        let files_before = self.files_beside_shards();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Met::Ended(status));
            }
            let is_there = match moment {
                Moment::AfterStart(wait) => began.elapsed() >= wait,
                Moment::AfterLeading(wait) => {
                    if leads_since.is_none() && self.said().contains(" leading ") {
                        leads_since = Some(Instant::now());
                    }
                    leads_since.is_some_and(|since| since.elapsed() >= wait)
                }
                Moment::AfterWrites(more) => self.files_beside_shards() >= files_before + more,
                Moment::Point(..) => child.id().is_some_and(is_stopped),
            };
            if is_there {
                return Ok(Met::Running);
            }
            if began.elapsed() > RUN_LIMIT {
                return Ok(Met::Hung);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn files_beside_shards(&self) -> u64 {
        std::fs::read_dir(&self.archive).map_or(0, |entries| entries.count() as u64)
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("run-{:04}.log", self.runs))
    }

    /// What the last run logged so far.
    pub(crate) fn said(&self) -> String {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what the last run logged.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said();
        let from = said.len().saturating_sub(LAST_WORDS);
        let from = (from..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(from);
        said.get(from..).unwrap_or_default().trim().to_owned()
    }

    /// What the last run printed as its result.
    pub(crate) fn result(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.dir.join("result"))?)?)
    }

    /// Runs another command of des to its end, which must be a good one; what it printed.
    pub(crate) async fn command(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.des);
        command.args(words).arg("--config").arg(&self.config).stdin(Stdio::null());
        command.kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_LIMIT, command.output())
            .await
            .with_context(|| format!("des {words:?} does not end"))?
            .with_context(|| format!("cannot start {}", self.des.display()))?;
        let (said, printed) =
            (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let status = output.status;
        ensure!(status.success(), "des {words:?} ended with {status}: {said}{printed}");
        Ok(printed.into_owned())
    }
}

/// Whether a process stands still, as it does at its point.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

async fn load(path: &Path, rows: &[CatalogRow]) -> anyhow::Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .disable_statement_logging();
    let mut catalog = options.connect().await?;
    let table = "CREATE TABLE documents (uid TEXT, created_at TEXT, file_location TEXT, \
                 size_bytes INTEGER); CREATE INDEX documents_by_time ON documents (created_at)";
    sqlx::raw_sql(table).execute(&mut catalog).await?;
    let mut load = catalog.begin().await?;
    for row in rows {
        sqlx::query("INSERT INTO documents VALUES (?, ?, ?, ?)")
            .bind(&row.uid)
            .bind(row.created_at.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
            .bind(row.location.to_string_lossy().into_owned())
            .bind(i64::try_from(row.size)?)
            .execute(&mut *load)
            .await?;
    }
    load.commit().await?;
    Ok(catalog.close().await?)
}
