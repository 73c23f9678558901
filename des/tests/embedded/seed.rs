//! What users of the predecessor bring along works as it stands: its configuration, its table, its
//! queries.

use crate::support::{Place, Sql, text};

/// The seed's `watermark-config.yaml`, word by word.
const SEED_YAML: &str = r#"# watermark-config.yaml
database:
  url: "postgresql://user:pass@host/db"
  table_name: "files"
  uid_column: "uid"
  created_at_column: "created_at"
  location_column: "file_location"
  lag_days: 7
  page_size: 10000

packer:
  output_dir: "/mnt/des/output"
  max_shard_size: 1000000000
  n_bits: 8

watermark:
  config_db_url: "postgresql://user:pass@host/db"
  default_archived_until: "2024-11-01T00:00:00Z"
"#;

/// The seed's table, with SQLite's way to say "30 days ago".
const SEED_TABLE: &str = "
CREATE TABLE des_archive_config (
    id INTEGER PRIMARY KEY,
    archived_until TIMESTAMP WITH TIME ZONE NOT NULL,
    lag_days INTEGER NOT NULL
);
INSERT INTO des_archive_config (id, archived_until, lag_days)
VALUES (1, datetime('now', '-30 days'), 7);";

/// The seed's two queries, with SQLite's ways to reckon with days.
const SEED_STATUS: &str = "
SELECT
    archived_until,
    lag_days,
    datetime('now', '-' || lag_days || ' days') AS target_cutoff,
    julianday('now', '-' || lag_days || ' days') - julianday(archived_until) AS lag_behind
FROM des_archive_config;";
const SEED_PENDING: &str = "
SELECT COUNT(*) as pending
FROM files
WHERE created_at > (SELECT archived_until FROM des_archive_config WHERE id = 1)
  AND created_at <= datetime('now', '-7 days');";

/// The seed's configuration with its URLs and its directory replaced, and nothing else.
fn seed_place() -> Place {
    let place = Place::new();
    let url = format!("sqlite:///{}", place.catalog().display());
    let yaml = SEED_YAML
        .replace("postgresql://user:pass@host/db", &url)
        .replace("/mnt/des/output", &place.archive().display().to_string());
    std::fs::write(place.config(), yaml).expect("written");
    place
}

#[test]
fn the_seeds_configuration_works_unchanged() {
    let mut place = seed_place();
    let made = [
        place.file_at("first", "2024-11-01T00:00:00.000001Z", text("first", 2_000)),
        place.file_at("7000001", "2024-11-25T12:00:00.000000Z", text("number", 10)),
        place.file_at("midnight", "2024-12-02T00:00:00.000000Z", text("midnight", 900)),
    ];
    let below = [
        place.file_at("at the first watermark", "2024-11-01T00:00:00.000000Z", text("x", 5)),
        place.file_at("older", "2023-01-01T08:00:00.000000Z", text("y", 5)),
    ];
    place.load();

    let done = place.migrate();
    assert_eq!(done["files_archived"], 3, "{done}");
    assert_eq!(done["archived_until"], place.cutoff().as_str(), "{done}");
    for file in &made {
        place.assert_archived(file);
    }
    for file in &below {
        place.get(&file.uid, &file.created_at).expect(4).says(["is not in the archive"]);
    }

    let stats = place.json("stats");
    assert_eq!(stats["origin"], "2024-11-01T00:00:00Z", "{stats}");
    assert_eq!(stats["uncovered_files"], 2, "{stats}");
    assert_eq!(stats["pending_files"], 0, "{stats}");

    // The seed's two ways to adjust; a day behind the watermark first.
    let back = place.json("adjust --days-offset -1");
    assert_eq!(back["changed"], true, "{back}");
    assert!(back["to"].as_str() < back["from"].as_str(), "{back}");
    let to_date = place.json("adjust --set-date 2024-12-01");
    assert_eq!(to_date["to"], place.watermark().as_str(), "{to_date}");
    let before = place.shards();
    let again = place.migrate();
    assert_eq!(again["archived_until"], place.cutoff().as_str(), "{again}");
    assert_eq!(again["files_archived"], 0, "nothing is packed twice: {again}");
    assert_eq!(place.shards(), before);
    place.verify_deep();
}

#[test]
fn the_seeds_table_is_adopted_and_its_queries_work() {
    let mut place = seed_place();
    place.sql().execute(SEED_TABLE);
    let adopted = place.watermark();
    place.file_at("old", "2024-12-01T08:00:00.000000Z", text("old", 5));
    place.file_at("older", "2024-11-01T08:00:00.000000Z", text("older", 5));
    // Thirty days ago lies before the place's first day.
    let made = place.fill(0..10, 2);
    place.load();

    let told = ["2 files lie at or below it", "--accept-below 2"];
    place.des("migrate --mode single").expect(2).says(told);
    place.des("migrate --mode single --accept-below 1").expect(2).says(told);
    place.des("init --accept-below 1").expect(2).says(told);
    let no_trace = ["des_archive_config", "files"];
    assert_eq!(place.sql().tables(), no_trace, "a refusal changes nothing");
    assert!(!place.archive().exists(), "a refusal changes nothing");

    let done = place.json("migrate --mode single --accept-below 2");
    assert_eq!(done["files_archived"], 20, "{done}");
    for file in &made[..3] {
        place.assert_archived(file);
    }
    let stats = place.json("stats");
    assert_eq!(stats["uncovered_files"], 2, "{stats}");
    let origin = stats["origin"].as_str().expect("a time").replace(['T', 'Z'], " ");
    assert_eq!(origin.trim(), adopted, "the origin is where the user's watermark stood");

    let columns = "SELECT group_concat(name) FROM pragma_table_info('des_archive_config')";
    assert_eq!(place.sql().value(columns), "id,archived_until,lag_days", "the user's own table");
    let status = place.sql().query(SEED_STATUS);
    assert_eq!(status[0][0].replace("T00:00:00Z", ""), place.cutoff().replace("T00:00:00Z", ""));
    assert_eq!(status[0][1], "7");
    assert!(status[0][3].parse::<f64>().is_ok_and(|behind| behind < 1.0), "{status:?}");
    assert_eq!(place.sql().value(SEED_PENDING), "0");
}

#[test]
fn the_watermark_may_stand_in_a_database_and_a_row_of_its_own() {
    let mut place = Place::new();
    let ledger = place.path("ledger.db");
    place
        .set("watermark", serde_json::json!({}))
        .set("watermark.config_db_url", format!("sqlite:///{}", ledger.display()))
        .set("watermark.config_id", 7);
    place.fill(8..10, 3);
    place.load();
    let before = std::fs::read(place.catalog()).expect("the catalog");
    assert_eq!(place.migrate()["files_archived"], 6);
    assert_eq!(std::fs::read(place.catalog()).expect("it"), before, "it is only ever read");
    assert_eq!(place.sql().tables(), ["files"]);
    let rows = Sql::new(&ledger).query("SELECT id, archived_until FROM des_archive_config");
    assert_eq!(rows, [["7".to_owned(), place.cutoff()]]);
}
