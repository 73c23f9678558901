//! The fleet of compose.yaml without its containers: the real binary with the commands, environments
//! and configurations that stand there, on the roles that its init script makes, and a real Prometheus
//! that scrapes it with its configuration. Only addresses, passwords and directories are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::otlp::Receiver;
use super::process::{Run, Running};
use super::programs::{path, program, succeeds, words, yaml};
use super::queries::{panels, queries, selectors};
use super::s3_server::{S3Server, Setup};

/// Everything here ends long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const PASSWORD: &str = "opensesame1";
const TOKEN: &str = "opensesame-of-the-page";
const FILES: usize = 300;
/// Panels that show nothing while nothing is wrong, or while nobody works.
const MAY_BE_EMPTY: [&str; 3] = [
    "fleet.json: Answers without a receipt",
    "fleet.json: Files that are not in the archive",
    "workers.json: Tasks per second",
];
const DAYS: usize = 3;

#[track_caller]
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"))
}

fn free_port() -> u16 {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    held.local_addr().expect("an address").port()
}

/// `user:password@host:port` of a URL, in parts.
fn parts(url: &str) -> (String, String, String) {
    let (_, rest) = url.split_once("://").expect("a URL");
    let (access, place) = rest.rsplit_once('@').expect("a user");
    let (user, password) = access.split_once(':').expect("a password");
    let (address, _) = place.split_once('/').expect("a path");
    (user.to_owned(), password.to_owned(), address.to_owned())
}

/// What the containers of compose.yaml would stand on.
struct Ground {
    dir: tempfile::TempDir,
    s3: S3Server,
    /// In the place of OpenTelemetry's collector.
    traces: Receiver,
    /// Host and port of PostgreSQL.
    postgres: String,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("des-install-").tempdir().expect("a directory");
        let s3 = S3Server::start(Setup::default()).expect("a server");
        assert_eq!(s3.bucket, "archive", "the bucket of compose.yaml");
        let (_, _, postgres) = parts(&server("DES_TEST_POSTGRES_URL"));
        let ground = Self { dir, s3, traces: Receiver::start(), postgres };
        ground.remove_roles();
        ground.run_init_script();
        ground.make_samples();
        ground
    }

    fn psql(&self, user: &str, password: &str, database: &str) -> Command {
        let (host, port) = self.postgres.split_once(':').expect("host:port");
        let mut psql = Command::new(Path::new(&server("DES_TEST_PG_BIN")).join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-A", "-t", "-d", database]);
        psql.envs([("PGHOST", host), ("PGPORT", port), ("PGUSER", user), ("PGPASSWORD", password)]);
        psql
    }

    fn as_administrator(&self) -> Command {
        let (user, password, _) = parts(&server("DES_TEST_POSTGRES_URL"));
        self.psql(&user, &password, "postgres")
    }

    fn remove_roles(&self) {
        let drop = "DROP DATABASE IF EXISTS files WITH (FORCE)";
        succeeds(self.as_administrator().args(["-c", drop]));
        for role in ["app", "des_reader", "des_ledger"] {
            succeeds(self.as_administrator().args(["-c", &format!("DROP ROLE IF EXISTS {role}")]));
        }
    }

    /// As the image of PostgreSQL runs it, with its variables.
    fn run_init_script(&self) {
        let (user, password, _) = parts(&server("DES_TEST_POSTGRES_URL"));
        let (host, port) = self.postgres.split_once(':').expect("host:port");
        let bin = format!("{}:{}", server("DES_TEST_PG_BIN"), std::env::var("PATH").expect("PATH"));
        let mut script = Command::new("sh");
        script.arg(path("compose/postgres/10-des.sh")).env("PATH", bin);
        script.envs([("PGHOST", host), ("PGPORT", port), ("PGPASSWORD", &password)]);
        script.env("POSTGRES_USER", &user);
        let names = ["APP_PASSWORD", "DES_READER_PASSWORD", "DES_LEDGER_PASSWORD"];
        super::programs::complains(script.env_remove(names[0]));
        succeeds(script.envs(names.map(|name| (name, PASSWORD))));
    }

    /// A table as `loadtest gen` makes it, by its owner; `loadtest` itself is tried in its own tests.
    fn make_samples(&self) {
        let root = self.dir.path().join("data");
        std::fs::create_dir_all(&root).expect("made");
        let mut sql = "CREATE TABLE files (uid text PRIMARY KEY, created_at timestamptz NOT NULL, \
             file_location text NOT NULL, size_bytes bigint NOT NULL); \
             CREATE INDEX ON files (created_at);\n"
            .to_owned();
        for number in 0..FILES {
            let file = root.join(format!("{number}.json"));
            let content = format!("{{\"document\": {number}}}").repeat(1 + number % 50);
            std::fs::write(&file, &content).expect("written");
            let (day, minute) = (1 + number % DAYS, number % 59);
            sql.push_str(&format!(
                "INSERT INTO files VALUES ('{number}', '2024-06-0{day}T01:{minute:02}:01Z', '{}', {});\n",
                file.display(),
                content.len()
            ));
        }
        let script = self.dir.path().join("samples.sql");
        std::fs::write(&script, sql).expect("written");
        succeeds(self.psql("app", PASSWORD, "files").arg("-f").arg(script));
    }

    /// A service's environment, with what the containers' names mean here.
    fn environment(&self, of: &Value) -> BTreeMap<String, String> {
        let (user, broker_password, broker) = parts(&server("DES_TEST_AMQP_URL"));
        assert_eq!(user, "des", "the broker's user in compose.yaml");
        let variables = BTreeMap::from([
            ("DES_BROKER_PASSWORD", broker_password.as_str()),
            ("S3_ACCESS_KEY_ID", &self.s3.access_key),
            ("S3_SECRET_ACCESS_KEY", &self.s3.secret_key),
            ("DES_READER_PASSWORD", PASSWORD),
            ("DES_LEDGER_PASSWORD", PASSWORD),
            ("DES_ADMIN_TOKEN", TOKEN),
        ]);
        let mut environment = BTreeMap::new();
        for (name, value) in of.as_object().expect("an environment") {
            let mut value = value.as_str().expect("a text").to_owned();
            while let Some((before, rest)) = value.split_once("${") {
                let (inside, after) = rest.split_once('}').expect("an end");
                let variable = inside.split(':').next().unwrap_or_default();
                value = format!("{before}{}{after}", variables[variable]);
            }
            let here = value
                .replace("@postgres:5432", &format!("@{}", self.postgres))
                .replace("@rabbitmq:5672", &format!("@{broker}"))
                .replace("http://garage:3900", &self.s3.endpoint)
                .replace("http://otel-collector:4318", &self.traces.endpoint);
            let names = ["postgres:", "garage:", "otel-collector:"];
            assert!(!names.iter().any(|name| here.contains(name)), "{here}");
            environment.insert(name.clone(), here);
        }
        environment
    }

    /// `des` with a service's environment, and the three variables that containers do not need.
    fn des(&self, service: &str, port: u16) -> Command {
        let compose = yaml("compose/compose.yaml");
        let mut des = Command::new(env!("CARGO_BIN_EXE_des"));
        des.envs(self.environment(&compose["services"][service]["environment"]))
            .env("DES_SPOOL_DIR", self.dir.path())
            .env("DES_SOURCE_ROOT", self.dir.path().join("data"))
            .env("DES_HTTP_LISTEN", format!("127.0.0.1:{port}"));
        des
    }

    /// A service's own command line.
    fn start(&self, service: &str, port: u16) -> Running {
        let compose = yaml("compose/compose.yaml");
        Running::start(
            self.des(service, port),
            here(&words(&compose["services"][service]["command"])),
        )
    }

    /// A service's own health check.
    fn health(&self, service: &str, port: u16) -> Run {
        let compose = yaml("compose/compose.yaml");
        let check = words(&compose["services"][service]["healthcheck"]["test"]);
        Running::start(self.des(service, port), here(&check[2..])).end(LIMIT)
    }

    fn stats(&self) -> Run {
        let words = ["stats", "--output", "json", "--config", "/etc/des/coordinator.yaml"];
        let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
        Running::start(self.des("coordinator", free_port()), here(&words)).end(LIMIT)
    }

    fn wait_until_archived(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let run = self.stats();
            let is_done = |stats: &Value| {
                ["pending_files", "open_windows", "lag_seconds"].iter().all(|it| stats[it] == 0)
            };
            if run.code == Some(0) && is_done(&run.json()) {
                return;
            }
            assert!(Instant::now() < deadline, "the fleet did not finish:\n{run}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.remove_roles();
    }
}

/// The directory that is mounted at /etc/des.
fn here(arguments: &[String]) -> Vec<String> {
    let mounted = path("compose/des").display().to_string();
    arguments.iter().map(|it| it.replace("/etc/des", &mounted)).collect()
}

/// Prometheus with compose's configuration, but for the addresses.
struct Prometheus {
    process: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &BTreeMap<&str, Vec<u16>>) -> Option<Self> {
        let mut config = yaml("compose/prometheus/prometheus.yaml");
        let port = free_port();
        config["global"]["scrape_interval"] = "1s".into();
        config["rule_files"] = json!([path("compose/prometheus/alerts.yaml")]);
        for job in config["scrape_configs"].as_array_mut().expect("jobs") {
            let found = job.as_object_mut().expect("a job").remove("dns_sd_configs");
            let Some(found) = found else { continue };
            let service = found[0]["names"][0].as_str().expect("a name");
            let ports = targets[service].iter().map(|port| format!("127.0.0.1:{port}"));
            job["static_configs"] = json!([{ "targets": ports.collect::<Vec<_>>() }]);
        }
        let dir =
            tempfile::Builder::new().prefix("des-prometheus-").tempdir().expect("a directory");
        let file = dir.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).expect("written");
        let mut prometheus = program("prometheus")?;
        prometheus
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"));
        let process = prometheus.spawn().expect("prometheus runs");
        Some(Self { process, url: format!("http://127.0.0.1:{port}"), _dir: dir })
    }

    /// What a query gives, a line for each series.
    fn ask(&self, query: &str) -> Result<String, String> {
        let mut ask = program("promtool").expect("it comes with prometheus");
        let output = ask.args(["query", "instant", &self.url, query]).output().expect("it runs");
        let said = super::programs::said(&output);
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    fn wait_for(&self, query: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.ask(query).is_ok_and(|it| it.trim().is_empty()) || self.ask(query).is_err() {
            assert!(Instant::now() < deadline, "{query} never holds: {:?}", self.ask(query));
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped_already = self.process.wait();
    }
}

/// The other configurations: each is read, and what it names is reached.
fn check_the_other_configurations(ground: &Ground) {
    let store = format!("file://{}", ground.dir.path().join("store").display());
    let configurations: [(&str, &[&str]); 6] = [
        ("compose/kubernetes/fleet/coordinator.yaml", &["coordinator"]),
        ("compose/kubernetes/fleet/worker.yaml", &["worker"]),
        ("compose/kubernetes/single/migrate.yaml", &["migrate", "--mode", "single"]),
        ("compose/systemd/coordinator.yaml", &["coordinator"]),
        ("compose/systemd/worker.yaml", &["worker"]),
        ("compose/systemd/migrate.yaml", &["migrate", "--mode", "single"]),
    ];
    std::fs::create_dir_all(ground.dir.path().join("store")).expect("made");
    for (config, command) in configurations {
        let service = if command[0] == "worker" { "worker" } else { "coordinator" };
        let mut des = ground.des(service, free_port());
        des.env("DES_STORE_URL", &store);
        let config = path(config).display().to_string();
        let arguments = command.iter().copied().chain(["--check", "--config", &config]);
        Running::start(des, arguments).end(LIMIT).expect(0);
    }
}

#[test]
fn the_fleet_of_compose_archives_everything_and_its_dashboards_see_it() {
    let ground = Ground::new();
    check_the_other_configurations(&ground);
    let nobody = free_port();
    ground.health("worker", nobody).expect(1).says(["nobody answers at"]);

    let targets: BTreeMap<&str, Vec<u16>> =
        ["coordinator", "worker"].map(|service| (service, vec![free_port(), free_port()])).into();
    let fleet: Vec<(&str, u16, Running)> = targets
        .iter()
        .flat_map(|(service, ports)| ports.iter().map(|port| (*service, *port)))
        .map(|(service, port)| (service, port, ground.start(service, port)))
        .collect();
    ground.wait_until_archived();
    let stats = ground.stats().expect(0).json();
    assert_eq!((&stats["failed_files"], &stats["uncovered_files"]), (&0.into(), &0.into()));
    let config = path("compose/des/coordinator.yaml").display().to_string();
    let verify = ["verify", "--deep", "--output", "json", "--config", &config];
    let verified = Running::start(ground.des("coordinator", nobody), verify).end(LIMIT).expect(0);
    assert_eq!(verified.json()["files"], FILES);
    for (service, port, _) in &fleet {
        let run = ground.health(service, *port).expect(0);
        let says: BTreeSet<&str> = ["leading", "standing by", "taking tasks"].into();
        assert!(says.iter().any(|it| run.text().contains(it)), "{run}");
    }
    assert_the_broker_runs_with_its_configuration();
    for (_, port, _) in fleet.iter().filter(|(service, ..)| *service == "coordinator") {
        assert_eq!(
            act(*port, "throttle", ", \"max_files_per_second\": 100000", "a-guess-at-it"),
            401
        );
    }
    let (_, port, _) = fleet.iter().find(|(it, ..)| *it == "coordinator").expect("a coordinator");
    assert_eq!(act(*port, "pause", "", TOKEN), 200, "the page may pause");
    assert_eq!(act(*port, "resume", "", TOKEN), 200);

    if let Some(prometheus) = Prometheus::start(&targets) {
        prometheus.wait_for("count(up{job=~\"des-.*\"} == 1) == 4");
        prometheus.wait_for("rate(des_worker_slots[1m])");
        // Absent while paused, and figures are read seconds later.
        prometheus.wait_for("des_backlog_seconds");
        assert_every_query_finds_something(&prometheus);
    }
    for (service, _, process) in fleet {
        process.signal(Signal::TERM);
        let run = process.end(LIMIT).expect(0);
        let told = [PASSWORD, TOKEN].iter().any(|secret| run.stderr.contains(secret));
        assert!(!told, "{service} tells a password");
    }
    // Each has sent what it had when it ended.
    let spans = ground.traces.spans();
    let packed: BTreeSet<&str> =
        spans.iter().filter(|it| it.name == "pack").map(|it| it.trace.as_str()).collect();
    assert!(packed.len() >= DAYS, "a trace for each day's window: {packed:?}");
    for trace in packed {
        let services: BTreeSet<&str> =
            spans.iter().filter(|it| it.trace == trace).map(|it| it.service.as_str()).collect();
        assert_eq!(services, ["des-coordinator", "des-worker"].into(), "{trace}");
    }
}

/// Acts as the page of a coordinator does; the status of the answer.
#[track_caller]
fn act(port: u16, what: &str, more: &str, token: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let body = format!("{{\"reason\": \"drill\"{more}}}");
    let request = format!(
        "POST /api/{what} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.unwrap_or_else(|| panic!("no status: {answer}"))
}

fn assert_every_query_finds_something(prometheus: &Prometheus) {
    let mut silent = Vec::new();
    let mut asked = BTreeSet::new();
    for (place, query) in queries() {
        prometheus.ask(&query).unwrap_or_else(|why| panic!("{place}: {query}: {why}"));
        for (name, matchers) in selectors(&query) {
            let selector = format!("{name}{{{matchers}}}");
            if asked.insert(selector.clone()) {
                let found =
                    prometheus.ask(&selector).unwrap_or_else(|why| panic!("{selector}: {why}"));
                if found.trim().is_empty() {
                    silent.push(format!("{place}: {selector}"));
                }
            }
        }
    }
    assert!(asked.len() > 40, "{asked:?}");
    assert!(silent.is_empty(), "a fleet that runs serves nothing of this: {silent:#?}");
    // The panels of a fleet that has just archived something are not empty either.
    let panels = panels();
    for title in MAY_BE_EMPTY {
        assert!(panels.iter().any(|(place, _)| place == title), "there is no {title}");
    }
    for (place, query) in panels {
        if !MAY_BE_EMPTY.contains(&place.as_str()) {
            prometheus.wait_for(&query);
        }
    }
    for stat in ["sum(des_leading) == 1", "max(des_watermark_timestamp_seconds) * 1000 > 1.7e12"] {
        assert!(!prometheus.ask(stat).expect("an answer").trim().is_empty(), "{stat}");
    }
}

/// ./test starts its broker with compose's rabbitmq.conf.
fn assert_the_broker_runs_with_its_configuration() {
    let mut rabbitmqctl = Command::new(PathBuf::from(server("DES_TEST_RABBITMQCTL")));
    let environment = succeeds(rabbitmqctl.arg("environment"));
    for line in super::programs::text("compose/rabbitmq/rabbitmq.conf").lines() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let shown = match key {
            "consumer_timeout" => format!("{{consumer_timeout,{value}}}"),
            "disk_free_limit.absolute" => format!("\"{value}\""),
            "vm_memory_high_watermark.relative" => format!("{{vm_memory_high_watermark,{value}}}"),
            other => panic!("say here how rabbitmqctl shows {other}"),
        };
        assert!(environment.contains(&shown), "{shown} is not in force:\n{environment}");
    }
}
