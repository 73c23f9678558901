//! What operators look through: windows and failed files, as the ledger has them.

use serde_json::{Value, json};

use crate::support::Place;

/// Three days: one of whose files 11 are gone, and two that are whole.
fn place() -> Place {
    let mut place = Place::new();
    place.fill(7..8, 3);
    for file in place.fill(8..9, 30).iter().take(11) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    place.load().set("coordinator.max_attempts", 1);
    place
}

fn ends(windows: &Value) -> Vec<(&str, &str)> {
    let windows = windows["windows"].as_array().expect("windows");
    windows
        .iter()
        .map(|it| (it["end"].as_str().expect("an end"), it["state"].as_str().expect("a state")))
        .collect()
}

#[test]
fn windows_are_listed_with_their_states_the_newest_first() {
    let place = place();
    place.json("init");
    assert_eq!(place.json("windows"), json!({ "windows": [], "more": false }));
    place.des("migrate").expect(1);
    let listed = place.json("windows");
    let (first, second, third) = (place.midnight(8), place.midnight(9), place.midnight(10));
    // The window behind the held one is done, and waits for it.
    let expected =
        [(third.as_str(), "open"), (second.as_str(), "held"), (first.as_str(), "committed")];
    assert_eq!(ends(&listed), expected, "{listed:#}");
    let held = &listed["windows"][1];
    assert_eq!((&held["rows"], &held["failed"]), (&json!(30), &json!(11)), "{held}");
    assert_eq!((&held["shards"], &held["bytes_raw"]), (&Value::Null, &Value::Null), "{held}");
    let committed = &listed["windows"][2];
    assert_eq!((&committed["rows"], &committed["bytes_raw"]), (&json!(3), &json!(900)));
    assert_eq!(committed["partitions"]["accepted"], 1, "{committed}");
    for window in listed["windows"].as_array().expect("windows") {
        assert!(window["since"].as_str().is_some_and(|it| it.ends_with('Z')), "{window}");
    }
    let one = place.json("windows --limit 1");
    assert_eq!((ends(&one), &one["more"]), (vec![expected[0]], &json!(true)));
    let some = place.json(&format!("windows --from {second} --to {second}"));
    assert_eq!(ends(&some), [expected[1]], "{some:#}");

    let human = place.des("windows --limit 2").expect(0).text();
    let lines: Vec<_> = human.lines().collect();
    assert!(lines[0].starts_with("after"), "{human}");
    assert!(lines[2].contains(" held ") && lines[2].contains("1 accepted"), "{human}");
    assert!(lines[3].contains("--limit"), "{human}");

    place.json(&format!("release --window {second} --reason gone"));
    place.migrate();
    place.json(&format!("replay --window {third}"));
    let listed = place.json("windows");
    assert!(ends(&listed).iter().all(|(_, state)| *state == "committed"), "{listed:#}");
    assert_eq!(listed["windows"][1]["released"], 11, "{listed:#}");
}

#[test]
fn failed_files_are_listed_and_counted() {
    let place = place();
    place.json("init");
    let none = place.des("errors").expect(0);
    assert_eq!(none.text(), "No file is recorded as failed here.\n");
    place.des("migrate").expect(1);
    let end = place.midnight(9);
    place.json(&format!("release --window {end} --reason gone"));
    place.migrate();

    let rows = |words: &str| -> Vec<Value> {
        let text = place.des(&format!("errors {words} --output json")).expect(0).text();
        text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
    };
    let all = rows("");
    assert_eq!(all.len(), 11);
    for row in &all {
        assert_eq!((&row["reason"], &row["window"]), (&json!("missing"), &json!(end)), "{row}");
        assert_eq!((&row["revision"], &row["resolved_at"]), (&json!(0), &Value::Null), "{row}");
        assert!(row["location"].as_str().is_some_and(|it| it.contains("/files/")), "{row}");
    }
    assert_eq!(rows("--limit 4"), all[..4]);
    assert_eq!(rows(&format!("--reason missing --window {end}")).len(), 11);
    assert_eq!(rows(&format!("--window {}", place.midnight(8))), [] as [Value; 0]);
    assert_eq!(rows("--reason changed"), [] as [Value; 0]);
    let summary = place.json("errors --summary");
    let expected = json!({
        "reasons": [{ "reason": "missing", "files": 11, "resolved": 0 }],
        "files": 11,
        "resolved": 0,
        "held": 0,
    });
    assert_eq!(summary, expected);
    let human = place.des("errors --limit 2").expect(0).text();
    assert_eq!(human.lines().count(), 4, "{human}");
    assert!(human.contains("\n          11  missing\n9 more are not shown"), "{human}");
    place.des("errors --reason lost").expect(2).says(["there is no such reason", "gave_up"]);

    // One of them is back, and is archived after all.
    let back = all[0]["location"].as_str().expect("a location");
    std::fs::write(back, crate::support::text("back", 300)).expect("written");
    place.json(&format!("retry-failed --window {end}"));
    assert_eq!(rows("").len(), 10);
    let summary = place.json("errors --summary --resolved");
    assert_eq!((&summary["files"], &summary["resolved"]), (&json!(10), &json!(1)), "{summary}");
    assert_eq!(rows("--resolved").iter().filter(|row| !row["resolved_at"].is_null()).count(), 1);
}
