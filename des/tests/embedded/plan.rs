//! What `des plan` says before the first byte is moved, beside what then really happens.

use serde_json::{Value, json};

use crate::support::{Place, incompressible, text};

fn line<'a>(plan: &'a Value, what: &str) -> &'a Value {
    let lines = plan["lines"].as_array().expect("lines");
    let line = lines.iter().find(|line| line["what"] == what);
    line.unwrap_or_else(|| panic!("no line `{what}`: {plan:#}"))
}

#[track_caller]
fn value(plan: &Value, what: &str) -> f64 {
    line(plan, what)["value"].as_f64().unwrap_or_else(|| panic!("`{what}` is unknown: {plan:#}"))
}

/// Within a fifth of what really came of it.
#[track_caller]
fn assert_near(planned: f64, real: &Value, what: &str) {
    let real = real.as_f64().expect("a number");
    assert!((planned - real).abs() <= real * 0.2, "{what}: planned {planned}, came to {real}");
}

#[test]
fn a_plan_is_what_then_happens() {
    let mut place = Place::new();
    for day in [2, 5, 9] {
        for number in 0..40 {
            let uid = format!("{day}-{number}");
            let at = place.time(day, chrono::TimeDelta::seconds(60 + number));
            let bytes = match number % 5 {
                0 => incompressible(&uid, 3_000),
                _ => text(&uid, 2_000),
            };
            place.file_at(&uid, &at, bytes);
        }
    }
    place.load();
    let before = place.everything();
    let plan = place.json("plan --cores 4");
    assert_eq!(place.everything(), before, "a plan writes nothing");
    assert_eq!((&plan["begun"], &plan["target"]), (&json!(false), &json!(place.cutoff())));
    assert_eq!(plan["from"], place.midnight(2).as_str(), "{plan:#}");
    assert_eq!((value(&plan, "windows"), value(&plan, "files")), (3.0, 120.0), "{plan:#}");
    assert_eq!(plan["sample"]["read"], 120, "the sample takes all there is: {plan:#}");
    assert_eq!(value(&plan, "files that would fail"), 0.0, "{plan:#}");
    assert!(value(&plan, "rate of a core") > 0.0 && value(&plan, "packing") > 0.0, "{plan:#}");
    for line in plan["lines"].as_array().expect("lines") {
        assert!(line["assumption"].as_str().is_some_and(|it| it.len() > 10), "{line}");
    }
    let human = place.des("plan --cores 4").expect(0).text();
    assert!(human.contains("  files: 120 files\n      counted in the catalog"), "{human}");
    assert!(human.ends_with("Nothing was written.\n"), "{human}");

    let done = place.migrate();
    assert_near(value(&plan, "raw"), &done["bytes_raw"], "raw");
    // Headers and tails of 45 tiny shards are not in the plan.
    let shards = done["shards"].as_f64().expect("shards");
    let stored = done["bytes_stored"].as_f64().expect("stored");
    assert!(value(&plan, "stored") <= stored, "{plan:#}\n{done}");
    assert!(value(&plan, "stored") >= stored - shards * 400.0, "{plan:#}\n{done}");
    assert_near(value(&plan, "shards"), &done["shards"], "shards");

    let nothing = place.json("plan");
    assert_eq!((value(&nothing, "files"), value(&nothing, "stored")), (0.0, 0.0), "{nothing:#}");
    assert_eq!(nothing["begun"], true, "{nothing:#}");
}

#[test]
fn a_plan_takes_sizes_from_the_catalog_and_says_what_would_fail() {
    let mut place = Place::new();
    place.set("database.size_column", "size_bytes");
    let made = place.fill(8..10, 20);
    for file in made.iter().step_by(4) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.load();
    place.json("init");
    let plan = place.json("plan --sample 40");
    assert_eq!(value(&plan, "raw"), 40.0 * 300.0, "{plan:#}");
    let fails = line(&plan, "files that would fail");
    assert_eq!(fails["value"], 10.0, "{fails}");
    assert!(fails["assumption"].as_str().is_some_and(|it| it.contains("10 missing")), "{fails}");

    // Where no source can be read, flags say what the sample cannot.
    place.set("source", json!({ "roots": [place.path("elsewhere")] }));
    let plan = place.json("plan");
    let stored = line(&plan, "stored");
    assert_eq!(stored["value"], Value::Null, "{stored}");
    assert!(stored["assumption"].as_str().is_some_and(|it| it.contains("elsewhere")), "{stored}");
    let plan = place.json("plan --stored-ratio 0.5 --files-per-core-second 10 --cores 2");
    assert_eq!((value(&plan, "stored"), value(&plan, "packing")), (6_000.0, 2.0 / 3_600.0));
    place.des("plan --cores 0").expect(2);
}

#[test]
fn a_table_without_an_index_is_not_read_for_each_of_its_windows() {
    let mut place = Place::new();
    place.sql().execute("DROP INDEX files_created_at");
    place.fill(2..3, 5);
    place.fill(8..9, 5);
    place.load();
    let plan = place.json("plan --sample 10");
    let windows = line(&plan, "windows");
    assert_eq!((&windows["value"], value(&plan, "files")), (&json!(8.0), 10.0), "{plan:#}");
    let why = windows["assumption"].as_str().expect("a text");
    assert!(why.contains("created_at is not indexed"), "{why}");
    assert_eq!(plan["sample"]["read"], 5, "one look at the table, for the first window: {plan:#}");
}
