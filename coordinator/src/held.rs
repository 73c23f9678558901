//! Held windows: what holds them, and letting them go at an operator's word.

use backends::ledger::{AuditEntry, HeldPass, Stuck, WindowRecord, WindowState};
use backends::{BackendError, Ledger};
use protocol::{Revision, Timestamp, Window, WindowKey};

/// A window of which more files failed than is allowed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct HeldWindow {
    /// The window.
    #[serde(skip)]
    pub window: Window,
    /// Its end, by which operators name it.
    pub end: Timestamp,
    /// The pass.
    pub revision: Revision,
    /// Its rows.
    pub rows: u64,
    /// Those that failed.
    pub files_failed: u64,
    /// Why it is held and what to do, for a person.
    pub reason: String,
    /// Whether it is certified, and what keeps it is not its failed files.
    #[serde(skip)]
    pub stuck: bool,
}

impl HeldWindow {
    /// Describes a window that is held with so many failed rows.
    pub(crate) fn new(record: &WindowRecord, files_failed: u64) -> Self {
        let end = record.window.end();
        let rows = record.rows.rows;
        let released = record.released.map_or_else(String::new, |released| {
            format!(" and more than the {released} that it was released with")
        });
        let reason = format!(
            "{files_failed} of {rows} files failed, more than max_failed_files and \
             max_failed_ratio allow{released}. `des errors --held --window {end}` lists them, each \
             with its reason; `des retry --window {end}` reads them again, `des release --window \
             {end} --reason TEXT` commits the window with them as error rows"
        );
        let (window, revision) = (record.window, record.revision);
        Self { window, end, revision, rows, files_failed, reason, stuck: false }
    }

    /// Describes a certified window that the watermark cannot pass again.
    fn stuck(record: &WindowRecord, reason: String) -> Self {
        let (end, rows) = (record.window.end(), record.rows.rows);
        let revision = record.revision;
        Self { window: record.window, end, revision, rows, files_failed: 0, reason, stuck: true }
    }

    /// Why the watermark cannot pass a certified window again, and what to do, for a person.
    pub(crate) fn why_stuck(window: Window, error: &BackendError) -> String {
        let end = window.end();
        format!(
            "the watermark was moved back over it, and it cannot be verified: {error}. Put back what \
             is gone or damaged, and it is tried again by itself; or pass over it with `des adjust \
             --set-date {end}`: it stays archived as far as its other objects go"
        )
    }

    /// End and revision.
    pub const fn key(&self) -> WindowKey {
        WindowKey::new(self.window, self.revision)
    }
}

/// Every held window, by end and revision, and the one that the watermark cannot pass again.
///
/// # Errors
/// When the ledger does not answer.
pub async fn held_windows(ledger: &dyn Ledger) -> Result<Vec<HeldWindow>, BackendError> {
    let mut held = Vec::new();
    for record in ledger.open_windows().await? {
        if record.state != WindowState::Held {
            continue;
        }
        let partitions = ledger.partitions(record.key()).await?;
        let accepted = partitions.iter().filter_map(|partition| partition.accepted.as_ref());
        let files_failed = accepted.map(|accepted| accepted.files_failed).sum();
        held.push(HeldWindow::new(&record, files_failed));
    }
    let settled = ledger.archive().await?.map(|archive| archive.settled_until);
    // A pass below the watermark that cannot be planned waits, and holds nothing.
    let stuck = ledger.stuck().await?.filter(|stuck| settled.is_none_or(|it| stuck.end > it));
    if let Some(Stuck { end, reason }) = stuck {
        let just_before = end.saturating_add_micros(-1);
        let certified = ledger.committed_windows(Some(just_before), Some(end), 1).await?;
        held.extend(certified.first().map(|record| HeldWindow::stuck(record, reason)));
    }
    Ok(held)
}

/// Why a window was not let go.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// Something outside did not answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The window is not held.
    #[error("{0}")]
    NotHeld(String),
}

/// What an operator wants of a held window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// To commit it, with its failed rows as error rows.
    Release,
    /// To read its failed rows again.
    Retry,
}

impl LetGo {
    /// The command, and the action in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Retry => "retry",
        }
    }
}

/// Lets the held window that ends at `end` go. Whoever leads carries on with it: a coordinator
/// within seconds, in embedded mode the next run.
///
/// # Errors
/// When no window that ends there is held, or the ledger does not answer.
pub async fn let_go(
    ledger: &dyn Ledger,
    end: Timestamp,
    how: LetGo,
    (actor, reason): (String, Option<String>),
) -> Result<HeldPass, HeldError> {
    let held = held_windows(ledger).await?;
    if let Some(stuck) = held.iter().find(|held| held.stuck && held.end == end) {
        let why = format!("the window that ends at {end} is certified: {}", stuck.reason);
        return Err(HeldError::NotHeld(why));
    }
    let Some(window) = held.iter().find(|held| held.end == end) else {
        return Err(HeldError::NotHeld(not_held(end, &held)));
    };
    let audit = AuditEntry {
        actor,
        action: how.as_str().to_owned(),
        from: Some(format!("held: {} of {} files failed", window.files_failed, window.rows)),
        to: Some(format!("window {}", window.key())),
        reason,
    };
    let done = match how {
        LetGo::Release => ledger.release_window(window.key(), &audit).await,
        LetGo::Retry => ledger.retry_window(window.key(), &audit).await,
    };
    match done {
        // Between the look and the deed somebody else let it go, or committed it.
        Err(error) if error.is_conflict() => Err(HeldError::NotHeld(error.to_string())),
        other => Ok(other?),
    }
}

fn not_held(end: Timestamp, held: &[HeldWindow]) -> String {
    let others: Vec<String> = held.iter().map(|held| held.end.to_string()).collect();
    let others = match others.as_slice() {
        [] => "no window is".to_owned(),
        ends => format!("held are those that end at {}", ends.join(", ")),
    };
    format!("the window that ends at {end} is not held: {others}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::ledger::{Purpose, WindowTotals};
    use protocol::{Digest, Tally};

    fn held(end: &str, released: Option<u64>) -> HeldWindow {
        let at = |text: &str| text.parse().expect("a date");
        let record = WindowRecord {
            window: Window::new(at("2024-12-01"), at(end)).expect("a window"),
            revision: 2,
            state: WindowState::Held,
            rows: Tally { rows: 30, digest: Digest(1) },
            replaces: Vec::new(),
            totals: WindowTotals::default(),
            certificate: None,
            purpose: Purpose::Scan,
            findings: None,
            released,
            splits_before: 0,
            state_since: None,
            partition_rows: None,
        };
        HeldWindow::new(&record, 11)
    }

    #[test]
    fn a_held_window_says_why_and_what_to_do() {
        let reason = held("2024-12-02", None).reason;
        assert!(
            reason.starts_with("11 of 30 files failed, more than max_failed_files"),
            "{reason}"
        );
        for command in ["errors --held", "retry", "release"] {
            let command = format!("`des {command} --window 2024-12-02T00:00:00Z");
            assert!(reason.contains(&command), "{reason}");
        }
        let again = held("2024-12-02", Some(10)).reason;
        assert!(again.contains("the 10 that it was released with"), "{again}");
    }

    #[test]
    fn a_refusal_names_what_is_held() {
        let end: Timestamp = "2024-12-09".parse().expect("a date");
        assert!(not_held(end, &[]).ends_with("is not held: no window is"));
        let told = not_held(end, &[held("2024-12-02", None), held("2024-12-03", None)]);
        assert!(told.contains("2024-12-02T00:00:00Z, 2024-12-03T00:00:00Z"), "{told}");
    }
}
