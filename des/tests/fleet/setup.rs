//! One fleet: a database, a broker prefix, a bucket and source files of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::process::{Run, Running};
use super::s3_server::{S3Server, Setup};

const LAG_DAYS: i64 = 7;
const DAYS: i64 = 10;
const MISSING: usize = 20;
const LIMIT: Duration = Duration::from_secs(300);

/// How many files a run archives.
pub(crate) fn files_wanted(default: usize) -> usize {
    let wanted = std::env::var("DES_TEST_FLEET_FILES").ok();
    wanted.map_or(default, |text| text.parse().expect("DES_TEST_FLEET_FILES is a number"))
}

pub(crate) fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"))
}

/// A source file and its row.
pub(crate) struct Made {
    uid: String,
    pub(crate) created_at: String,
    pub(crate) path: PathBuf,
}

pub(crate) struct Fleet {
    dir: tempfile::TempDir,
    s3: S3Server,
    postgres: String,
    /// Also the name of the role that owns it, and of its broker prefix.
    database: String,
    config: Value,
    environment: BTreeMap<String, OsString>,
    rows: usize,
    runtime: tokio::runtime::Runtime,
    first_day: chrono::DateTime<chrono::Utc>,
}

impl Fleet {
    pub(crate) fn new(files: usize) -> Self {
        Self::over(S3Server::start(Setup::default()).expect("a server"), files)
    }

    /// A fleet over an S3 server of another kind.
    pub(crate) fn over(s3: S3Server, files: usize) -> Self {
        Self::on(&server("DES_TEST_POSTGRES_URL"), s3, files)
    }

    /// The same on another PostgreSQL server, of which this is a superuser's URL.
    pub(crate) fn on(postgres: &str, s3: S3Server, files: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let postgres = postgres.to_owned();
        let name = format!("des_test_{}", uuid::Uuid::new_v4().simple());
        let dir = tempfile::Builder::new().prefix("des-fleet-").tempdir().expect("a directory");
        let (_admin, place) = postgres.rsplit_once('@').expect("a user");
        let (host, _database) = place.rsplit_once('/').expect("a URL");
        let database = format!("postgresql://{name}:{name}@{host}/{name}");
        let config = json!({
            "database": {
                "url": database, "table_name": "archive.Files", "uid_column": "uid",
                "created_at_column": "created at", "location_column": "file_location",
                "size_column": "size_bytes", "lag_days": LAG_DAYS,
            },
            "packer": { "n_bits": 8 },
            "broker": { "url": server("DES_TEST_AMQP_URL"), "prefix": name },
            "store": { "url": format!("s3://{}/a/prefix", s3.bucket), "endpoint": s3.endpoint },
            "source": { "roots": [dir.path().join("files")] },
            "worker": { "spool_dir": dir.path(), "drain_timeout": "60s" },
            "coordinator": { "spool_dir": dir.path(), "lease_ttl": "2s" },
            "http": { "listen": "127.0.0.1:0" },
        });
        let midnight = chrono::Utc::now().date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
        let first_day = midnight - chrono::Days::new((LAG_DAYS + DAYS).unsigned_abs());
        let environment = BTreeMap::new();
        let mut fleet = Self {
            dir,
            s3,
            postgres,
            database: name,
            config,
            environment,
            rows: 0,
            runtime,
            first_day,
        };
        fleet.make(files);
        fleet.write_config();
        fleet
    }

    /// A worker's configuration holds no database: it has no business there.
    fn write_config(&self) {
        let mut of_worker = self.config.clone();
        of_worker["database"] = json!({});
        std::fs::write(self.path("worker.yaml"), of_worker.to_string()).expect("written");
        std::fs::write(self.path("coordinator.yaml"), self.config.to_string()).expect("written");
    }

    /// Sets a key for everything that is started from now on.
    pub(crate) fn configure(&mut self, section: &str, key: &str, value: Value) {
        self.config[section][key] = value;
        self.write_config();
    }

    /// Sets a variable in the environment of everything that is started from now on.
    pub(crate) fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.insert(name.to_owned(), value.into());
    }

    /// What a key is set to.
    pub(crate) fn configured(&self, section: &str, key: &str) -> Value {
        self.config[section][key].clone()
    }

    /// What is to stand nowhere: the role's password, which is also the database's name, and the
    /// store's key.
    pub(crate) fn secrets(&self) -> [String; 2] {
        [self.database.clone(), self.s3.secret_key.clone()]
    }

    /// The URL that everything but the workers is configured with.
    pub(crate) fn database_url(&self) -> String {
        self.config["database"]["url"].as_str().expect("a URL").to_owned()
    }

    /// URL and prefix.
    pub(crate) fn broker(&self) -> (String, String) {
        (server("DES_TEST_AMQP_URL"), self.database.clone())
    }

    /// The fleet's database as an administrator, whom its limits do not bind.
    pub(crate) fn admin_url(&self) -> String {
        format!("{}/{}", self.postgres.rsplit_once('/').expect("a URL").0, self.database)
    }

    /// SQL on the fleet's database, as an administrator.
    pub(crate) fn administer(&self, sql: &str) {
        self.sql(&self.admin_url(), sql);
    }

    /// Why the database refuses a statement to the role of a URL.
    pub(crate) fn refusal(&self, url: &str, sql: &str) -> String {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(url).await.expect("connected");
            let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
            done.expect_err(sql).to_string()
        })
    }

    /// Ends whatever the fleet's role is doing in the database.
    pub(crate) fn end_sessions(&self) {
        let ended = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{}'",
            self.database
        );
        self.value(&ended);
    }

    pub(crate) fn alter_database(&self, what: &str) {
        let alter = format!("ALTER DATABASE {} {what}", self.database);
        self.sql(&self.postgres.clone(), &alter);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sql(&self, url: &str, sql: &str) {
        let options: PgConnectOptions = url.parse().expect("a URL");
        self.runtime.block_on(async {
            let mut connection = options.disable_statement_logging().connect().await.expect(url);
            let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
            done.unwrap_or_else(|error| panic!("{sql:.300}: {error}"));
            connection.close().await.expect("closed");
        });
    }

    /// The first column of the first row, as text.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.try_value(sql).unwrap_or_else(|| panic!("no value: {sql}"))
    }

    /// The same; `None` also where there is no such table yet.
    pub(crate) fn try_value(&self, sql: &str) -> Option<String> {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.admin_url()).await.expect("connected");
            let sql = format!("SELECT ({sql})::text");
            let value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await;
            value.ok().flatten()
        })
    }

    pub(crate) fn watermark(&self) -> String {
        self.value("SELECT archived_until AT TIME ZONE 'UTC' FROM des_archive_config")
    }

    /// The catalog: awkward names, awkward uids, midnights, an empty file, a big one, missing ones.
    fn make(&mut self, files: usize) {
        let name = &self.database;
        let role = format!("CREATE ROLE {name} LOGIN PASSWORD '{name}'");
        self.sql(&self.postgres, &role);
        self.sql(&self.postgres, &format!("CREATE DATABASE {name} OWNER {name}"));
        let url = self.config["database"]["url"].as_str().expect("a URL").to_owned();
        self.sql(
            &url,
            "CREATE SCHEMA archive; CREATE TABLE archive.\"Files\" (uid text, \
             \"created at\" timestamptz, file_location text, size_bytes bigint); \
             CREATE INDEX ON archive.\"Files\" (\"created at\")",
        );
        let root = self.path("files");
        let mut rows = Vec::new();
        for number in 0..files {
            let folder = root.join(format!("{:03}", number / 1_000));
            if number % 1_000 == 0 {
                std::fs::create_dir_all(&folder).expect("made");
            }
            let path = folder.join(format!("{number:06}.json"));
            let content = content(number);
            let missing = number >= files.saturating_sub(MISSING) && files > MISSING;
            if !missing {
                std::fs::write(&path, &content).expect("written");
            }
            rows.push(row(&uid(number), &self.created_at(number, missing), &path, content.len()));
        }
        self.rows = files;
        for batch in rows.chunks(2_000) {
            let sql = format!("INSERT INTO archive.\"Files\" VALUES {}", batch.join(","));
            self.sql(&url, &sql);
        }
    }

    /// Spread over the days; one in ten exactly on midnight, the missing ones over all days.
    fn created_at(&self, number: usize, missing: bool) -> String {
        let number = i64::try_from(number).expect("few files");
        let time = if number % 10 == 3 && !missing {
            self.first_day + chrono::TimeDelta::days(1 + number / 10 % DAYS)
        } else {
            let day = chrono::TimeDelta::days(number % DAYS);
            self.first_day
                + day
                + chrono::TimeDelta::microseconds(1 + number * 7_919_000 % 86_399_000_000)
        };
        time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    }

    pub(crate) fn window_end(&self, day: i64) -> String {
        let end = self.first_day + chrono::TimeDelta::days(day);
        end.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    /// A file whose row appears below the watermark, in the window that ends on `day`.
    pub(crate) fn add_late_file(&mut self, day: i64) -> Made {
        self.add_file("late", day, b"late, but here")
    }

    /// A file of the window that ends on `day`, with its row.
    pub(crate) fn add_file(&mut self, uid: &str, day: i64, bytes: &[u8]) -> Made {
        let made = self.add_row(uid, day, bytes.len());
        std::fs::create_dir_all(self.path("files")).expect("made");
        std::fs::write(&made.path, bytes).expect("written");
        made
    }

    /// A row of the window that ends on `day`, whose file is not there.
    pub(crate) fn add_row(&mut self, uid: &str, day: i64, size: usize) -> Made {
        let path = self.path("files").join(uid);
        let time = self.first_day + chrono::TimeDelta::days(day) - chrono::TimeDelta::hours(1);
        let created_at = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let values = row(uid, &created_at, &path, size);
        let url = self.config["database"]["url"].as_str().expect("a URL");
        self.sql(url, &format!("INSERT INTO archive.\"Files\" VALUES {values}"));
        self.rows += 1;
        Made { uid: uid.to_owned(), created_at, path }
    }

    /// A file of now, whose row a transaction wrote that is open as whoever `url` names.
    pub(crate) fn begin_with_file(&self, uid: &str, url: &str) -> (Made, PgConnection) {
        let path = self.path("files").join(uid);
        std::fs::write(&path, uid).expect("written");
        let insert = format!(
            "INSERT INTO archive.\"Files\" VALUES ('{uid}', now(), '{}', {}) \
             RETURNING \"created at\"",
            path.display(),
            uid.len()
        );
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(url).await.expect("connected");
            sqlx::raw_sql("BEGIN").execute(&mut connection).await.expect("a transaction");
            let inserted = sqlx::query_scalar(AssertSqlSafe(insert));
            let created_at: chrono::DateTime<chrono::Utc> =
                inserted.fetch_one(&mut connection).await.expect("a row");
            let created_at = created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            (Made { uid: uid.to_owned(), created_at, path }, connection)
        })
    }

    /// A transaction as an administrator that did this and is open.
    pub(crate) fn hold(&self, sql: &str) -> PgConnection {
        let sql = format!("BEGIN; {sql}");
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.admin_url()).await.expect("connected");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("done");
            connection
        })
    }

    pub(crate) fn commit(&self, mut transaction: PgConnection) {
        self.runtime.block_on(async {
            sqlx::raw_sql("COMMIT").execute(&mut transaction).await.expect("committed");
            transaction.close().await.expect("closed");
        });
    }

    /// Writes that the S3 server never answered.
    pub(crate) fn stuck_writes(&self) -> usize {
        let root = self.s3.bucket_dir.parent().expect("beside the bucket");
        let entries = std::fs::read_dir(root).expect("a directory").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".stuck-")).count()
    }

    /// The one object whose name contains all of `parts`, as JSON.
    pub(crate) fn document(&self, parts: &[&str]) -> Value {
        let objects = self.objects();
        let mut keys = objects.keys().filter(|key| parts.iter().all(|part| key.contains(part)));
        let (key, others) = (keys.next().expect("the document"), keys.count());
        assert_eq!(others, 0, "more than one: {parts:?}");
        let bytes = std::fs::read(self.s3.bucket_dir.join(key)).expect(key);
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    /// What is run from now on signs its requests to the store with this key.
    pub(crate) fn use_key(&mut self, key: &str) {
        key.clone_into(&mut self.s3.access_key);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_des"));
        command
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
            .envs(&self.environment);
        command
    }

    /// A service of the fleet.
    pub(crate) fn start(&self, role: &str) -> Running {
        self.start_with(role, &[])
    }

    /// A service of the fleet that another program becomes, such as `unshare`.
    pub(crate) fn start_under(&self, words: &[&str], role: &str) -> Running {
        let (program, options) = words.split_first().expect("a program");
        let des = self.command();
        let mut command = Command::new(program);
        command.args(options).arg(des.get_program());
        command.envs(des.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let config = self.path(&format!("{role}.yaml"));
        Running::start(command, [role.as_ref(), "--config".as_ref(), config.as_os_str()])
    }

    /// Where the source files are.
    pub(crate) fn sources(&self) -> PathBuf {
        self.path("files")
    }

    /// A service of the fleet, with options besides.
    pub(crate) fn start_with(&self, role: &str, options: &[&str]) -> Running {
        let config = self.path(&format!("{role}.yaml"));
        let words = [role.as_ref(), "--config".as_ref(), config.as_os_str()];
        let options = options.iter().map(std::ffi::OsStr::new);
        Running::start(self.command(), words.into_iter().chain(options))
    }

    /// `des WORDS`, under way.
    pub(crate) fn begin(&self, words: &str) -> Running {
        let config = self.path("coordinator.yaml").display().to_string();
        let words = words.split_whitespace().map(str::to_owned);
        Running::start(self.command(), words.chain(["--config".to_owned(), config]))
    }

    /// A service of several jobs, one for each of these configurations.
    pub(crate) fn start_of_several(&self, role: &str, configs: &[&str]) -> Running {
        let config = |name: &&str| ["--config".to_owned(), self.path(name).display().to_string()];
        let words = std::iter::once(role.to_owned()).chain(configs.iter().flat_map(config));
        Running::start(self.command(), words)
    }

    /// `des WORDS`, to its end.
    pub(crate) fn run_as_it_is(&self, words: &str) -> Run {
        Running::start(self.command(), words.split_whitespace()).end(LIMIT)
    }

    /// What coordinators are configured with.
    pub(crate) fn configuration(&self) -> Value {
        self.config.clone()
    }

    /// Midnight of a day, as `created_at` has it.
    pub(crate) fn midnight(&self, day: i64) -> chrono::DateTime<chrono::Utc> {
        self.first_day + chrono::TimeDelta::days(day)
    }

    pub(crate) fn run(&self, words: &str, config: &Path) -> Run {
        let words = words.split_whitespace().map(str::to_owned);
        let config = config.display().to_string();
        let words = words.chain(["--config".to_owned(), config]);
        Running::start(self.command(), words).end(LIMIT)
    }

    /// `des WORDS`, however it ends.
    pub(crate) fn des(&self, words: &str) -> Run {
        self.run(words, &self.path("coordinator.yaml"))
    }

    /// SQL on the database of catalog and ledger.
    pub(crate) fn execute(&self, sql: &str) {
        self.sql(self.config["database"]["url"].as_str().expect("a URL"), sql);
    }

    /// An object of ten bytes in the bucket that was written `days` ago.
    pub(crate) fn plant(&self, key: &str, days: u64) {
        let path = self.s3.bucket_dir.join("a/prefix").join(key);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, b"0123456789").expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("it opens");
        let then = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
        file.set_modified(then).expect("it grows old");
    }

    /// What `des WORDS --output json` prints; it must succeed.
    pub(crate) fn json(&self, words: &str) -> Value {
        let config = self.path("coordinator.yaml");
        self.run(&format!("{words} --output json"), &config).expect(0).json()
    }

    /// `des WORDS` with another value of one key.
    pub(crate) fn des_with(&self, key: &str, value: &str, words: &str) -> Run {
        let (section, key) = key.split_once('.').expect("section.key");
        let mut config = self.config.clone();
        config[section][key] = value.into();
        std::fs::write(self.path("other.yaml"), config.to_string()).expect("written");
        self.run(words, &self.path("other.yaml"))
    }

    fn stats(&self) -> Run {
        self.run("stats --output json", &self.path("coordinator.yaml"))
    }

    /// Whether another job has nothing pending and no window open.
    pub(crate) fn is_archived_by(&self, config: &str) -> bool {
        says_archived(&self.run("stats --output json", &self.path(config)))
    }

    /// Whether a window is held with so many failed files.
    pub(crate) fn is_held_with(&self, files_failed: u64) -> bool {
        let run = self.stats();
        run.code == Some(0) && run.json()["held"][0]["files_failed"] == files_failed
    }

    /// Whether nothing is pending and no window is open.
    pub(crate) fn is_archived(&self) -> bool {
        says_archived(&self.stats())
    }

    /// Waits until nothing is pending and no window is open.
    pub(crate) fn wait_until_archived(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let run = self.stats();
            if says_archived(&run) {
                return;
            }
            assert!(Instant::now() < deadline, "the fleet did not finish:\n{run}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every object of the bucket, with its size.
    pub(crate) fn objects(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let root = self.s3.bucket_dir.clone();
        let mut left = vec![root.clone()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    left.push(path);
                } else if let Ok(metadata) = path.metadata() {
                    let name = path.strip_prefix(&root).expect("below it").display().to_string();
                    found.insert(name, metadata.len());
                }
            }
        }
        found
    }

    /// The hashes of the objects whose names end so.
    pub(crate) fn contents(&self, ends: &str) -> BTreeMap<String, String> {
        let names = self.objects().into_keys().filter(|name| name.ends_with(ends));
        names
            .map(|name| {
                let bytes = std::fs::read(self.s3.bucket_dir.join(&name)).expect("an object");
                (name, blake3::hash(&bytes).to_string())
            })
            .collect()
    }

    /// Takes the objects away, or changes a byte of them, by turns.
    pub(crate) fn damage(&self, names: &[&String]) {
        for (number, name) in names.iter().enumerate() {
            let path = self.s3.bucket_dir.join(name);
            if number % 2 == 0 {
                std::fs::remove_file(path).expect("removed");
            } else {
                let mut bytes = std::fs::read(&path).expect("an object");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).expect("written");
            }
        }
    }

    pub(crate) fn shards(&self) -> usize {
        let directory = self.s3.bucket_dir.join("a/prefix");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".des")).count()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.value("SELECT epoch FROM des_lease").parse().expect("a number")
    }

    /// `verify --deep` is clean, counts by day are the catalog's, and samples read back.
    pub(crate) fn assert_everything_is_there(&self) {
        let archived = self.rows - MISSING;
        let verified = self.json("verify --deep");
        assert_eq!(verified["files"], archived, "{verified}");
        assert_eq!(
            (&verified["damaged"], &verified["missing"]),
            (&0.into(), &0.into()),
            "{verified}"
        );
        let windows = self.json("ls");
        let windows = windows["windows"].as_array().expect("windows");
        for window in windows {
            let (start, end) = (window["start"].as_str(), window["end"].as_str());
            let rows = self.value(&format!(
                "SELECT count(*) FROM archive.\"Files\" WHERE \"created at\" > '{}' AND \"created at\" <= '{}'",
                start.expect("a start"), end.expect("an end")
            ));
            let settled = window["files"].as_u64().zip(window["failed"].as_u64());
            assert_eq!(
                settled.map(|(files, failed)| (files + failed).to_string()),
                Some(rows),
                "{window}"
            );
        }
        for number in (0..archived).step_by((archived / 12).max(1)) {
            let path = self.path("files").join(format!("{:03}/{number:06}.json", number / 1_000));
            self.assert_archived(&Made {
                uid: uid(number),
                created_at: self.created_at(number, false),
                path,
            });
        }
    }

    pub(crate) fn assert_archived(&self, made: &Made) {
        let config = self.path("coordinator.yaml");
        let words = ["get", "--created-at", &made.created_at, "--config"].map(std::ffi::OsStr::new);
        let words = words.into_iter().chain([config.as_os_str(), "--".as_ref(), made.uid.as_ref()]);
        let run = Running::start(self.command(), words).end(LIMIT).expect(0);
        let source = std::fs::read(&made.path).expect("a source");
        assert!(run.stdout == source, "{}: other bytes than its source's", made.uid);
    }

    /// `get` does not find the file, and says why.
    pub(crate) fn assert_refused(&self, made: &Made, told: &str) {
        let words = format!("get {} --created-at {}", made.uid, made.created_at);
        self.run(&words, &self.path("coordinator.yaml")).expect(4).says([told]);
    }

    /// The seed's queries, and our own tables.
    pub(crate) fn assert_tables_say_so(&self) {
        let errors = "SELECT count(*) || ' ' || min(reason) || ' ' || max(reason) \
                      FROM des_migration_errors WHERE resolved_at IS NULL";
        assert_eq!(self.value(errors), format!("{MISSING} missing missing"));
        let pending = "SELECT COUNT(*) FROM archive.\"Files\" WHERE \"created at\" > \
             (SELECT archived_until FROM des_archive_config WHERE id = 1) \
             AND \"created at\" <= NOW() - INTERVAL '7 days'";
        assert_eq!(self.value(pending), "0");
        let lag = "SELECT ((NOW() - INTERVAL '1 day' * lag_days) - archived_until) < INTERVAL '1 day' \
                   FROM des_archive_config";
        assert_eq!(self.value(lag), "true");
    }

    /// One first pass of every window, one certificate that counts for each, and the watermark
    /// where the last one ends.
    pub(crate) fn assert_committed_once(&self) {
        let gaps = "SELECT count(*) FROM des_windows AS it WHERE state <> 'committed' \
             OR certificate IS NULL OR window_start > (SELECT origin FROM des_archives) \
             AND NOT EXISTS (SELECT FROM des_windows AS before \
                 WHERE before.window_end = it.window_start)";
        assert_eq!(
            self.value(gaps),
            "0",
            "windows that are open, or do not begin at another's end"
        );
        let twice = "SELECT count(*) - count(DISTINCT window_start) FROM des_windows \
             WHERE revision = 0";
        assert_eq!(self.value(twice), "0", "windows that were committed twice");
        let last = "SELECT max(window_end) = (SELECT archived_until FROM des_archive_config) \
             FROM des_windows";
        assert_eq!(self.value(last), "true");
    }

    /// PostgreSQL's own count of writes to the table since it was loaded.
    pub(crate) fn assert_source_untouched(&self) {
        let writes = "SELECT n_tup_upd + n_tup_del + n_dead_tup FROM pg_stat_user_tables \
                      WHERE relname = 'Files'";
        assert_eq!(self.value(writes), "0");
        let rows = self.value("SELECT count(*) FROM archive.\"Files\"");
        assert_eq!(rows, self.rows.to_string());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        self.sql(&self.postgres, &drop);
        self.sql(&self.postgres, &format!("DROP ROLE IF EXISTS {}", self.database));
    }
}

/// Until the coordinator has made the archive there are no stats.
fn says_archived(stats: &Run) -> bool {
    if stats.code != Some(0) {
        return false;
    }
    let stats = stats.json();
    ["pending_files", "open_windows", "lag_seconds"].iter().all(|it| stats[it] == 0)
}

fn row(uid: &str, created_at: &str, path: &Path, size: usize) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let path = quoted(&path.display().to_string());
    format!("({}, '{created_at}', {path}, {size})", quoted(uid))
}

fn uid(number: usize) -> String {
    match number % 7 {
        0 => format!("{}", 100_000_000_000_usize + number * 7_919),
        1 => format!("zażółć/gęślą \"jaźń\" {number}"),
        2 if number < 40 => format!("{number}-{}", "long".repeat(15_000)),
        _ => format!("doc-{number:08}.json"),
    }
}

fn content(number: usize) -> Vec<u8> {
    match number {
        4 => vec![7; 11 * 1024 * 1024],
        _ if number.is_multiple_of(25) => Vec::new(),
        _ => {
            let mut bytes = format!("{{\"document\":{number},\"lines\":[").into_bytes();
            let line = format!("{{\"sku\":{},\"note\":\"as it was\"}},", number * 31);
            bytes.extend(line.bytes().cycle().take(200 + number * 37 % 5_000));
            if number.is_multiple_of(3) {
                let at = bytes.len();
                bytes.resize(at + 2_000, 0);
                let mut noise = blake3::Hasher::new();
                noise.update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes[at..]);
            }
            bytes
        }
    }
}
