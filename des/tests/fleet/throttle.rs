//! Throttling a fleet: it waits while the source database says so, tells it everywhere, and goes on.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::LIMIT;
use crate::broker::Broker;
use crate::private_postgres::{NEW_DATA, PrivatePostgres};
use crate::process::Running;
use crate::s3_server::{S3Server, Setup};
use crate::scrape::{Scrape, get};
use crate::setup::Fleet;

/// For so long nothing may happen that is not to happen.
const WATCHED: Duration = Duration::from_secs(3);

fn unfinished(fleet: &Fleet) -> u64 {
    let sql = "SELECT count(*) FROM des_partitions WHERE receipt IS NULL";
    fleet.try_value(sql).map_or(0, |text| text.parse().expect("a number"))
}

/// Waits until `explain` says that somebody leads and that a reason of this kind holds; gives what
/// it says.
#[track_caller]
fn until_throttled(fleet: &Fleet, coordinator: &mut Running, kind: &str) -> Value {
    let mut facts = Value::Null;
    coordinator.run_until(LIMIT, || {
        facts = fleet.json("explain");
        let nobody = facts["explanation"].as_str().is_none_or(|it| it.contains("nobody leads"));
        !nobody && facts["throttled"]["kind"] == kind
    });
    facts
}

/// Nothing is published, planned or finished.
#[track_caller]
fn assert_at_rest(fleet: &Fleet, broker: &Broker) {
    let windows = "SELECT count(*) FROM des_windows";
    let state = || (unfinished(fleet), fleet.try_value(windows), fleet.shards(), fleet.watermark());
    let (before, deadline) = (state(), Instant::now() + WATCHED);
    while Instant::now() < deadline {
        assert_eq!(broker.waiting("tasks"), 0, "a task was published");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(state(), before);
}

/// Waits until what workers held is finished; nothing more is begun, though something is left.
#[track_caller]
fn comes_to_rest(fleet: &Fleet, broker: &Broker) {
    let left = || (unfinished(fleet), fleet.shards());
    let (mut before, deadline) = (left(), Instant::now() + LIMIT);
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = left();
        if now == before {
            break;
        }
        assert!(Instant::now() < deadline, "it never comes to rest: {now:?}");
        before = now;
    }
    assert!(before.0 > 0, "there is something that could have been done");
    assert_at_rest(fleet, broker);
}

/// Waits until the metric says so of this reason, and of no other.
#[track_caller]
fn until_measured(coordinator: &mut Running, kind: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let scrape = Scrape::of(coordinator);
        let holds = |(key, value): (&String, &f64)| {
            (key.starts_with("des_throttled{") && *value == 1.0).then(|| key.clone())
        };
        let holding: Vec<_> = scrape.values.iter().filter_map(holds).collect();
        if holding == [format!("des_throttled{{reason=\"{kind}\"}}")] {
            return;
        }
        assert!(Instant::now() < deadline, "{kind} does not hold, but {holding:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_fleet_waits_while_the_source_database_is_busy() {
    let mut fleet = Fleet::new(600);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("worker", "slots", json!(1));
    let section = json!({"query": "SELECT jobs FROM archive.busy", "check_every": "1s"});
    for (key, value) in section.as_object().expect("keys") {
        fleet.configure("throttle", key, value.clone());
    }
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");

    // The table is not there: what cannot be asked counts as wait.
    let facts = until_throttled(&fleet, &mut coordinator, "check_failed");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(sentence.contains("counts as wait") && sentence.contains("archive.busy"), "{sentence}");
    until_measured(&mut coordinator, "check_failed");
    let broker = Broker::of(&fleet);
    assert_at_rest(&fleet, &broker);
    assert_eq!(fleet.shards(), 0);

    fleet.execute("CREATE TABLE archive.busy AS SELECT 5 AS jobs");
    let facts = until_throttled(&fleet, &mut coordinator, "query");
    let reason = facts["throttled"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("answers 5, and more than 0 means wait"), "{reason}");
    until_measured(&mut coordinator, "query");
    let (status, told) = get(&mut coordinator, "/api/status");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (status, &told["tone"], &told["throttled"]),
        (200, &json!("throttled"), &facts["throttled"])
    );
    assert_eq!(told["explanation"], facts["explanation"], "the same words");
    assert_eq!(get(&mut coordinator, "/readyz").0, 200, "it does its work, which is to wait");

    fleet.execute("UPDATE archive.busy SET jobs = 0");
    coordinator.run_until(LIMIT, || fleet.shards() > 10);
    // In the middle: what is in the queue is taken back, what a worker holds is finished.
    fleet.execute("UPDATE archive.busy SET jobs = 1");
    until_throttled(&fleet, &mut coordinator, "query");
    comes_to_rest(&fleet, &broker);

    fleet.execute("DELETE FROM archive.busy");
    fleet.wait_until_archived(LIMIT);
    assert!(worker.is_running(), "it stayed");
    assert_eq!(fleet.json("explain")["throttled"], json!(null));
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    fleet.assert_source_untouched();
}

#[test]
fn a_live_rate_spaces_tasks_out_until_it_is_taken_back() {
    let mut fleet = Fleet::new(400);
    fleet.configure("coordinator", "partition_rows", json!(10));
    fleet.json("init");
    fleet.json("throttle --max-files-per-second 5 --reason month-end");
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    let facts = until_throttled(&fleet, &mut coordinator, "files_per_second");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    let told = "max_files_per_second lets at most 5 files per second begin";
    assert!(sentence.ends_with(told) && sentence.contains(" of "), "{sentence}");
    until_measured(&mut coordinator, "files_per_second");
    let published = |coordinator: &mut Running| {
        let scrape = Scrape::of(coordinator);
        scrape.values.get("des_tasks_published_total").copied().unwrap_or_default()
    };
    let (before, began) = (published(&mut coordinator), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let (more, seconds) = (published(&mut coordinator) - before, began.elapsed().as_secs_f64());
    // A window's partitions have at most ten files each; those of fewer are paid off sooner.
    let least = fleet.value("SELECT min(row_count) FROM des_partitions WHERE row_count > 0");
    let least: f64 = least.parse().expect("a number");
    assert!(
        more <= (seconds + 1.0) * 5.0 / least + 1.0,
        "{more} tasks of {least} files in {seconds} s"
    );

    fleet.json("throttle --off --reason over");
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    let log = "SELECT string_agg(reason || ': ' || to_value, ', ' ORDER BY id) FROM des_audit_log \
               WHERE action = 'throttle' AND actor LIKE '%@%'";
    let expected = "month-end: at most 5 files per second, over: as configured";
    assert_eq!(fleet.value(log), expected);
}

/// Small partitions and one slot, so that some work is left whenever a limit says wait, and what the
/// source database is asked is asked often.
fn careful(fleet: &mut Fleet, limit: &str, most: Value) {
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("worker", "slots", json!(1));
    fleet.configure("throttle", limit, most);
    fleet.configure("throttle", "check_every", json!("1s"));
    let [role, _] = fleet.secrets();
    fleet.administer(&format!("GRANT pg_read_all_stats TO {role}"));
}

/// It says this reason, everywhere, and does nothing.
#[track_caller]
fn waits_for(fleet: &Fleet, coordinator: &mut Running, kind: &str, told: [&str; 2]) {
    let facts = until_throttled(fleet, coordinator, kind);
    let (sentence, reason) = (&facts["explanation"], &facts["throttled"]["reason"]);
    let [sentence, reason] = [sentence, reason].map(|it| it.as_str().expect("a text"));
    assert!(told.iter().all(|text| reason.contains(text)), "{reason}");
    assert!(sentence.contains("nothing new has been begun since"), "{sentence}");
    assert!(told.iter().all(|text| sentence.contains(text)), "{sentence}");
    until_measured(coordinator, kind);
    comes_to_rest(fleet, &Broker::of(fleet));
}

/// SQL on a server of this test's own.
fn execute(url: &str, sql: &str) -> sqlx::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.map(|_done| ())
    })
}

/// Sessions at work, which end only when they are ended.
struct Busy {
    sessions: Vec<JoinHandle<sqlx::Result<()>>>,
}

impl Busy {
    const SLEEPS: &str = "FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(86400)'";

    fn begin(fleet: &Fleet, sessions: usize) -> Self {
        let session = |_| {
            let url = fleet.admin_url();
            std::thread::spawn(move || execute(&url, "SELECT pg_sleep(86400)"))
        };
        let busy = Self { sessions: (0..sessions).map(session).collect() };
        let (active, deadline) =
            (format!("SELECT count(*) {}", Self::SLEEPS), Instant::now() + LIMIT);
        while fleet.value(&active) != sessions.to_string() {
            assert!(Instant::now() < deadline, "they are not all at work");
            std::thread::sleep(Duration::from_millis(100));
        }
        busy
    }

    fn end(self, fleet: &Fleet) {
        fleet.administer(&format!("SELECT pg_terminate_backend(pid) {}", Self::SLEEPS));
        for session in self.sessions {
            let ended = session.join().expect("a thread");
            ended.expect_err("it was ended before it had slept enough");
        }
    }
}

/// On a server of its own: on that of all tests, the sessions of others would count.
#[test]
fn a_fleet_waits_while_sessions_are_at_work_until_they_are_gone_or_an_operator_says_so() {
    let server =
        PrivatePostgres::start(NEW_DATA, "", "host all all 127.0.0.1/32 scram-sha-256\n", &[]);
    let s3 = S3Server::start(Setup::default()).expect("a server");
    let mut fleet = Fleet::on(&server.url(), s3, 600);
    // Also with those of this test, which looks on, there are fewer without the busy ones.
    careful(&mut fleet, "max_active_connections", json!(4));
    let told = ["active connections", "more than max_active_connections allows (4)"];
    fleet.des("init").expect(0);
    let busy = Busy::begin(&fleet, 8);
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    let facts = until_throttled(&fleet, &mut coordinator, "active_connections");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(told.iter().all(|text| sentence.contains(text)), "{sentence}");
    assert_at_rest(&fleet, &Broker::of(&fleet));
    assert_eq!((fleet.shards(), unfinished(&fleet)), (0, 0), "nothing was begun");

    busy.end(&fleet);
    coordinator.run_until(LIMIT, || fleet.shards() > 10);
    let busy = Busy::begin(&fleet, 6);
    waits_for(&fleet, &mut coordinator, "active_connections", told);

    let set = fleet.json("throttle --max-active-connections none --reason urgent");
    assert_eq!(set["in_force"]["max_active_connections"], json!(null), "{set}");
    fleet.wait_until_archived(LIMIT);
    busy.end(&fleet);
    assert!(worker.is_running(), "it stayed");
    assert_eq!(fleet.json("explain")["throttled"], json!(null));
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    fleet.assert_source_untouched();
}

#[test]
fn a_fleet_waits_while_a_standby_is_behind_and_goes_on_when_it_has_caught_up() {
    // The standby tells of itself every second, and not every ten.
    let settings = "wal_receiver_status_interval = 1s\nmax_wal_senders = 4\n";
    let hba = "host all,replication all 127.0.0.1/32 scram-sha-256\n";
    let primary = PrivatePostgres::start(NEW_DATA, settings, hba, &[]);
    let copy = format!(
        "\"$BIN/pg_basebackup\" -D data -R -c fast -X stream --no-sync -d '{}'",
        primary.url()
    );
    let standby = PrivatePostgres::start(&copy, settings, "", &[]);
    let s3 = S3Server::start(Setup::default()).expect("a server");
    let mut fleet = Fleet::on(&primary.url(), s3, 600);
    careful(&mut fleet, "max_replication_lag", json!("1d"));
    // Slow enough that some is left when the standby is found to be behind; and the lag that may be is
    // set while the fleet runs.
    fleet.des("init").expect(0);
    fleet.json("throttle --max-files-per-second 10 --reason drill");
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() > 10);

    let set = fleet.json(
        "throttle --max-files-per-second 10 --max-replication-lag 3s --reason the-standby-matters",
    );
    assert_eq!(set["in_force"]["max_replication_lag_seconds"], 3.0, "{set}");
    execute(&standby.url(), "SELECT pg_wal_replay_pause()").expect("it replays nothing");
    let told = ["replication from the source database is", "max_replication_lag allows (3 s)"];
    waits_for(&fleet, &mut coordinator, "replication_lag", told);

    execute(&standby.url(), "SELECT pg_wal_replay_resume()").expect("it replays");
    fleet.json("throttle --max-replication-lag 3s --reason no-need-to-be-slow");
    fleet.wait_until_archived(LIMIT);
    assert!(worker.is_running(), "it stayed");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    fleet.assert_source_untouched();
}
