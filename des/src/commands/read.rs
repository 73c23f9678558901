//! `des get`, `des ls` and `des verify`: from the store alone.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use protocol::row::recorded_uid;
use protocol::shard::Content;
use protocol::{FailedRow, Timestamp};
use retriever::{Archive, Found, ListedFile, Lookup, Verification, VerifyOptions, When};
use serde_json::json;

use crate::cli::{GetArgs, LsArgs, VerifyArgs};
use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped, printable, table};
use crate::progress::FileBar;
use crate::wiring;

async fn open(config: &Config) -> Result<Archive, Failure> {
    Ok(Archive::open(wiring::store(config, false).await?).await?)
}

/// A date without a time of day means the whole day.
fn when(text: &str) -> Result<When, Failure> {
    let time: Timestamp =
        text.parse().map_err(|error| Failure::usage(format!("--created-at: {error}")))?;
    let is_date = chrono::NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d").is_ok();
    Ok(if is_date { When::On(time.day()) } else { When::Exactly(time) })
}

pub(super) async fn get(args: GetArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let when = when(&args.created_at)?;
    let archive = open(&config).await?;
    match archive.get(&args.uid, when).await? {
        Lookup::Archived(found) => {
            write_out(&archive, &found, args.to.as_deref(), output).await?;
            Ok(Exit::Done)
        }
        Lookup::Failed(row) => {
            let text = format!(
                "{} of {} is not archived: {} ({})",
                row.uid, row.created_at, row.reason, row.detail
            );
            tell_absent(output, &text, Some(row.reason.as_str()))?;
            Ok(Exit::NotFound)
        }
        Lookup::NotFound { near } => {
            let uid = recorded_uid(&args.uid);
            let mut text = format!("{uid} of {} is not in the archive", args.created_at);
            if !near.is_empty() {
                let times: Vec<_> = near.iter().map(ToString::to_string).collect();
                text.push_str(&format!("; the uid is there with created_at {}", times.join(", ")));
            }
            tell_absent(output, &text, None)?;
            Ok(Exit::NotFound)
        }
    }
}

fn tell_absent(output: Output, text: &str, reason: Option<&str>) -> Result<(), Failure> {
    if output.is_human() {
        writeln!(std::io::stderr(), "{text}")?;
    } else {
        let object = json!({ "archived": false, "reason": reason, "message": text });
        output.result(&object, |_| String::new())?;
    }
    Ok(())
}

async fn write_out(
    archive: &Archive,
    found: &Found,
    to: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let Some(path) = to else {
        match &found.content {
            Content::File(raw) => output.raw(raw)?,
            Content::Big { sha256, size } => {
                // Checked before the first byte is shown, since what was piped cannot be taken back.
                let mut file = tempfile::tempfile()?;
                archive.copy_big_file(sha256, *size, &mut file).await?;
                std::io::Seek::rewind(&mut file)?;
                std::io::copy(&mut file, &mut std::io::stdout().lock())?;
            }
        }
        return Ok(());
    };
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    let size = match &found.content {
        Content::File(raw) => {
            file.write_all(raw)?;
            raw.len() as u64
        }
        Content::Big { sha256, size } => {
            archive.copy_big_file(sha256, *size, &mut file).await?;
            *size
        }
    };
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    let object = json!({
        "archived": true, "to": path, "bytes": size, "created_at": found.created_at, "shard": found.shard,
    });
    output.result(&object, |_| format!("{} written from {}", bytes(size), found.shard))?;
    Ok(())
}

pub(super) async fn ls(args: LsArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let archive = open(&config).await?;
    if args.failed {
        return ls_failed(&archive, &args, output).await;
    }
    if !args.files {
        let windows = archive.windows(args.from, args.to).await?;
        output.result(&json!({ "windows": windows }), |_| {
            let mut text = format!(
                "{:<21}{:<21}{:>4}{:>12}{:>8}{:>8}{:>12}{:>12}\n",
                "after", "until", "rev", "files", "failed", "shards", "raw", "stored"
            );
            for it in &windows {
                text.push_str(&format!(
                    "{:<21}{:<21}{:>4}{:>12}{:>8}{:>8}{:>12}{:>12}\n",
                    it.start.to_string(),
                    it.end.to_string(),
                    it.revision,
                    grouped(it.files),
                    grouped(it.failed),
                    grouped(it.shards),
                    bytes(it.bytes_raw),
                    bytes(it.bytes_stored)
                ));
            }
            text
        })?;
        return Ok(Exit::Done);
    }
    // Files are printed as they are found, one line each; as JSON one object a line.
    let mut failed = None;
    let (from, to) = (args.from, args.to);
    let mut print = |file: ListedFile| {
        let created_at = file.created_at;
        if from.is_some_and(|from| created_at < from) || to.is_some_and(|to| created_at >= to) {
            return;
        }
        let line = if output.is_human() {
            format!("{}\t{}\t{}\n", file.created_at, file.size, printable(&file.uid))
        } else {
            serde_json::to_string(&file).unwrap_or_default() + "\n"
        };
        if failed.is_none() {
            failed = output.raw(line.as_bytes()).err();
        }
    };
    archive.files(args.from, args.to, &mut print).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Done),
    }
}

/// One line each; as JSON one object a line.
async fn ls_failed(archive: &Archive, args: &LsArgs, output: Output) -> Result<Exit, Failure> {
    let (from, to) = (args.from, args.to);
    let mut failed = None;
    let mut print = |row: FailedRow| {
        let created_at = row.created_at;
        if from.is_some_and(|from| created_at < from) || to.is_some_and(|to| created_at >= to) {
            return;
        }
        let line = if output.is_human() {
            let location = row.location.as_deref().unwrap_or_default();
            let (uid, location) = (printable(&row.uid), printable(location));
            let detail = printable(&row.detail);
            format!("{created_at}\t{uid}\t{location}\t{}\t{detail}\n", row.reason)
        } else {
            serde_json::to_string(&row).unwrap_or_default() + "\n"
        };
        if failed.is_none() {
            failed = output.raw(line.as_bytes()).err();
        }
    };
    archive.failed(from, to, &mut print).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Done),
    }
}

pub(super) async fn verify(args: VerifyArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let archive = open(&config).await?;
    let found = verify_archive(&archive, args.deep, args.from, args.to).await?;
    let everything = args.from.is_none() && args.to.is_none();
    output.result(&found, |found| human(found, args.deep, everything))?;
    let sound = found.problems.is_empty();
    Ok(if sound { Exit::Done } else { Exit::Damage })
}

async fn verify_archive(
    archive: &Archive,
    deep: bool,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Verification, Failure> {
    let windows = archive
        .windows(from, until)
        .await
        .map(|windows| windows.iter().map(|window| window.files).sum());
    // A certificate that cannot be read is a finding, not a reason to stop.
    let mut bar = FileBar::new("verifying", windows.unwrap_or(0));
    let options = VerifyOptions { deep, parallel: wiring::cores().into(), from, until };
    let found = archive.verify(options, &mut |files, bytes| bar.advance(files, bytes)).await?;
    bar.finish();
    Ok(found)
}

fn human(it: &Verification, deep: bool, everything: bool) -> String {
    let mut text = table(&[
        ("files", grouped(it.files)),
        ("shards", grouped(it.shards)),
        ("bytes", bytes(it.bytes)),
        ("damaged", grouped(it.damaged)),
        ("missing", grouped(it.missing)),
    ]);
    for problem in &it.problems {
        text.push_str(&format!("{}: {}\n", problem.object, problem.what));
    }
    let verdict = match (it.problems.is_empty(), it.shards, deep) {
        (false, ..) => "",
        (true, 0, _) if everything => "Nothing is archived here yet.\n",
        (true, 0, _) => "No file is certified here: is the range right?\n",
        (true, _, true) => "Every byte is right.\n",
        (true, _, false) => "Everything is there. --deep reads every byte.\n",
    };
    text.push_str(verdict);
    text
}
