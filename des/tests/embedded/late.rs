//! Late rows that are found without anybody asking: in single runs, and where they cannot be taken up
//! at once.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Place, Scrape};

const LIMIT: Duration = Duration::from_secs(90);
/// What whoever leads asked for by itself.
const ASKED: &str = "SELECT count(*) FROM des_audit_log WHERE action = 'reconcile'";

fn sentence(place: &Place) -> String {
    place.json("explain")["explanation"].as_str().expect("a sentence").to_owned()
}

#[test]
fn late_rows_that_cannot_be_taken_up_are_told_and_tried_again_until_they_can() {
    let mut place = Place::new();
    place.set("coordinator.recheck_after", "3s");
    place.fill(8..10, 4);
    place.load();
    place.migrate();
    let end = place.midnight(9);
    let name = format!("_des/manifests/{}", end.replace(['-', ':'], ""));
    let file = |object: &String| object.starts_with(&name) && !object.ends_with('/');
    let manifest = place.objects().into_keys().find(file).expect("a manifest");
    let (there, away) = (place.archive().join(&manifest), place.path("away"));
    std::fs::rename(&there, &away).expect("moved");
    let late = place.file("late", 8);
    place.load();

    let mut service = place.start("migrate --mode continuous --interval 1");
    let told = ["is not taken up", &manifest, &format!("des replay --window {end}")];
    let is_told = |place: &Place| {
        let sentence = sentence(place);
        told.iter().all(|text| sentence.contains(text))
    };
    service.run_until(LIMIT, || is_told(&place));
    let dropped = |scrape: &Scrape| scrape.values.get("des_windows_dropped").copied();
    let mut scrape = Scrape::of(&mut service);
    service.run_until(LIMIT, || place.sql().value(ASKED).parse::<u32>().expect("a number") >= 2);
    while dropped(&scrape) != Some(1.0) {
        assert!(service.is_running(), "{:?}", dropped(&scrape));
        std::thread::sleep(Duration::from_millis(200));
        scrape = Scrape::of(&mut service);
    }
    let open = "SELECT count(*) FROM des_looks WHERE rechecked_at IS NULL AND findings IS NOT NULL";
    assert_eq!(place.sql().value(open), "1", "it counts as looked at");

    std::fs::rename(&away, &there).expect("put back");
    service.run_until(LIMIT, || place.get(&late.uid, &late.created_at).code == Some(0));
    service.run_until(LIMIT, || !sentence(&place).contains("is not taken up"));
    service.signal(Signal::TERM);
    service.end(LIMIT).expect(0);
    place.assert_archived(&late);
    assert_eq!(place.json("explain").get("dropped"), None::<&Value>);
    assert_eq!(place.verify_deep()["files"], 9);
}

/// The pause is the ledger's: another leader does not begin anew.
#[test]
fn a_window_whose_pass_was_dropped_is_left_alone_for_a_while() {
    let mut place = Place::new();
    place.fill(8..10, 4);
    place.load();
    place.migrate();
    let manifests = place.archive().join("_des/manifests");
    std::fs::rename(&manifests, place.path("away")).expect("moved");
    place.file("late", 8);
    place.load();
    let held = place.des("migrate --mode single --output json").expect(1).json();
    assert_eq!(held["held"][0]["end"], place.midnight(9).as_str(), "{held}");
    for _run in 0..3 {
        place.migrate();
    }
    assert_eq!(place.sql().value(ASKED), "1");
    let told = place.des("explain").expect(0).text();
    for text in ["is not taken up", "dropped    the last pass over"] {
        assert!(told.contains(text), "{told}");
    }
    // An operator does not wait.
    place.des("reconcile --all").expect(1);
    std::fs::rename(place.path("away"), &manifests).expect("put back");
    assert_eq!(place.json("reconcile --all")["files_archived"], 1);
    let told = place.des("explain").expect(0).text();
    assert!(!told.contains("is not taken up"), "{told}");
}

#[test]
fn a_single_run_looks_for_late_rows_as_it_begins() {
    let mut place = Place::new();
    let made = place.fill(8..10, 4);
    place.load();
    place.migrate();
    let late = place.file("late", 9);
    place.load();
    place.set("coordinator.recheck_after", 0);
    assert_eq!(place.migrate()["windows"], 0, "it is turned off");
    place.set("coordinator.recheck_after", "1h");
    assert_eq!(place.migrate()["windows"], 1);
    place.assert_archived(&late);
    assert_eq!(place.sql().value(ASKED), "1");

    // As many rows as before: only the digest tells, once that is due.
    let other = place.file("other", 8);
    place.sql().execute(&format!("DELETE FROM files WHERE uid = '{}'", made[0].uid));
    place.load();
    assert_eq!(place.migrate()["windows"], 0, "it is not due");
    place.set("coordinator.recheck_after", "1s");
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(place.migrate()["windows"], 1);
    place.assert_archived(&other);
    place.assert_archived(&made[0]);
    assert_eq!(place.verify_deep()["files"], 10);
}
