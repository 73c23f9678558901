//! docs/takeover.md, gone through: from a column in the table to an archive, and back.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::drill::{Step, steps};
use crate::setup::Fleet;

const PAGE: &str = include_str!("../../../docs/takeover.md");

/// What stands below a heading of the page.
fn section(heading: &str) -> Vec<Step> {
    let (_, after) = PAGE.split_once(&format!("\n## {heading}\n")).expect(heading);
    steps(after.split_once("\n## ").map_or(after, |(section, _)| section))
}

/// The table of the page, of which a predecessor has archived a part. The cutoff is 2024-12-07.
fn predecessors() -> Fleet {
    let mut fleet = Fleet::new(0);
    let root = fleet.sources();
    std::fs::create_dir(&root).expect("made");
    let mut rows = Vec::new();
    for day in 1..=6 {
        for number in 0..10 {
            let uid = format!("file-2024-12-{day:02}-{number}");
            let path = root.join(&uid);
            std::fs::write(&path, uid.repeat(40)).expect("written");
            let size = uid.len() * 40;
            let archived = day < 4 || (day == 4 && number % 2 == 0);
            let hour = number + 1;
            rows.push(format!(
                "('{uid}', timestamptz '2024-12-{day:02}T00:00:00Z' + interval '{hour} hours', \
                 '{}', {size}, {archived})",
                path.display()
            ));
        }
    }
    std::fs::remove_file(root.join("file-2024-12-04-2")).expect("the old program has removed it");
    fleet.execute(&format!(
        "CREATE TABLE files (uid text, created_at timestamptz, file_location text, \
         size_bytes bigint, archived boolean); CREATE INDEX ON files (created_at); \
         INSERT INTO files VALUES {}",
        rows.join(", ")
    ));
    let cutoff: chrono::NaiveDate = "2024-12-07".parse().expect("a date");
    let lag = (chrono::Utc::now().date_naive() - cutoff).num_days();
    for (key, value) in [
        ("table_name", json!("files")),
        ("created_at_column", json!("created_at")),
        ("lag_days", json!(lag)),
    ] {
        fleet.configure("database", key, value);
    }
    fleet.set_variable("DES_SYNC_URL", fleet.database_url());
    fleet
}

/// Carries out a step; the JSON of a command that has it, and the last row's first value of a query.
#[track_caller]
fn carry_out(fleet: &mut Fleet, step: Step) -> (String, Value) {
    match step {
        Step::Sql(sql) => {
            let mut value = Value::Null;
            for sql in sql.split(';').map(str::trim).filter(|it| !it.is_empty()) {
                if sql.starts_with("SELECT") {
                    let first = format!("SELECT * FROM ({sql}) AS it LIMIT 1");
                    fleet.execute(sql);
                    let first =
                        fleet.try_value(&format!("SELECT row_to_json(it) FROM ({first}) AS it"));
                    value = first.map_or(Value::Null, |it| it.parse().expect("JSON"));
                } else {
                    fleet.execute(sql);
                }
            }
            (sql, value)
        }
        Step::Yaml(text) => {
            let parts: Value = serde_saphyr::from_str(&text).expect("YAML");
            for (section, keys) in parts.as_object().expect("sections") {
                for (key, value) in keys.as_object().expect("keys") {
                    fleet.configure(section, key, value.clone());
                }
            }
            (text, Value::Null)
        }
        Step::Des(words, code) => {
            let run = fleet.des(&words).expect(code);
            // What a `get` finds are the source's bytes.
            if let Some(uid) = words.strip_prefix("get ").and_then(|it| it.split(' ').next()) {
                assert_eq!(run.text(), uid.repeat(40), "{run}");
            }
            let text = run.text();
            (words, Value::String(text + &run.stderr))
        }
    }
}

const UNMARKED: &str =
    "SELECT string_agg(uid, ' ' ORDER BY uid) FROM files WHERE archived IS NOT TRUE";
const DES_TABLES: &str = "SELECT count(*) FROM pg_tables WHERE tablename LIKE '%des\\_%'";

#[test]
fn a_predecessors_table_is_taken_over_and_given_back() {
    let mut fleet = predecessors();
    let sources = "SELECT md5(string_agg(uid || created_at || file_location || size_bytes, ';' \
         ORDER BY uid)) FROM files";
    let before = fleet.value(sources);
    let mut done = Vec::new();
    for step in section("Taking over") {
        let (step, found) = carry_out(&mut fleet, step);
        let word = |at| step.split(' ').nth(at).unwrap_or_default();
        if step.contains("AS origin") {
            let origin = fleet.configured("watermark", "default_archived_until");
            assert_eq!((&found["origin"], origin), (&json!("2024-12-04T00:00:00"), Value::Null));
        } else if step.starts_with("SELECT count(*) FROM files") {
            assert_eq!(found["count"], 30, "{step}");
            let verified = fleet.json("verify");
            assert_eq!(verified["files"], 29, "and one error row: {verified}");
        } else if word(0) == "stats" {
            let stats = fleet.json("stats");
            let counted = (&stats["uncovered_files"], &stats["pending_files"]);
            assert_eq!(counted, (&json!(30), &json!(30)), "{stats}");
        } else if word(0) == "migrate" && word(1) == "--mode" && done.len() < 10 {
            assert_eq!(fleet.watermark(), "2024-12-07 00:00:00");
            // The old program goes on.
            fleet.execute("UPDATE files SET archived = true WHERE uid = 'file-2024-12-05-1'");
        } else if word(0) == "errors" {
            let told = found.as_str().expect("text");
            assert!(told.contains("file-2024-12-04-2") && told.contains("missing"), "{told}");
        } else if step.starts_with("sync-archived --reason") {
            assert_eq!(fleet.try_value(UNMARKED), None, "what failed the old program had archived");
        }
        done.push(step);
    }
    assert_eq!(fleet.value(sources), before, "no other column is written");
    // Everything but the day that stays with the old archive.
    let files = fleet.json("verify --deep")["files"].clone();
    assert_eq!((done.len() > 15, &files), (true, &json!(39)), "{done:?}");

    // Something is under way when it is stopped.
    let late = fleet.sources().join("file-2024-12-07-1");
    std::fs::write(&late, "under way").expect("written");
    fleet.execute(&format!(
        "INSERT INTO files VALUES ('file-2024-12-07-1', '2024-12-07T12:00:00Z', '{}', 9, false); \
         UPDATE des_archive_config SET lag_days = lag_days - 1",
        late.display()
    ));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) FROM des_windows WHERE state <> 'committed'";
    coordinator.run_until(LIMIT, || fleet.value(open) == "1");
    coordinator.signal(Signal::KILL);
    coordinator.end(LIMIT);
    for step in section("Going back") {
        let (step, _) = carry_out(&mut fleet, step);
        if step.starts_with("sync-archived") {
            assert_eq!(fleet.value(UNMARKED), "file-2024-12-07-1", "the old program does it");
        } else if step.starts_with("DROP") {
            assert_eq!(fleet.value(DES_TABLES), "0");
        }
    }
    fleet.execute("UPDATE des_archive_config SET lag_days = lag_days - 1");
    fleet.json("migrate --mode single --workers 1");
    assert_eq!(fleet.json("verify --deep")["files"], 40, "it goes on where it ended");
}

#[test]
fn a_watermark_that_stands_already_is_adopted_with_a_number() {
    let mut fleet = predecessors();
    for step in section("Where des_archive_config stands already") {
        let (step, found) = carry_out(&mut fleet, step);
        if step.trim() == "init" {
            let told = found.as_str().expect("text");
            assert!(told.contains("30 files lie at or below it"), "{told}");
        }
    }
    assert_eq!(fleet.json("stats")["uncovered_files"], 30);
    assert_eq!(fleet.json("stats")["lag_days"], 7, "the row's");
}
