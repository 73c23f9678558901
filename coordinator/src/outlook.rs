//! What lies ahead of the watermark, before the first byte of it is moved: files, windows, and rows
//! from all over it for a sample. Asks the catalog, and changes nothing.

use backends::{BackendError, Catalog, Ledger};
use protocol::{Row, Timestamp, Window};
use tokio::sync::mpsc;

use crate::cutting::cutoff;
use crate::init::{ArchiveSeed, InitError, first_watermark};

/// Windows that are counted one by one; each is one look at an index.
const WINDOWS_COUNTED: u64 = 4_000;
/// Stretches that rows of a sample are taken from; one where each takes a look at the whole table.
const STRETCHES: u32 = 20;

/// What lies ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Where the watermark stands, or will when the archive is made.
    pub from: Timestamp,
    /// Whether there is a watermark already.
    pub begun: bool,
    /// How far windows may reach now.
    pub target: Timestamp,
    /// Days that files are left alone.
    pub lag_days: u32,
    /// Rows between the two.
    pub files: u64,
    /// Their bytes; `None` without a size column.
    pub bytes: Option<u64>,
    /// Windows with rows.
    pub windows: u64,
    /// Whether they were counted, rather than taken to be all from the first row on.
    pub windows_counted: bool,
    /// Whether created_at is indexed. Without that every question reads the whole table, so that few
    /// are asked.
    pub indexed: bool,
}

/// Looks at everything between watermark and cutoff. The ledger may be absent or empty: then it
/// begins where the archive would.
///
/// # Errors
/// When catalog or ledger do not answer.
pub async fn look_ahead(
    ledger: Option<&dyn Ledger>,
    catalog: &dyn Catalog,
    seed: &ArchiveSeed,
) -> Result<Outlook, InitError> {
    let span = seed.window_span_micros;
    let (row, ledger_clock) = match ledger {
        Some(ledger) => (ledger.watermark().await?, Some(ledger.now().await?)),
        None => (None, None),
    };
    let lag_days = row.map_or(seed.lag_days, |row| row.lag_days);
    let from = match row {
        Some(row) => row.archived_until,
        None => first_watermark(catalog, seed).await?,
    };
    let clock = catalog.now().await?;
    let target = cutoff(clock, ledger_clock.unwrap_or(clock), lag_days, None, span);
    let (begun, indexed) = (row.is_some(), catalog.inspect().await?.created_at_indexed);
    if target <= from {
        let bytes = catalog.count(Some(from), Some(from)).await?.bytes;
        let (files, windows, windows_counted) = (0, 0, true);
        return Ok(Outlook {
            from,
            begun,
            target,
            lag_days,
            files,
            bytes,
            windows,
            windows_counted,
            indexed,
        });
    }
    let count = catalog.count(Some(from), Some(target)).await?;
    let counted = if indexed { WINDOWS_COUNTED } else { 1 };
    let (windows, windows_counted) = count_windows(catalog, (from, target), span, counted).await?;
    let (files, bytes) = (count.files, count.bytes);
    Ok(Outlook { from, begun, target, lag_days, files, bytes, windows, windows_counted, indexed })
}

/// Windows between two times that have rows, and whether they were all counted: at most `most` are.
async fn count_windows(
    catalog: &dyn Catalog,
    (from, target): (Timestamp, Timestamp),
    span_micros: i64,
    most: u64,
) -> Result<(u64, bool), BackendError> {
    let mut frontier = from;
    for counted in 0..most {
        match catalog.oldest_after(Some(frontier)).await? {
            Some(oldest) if oldest <= target => frontier = end_of_window(oldest, span_micros),
            _ => return Ok((counted, true)),
        }
    }
    let left = (target.as_micros() - frontier.as_micros()).max(0);
    let left = u64::try_from(left / span_micros.max(1)).unwrap_or_default();
    Ok((most + left, left == 0))
}

/// The boundary at or after this time.
fn end_of_window(time: Timestamp, span_micros: i64) -> Timestamp {
    time.saturating_add_micros(-1).floor_to(span_micros).saturating_add_micros(span_micros)
}

/// At most about `rows` rows from stretches that are spread evenly over the time ahead, or from its
/// beginning where created_at is not indexed: of each, some of those that the catalog gives first.
///
/// # Errors
/// When the catalog does not answer.
pub async fn rows_ahead(
    catalog: &dyn Catalog,
    outlook: &Outlook,
    span_micros: i64,
    rows: u32,
) -> Result<Vec<Row>, BackendError> {
    let mut sample: Vec<Row> = Vec::new();
    if outlook.files == 0 || rows == 0 {
        return Ok(sample);
    }
    let windows = u32::try_from(outlook.windows.max(1)).unwrap_or(u32::MAX);
    let most = if outlook.indexed { STRETCHES } else { 1 };
    let stretches = most.min(rows).min(windows);
    let (from, target) = (outlook.from.as_micros(), outlook.target.as_micros());
    let mut seen_until = outlook.from;
    for stretch in 0..stretches {
        let ahead = i128::from(target - from) * i128::from(stretch) / i128::from(stretches);
        let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
        let begin = outlook.from.saturating_add_micros(ahead).max(seen_until);
        let Some(oldest) = catalog.oldest_after(Some(begin)).await? else { break };
        let end = end_of_window(oldest, span_micros).min(outlook.target);
        let Ok(window) = Window::new(oldest.saturating_add_micros(-1), end) else { break };
        let left = rows - u32::try_from(sample.len()).unwrap_or(rows).min(rows);
        let of_stretch = left.div_ceil(stretches - stretch);
        sample.extend(first_rows(catalog, window, of_stretch as usize).await?);
        seen_until = end;
    }
    Ok(sample)
}

/// Some rows of a window, evenly from those that come first; the rest is not read.
async fn first_rows(
    catalog: &dyn Catalog,
    window: Window,
    rows: usize,
) -> Result<Vec<Row>, BackendError> {
    let (sender, mut batches) = mpsc::channel(1);
    let scan = catalog.scan(window, sender);
    let take = async move {
        let batch = batches.recv().await.unwrap_or_default();
        // Dropping the receiver ends the scan.
        drop(batches);
        let step = batch.len().div_ceil(rows.max(1)).max(1);
        batch.iter().step_by(step).take(rows).map(|row| row.to_row()).collect::<Vec<Row>>()
    };
    let (scanned, rows) = futures::future::join(scan, take).await;
    scanned.map(|()| rows)
}
