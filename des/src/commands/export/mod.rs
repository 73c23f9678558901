//! `des audit export`: what became of every row, from certificates and shards alone.

mod csv;
mod parquet;

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;
use protocol::Timestamp;
use retriever::{Archive, Audited, AuditedRow, Fate};
use serde::Serialize;

use self::csv::CsvRows;
use self::parquet::ParquetRows;
use crate::cli::{ExportArgs, ExportFormat};
use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped};
use crate::wiring;

/// Bytes that are kept before they are written.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Takes rows, and writes them in some format.
trait Rows {
    fn add(&mut self, row: &AuditedRow) -> anyhow::Result<()>;
    /// Writes what is left, and whatever the format ends with.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// What a row has in each column besides uid and created_at.
struct Columns<'a> {
    archived_at: Option<Timestamp>,
    shard: Option<&'a str>,
    offset: Option<u64>,
    size: Option<u64>,
    crc32c: Option<u32>,
    /// `archived`, or why it failed.
    status: &'static str,
}

impl<'a> Columns<'a> {
    fn of(row: &'a AuditedRow) -> Self {
        match &row.fate {
            Fate::Archived { at, place } => Self {
                archived_at: Some(*at),
                shard: Some(&place.object),
                offset: Some(place.offset),
                size: Some(place.size),
                crc32c: place.crc32c,
                status: "archived",
            },
            Fate::Failed { reason, .. } => Self {
                archived_at: None,
                shard: None,
                offset: None,
                size: None,
                crc32c: None,
                status: reason.as_str(),
            },
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct ExportResult {
    /// Where the rows were written.
    to: String,
    format: &'static str,
    /// Windows that were gone through.
    windows: u64,
    /// Of those, windows that an operator skipped: their rows are not in the list.
    skipped_windows: u64,
    /// Shards that were read whole.
    shards: u64,
    /// Rows that are archived.
    archived: u64,
    /// Rows that failed.
    failed: u64,
    /// Size of the file.
    bytes: u64,
}

pub(super) async fn run(args: ExportArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    if let Some(path) = args.to_file.as_deref().filter(|path| !args.force && path.exists()) {
        return Err(Failure::usage(format!(
            "{} is there already: name another file, or say --force to replace it",
            path.display()
        )));
    }
    let archive = Archive::open(wiring::store(&config, false).await?).await?;
    let Some(path) = &args.to_file else {
        let rows = writer(args.format, Box::new(Stdout(output)))?;
        export(&archive, &args, rows).await?;
        return Ok(Exit::Done);
    };
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As any other file that is written: who may read it, the umask says.
    let file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    let rows = writer(args.format, Box::new(file.as_file().try_clone()?))?;
    let (audited, (archived, failed)) = export(&archive, &args, rows).await?;
    file.as_file().sync_all()?;
    let size = file.as_file().metadata()?.len();
    // Only a complete list gets the name.
    let named = if args.force { file.persist(path) } else { file.persist_noclobber(path) };
    named.with_context(|| format!("cannot write {}", path.display()))?;
    let result = ExportResult {
        to: path.display().to_string(),
        format: args.format.as_str(),
        windows: audited.windows,
        skipped_windows: audited.skipped,
        shards: audited.shards,
        archived,
        failed,
        bytes: size,
    };
    output.result(&result, human)?;
    Ok(Exit::Done)
}

fn writer(
    format: ExportFormat,
    sink: Box<dyn Write + Send>,
) -> anyhow::Result<Box<dyn Rows + Send>> {
    let sink = BufWriter::with_capacity(BUFFER_BYTES, sink);
    Ok(match format {
        ExportFormat::Csv => Box::new(CsvRows::new(sink)?),
        ExportFormat::Parquet => Box::new(ParquetRows::new(sink)?),
    })
}

/// Hands every row in `[from, to)` over; how many were archived, and failed.
async fn export(
    archive: &Archive,
    args: &ExportArgs,
    mut rows: Box<dyn Rows + Send>,
) -> anyhow::Result<(Audited, (u64, u64))> {
    let (from, to) = (args.from, args.to);
    let (mut archived, mut failed) = (0, 0);
    let mut visit = |row: AuditedRow| -> anyhow::Result<()> {
        let at = row.created_at;
        if from.is_some_and(|from| at < from) || to.is_some_and(|to| at >= to) {
            return Ok(());
        }
        match row.fate {
            Fate::Archived { .. } => archived += 1,
            Fate::Failed { .. } => failed += 1,
        }
        rows.add(&row)
    };
    let audited = archive.audit((from, to), wiring::cores().into(), &mut visit).await?;
    rows.finish()?;
    Ok((audited, (archived, failed)))
}

/// Standard output. A reader that went away is no failure.
struct Stdout(Output);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.raw(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn human(it: &ExportResult) -> String {
    let mut text = format!(
        "{} rows archived and {} failed, of {} windows and {} shards: {} in {}\n",
        grouped(it.archived),
        grouped(it.failed),
        grouped(it.windows),
        grouped(it.shards),
        bytes(it.bytes),
        it.to
    );
    if it.skipped_windows > 0 {
        text.push_str(&format!(
            "{} windows were skipped at an operator's word: their rows are not in the list.\n",
            grouped(it.skipped_windows)
        ));
    }
    text
}
