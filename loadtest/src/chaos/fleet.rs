//! One round's fleet: a database, a broker prefix and a place in the bucket of its own, and the
//! processes that work there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use protocol::Timestamp;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::database::Database;
use super::files::{BIG_FILE_THRESHOLD, CatalogRow, DAYS, Manner};
use super::ground::Ground;
use super::kind::{Link, Role};
use super::process::{Process, Recipe};
use super::servers::{as_user, through, with_database};
use super::watch::connect;

/// Files younger than this many days are left alone.
const LAG_DAYS: i64 = 7;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Shard indexes of an archive have so many bits.
pub(crate) const N_BITS: u8 = 4;
/// What `des gc` leaves alone.
pub(crate) const GC_GRACE: Duration = Duration::from_secs(1);
/// How long a leader leads on without word from it.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(2);
const COORDINATORS: usize = 2;
const WORKERS: usize = 3;
/// Processes of a fleet.
pub(crate) const PROCESSES: usize = COORDINATORS + WORKERS;
/// A window of an operated round with more failed files than this is held.
const FEW_FAILED: u64 = 5;
/// Attempts of a partition in a round with poison.
const FEW_ATTEMPTS: u64 = 2;
/// Rows that one statement inserts.
const INSERT_ROWS: usize = 2_000;

/// What operators run is configured under this name.
const OPERATOR: &str = "operator";

/// Every process with its name, in the order of their places.
fn fleet_places() -> impl Iterator<Item = (Role, String)> {
    let roles = [(Role::Coordinator, COORDINATORS), (Role::Worker, WORKERS)];
    roles.into_iter().flat_map(|(role, count)| {
        (0..count).map(move |number| (role, format!("{}-{number}", word_of(role))))
    })
}

const fn word_of(role: Role) -> &'static str {
    match role {
        Role::Coordinator => "coordinator",
        Role::Worker => "worker",
    }
}

/// One round's fleet.
pub(crate) struct Fleet {
    pub(crate) database: Arc<Database>,
    /// The superuser's URL of the round's database, past every proxy.
    pub(crate) direct_url: String,
    /// What object names begin with in the bucket.
    pub(crate) prefix: String,
    /// What queues' names begin with.
    pub(crate) broker_prefix: String,
    pub(crate) dir: PathBuf,
    pub(crate) processes: Vec<Arc<Process>>,
    keeping: Vec<JoinHandle<anyhow::Result<()>>>,
    environment: Vec<(String, String)>,
    des: PathBuf,
}

/// Commands of `des` for one fleet.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    des: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
}

impl Commands {
    /// Runs `des WORDS` to its end, which must be a good one; what it printed.
    pub(crate) async fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.des)
            .args(words)
            .arg("--config")
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {}", self.des.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "des {words:?} ended with {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Commands {
    /// Runs `des gc`; the number of objects that it removed.
    pub(crate) async fn collect(&self, reason: &str) -> anyhow::Result<u64> {
        let words = ["gc", "--reason", reason, "--output", "json"];
        let report: Value = serde_json::from_str(&self.run(&words).await?)?;
        let kinds = ["certificates", "receipts", "shards", "manifests"];
        Ok(kinds.iter().filter_map(|kind| report[kind]["objects"].as_u64()).sum())
    }
}

/// The midnight before the first row of a round that begins now, and the one that its last window
/// ends on.
pub(crate) fn days_of(now: Timestamp) -> (Timestamp, Timestamp) {
    let days = i64::try_from(DAYS).unwrap_or_default();
    let cutoff = now.saturating_add_micros(-LAG_DAYS * MICROS_PER_DAY).floor_to(MICROS_PER_DAY);
    (cutoff.saturating_add_micros(-days * MICROS_PER_DAY), cutoff)
}

impl Fleet {
    /// Makes catalog and archive; nothing runs yet.
    pub(crate) async fn make(
        ground: &Ground,
        round: u64,
        (rows, manner): (&[CatalogRow], Manner),
        partition_rows: u64,
    ) -> anyhow::Result<Self> {
        let name = format!("chaos_{}", uuid::Uuid::new_v4().simple());
        let database = Arc::new(Database::make(&ground.servers, &name).await?);
        let dir = ground.dir.join(format!("round-{round}"));
        std::fs::create_dir_all(&dir)?;
        let mut fleet = Self {
            database,
            direct_url: with_database(&ground.servers.postgres, &name),
            prefix: format!("round-{round}/"),
            broker_prefix: name.clone(),
            dir,
            processes: Vec::new(),
            keeping: Vec::new(),
            environment: vec![
                ("AWS_ACCESS_KEY_ID".to_owned(), ground.s3.access_key.clone()),
                ("AWS_SECRET_ACCESS_KEY".to_owned(), ground.s3.secret_key.clone()),
            ],
            des: ground.des.clone(),
        };
        if manner == Manner::Poisoned {
            fleet.environment.push(("DES_POISON".to_owned(), "1".to_owned()));
        }
        let names = fleet_places().map(|(_, name)| name).chain([OPERATOR.to_owned()]);
        for (place, name) in names.enumerate() {
            let config = fleet.config(ground, place, (manner, partition_rows))?;
            std::fs::write(fleet.dir.join(format!("{name}.yaml")), config.to_string())?;
        }
        let rows: Vec<&CatalogRow> = rows.iter().filter(|row| !row.is_late).collect();
        insert(&mut fleet.make_table().await?, &rows).await?;
        fleet.run(&["init"]).await?;
        if let Some(sabotage) = &ground.sabotage {
            fleet.environment.push(("DES_SABOTAGE".to_owned(), sabotage.clone()));
        }
        Ok(fleet)
    }

    /// The configuration of the process at this place.
    fn config(
        &self,
        ground: &Ground,
        place: usize,
        (manner, partition_rows): (Manner, u64),
    ) -> anyhow::Result<Value> {
        let links = ground.links(place)?;
        let port = |link| links.proxy(link).port;
        let name = &self.database.name;
        let url = as_user(&self.direct_url, name, "chaos")?;
        let prefix = self.prefix.trim_end_matches('/');
        let mut config = json!({
            "database": {
                "url": through(&url, port(Link::Postgres))?, "table_name": "documents",
                "size_column": "size_bytes", "lag_days": LAG_DAYS,
            },
            "packer": { "n_bits": N_BITS, "big_file_threshold": BIG_FILE_THRESHOLD },
            "broker": {
                "url": through(&ground.servers.amqp, port(Link::Broker))?,
                "prefix": self.broker_prefix,
            },
            "store": {
                "url": format!("s3://{}/{prefix}", ground.s3.bucket),
                "endpoint": through(&ground.s3.endpoint, port(Link::Store))?,
            },
            "source": { "roots": [ground.files.root] },
            "http": { "listen": "127.0.0.1:0" },
            "worker": { "spool_dir": self.dir, "drain_timeout": "20s", "memory": "64MiB" },
            // Files that are not there are more than a window may lose by default.
            "coordinator": {
                "spool_dir": self.dir, "lease_ttl": format!("{}s", LEASE_TTL.as_secs()), "partition_rows": partition_rows,
                "windows_in_flight": 4, "max_failed_files": 100_000, "max_failed_ratio": 0.0,
                "gc_grace": format!("{}s", GC_GRACE.as_secs()),
            },
        });
        match manner {
            Manner::Plain => {}
            Manner::Operated => config["coordinator"]["max_failed_files"] = FEW_FAILED.into(),
            Manner::Poisoned => {
                config["coordinator"]["max_attempts"] = FEW_ATTEMPTS.into();
                // What a worker dies over interrupts nothing else.
                config["worker"]["slots"] = 1.into();
            }
        }
        // A worker's configuration holds no database: it has no business there.
        if (COORDINATORS..PROCESSES).contains(&place) {
            config["database"] = json!({});
        }
        Ok(config)
    }

    async fn make_table(&self) -> anyhow::Result<PgConnection> {
        let mut connection = connect(&self.direct_url).await?;
        let name = &self.database.name;
        let table = format!(
            "CREATE TABLE documents (uid text, created_at timestamptz, file_location text, \
             size_bytes bigint); ALTER TABLE documents OWNER TO {name}; \
             CREATE INDEX ON documents (created_at)"
        );
        sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut connection).await?;
        Ok(connection)
    }

    /// What operators run.
    pub(crate) fn commands(&self) -> Commands {
        Commands {
            des: self.des.clone(),
            config: self.dir.join(format!("{OPERATOR}.yaml")),
            environment: self.environment.clone(),
        }
    }

    /// Runs `des WORDS` to its end, which must be a good one; what it printed.
    pub(crate) async fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        self.commands().run(words).await
    }

    /// Starts every process.
    pub(crate) fn start(&mut self) {
        for (place, (role, name)) in fleet_places().enumerate() {
            let config = self.dir.join(format!("{name}.yaml")).display().to_string();
            let recipe = Recipe {
                binary: self.des.clone(),
                arguments: vec![word_of(role).to_owned(), "--config".to_owned(), config],
                environment: self.environment.clone(),
                log: self.dir.join(format!("{name}.log")),
            };
            let (process, keeping) = Process::start((role, place), recipe);
            self.processes.push(process);
            self.keeping.push(keeping);
        }
    }

    /// Asks every process to end, and waits; what was wrong with their ends.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<Vec<String>> {
        let stops = self.processes.iter().zip(self.keeping.drain(..));
        let stops = stops.map(|(process, keeping)| process.stop(keeping));
        let complaints = futures::future::join_all(stops).await;
        let complaints: anyhow::Result<Vec<_>> = complaints.into_iter().collect();
        Ok(complaints?.into_iter().flatten().collect())
    }
}

/// Puts rows into a fleet's catalog.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    rows: &[&CatalogRow],
) -> anyhow::Result<()> {
    for batch in rows.chunks(INSERT_ROWS) {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let values: Vec<String> = batch
            .iter()
            .map(|row| {
                let location = row.location.display().to_string();
                let (uid, location) = (quoted(&row.uid), quoted(&location));
                format!("({uid}, '{}', {location}, {})", row.created_at, row.size)
            })
            .collect();
        let sql = format!("INSERT INTO documents VALUES {}", values.join(","));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Fleet {
    /// Kills what still runs: each process ends with the task that keeps it.
    pub(crate) fn abandon(&mut self) {
        for keeping in self.keeping.drain(..) {
            keeping.abort();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.abandon();
    }
}
