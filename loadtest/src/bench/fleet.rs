//! A fleet to measure: a ledger of its own, a broker prefix of its own, real `des` processes with
//! nothing between them and the servers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::Bench;
use crate::chaos::servers::{Servers, with_database};
use crate::generate::catalog::connect;
use crate::measure::child::{Memory, Watcher, run};
use crate::measure::machine::process_seconds;

/// After this long something that is waited for is not coming.
const LONGEST: Duration = Duration::from_secs(1_800);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A process that was told to end has this long.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A database that is gone with this.
pub(crate) struct Database {
    admin: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn make(servers: &Servers) -> anyhow::Result<Self> {
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let url = with_database(&servers.postgres, &name);
        let it = Self { admin: servers.postgres.clone(), name, url };
        execute(&mut connect(&it.admin).await?, &format!("CREATE DATABASE {}", it.name)).await?;
        Ok(it)
    }

    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        execute(&mut connect(&self.admin).await?, &sql).await
    }
}

pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) -> anyhow::Result<()> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.map(|_| ()).with_context(|| sql.to_owned())
}

/// What fleets differ in.
pub(crate) struct Shape {
    /// The database of the table `files`.
    pub(crate) catalog_url: String,
    pub(crate) n_bits: u8,
    pub(crate) partition_rows: u64,
    /// Sections that replace or add to the configuration.
    pub(crate) more: Value,
    pub(crate) environment: Vec<(String, String)>,
}

/// One fleet over one catalog, into one new archive.
pub(crate) struct Fleet {
    des: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) ledger: Database,
    environment: Vec<(String, String)>,
    config: PathBuf,
}

impl Fleet {
    /// Makes ledger, configuration and archive; nothing runs yet.
    pub(crate) async fn make(bench: &Bench, shape: &Shape) -> anyhow::Result<Self> {
        let servers = bench.servers()?;
        let ledger = Database::make(servers).await?;
        let dir = bench.dir.join(&ledger.name);
        std::fs::create_dir_all(&dir)?;
        let mut config = json!({
            "database": { "url": shape.catalog_url, "size_column": "size_bytes" },
            "packer": { "output_dir": dir.join("archive"), "n_bits": shape.n_bits },
            "watermark": { "config_db_url": ledger.url },
            "broker": { "url": servers.amqp, "prefix": ledger.name },
            "worker": { "spool_dir": dir },
            "http": { "listen": "off" },
            "coordinator": { "spool_dir": dir, "partition_rows": shape.partition_rows },
        });
        for (section, keys) in shape.more.as_object().into_iter().flatten() {
            for (key, value) in keys.as_object().into_iter().flatten() {
                config[section][key] = value.clone();
            }
        }
        let path = dir.join("des.yaml");
        // JSON is YAML.
        std::fs::write(&path, config.to_string())?;
        let it = Self {
            des: bench.des.clone(),
            dir,
            ledger,
            environment: shape.environment.clone(),
            config: path,
        };
        it.run(&["init"])?;
        Ok(it)
    }

    /// Runs `des WORDS` to its end; what it printed.
    pub(crate) fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(words);
        Ok(run(&mut command)?.stdout)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.des);
        command.args(words).arg("--config").arg(&self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts `des ROLE`; `name` is for its log.
    pub(crate) fn start(&self, role: &str, name: &str) -> anyhow::Result<Running> {
        let log = self.dir.join(format!("{name}.log"));
        let child = self
            .command(&[role, "--log", "info,coordinator=debug", "--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.des.display()))?;
        let watcher = Some(Watcher::start(child.id()));
        Ok(Running { child, log, watcher })
    }

    /// Waits until the ledger answers a question with true, as long as all of `running` run.
    pub(crate) async fn until(
        &self,
        question: &str,
        running: &mut [&mut Running],
    ) -> anyhow::Result<()> {
        let mut connection = connect(&self.ledger.url).await?;
        let began = Instant::now();
        loop {
            let answer: Option<bool> = sqlx::query_scalar(AssertSqlSafe(question.to_owned()))
                .fetch_one(&mut connection)
                .await
                .with_context(|| question.to_owned())?;
            if answer == Some(true) {
                return Ok(connection.close().await?);
            }
            for process in running.iter_mut() {
                process.must_run()?;
            }
            ensure!(began.elapsed() < LONGEST, "waited {LONGEST:?} for: {question}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A number from the ledger.
    pub(crate) async fn number(&self, question: &str) -> anyhow::Result<i64> {
        let mut connection = connect(&self.ledger.url).await?;
        let number = sqlx::query_scalar(AssertSqlSafe(question.to_owned()));
        let number = number.fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(number)
    }

    /// Removes ledger, archive and logs.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(&self.dir)?;
        self.ledger.remove().await
    }
}

/// A process of the fleet; killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    watcher: Option<Watcher>,
}

/// What a process came to.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory: Memory,
    /// Its log: one JSON object a line.
    pub(crate) log: Vec<Value>,
}

impl Running {
    /// Processor seconds so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        process_seconds(self.child.id())
    }

    /// Waits until its log has this message.
    pub(crate) async fn until_said(&self, message: &str) -> anyhow::Result<()> {
        let wanted = format!("\"message\":\"{message}\"");
        let began = Instant::now();
        while !std::fs::read_to_string(&self.log)?.contains(&wanted) {
            ensure!(began.elapsed() < LONGEST, "waited {LONGEST:?} for `{message}`");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("a process of the fleet ended with {status}: {log}");
        }
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<Stopped> {
        self.must_run()?;
        let cpu_seconds = self.cpu_seconds();
        self.signal(Signal::TERM);
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > END_LIMIT {
                self.signal(Signal::KILL);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let memory = self.watcher.take().map(Watcher::stop).unwrap_or_default();
        let log = read_log(&self.log)?;
        Ok(Stopped { cpu_seconds, memory, log })
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
    }
}

fn read_log(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

impl Stopped {
    /// When it first said this, in seconds since 1970.
    pub(crate) fn said(&self, message: &str) -> anyhow::Result<f64> {
        let line = self.log.iter().find(|line| line["fields"]["message"] == message);
        let time = line.and_then(|line| line["timestamp"].as_str());
        let time = time.with_context(|| format!("it never said `{message}`"))?;
        let time: protocol::Timestamp = time.parse()?;
        #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 fit")]
        Ok(time.as_micros() as f64 / 1e6)
    }
}
