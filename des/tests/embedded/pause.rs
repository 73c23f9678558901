//! Pausing in one process: nothing is begun, everybody is told why, and it goes on afterwards.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Place, Run};

const LIMIT: Duration = Duration::from_secs(90);

/// Three files on each of two days, and an archive that has nothing of them.
fn place() -> Place {
    let mut place = Place::new();
    place.fill(8..10, 3);
    place.load();
    place.json("init");
    place
}

/// Action, reason and whether somebody is named, of what the log has of pauses.
fn audited(place: &Place) -> Vec<Vec<String>> {
    place.sql().query(
        "SELECT action, coalesce(reason, 'no reason'), actor LIKE '%@%' FROM des_audit_log \
         WHERE action IN ('pause', 'resume') ORDER BY id",
    )
}

fn refused(run: Run, told: &str) {
    run.expect(2).says([told]);
}

#[test]
fn a_paused_archive_says_so_and_begins_nothing() {
    let place = place();
    let (before, watermark) = (place.objects(), place.watermark());
    let paused = place.json("pause --reason file-server-moves");
    assert_eq!((&paused["paused"], &paused["until"]), (&json!(true), &json!(null)), "{paused}");

    let run = place.des("migrate --output json").expect(1);
    let done = run.json();
    assert_eq!(done["paused"]["reason"], "file-server-moves", "{done}");
    assert_eq!((&done["windows"], place.watermark()), (&json!(0), watermark), "{done}");
    assert_eq!(place.objects(), before, "nothing is written");
    let run = place.des("migrate").expect(1).says(["paused since", "file-server-moves"]);
    assert!(run.text().contains("des resume"), "{run}");

    let stats = place.json("stats");
    assert_eq!(stats["paused"]["since"], paused["since"], "{stats}");
    assert_eq!(stats["paused"]["by"], paused["by"], "{stats}");
    let run = place.des("stats").expect(0);
    assert!(run.text().contains("paused since"), "{run}");
    let facts = place.json("explain");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(sentence.contains("paused the archive at") && sentence.contains("file-server-moves"));
    assert_eq!(facts["paused"], stats["paused"], "{facts}");

    refused(place.des("pause --reason again"), "paused since");
    assert_eq!(place.json("stats")["paused"], stats["paused"], "the first one stands");
    let resumed = place.json("resume --reason it-has-moved");
    assert_eq!((&resumed["paused"], &resumed["reason"]), (&json!(false), &paused["reason"]));
    refused(place.des("resume"), "is not paused");
    assert_eq!(place.json("stats")["paused"], json!(null));
    assert_eq!(place.migrate()["files_archived"], 6);
    let log = [["pause", "file-server-moves", "1"], ["resume", "it-has-moved", "1"]];
    assert_eq!(audited(&place), log);
}

#[test]
fn a_pause_needs_an_archive_and_a_reason_and_a_time_ahead() {
    let place = place();
    refused(place.des("pause --until 2024-12-01 --reason late"), "would be over already");
    place.des("pause").expect(2).says(["--reason"]);
    assert!(audited(&place).is_empty());
    let mut elsewhere = Place::new();
    elsewhere.fill(9..10, 1);
    elsewhere.load();
    elsewhere.des("pause --reason early").expect(1);
}

#[test]
fn a_pause_ends_by_itself() {
    let place = place();
    // Long enough for a run that finds it paused, also on a busy machine.
    let until = (Utc::now() + TimeDelta::seconds(10)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    place.json(&format!("pause --reason backup --until {until}"));
    let mut runs = 0;
    loop {
        let run = place.des("migrate --output json");
        runs += 1;
        let now = Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
        if run.code == Some(0) {
            assert!(now >= until, "it went on at {now}, before {until}:\n{run}");
            assert_eq!(run.json()["files_archived"], 6, "{run}");
            break;
        }
        assert_eq!(run.expect(1).json()["paused"]["until"], until.as_str());
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(runs > 1, "it was never found paused");
    let log = [["pause", "backup", "1"], ["resume", "the time of the pause is over", "0"]];
    assert_eq!(audited(&place), log);
}

#[test]
fn a_pass_that_is_asked_for_while_paused_is_carried_out_afterwards() {
    let mut place = place();
    place.migrate();
    place.json("pause --reason backup");
    let late = place.file("late", 8);
    place.load();
    let run = place.des(&format!("replay --window {} --output json", place.midnight(9)));
    let done = run.expect(1).json();
    assert_eq!((&done["paused"]["reason"], &done["windows"]), (&json!("backup"), &json!(0)));
    assert!(place.get(&late.uid, &late.created_at).code != Some(0), "it is not archived yet");
    place.json("resume");
    place.migrate();
    place.assert_archived(&late);
    place.verify_deep();
}

#[test]
fn a_continuous_run_waits_until_it_is_resumed() {
    let place = place();
    place.json("pause --reason backup");
    let mut running = place.start("migrate --mode continuous --interval 1h --output json");
    running.run_until(LIMIT, || running_said(&place));
    assert!(place.shards().is_empty());
    place.json("resume");
    running.run_until(LIMIT, || place.watermark() == place.cutoff());
    running.signal(Signal::TERM);
    let run = running.end(LIMIT).expect(0).says(["paused since", "backup", "resumed"]);
    assert_eq!(run.json()["files_archived"], 6, "one cycle: {run}");
}

/// Whether somebody leads.
fn running_said(place: &Place) -> bool {
    let leads = "SELECT count(*) FROM des_lease WHERE holder IS NOT NULL";
    place.sql().value(leads) == "1"
}
