//! `des init`: the archive's identity, des's own tables, the first watermark.

use backends::ledger::{postgres, sqlite};
use serde::Serialize;

use crate::cli::InitArgs;
use crate::config::{Config, DatabaseUrl};
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring::{self, Permissions};

#[derive(Serialize)]
struct InitResult {
    archive: String,
    job: String,
    created: bool,
    n_bits: u8,
    origin: String,
    archived_until: String,
    lag_days: u32,
    uncovered_files: u64,
    unplaceable_files: u64,
}

pub(super) async fn run(args: InitArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    if args.print {
        let sql = match config.ledger()? {
            DatabaseUrl::Postgres(_) => postgres::migrations_sql(),
            DatabaseUrl::Sqlite(_) => sqlite::migrations_sql(),
        };
        output.raw(sql.as_bytes())?;
        return Ok(Exit::Done);
    }
    let permissions =
        Permissions { migrate: true, accept_below: args.accept_below, reason: args.reason };
    let fleet = wiring::connect(&config, permissions).await?;
    let archive = &fleet.archive;
    let origin = archive.identity.origin;
    let result = InitResult {
        archive: archive.identity.archive.to_string(),
        job: archive.identity.job.to_string(),
        created: archive.created,
        n_bits: archive.identity.n_bits.get(),
        origin: origin.to_string(),
        archived_until: archive.watermark.archived_until.to_string(),
        lag_days: archive.watermark.lag_days,
        uncovered_files: fleet.catalog.count_files(None, Some(origin)).await?,
        unplaceable_files: fleet.catalog.unplaceable().await?.total(),
    };
    output.result(&result, human)?;
    Ok(Exit::Done)
}

fn human(result: &InitResult) -> String {
    let made = if result.created { "made just now" } else { "there already" };
    let mut text = table(&[
        ("archive", format!("{} ({made})", result.archive)),
        ("job", result.job.clone()),
        ("n_bits", result.n_bits.to_string()),
        ("origin", result.origin.clone()),
        ("archived until", result.archived_until.clone()),
        ("lag", format!("{} days", result.lag_days)),
        ("uncovered files", grouped(result.uncovered_files)),
        ("unplaceable files", grouped(result.unplaceable_files)),
    ]);
    if result.uncovered_files > 0 {
        text.push_str("Uncovered files lie at or below the origin and will not be archived; `des adjust` moves the watermark below them.\n");
    }
    text
}
