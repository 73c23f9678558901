//! The one-shot of compose.yaml that makes sample files: its command, on a real PostgreSQL.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sqlx::{Connection, PgConnection};

const COMPOSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose/compose.yaml");
const URL: &str = "postgresql://app:${APP_PASSWORD:?copy .env.example to .env}@postgres:5432/files";
const FILES: u64 = 300;

/// The command of the service `samples`, with places of this test instead of the container's.
fn command(dir: &Path, url: &str, table: &str) -> Vec<String> {
    let compose = std::fs::read_to_string(COMPOSE).expect("compose.yaml");
    let compose: Value = serde_saphyr::from_str(&compose).expect("it is YAML");
    let words = compose["services"]["samples"]["command"].as_array().expect("a command").iter();
    let words = words.map(|word| word.as_str().expect("a word")).map(|word| match word {
        "--dir=/data" => format!("--dir={}", dir.display()),
        "--files=${SAMPLE_FILES:-20000}" => format!("--files={FILES}"),
        "--table=files" => format!("--table={table}"),
        _ if word == format!("--postgres={URL}") => format!("--postgres={url}"),
        _ => word.to_owned(),
    });
    let words: Vec<_> = words.collect();
    assert!(words.iter().all(|word| !word.contains("${") && !word.contains("/data")), "{words:?}");
    words
}

#[tokio::test]
async fn the_samples_of_compose_are_files_with_a_table_and_are_left_as_they_are() {
    let url = std::env::var("DES_TEST_POSTGRES_URL").expect("DES_TEST_POSTGRES_URL: run ./test");
    let table = format!("samples_{}", uuid::Uuid::new_v4().simple());
    let dir = tempfile::tempdir().expect("a directory");
    let mut before = None;
    for _again in 0..2 {
        let mut gen_files = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        let output = gen_files.args(command(dir.path(), &url, &table)).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut database = PgConnection::connect(&url).await.expect("connected");
        let sql = format!("SELECT file_location, size_bytes FROM {table} ORDER BY uid");
        let rows: Vec<(String, i64)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut database).await.expect("rows");
        assert_eq!(rows.len() as u64, FILES);
        for (location, size) in &rows {
            let there = std::fs::metadata(location).expect("a file").len();
            assert_eq!(there, size.cast_unsigned(), "{location}");
        }
        // `docker compose up` starts it again, while a fleet reads the table.
        let sql = "SELECT to_regclass($1)::oid::bigint";
        let oid: i64 =
            sqlx::query_scalar(sql).bind(&table).fetch_one(&mut database).await.expect("a table");
        assert!(before.is_none_or(|before| before == (rows.clone(), oid)), "another catalog");
        before = Some((rows, oid));
    }
    let mut database = PgConnection::connect(&url).await.expect("connected");
    let drop = sqlx::AssertSqlSafe(format!("DROP TABLE {table}"));
    sqlx::raw_sql(drop).execute(&mut database).await.expect("dropped");
}
