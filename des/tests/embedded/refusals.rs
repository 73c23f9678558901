//! Bad input gets a clear error, the right exit code, and changes nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Place, Run, Running, as_nobody, text};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `words`, which must end with this code and these texts on stderr, nothing on stdout, and
/// everything as it was.
#[track_caller]
fn assert_refused(place: &Place, words: &str, code: i32, texts: &[&str]) {
    let before = place.everything();
    let run = place.des(words).expect(code).says(texts);
    assert!(run.stdout.is_empty() && run.stderr.starts_with("error: "), "{run}");
    assert_unchanged(place, &before, &run);
}

#[track_caller]
fn assert_unchanged(place: &Place, before: &std::collections::BTreeMap<String, String>, run: &Run) {
    let after = place.everything();
    let changed: Vec<_> =
        before.keys().chain(after.keys()).filter(|it| before.get(*it) != after.get(*it)).collect();
    assert!(changed.is_empty(), "it changed {changed:?}:\n{run}");
}

fn place_with_files() -> Place {
    let mut place = Place::new();
    place.fill(8..10, 3);
    place.load();
    place
}

#[test]
fn a_configuration_that_cannot_be_read_is_told() {
    let place = place_with_files();
    std::fs::remove_file(place.config()).expect("removed");
    let name = place.config().display().to_string();
    let told = ["cannot read the configuration", name.as_str()];
    assert_refused(&place, "migrate", 2, &told);
    assert_refused(&place, "stats", 2, &told);
    std::fs::create_dir(place.config()).expect("made");
    assert_refused(&place, "migrate", 2, &told);
    std::fs::remove_dir(place.config()).expect("removed");
    std::fs::write(place.config(), b"database: \xff\xfe").expect("written");
    assert_refused(&place, "migrate", 2, &told);
    std::fs::write(place.config(), "database: [").expect("written");
    assert_refused(&place, "migrate", 2, &["is not valid YAML", &name]);
    std::fs::write(place.config(), "").expect("written");
    assert_refused(&place, "migrate", 2, &["it is required", &name]);

    let command = as_nobody(&place, || {
        let none = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(place.config(), none).expect("forbidden");
    });
    let run = Running::start(command, ["stats", "--config", &name]).end(LIMIT);
    run.expect(2).says(told).says(["ermission denied"]);
}

#[test]
fn a_key_that_is_wrong_is_named() {
    let cases: &[(&str, Value, &[&str])] = &[
        (
            "database.tabel_name",
            json!("files"),
            &["`database.tabel_name`", "did you mean `database.table_name`?"],
        ),
        ("databases", json!({}), &["`databases`", "did you mean `database`?"]),
        ("packer.compresion", json!({"level": 3}), &["did you mean `packer.compression`?"]),
        ("database.lag_days", json!("seven"), &["`database.lag_days`", "`seven`"]),
        ("database.lag_days", json!(-1), &["`database.lag_days`", "it is -1", "must lie in 0.."]),
        ("database.lag_days", json!([1]), &["`database.lag_days`"]),
        ("database", json!("files"), &["`database`"]),
        (
            "database.table_name",
            json!("${DES_TEST_NOT_SET}"),
            &["${DES_TEST_NOT_SET} in `database.table_name`", "${DES_TEST_NOT_SET:default}"],
        ),
        ("packer.n_bits", json!(3), &["`packer.n_bits`", "4", "16"]),
        ("packer.n_bits", json!(17), &["`packer.n_bits`", "4", "16"]),
        ("packer.n_bits", json!(256), &["`packer.n_bits`", "4", "16"]),
        ("packer.max_shard_size", json!(0), &["`packer.max_shard_size`", "more than zero"]),
        ("packer.max_shard_size", json!("lots"), &["`packer.max_shard_size`", "is not a size"]),
        ("packer.big_file_threshold", json!(0), &["`packer.big_file_threshold`"]),
        (
            "packer.compression",
            json!({"codec": "rar"}),
            &["`packer.compression.codec`", "zstd, lz4 or none"],
        ),
        ("packer.compression", json!({"level": 23}), &["`packer.compression.level`"]),
        ("packer.output_dir", json!("s3://bucket"), &["`packer.output_dir`", "store.url"]),
        ("packer.output_dir", json!(null), &["`packer.output_dir`", "store.url"]),
        ("database.page_size", json!(0), &["`database.page_size`", "more than zero"]),
        ("worker.memory", json!(0), &["`worker.memory`"]),
        ("worker.slots", json!(0), &["`worker.slots`", "more than zero"]),
        ("worker.drain_timeout", json!("soon"), &["`worker.drain_timeout`", "15s"]),
        (
            "coordinator.partition_rows",
            json!(0),
            &["`coordinator.partition_rows`", "more than zero"],
        ),
        ("coordinator.windows_in_flight", json!(0), &["`coordinator.windows_in_flight`"]),
        ("coordinator.sort_memory", json!(0), &["`coordinator.sort_memory`"]),
        ("coordinator.max_attempts", json!(0), &["`coordinator.max_attempts`"]),
        ("coordinator.max_failed_ratio", json!(1.5), &["`coordinator.max_failed_ratio`"]),
        ("coordinator.window_span", json!("0s"), &["`coordinator.window_span`"]),
        ("coordinator.lease_ttl", json!("1ms"), &["`coordinator.lease_ttl`"]),
        (
            "watermark",
            json!({"default_archived_until": "soon"}),
            &["`watermark.default_archived_until`", "`soon` is not a date"],
        ),
        ("job", json!("a/b"), &["`job`"]),
        ("store", json!({"url": "ftp://host"}), &["`store.url`", "s3://bucket/prefix"]),
        ("broker", json!({"url": "http://host"}), &["`broker.url`", "amqp://"]),
        ("source", json!({"roots": "/data"}), &["`source.roots`"]),
        ("database.url", json!("files.db"), &["`database.url`", "sqlite:///file"]),
    ];
    for (key, value, texts) in cases {
        let mut place = place_with_files();
        place.set(key, value.clone());
        assert_refused(&place, "migrate --mode single", 2, texts);
    }
}

#[test]
fn a_database_that_des_does_not_know_is_refused_without_its_password() {
    for url in ["mysql://des:hunter2@host/files", "oracle://des:hunter2@host/files"] {
        let mut place = place_with_files();
        place.set("database.url", url);
        assert_refused(&place, "migrate", 2, &["`database.url`"]);
        assert!(!place.des("migrate").stderr.contains("hunter2"));
    }
}

#[test]
fn a_catalog_that_is_not_there_is_told() {
    let mut place = place_with_files();
    place.set("database.table_name", "file");
    assert_refused(&place, "migrate", 1, &["`file`", "did you mean `files`?", "catalog.db"]);
    let mut place = place_with_files();
    place.set("database.created_at_column", "crated_at");
    assert_refused(&place, "migrate", 1, &["`crated_at`", "did you mean `created_at`?"]);
    let mut place = place_with_files();
    place.set("database.size_column", "bytes");
    assert_refused(&place, "init", 1, &["`bytes`", "`size_bytes`"]);

    let place = Place::without_catalog();
    let name = place.catalog().display().to_string();
    for words in ["migrate", "init", "stats", "adjust --days-offset -1"] {
        assert_refused(&place, words, 1, &[&name, "no such file"]);
    }
    std::fs::write(place.catalog(), text("no database", 9_000)).expect("written");
    assert_refused(&place, "migrate", 1, &[&name, "no sound SQLite database"]);
}

#[test]
fn times_that_cannot_be_compared_are_refused_with_a_row() {
    let mut place = place_with_files();
    place.row(json!(["odd one out", "2024-12-01 10:20:30+02:00", "/nowhere", null]));
    place.load();
    assert_refused(
        &place,
        "migrate",
        1,
        &["odd one out", "2024-12-01 10:20:30+02:00", "created_at"],
    );
    assert_refused(&place, "init", 1, &["odd one out"]);
}

#[test]
fn a_server_that_does_not_answer_is_named_without_its_password() {
    let mut place = place_with_files();
    place.set("database.url", "postgresql://des:hunter2@127.0.0.1:1/files");
    let run = place.des("migrate").expect(1).says(["127.0.0.1:1/files"]);
    assert!(!run.stderr.contains("hunter2"), "{run}");

    let mut place = place_with_files();
    place.set("store", json!({ "url": "s3://bucket/prefix", "endpoint": "http://127.0.0.1:1" }));
    place.des("init").expect(1).says([
        "s3://bucket/prefix",
        "http://127.0.0.1:1",
        "store.endpoint",
    ]);
    assert_eq!(place.sql().tables(), ["files"], "nothing is made before the store answers");

    let mut place = place_with_files();
    place.set("broker", json!({ "url": "amqp://des:hunter2@127.0.0.1:1/%2f" }));
    let run = place.des("migrate --check").expect(1);
    assert!(run.text().contains("127.0.0.1:1") && !run.text().contains("hunter2"), "{run}");
}

#[test]
fn a_watermark_in_the_future_is_refused() {
    let mut place = place_with_files();
    place.set("watermark", json!({ "default_archived_until": "2999-01-01" }));
    let told = ["watermark.default_archived_until is 2999-01-01T00:00:00Z, in the future"];
    assert_refused(&place, "migrate", 2, &told);
    assert_refused(&place, "init", 2, &told);

    let place = place_with_files();
    place.sql().execute(
        "CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until TEXT NOT NULL, \
         lag_days INTEGER NOT NULL); INSERT INTO des_archive_config VALUES (1, '2999-01-01', 7);",
    );
    let told = ["des_archive_config.archived_until is 2999-01-01T00:00:00Z, in the future"];
    assert_refused(&place, "migrate --accept-below 100", 2, &told);
}

#[test]
fn a_store_that_belongs_elsewhere_is_refused() {
    let (here, mut elsewhere) = (place_with_files(), place_with_files());
    here.migrate();
    // An archive of another ledger.
    elsewhere.set("packer.output_dir", here.archive().display().to_string());
    let before = here.objects();
    assert_refused(&elsewhere, "migrate", 2, &["holds archive", "the ledger knows nothing of it"]);
    elsewhere.set("packer.output_dir", elsewhere.archive().display().to_string());
    elsewhere.migrate();
    elsewhere.set("packer.output_dir", here.archive().display().to_string());
    assert_refused(&elsewhere, "migrate", 2, &["belongs to archive", "and the ledger to archive"]);
    assert_eq!(here.objects(), before);

    // A store that is empty, as one is whose file system is not mounted.
    elsewhere.set("packer.output_dir", elsewhere.path("empty").display().to_string());
    assert_refused(&elsewhere, "migrate", 2, &["the ledger belongs to archive", "mounted"]);
    std::fs::create_dir(elsewhere.path("empty")).expect("made");
    assert_refused(&elsewhere, "migrate", 2, &["the ledger belongs to archive", "mounted"]);
}

#[test]
fn what_is_fixed_for_an_archive_cannot_be_changed() {
    let mut place = place_with_files();
    place.migrate();
    let told = ["was made with n_bits 4, and packer.n_bits is 8", "set packer.n_bits back"];
    place.set("packer.n_bits", 8);
    for words in ["migrate", "init", "replay --to 2999-01-01"] {
        assert_refused(&place, words, 2, &told);
    }
    place.set("packer.n_bits", 4).set("job", "another");
    assert_refused(&place, "migrate", 2, &["belongs to job default", "is for job another"]);
}

#[test]
fn roles_of_a_fleet_need_a_broker_and_work_needs_workers() {
    let place = place_with_files();
    for words in ["coordinator", "worker", "worker --check"] {
        assert_refused(&place, words, 2, &["broker.url", "des migrate"]);
    }
    assert_refused(&place, "migrate --workers 0", 2, &["--workers 1 or more"]);
    assert_refused(&place, "replay --window 2024-12-01 --workers 0", 2, &["--workers 1 or more"]);
}

#[test]
fn usage_that_is_wrong_is_told() {
    let place = place_with_files();
    place.json("init");
    for (words, text) in [
        ("adjust --set-date yesterday", "`yesterday` is not a date"),
        ("adjust --set-date 2024-13-01", "`2024-13-01` is not a date"),
        ("adjust", "--set-date"),
        ("adjust --set-date 2024-12-01 --days-offset 1", "cannot be used with"),
        ("adjust --days-offset many", "invalid value 'many'"),
        ("get some-uid", "--created-at"),
        ("replay", "--window"),
        ("replay --window soon", "`soon` is not a date"),
        ("migrate --mode sometimes", "invalid value 'sometimes'"),
        ("migrate --interval 0", "--interval"),
        ("migrate --workers 2000", "--workers"),
        ("unpack", "unrecognized subcommand"),
        ("", "Usage"),
    ] {
        let before = place.everything();
        let run = place.des(words).expect(2).says([text]);
        assert_unchanged(&place, &before, &run);
    }
    let run = Running::start(place.command(), ["--help"]).end(LIMIT).expect(0);
    assert!(run.text().contains("Exit codes: 0 done"), "{run}");
}

#[test]
fn what_comes_too_early_is_told() {
    let place = place_with_files();
    for words in ["stats", "adjust --days-offset -1"] {
        assert_refused(&place, words, 1, &["run `des init`"]);
    }
    for words in ["ls", "verify", "get x --created-at 2024-12-01"] {
        assert_refused(&place, words, 1, &["archive"]);
    }
    assert_refused(&place, "migrate --no-migrate", 1, &["run `des init`"]);
    place.json("init");
    let verify = |words: &str| place.des(words).expect(0).text();
    assert!(verify("verify").contains("Nothing is archived here yet."));
    assert!(verify("verify --from 2024-12-01").contains("is the range right?"));
    let told = ["nothing is committed", "`des windows`"];
    place.des("replay --window 2024-12-01").expect(2).says(told);
}

#[test]
fn a_ledger_that_was_never_made_is_told_with_how_to_make_it() {
    let mut place = place_with_files();
    let ledger = place.path("ledger.db");
    place.set("watermark", json!({ "config_db_url": format!("sqlite:///{}", ledger.display()) }));
    for words in ["stats", "windows", "errors", "audit"] {
        assert_refused(&place, words, 1, &["ledger.db", "`des init`"]);
    }
}

#[test]
fn a_window_that_does_not_exist_is_refused_with_those_that_do() {
    let place = place_with_files();
    place.migrate();
    let listed = place.json("ls");
    let first = listed["windows"][0]["end"].as_str().expect("an end").to_owned();
    let (nowhere, later) = ("2001-01-01T00:00:00Z", "2001-01-02T00:00:00Z");
    let told = [nowhere, "no committed window ends", first.as_str(), "`des windows`"];
    for words in [
        format!("replay --window {nowhere}"),
        format!("replay --to {nowhere}"),
        format!("retry-failed --window {nowhere}"),
        format!("reconcile --to {nowhere}"),
    ] {
        place.des(&words).expect(2).says(told);
    }
    for words in ["replay", "reconcile"] {
        place.des(&format!("{words} --from {nowhere} --to {later}")).expect(2).says(told);
    }
    for words in ["retry", "release --reason why"] {
        let told = [nowhere, "is not held: no window is"];
        place.des(&format!("{words} --window {nowhere}")).expect(2).says(told);
    }
    place.json(&format!("retry-failed --window {first}"));
    place.json(&format!("reconcile --to {first}"));
}

#[test]
fn an_error_is_one_json_object_too() {
    let mut place = place_with_files();
    place.set("packer.n_bits", 99);
    let run = place.des("migrate --output json").expect(2).says(["`packer.n_bits`"]);
    let error = run.json()["error"].as_str().expect("the error").to_owned();
    assert!(error.contains("`packer.n_bits`"), "{error}");
}

#[test]
fn check_says_what_is_there_and_changes_nothing() {
    let mut place = place_with_files();
    let check = |place: &Place, code: i32, texts: &[&str]| {
        for words in ["migrate --check", "migrate --check --output json"] {
            let before = place.everything();
            let run = place.des(words).expect(code);
            for text in texts {
                assert!(run.text().contains(text), "`{text}` is not said:\n{run}");
            }
            assert_unchanged(place, &before, &run);
        }
    };
    let store = place.archive().display().to_string();
    let file = format!("SQLite, in {}", place.catalog().display());
    check(&place, 0, &["6 files", "created_at is indexed", "tables will be made", &store, &file]);
    let found = place.json("migrate --check");
    let findings = found["findings"].as_array().expect("findings");
    assert!(findings.iter().all(|it| it["verdict"] != "error"), "{found}");
    assert!(!place.archive().exists());

    place.migrate();
    check(&place, 0, &["up to date", "holds archive", "lag_days 7"]);
    let lost = place.path("lost.db");
    place.set("watermark.config_db_url", format!("sqlite:///{}", lost.display()));
    check(&place, 1, &["rebuild-ledger"]);
    place.set("watermark", Value::Null);
    place.set("database.lag_days", 3);
    check(&place, 0, &["lag_days 7 and rules", "says 3"]);
    place.set("packer.n_bits", 5);
    check(&place, 1, &["n_bits 4", "packer.n_bits is 5"]);
    place.set("packer.n_bits", 4).set("source", json!({ "roots": ["/nowhere at all"] }));
    check(&place, 1, &["/nowhere at all"]);
    place.set("source", Value::Null).set("database.table_name", "nothing");
    check(&place, 1, &["`nothing`", "holds archive"]);
    place.set("database.table_name", "files").set("worker.spool_dir", "/nowhere at all");
    check(&place, 1, &["no spool file can be made in /nowhere at all"]);

    let bare = Place::new();
    bare.sql().execute("DROP INDEX files_created_at");
    check(&bare, 0, &["created_at is not indexed"]);
    check(&Place::without_catalog(), 1, &["no such file"]);
}

fn forbid_writing(directory: &std::path::Path) {
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(directory, read_only).expect("forbidden");
}

/// Runs `migrate` as a user for whom `forbid` has taken rights away: it must say `texts`, with
/// `--check` and without, and change nothing.
#[track_caller]
fn assert_may_not(place: &Place, forbid: impl Fn(), texts: &[&str]) {
    for words in [&["migrate", "--check"][..], &["migrate"]] {
        let command = as_nobody(place, &forbid);
        let before = place.everything();
        let config = place.config().display().to_string();
        let run = Running::start(command, words.iter().copied().chain(["--config", &config]));
        let run = run.end(LIMIT);
        let said = run.to_string();
        assert!(texts.iter().all(|text| said.contains(text)), "{texts:?} in {run}");
        assert_unchanged(place, &before, &run.expect(1));
    }
}

#[test]
fn what_may_not_be_written_is_told_before_anything_is_made() {
    let mut place = place_with_files();
    std::fs::create_dir(place.path("locked")).expect("made");
    place.set("packer.output_dir", place.path("locked/archive").display().to_string());
    let locked = || forbid_writing(&place.path("locked"));
    assert_may_not(&place, locked, &["the store directory", "locked/archive cannot be written"]);

    let mut place = place_with_files();
    std::fs::create_dir(place.archive()).expect("made");
    let locked = || forbid_writing(&place.archive());
    assert_may_not(&place, locked, &["the store directory", "archive cannot be written"]);

    place.set("packer.output_dir", place.path("elsewhere").display().to_string());
    std::fs::create_dir(place.path("ledgers")).expect("made");
    let url = format!("sqlite:///{}", place.path("ledgers/ledger.db").display());
    place.set("watermark", json!({ "config_db_url": url }));
    let locked = || forbid_writing(&place.path("ledgers"));
    assert_may_not(&place, locked, &["ledgers/ledger.db"]);

    // The catalog's file is the ledger too.
    let place = place_with_files();
    let locked = || forbid_writing(&place.catalog());
    assert_may_not(&place, locked, &["leave to write", "catalog.db"]);
}
