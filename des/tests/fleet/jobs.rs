//! Two tables, two jobs, one fleet: one coordinator process with a standby, workers that serve both.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::otlp::Receiver;
use crate::process::Running;
use crate::scrape::{Scrape, get};
use crate::setup::Fleet;
use crate::{LIMIT, note};

/// Rows of a partition: few, so that there are many tasks.
const PARTITION_ROWS: usize = 5;
const COORDINATORS: [&str; 2] = ["coordinator.yaml", "letters.yaml"];
const WORKERS: [&str; 2] = ["worker.yaml", "letters-worker.yaml"];

/// The fleet of the other tests, whose job is `default`, and a second table with a job of its own.
struct Two {
    fleet: Fleet,
    letters: usize,
}

impl Two {
    fn new(files: usize, letters: usize) -> Self {
        Self::on(Fleet::new(files), letters)
    }

    fn on(mut fleet: Fleet, letters: usize) -> Self {
        fleet.configure("coordinator", "partition_rows", json!(PARTITION_ROWS));
        fleet.configure("coordinator", "windows_in_flight", json!(12));
        let mut config = fleet.configuration();
        config["job"] = json!("letters");
        config["database"]["table_name"] = json!("archive.letters");
        config["database"]["created_at_column"] = json!("created_at");
        config["watermark"] = json!({ "config_id": 2 });
        config["packer"]["n_bits"] = json!(5);
        let prefix = format!("{}-letters", config["broker"]["prefix"].as_str().expect("a prefix"));
        config["broker"]["prefix"] = json!(prefix);
        let store = config["store"]["url"].as_str().expect("a URL").replace("/a/", "/letters/");
        config["store"]["url"] = json!(store);
        let two = Self { fleet, letters };
        two.write("letters.yaml", &config);
        config["database"] = json!({});
        two.write("letters-worker.yaml", &config);
        two.make_letters();
        two
    }

    /// Sets a key of one of the configurations.
    fn configure(&self, name: &str, section: &str, key: &str, value: Value) {
        let mut config = self.configuration(name);
        config[section][key] = value;
        self.write(name, &config);
    }

    fn configuration(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.fleet.path(name)).expect("a configuration");
        serde_json::from_str(&text).expect("JSON")
    }

    fn write(&self, name: &str, config: &Value) {
        std::fs::write(self.fleet.path(name), config.to_string()).expect("written");
    }

    /// Small files, spread over ten days.
    fn make_letters(&self) {
        let root = self.fleet.path("files/letters");
        std::fs::create_dir_all(&root).expect("made");
        let mut rows = Vec::new();
        for number in 0..self.letters {
            let path = root.join(format!("{number:05}"));
            let text = format!("letter {number}, ").repeat(20 + number % 7);
            std::fs::write(&path, &text).expect("written");
            let number = i64::try_from(number).expect("few");
            let at = self.fleet.midnight(number % 10) + chrono::TimeDelta::seconds(1 + number);
            let (at, path) = (at.to_rfc3339(), path.display());
            rows.push(format!("('letter-{number}', '{at}', '{path}', {})", text.len()));
        }
        self.fleet.execute(&format!(
            "CREATE TABLE archive.letters (uid text PRIMARY KEY, created_at timestamptz, \
             file_location text, size_bytes bigint); \
             CREATE INDEX ON archive.letters (created_at); INSERT INTO archive.letters VALUES {}",
            rows.join(",")
        ));
    }

    fn coordinator(&self) -> Running {
        self.fleet.start_of_several("coordinator", &COORDINATORS)
    }

    fn worker(&self) -> Running {
        self.fleet.start_of_several("worker", &WORKERS)
    }

    /// `des WORDS` for the job of the letters, which must succeed.
    fn of_letters(&self, words: &str) -> Value {
        let config = self.fleet.path("letters.yaml");
        self.fleet.run(&format!("{words} --output json"), &config).expect(0).json()
    }

    /// Makes a job's archive, and pauses it before anything is done.
    fn begin_paused(&self, config: &str) {
        let config = self.fleet.path(config);
        self.fleet.run("init", &config).expect(0);
        self.fleet.run("pause --reason later", &config).expect(0);
    }

    fn number(&self, sql: &str) -> usize {
        self.fleet.try_value(sql).map_or(0, |text| text.parse().expect("a number"))
    }

    /// Partitions of a job that are accepted, and that are not.
    fn partitions(&self, job: &str) -> (usize, usize) {
        let count = |receipt: &str| {
            let sql = "SELECT count(*) FROM des_partitions WHERE receipt IS";
            self.number(&format!("{sql} {receipt} AND job = '{job}'"))
        };
        (count("NOT NULL"), count("NULL"))
    }

    fn wait_until_both_are_archived(&self) {
        self.fleet.wait_until_archived(LIMIT);
        let deadline = Instant::now() + LIMIT;
        while !self.fleet.is_archived_by("letters.yaml") {
            assert!(Instant::now() < deadline, "the letters were not finished");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Each archive holds its own table, whole, and nothing of the other's.
    fn assert_each_has_its_own(&self) {
        self.fleet.assert_everything_is_there();
        let verified = self.of_letters("verify --deep");
        let found = ["files", "damaged", "missing"].map(|it| verified[it].as_u64().expect(it));
        assert_eq!(found, [self.letters.try_into().expect("few"), 0, 0], "{verified}");
        let config = self.fleet.path("letters.yaml");
        let listed = self.fleet.run("ls --files --output json", &config).expect(0).text();
        let uids = listed.lines().map(|line| {
            let file: Value = serde_json::from_str(line).expect("JSON");
            file["uid"].as_str().expect("a uid").to_owned()
        });
        let made = (0..self.letters).map(|number| format!("letter-{number}"));
        assert_eq!(uids.collect::<BTreeSet<_>>(), made.collect());
        let failed = "SELECT count(*) FROM des_migration_errors WHERE job = 'letters'";
        assert_eq!(self.number(failed), 0);
        // One pass over each window of either, and two watermarks at the same cutoff.
        let twice = "SELECT count(*) - count(DISTINCT (job, window_start)) FROM des_windows";
        assert_eq!(self.number(twice), 0);
        let rows = "SELECT count(*) FROM des_archive_config AS it JOIN des_archives AS its \
             ON its.config_id = it.id WHERE it.archived_until = its.settled_until";
        assert_eq!(self.number(rows), 2);
    }
}

#[test]
fn a_small_job_is_done_long_before_the_backlog_of_another_that_was_there_first() {
    let two = Two::new(3_000, 100);
    two.begin_paused("letters.yaml");
    let mut leader = two.coordinator();
    // All of the large job's tasks wait before there is one of the small job.
    let large = Broker::of(&two.fleet);
    leader.run_until(LIMIT, || large.waiting("tasks") > 500);
    two.of_letters("resume --reason now");
    leader.run_until(LIMIT, || two.partitions("letters").1 >= 20);
    let (_, backlog) = two.partitions("default");
    let mut standby = two.coordinator();
    let mut workers = [two.worker(), two.worker()];
    leader.run_until(LIMIT, || two.fleet.is_archived_by("letters.yaml"));
    let letters_done = "SELECT max(committed_at) FROM des_windows WHERE job = 'letters'";
    let before = format!(
        "SELECT count(*) FROM des_windows WHERE job = 'default' AND committed_at < ({letters_done})"
    );
    let (done, left) = (two.number(&before), two.partitions("default").1);
    assert!(done <= 5 && left > 0, "{done} of 10 windows came first; {left} of {backlog} are left");

    // What is served says of which job it is.
    let scrape = Scrape::of(&mut workers[0]);
    assert!(scrape.value("des_worker_tasks_total{result=\"done\",des_job=\"letters\"}") > 0.0);
    assert!(scrape.value("des_worker_tasks_total{result=\"done\",des_job=\"default\"}") > 0.0);
    assert_eq!(scrape.value("des_worker_slots"), 2.0);
    let (status, ready) = get(&mut standby, "/readyz");
    assert_eq!(status, 200, "{ready}");
    for job in ["default", "letters"] {
        assert!(ready.contains(&format!("{job}: standing by")), "{ready}");
    }
    let scrape = Scrape::of(&mut leader);
    assert_eq!(scrape.value("des_leading{des_job=\"letters\"}"), 1.0);
    assert_eq!(scrape.value("des_leading{des_job=\"default\"}"), 1.0);
    let (status, jobs) = get(&mut leader, "/");
    assert!(status == 200 && jobs.contains("href=\"/?job=letters\""), "{jobs}");
    let (status, page) = get(&mut leader, "/?job=letters");
    assert!(status == 200 && page.contains("/page.js"), "{page}");
    let (status, of_job) = get(&mut leader, "/api/status?job=letters");
    let of_job: Value = serde_json::from_str(&of_job).expect("it is JSON");
    assert_eq!((status, &of_job["job"]), (200, &json!("letters")));
    let (status, which) = get(&mut leader, "/api/status");
    assert!(status == 404 && which.contains("default, letters"), "{which}");
    let address = leader.told("serving HTTP address=", LIMIT);
    let top =
        |job: &str| two.fleet.run_as_it_is(&format!("top --once --url http://{address}{job}"));
    let shown = top("/?job=letters").expect(0).text();
    assert!(shown.contains("des  job letters"), "{shown}");
    top("").expect(1).says(["default, letters", "?job="]);

    // The standby takes over both.
    let epochs = "SELECT min(epoch) FROM des_lease";
    let before = two.number(epochs);
    leader.signal(Signal::KILL);
    leader.end(LIMIT);
    standby.run_until(LIMIT, || two.number(epochs) > before);
    two.wait_until_both_are_archived();
    two.assert_each_has_its_own();
    for worker in workers {
        worker.signal(Signal::TERM);
        worker.end(LIMIT).expect(0).says(["job=letters", "job=default"]);
    }
    standby.signal(Signal::TERM);
    standby.end(LIMIT).expect(0).says(["job{job=letters}: leading", "job{job=default}: leading"]);
}

#[test]
fn a_paused_job_holds_nobody_up_and_a_killed_worker_loses_nothing_of_either() {
    let two = Two::new(1_000, 2_000);
    two.begin_paused("coordinator.yaml");
    let origin = "SELECT archived_until FROM des_archive_config WHERE id = 1";
    let began = two.fleet.value(origin);
    let mut coordinator = two.coordinator();
    let mut workers = vec![two.worker(), two.worker()];
    let some = two.letters / PARTITION_ROWS / 20;
    coordinator.run_until(LIMIT, || two.partitions("letters").0 >= some);
    assert_eq!(two.partitions("default"), (0, 0), "it is paused");
    assert_eq!(two.fleet.value(origin), began);

    two.fleet.json("resume --reason now");
    coordinator.run_until(LIMIT, || {
        let both = (two.partitions("default").0, two.partitions("letters").1);
        assert!(both.1 > 0, "the letters were done before the other job began");
        both.0 > 0
    });
    let victim = workers.remove(0);
    victim.signal(Signal::KILL);
    victim.end(LIMIT);
    workers.push(two.worker());
    two.wait_until_both_are_archived();
    two.assert_each_has_its_own();
    assert_eq!(two.fleet.json("stats")["failed_files"], 20);
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0);
}

#[test]
fn a_job_whose_broker_is_away_holds_nobody_up() {
    let two = Two::new(200, 5);
    for name in ["letters.yaml", "letters-worker.yaml"] {
        two.configure(name, "broker", "url", json!("amqp://des:wrong@127.0.0.1:1/%2f"));
    }
    let (mut coordinator, mut worker) = (two.coordinator(), two.worker());
    two.fleet.wait_until_archived(LIMIT);
    two.fleet.assert_everything_is_there();
    for (process, does) in [(&mut coordinator, "leading"), (&mut worker, "taking tasks")] {
        let (status, told) = get(process, "/readyz");
        assert_eq!(status, 503, "{told}");
        assert!(told.contains(&format!("default: {does}")), "{told}");
    }
    let (_, told) = get(&mut coordinator, "/readyz");
    assert!(told.contains("letters: ") && told.contains("127.0.0.1:1"), "{told}");
    for process in [coordinator, worker] {
        process.signal(Signal::TERM);
        let run = process.end(LIMIT).expect(0);
        assert!(!run.stderr.contains("wrong"), "a password is said:\n{run}");
    }
}

#[test]
fn the_spans_of_all_jobs_are_sent_and_counted_together() {
    let receiver = Receiver::start();
    let mut fleet = Fleet::new(40);
    fleet.configure("tracing", "otlp_endpoint", receiver.endpoint.as_str().into());
    let two = Two::on(fleet, 20);
    let (mut coordinator, worker) = (two.coordinator(), two.worker());
    two.wait_until_both_are_archived();
    // Wherever they are counted: they are the process's, and have no label of a job.
    let deadline = Instant::now() + LIMIT;
    while Scrape::of(&mut coordinator).value("des_trace_spans_total{result=\"sent\"}") == 0.0 {
        assert!(Instant::now() < deadline, "no span was sent");
        std::thread::sleep(Duration::from_millis(200));
    }
    for process in [coordinator, worker] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
    let spans = receiver.spans();
    for job in ["default", "letters"] {
        let windows: BTreeSet<_> = spans
            .iter()
            .filter(|it| it.name == "window" && it.get("job") == job)
            .map(|it| it.trace.as_str())
            .collect();
        let committed = "SELECT count(*) FROM des_windows WHERE state = 'committed' AND job =";
        assert_eq!(windows.len(), two.number(&format!("{committed} '{job}'")), "{job}");
        let tasks = spans.iter().filter(|it| it.name == "task" && it.get("job") == job);
        let traces: BTreeSet<_> = tasks.map(|it| it.trace.as_str()).collect();
        assert!(!traces.is_empty() && traces.is_subset(&windows), "{job}: {traces:?}, {windows:?}");
    }
    let instances = |service: &str| {
        let of_service = spans.iter().filter(|it| it.service == service);
        of_service.map(|it| it.instance.as_str()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((instances("des-coordinator"), instances("des-worker")), (1, 1));
}

/// Two jobs of as many files, one with three times the share. Whose turn it is follows from how long tasks
/// take, so that it is slot time that is shared out, and not tasks: what that comes to on a busy machine,
/// too, while both have work.
#[test]
fn a_job_with_three_shares_has_about_three_times_the_slot_time() {
    const FILES: usize = 1_000;
    let receiver = Receiver::start();
    let mut fleet = Fleet::new(FILES);
    fleet.configure("tracing", "otlp_endpoint", receiver.endpoint.as_str().into());
    fleet.configure("worker", "slots", json!(1));
    let two = Two::on(fleet, FILES);
    two.configure("letters-worker.yaml", "worker", "share", json!(3));
    let mut coordinator = two.coordinator();
    // All tasks of both wait before the worker comes.
    let prefix = &two.configuration("letters.yaml")["broker"]["prefix"];
    let of_letters = Broker::with_prefix(&two.fleet, prefix.as_str().expect("a prefix"));
    let queues = [Broker::of(&two.fleet), of_letters];
    let least = u32::try_from(FILES / PARTITION_ROWS).expect("few");
    coordinator.run_until(LIMIT, || queues.iter().all(|it| it.waiting("tasks") >= least));
    let worker = two.worker();
    two.wait_until_both_are_archived();
    two.assert_each_has_its_own();
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }

    let spans = receiver.spans();
    let of = |job: &str| {
        let tasks = spans.iter().filter(|it| it.name == "task" && it.get("job") == job);
        let mut tasks: Vec<_> = tasks.map(|it| (it.began, it.ended)).collect();
        tasks.sort_unstable();
        tasks
    };
    let (letters, others) = (of("letters"), of("default"));
    let all = FILES / PARTITION_ROWS;
    assert!(letters.len() >= all && others.len() >= all, "{} {}", letters.len(), others.len());
    // From when both have begun to when the first of them has nothing more.
    let began = letters[0].0.max(others[0].0);
    let ended = letters[letters.len() - 1].0.min(others[others.len() - 1].0);
    let within = |tasks: &[(u64, u64)]| -> Vec<(u64, u64)> {
        tasks.iter().copied().filter(|task| (began..ended).contains(&task.0)).collect()
    };
    let (letters, others) = (within(&letters), within(&others));
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let served = |tasks: &[(u64, u64)]| {
        seconds(tasks.iter().map(|(began, ended)| ended - began).sum::<u64>())
    };
    let mut begins: Vec<u64> = letters.iter().chain(&others).map(|task| task.0).collect();
    begins.sort_unstable();
    let longest = begins.windows(2).map(|it| it[1] - it[0]).max().map_or(0.0, seconds);
    let (three, one) = (served(&letters), served(&others));
    let told = format!(
        "3 shares to 1: {three:.2} s of slot time in {} tasks to {one:.2} s in {}, and at most \
         {longest:.2} s from one to the next",
        letters.len(),
        others.len()
    );
    note(&told);
    // Who is ahead by a task, however long it took, has not been paid back yet.
    assert!((three / 3.0 - one).abs() <= 0.25 * one + 3.0 * longest, "{told}");
    assert!(others.len() >= 10, "the other one goes on meanwhile: {told}");
}

#[test]
fn jobs_that_cannot_share_a_process_are_refused_before_anything_is_done() {
    let two = Two::new(20, 5);
    let twice = ["coordinator.yaml", "coordinator.yaml"];
    for role in ["coordinator", "worker"] {
        let run = two.fleet.start_of_several(role, &twice).end(LIMIT).expect(2);
        run.says(["both are of job `default`", "coordinator.yaml"]);
    }
    let mut config = two.fleet.configuration();
    config["job"] = json!("letters");
    config["watermark"] = json!({ "config_id": 2 });
    two.write("same.yaml", &config);
    let same = ["coordinator.yaml", "same.yaml"];
    let run = two.fleet.start_of_several("coordinator", &same).end(LIMIT).expect(2);
    run.says(["of the same broker", "set another `broker.prefix`", "-letters"]);
    let mut config = two.configuration("letters.yaml");
    config["tracing"] = json!({ "otlp_endpoint": "http://127.0.0.1:1" });
    two.write("elsewhere.yaml", &config);
    let elsewhere = ["coordinator.yaml", "elsewhere.yaml"];
    let run = two.fleet.start_of_several("coordinator", &elsewhere).end(LIMIT).expect(2);
    run.says(["`tracing.otlp_endpoint` is not the same in both"]);
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'des%'";
    assert_eq!(two.fleet.value(tables), "0", "something was made");
    assert!(two.fleet.objects().is_empty());

    // Together they are checked in one go; what is wrong names its job.
    let words: Vec<String> = COORDINATORS
        .iter()
        .flat_map(|name| ["--config".to_owned(), two.fleet.path(name).display().to_string()])
        .collect();
    let words = format!("coordinator --check --output json {}", words.join(" "));
    let checked = two.fleet.run_as_it_is(&words).expect(0).json();
    let of: BTreeSet<_> = checked["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .map(|it| it["job"].as_str().expect("a job").to_owned())
        .collect();
    assert_eq!(of, ["default", "letters"].map(str::to_owned).into());
}
