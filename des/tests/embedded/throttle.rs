//! Throttling in one process: rates, hours, and what the source database says, each told and obeyed.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Place, Run, Running};

const LIMIT: Duration = Duration::from_secs(90);

/// Thirty files on each of two days, in partitions of ten, and an archive that has nothing of them.
fn place() -> Place {
    let mut place = Place::new();
    place.fill(8..10, 30);
    place.load().set("coordinator.partition_rows", 10);
    place.json("init");
    place
}

fn refused(run: Run, told: &str) {
    run.expect(2).says([told]);
}

/// Hours that it is now, in UTC: from an hour ago for three hours.
pub(crate) fn now_hours() -> String {
    let now = Utc::now();
    let at = |hours| (now + TimeDelta::hours(hours)).format("%H:%M").to_string();
    format!("{}-{}", at(-1), at(2))
}

/// Waits until `explain` says that a reason of this kind holds; gives what it says.
#[track_caller]
fn until_throttled(place: &Place, running: &mut Running, kind: &str) -> Value {
    let mut facts = Value::Null;
    running.run_until(LIMIT, || {
        facts = place.json("explain");
        facts["throttled"]["kind"] == kind
    });
    facts
}

#[test]
fn a_run_keeps_to_its_rate() {
    let mut place = place();
    place.set("throttle.max_files_per_second", 10);
    let began = Instant::now();
    let done = place.migrate();
    assert_eq!(done["files_archived"], 60, "{done}");
    // The last partition, of ten, may have begun when the fifty before it were paid for, but for the
    // second's worth that is kept.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "60 files at 10 per second took {took:?}");
    place.verify_deep();
}

#[test]
fn bytes_are_spaced_out_by_what_was_read() {
    let mut place = place();
    let sizes = "SELECT sum(size_bytes), max(size_bytes) FROM files";
    let sizes = place.sql().query(sizes).remove(0);
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (all, largest) = (number(&sizes[0]), number(&sizes[1]));
    // All of them in ten seconds.
    let rate = all.div_ceil(10);
    place.set("throttle.max_bytes_per_second", rate);
    let began = Instant::now();
    assert_eq!(place.migrate()["files_archived"], 60);
    let took = began.elapsed();
    let free = largest * 20 + rate;
    let least = Duration::from_secs_f64(all.saturating_sub(free) as f64 / rate as f64);
    assert!(least > Duration::from_secs(1), "the test says nothing: {least:?}");
    assert!(took >= least, "{all} bytes at {rate} per second took {took:?}, and not {least:?}");
}

#[test]
fn a_run_waits_for_what_the_source_database_says() {
    let mut place = place();
    place.set("throttle.query", "SELECT active FROM maintenance").set("throttle.check_every", "1s");
    let (before, watermark) = (place.objects(), place.watermark());
    let check = place.des("migrate --check").expect(0).text();
    assert!(
        check.contains("nothing would be begun now") && check.contains("maintenance"),
        "{check}"
    );
    let mut running = place.start("migrate --output json");

    // What cannot be asked counts as wait, and is told.
    let facts = until_throttled(&place, &mut running, "check_failed");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(sentence.contains("nothing new has been begun since"), "{sentence}");
    assert!(sentence.contains("counts as wait") && sentence.contains("maintenance"), "{sentence}");
    let human = place.des("explain").expect(0).text();
    assert!(human.contains("throttled  since"), "{human}");

    place.sql().execute("CREATE TABLE maintenance (active); INSERT INTO maintenance VALUES (3)");
    let facts = until_throttled(&place, &mut running, "query");
    let reason = facts["throttled"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("answers 3, and more than 0 means wait"), "{reason}");
    assert!(facts["explanation"].as_str().is_some_and(|it| it.ends_with(reason)), "{facts}");
    assert_eq!(place.json("stats")["throttled"], facts["throttled"]);
    let stats = place.des("stats").expect(0).text();
    assert!(stats.contains("throttled since") && stats.contains(reason), "{stats}");
    assert_eq!(place.json("throttle")["waiting"], facts["throttled"]);
    assert_eq!((place.objects(), place.watermark()), (before, watermark), "nothing is begun");

    place.sql().execute("UPDATE maintenance SET active = 0");
    let run = running.end(LIMIT).expect(0).says(["waiting, nothing new is begun"]);
    assert_eq!(run.json()["files_archived"], 60, "{run}");
    assert_eq!(place.json("explain")["throttled"], json!(null));
    assert_eq!(place.json("stats")["throttled"], json!(null));
    place.verify_deep();
}

/// Says what the source database is to be asked; gives what is in force then.
#[track_caller]
fn say_query(place: &Place, query: &str) -> Value {
    let words = "throttle --reason reindexing --output json --query";
    let config = place.config().display().to_string();
    let words = words.split(' ').chain([query, "--config", &config]).map(str::to_owned);
    Running::start(place.command(), words).end(LIMIT).expect(0).json()
}

#[test]
fn what_the_source_database_is_asked_is_set_replaced_and_lifted_while_a_run_goes_on() {
    let mut place = place();
    // Slow enough that some is left when the query is set.
    place.set("throttle.check_every", "1s").set("throttle.max_files_per_second", 5);
    place.sql().execute("CREATE TABLE maintenance (active); INSERT INTO maintenance VALUES (3)");
    let mut running = place.start("migrate --output json");
    running.run_until(LIMIT, || !place.shards().is_empty());

    let query = "SELECT active FROM maintenance";
    let set = say_query(&place, query);
    let limits = format!("not while \"{query}\" answers more than 0");
    assert_eq!(
        (&set["in_force"]["queries"], &set["said"][0]["limits"]),
        (&json!([query]), &json!(limits))
    );
    let facts = until_throttled(&place, &mut running, "query");
    let reason = facts["throttled"]["reason"].as_str().expect("a reason");
    assert!(
        reason.ends_with(&format!("answers 3, and more than 0 means wait: {query}")),
        "{reason}"
    );
    let check = place.des("migrate --check").expect(0).text();
    assert!(check.contains("nothing would be begun now") && check.contains(query), "{check}");

    let other = "SELECT active + 1 FROM maintenance";
    assert_eq!(say_query(&place, other)["in_force"]["queries"], json!([other]));
    running.run_until(LIMIT, || {
        let facts = place.json("explain");
        let reason = facts["throttled"]["reason"].as_str();
        assert!(reason.is_some_and(|it| it.contains("means wait")), "it never goes on: {facts}");
        reason.is_some_and(|it| it.contains("answers 4"))
    });

    // The database still says wait; nobody asks it any more.
    place.json("throttle --query none --max-files-per-second none --reason urgent");
    let run = running.end(LIMIT).expect(0);
    assert_eq!(run.json()["files_archived"], 60, "{run}");
    assert_eq!(place.sql().value("SELECT active FROM maintenance"), "3");
    place.verify_deep();
}

#[test]
fn in_some_hours_nothing_is_begun_unless_an_operator_says_so() {
    let mut place = place();
    place.set("throttle.not_between", now_hours());
    let mut running = place.start("migrate --output json");
    let facts = until_throttled(&place, &mut running, "business_hours");
    let reason = facts["throttled"]["reason"].as_str().expect("a reason");
    assert!(reason.contains(" UTC; it goes on at 20"), "{reason}");
    assert!(place.shards().is_empty());

    // The first of the two runs obeys within seconds.
    let set = place.json("throttle --not-between none --reason tonight-is-urgent");
    assert_eq!(
        (&set["in_force"]["not_between"], &set["said"][0]["limits"]),
        (&json!([]), &json!("at any hour"))
    );
    let run = running.end(LIMIT).expect(0);
    assert_eq!(run.json()["files_archived"], 60, "{run}");

    // Where nothing is due, nothing is waited for.
    let back = place.json("throttle --off --reason morning");
    assert_eq!(back["in_force"]["not_between"][0], format!("{} UTC", now_hours_of(&place)));
    assert_eq!(place.migrate()["windows"], 0);
    let log = place.sql().query(
        "SELECT from_value, to_value, reason, actor LIKE '%@%' FROM des_audit_log \
         WHERE action = 'throttle' ORDER BY id",
    );
    let rows: [[&str; 4]; 2] = [
        ["", "at any hour", "tonight-is-urgent", "1"],
        ["at any hour", "as configured", "morning", "1"],
    ];
    assert_eq!(
        log.iter().map(|row| &row[1..]).collect::<Vec<_>>(),
        rows.each_ref().map(|it| &it[1..])
    );
}

/// As configured.
fn now_hours_of(place: &Place) -> String {
    let config = std::fs::read_to_string(place.config()).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("it is JSON");
    config["throttle"]["not_between"].as_str().expect("hours").to_owned()
}

/// Whoever takes over asks anew, and knows since when it has been waited for.
#[test]
fn a_takeover_waits_on_for_the_same_reason() {
    for (kind, hours, query) in
        [("business_hours", json!(now_hours()), "SELECT 0"), ("query", Value::Null, "SELECT 3")]
    {
        let mut place = place();
        place.set("throttle.not_between", hours).set("throttle.query", query);
        place.set("throttle.check_every", "1s").set("coordinator.lease_ttl", "3s");
        let mut first = place.start("migrate");
        let before = until_throttled(&place, &mut first, kind)["throttled"].clone();
        first.signal(Signal::KILL);
        drop(first.end(LIMIT));

        let epoch = || place.sql().value("SELECT epoch FROM des_lease");
        let of_first = epoch();
        let mut second = place.start("migrate --output json");
        second.run_until(LIMIT, || epoch() != of_first);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            assert_eq!(place.json("explain")["throttled"], before, "{kind}");
        }
        assert!(place.shards().is_empty());
        place.json("throttle --not-between none --query none --reason urgent");
        assert_eq!(second.end(LIMIT).expect(0).json()["files_archived"], 60);
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut place = place();
    for (words, told) in [
        ("--max-files-per-second 5", "--reason is missing"),
        ("--max-files-per-second 0 --reason x", "pause"),
        ("--max-bytes-per-second 0 --reason x", "pause"),
        ("--max-files-per-second few --reason x", "a number, or none"),
        ("--max-bytes-per-second 20Mops --reason x", "20MiB"),
        ("--not-between lunch --reason x", "lunch"),
        ("--not-between 00:00-24:00 --reason x", "pause instead"),
        ("--all-jobs --max-files-per-second none --reason x", "only tightens"),
        ("--all-jobs --query none --reason x", "only tightens"),
        ("--all-jobs --max-replication-lag none --reason x", "only tightens"),
        ("--query= --reason x", "the query is empty"),
        ("--query maintenance --reason x", "cannot be asked this, and nothing was changed"),
        ("--max-replication-lag 30s --reason x", "no standbys and no connections"),
        ("--max-active-connections 80 --reason x", "no standbys and no connections"),
        ("--max-replication-lag soon --reason x", "such as 90s"),
        ("--max-active-connections few --reason x", "a number, or none"),
        ("--off", "is not throttled"),
        ("--off --all-jobs", "all jobs are not throttled"),
        ("--off --max-files-per-second 5 --reason x", "cannot be used with"),
        ("--off --query none", "cannot be used with"),
    ] {
        refused(place.des(&format!("throttle {words}")), told);
    }
    let nothing = "SELECT (SELECT count(*) FROM des_throttles) + count(*) FROM des_audit_log \
                   WHERE action = 'throttle'";
    assert_eq!(place.sql().value(nothing), "0");
    let shown = place.json("throttle");
    let none = json!({
        "max_files_per_second": null,
        "max_bytes_per_second": null,
        "not_between": [],
        "queries": [],
        "max_replication_lag_seconds": null,
        "max_active_connections": null,
    });
    assert_eq!(shown, json!({"in_force": none, "said": [], "waiting": null}));
    assert!(place.des("throttle").expect(0).text().contains("no limits"));

    for (key, value, told) in [
        ("max_files_per_second", json!(0), "more than zero"),
        ("max_bytes_per_second", json!("some"), "is not a size"),
        ("not_between", json!("Mon-Fri"), "use days and hours"),
        ("query", json!(" "), "it is empty"),
        ("max_replication_lag", json!("30s"), "neither standbys"),
        ("max_active_connections", json!(80), "neither standbys"),
        ("check_every", json!("0s"), "1s..1h"),
        ("max_files_per_secound", json!(5), "did you mean `throttle.max_files_per_second`?"),
    ] {
        place.set(&format!("throttle.{key}"), value);
        let run = place.des("migrate").expect(2).says([told, key]);
        assert!(run.stdout.is_empty(), "{run}");
        place.set("throttle", json!({}));
    }
}

#[test]
fn a_word_about_all_jobs_is_for_each() {
    let mut place = place();
    place.json("pause --all-jobs --reason file-server-moves");
    let set = place.json("throttle --all-jobs --max-files-per-second 1000 --reason month-end");
    assert_eq!(
        (&set["said"][0]["all_jobs"], &set["in_force"]["max_files_per_second"]),
        (&json!(true), &json!(1_000))
    );
    // Another job of the same ledger, which is not there when it is said.
    place.set("job", "others").set("watermark.config_id", 2);
    place.set("packer.output_dir", place.path("other-archive").display().to_string());
    place.json("init");
    let done = place.des("migrate --output json").expect(1).json();
    assert_eq!(
        (&done["paused"]["all_jobs"], &done["windows"]),
        (&json!(true), &json!(0)),
        "{done}"
    );
    let sentence = place.json("explain")["explanation"].to_string();
    assert!(sentence.contains("paused all jobs") && sentence.contains("--all-jobs"), "{sentence}");
    refused(place.des("resume"), "--all-jobs");
    place.json("throttle --max-files-per-second 5000 --reason own-limit");
    assert_eq!(place.json("throttle")["in_force"]["max_files_per_second"], 1_000, "the lower one");
    let resumed = place.json("resume --all-jobs --reason it-has-moved");
    assert_eq!((&resumed["paused"], &resumed["all_jobs"]), (&json!(false), &json!(true)));
    place.json("throttle --off --all-jobs --reason over");
    assert_eq!(place.json("throttle")["in_force"]["max_files_per_second"], 5_000);
    assert_eq!(place.migrate()["files_archived"], 60);
    let log = place.json("audit");
    let reasons: Vec<_> =
        log["entries"].as_array().expect("entries").iter().map(|it| it["reason"].clone()).collect();
    for reason in ["file-server-moves", "month-end", "own-limit", "it-has-moved", "over"] {
        assert!(reasons.contains(&json!(reason)), "{reason} is not in {log:#}");
    }
}
