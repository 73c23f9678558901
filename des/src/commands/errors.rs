//! `des errors`: files that are not in the archive, and why.

use backends::Ledger;
use backends::ledger::ErrorQuery;
use coordinator::held::held_windows;
use coordinator::listing::{
    HeldFailure, ListedFailure, ReasonFacts, errors, failed_in_held_windows, reasons,
};
use protocol::{FailureReason, Timestamp};
use serde::Serialize;

use crate::cli::ErrorsArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped, printable};
use crate::wiring;

#[derive(Serialize)]
struct Summary {
    /// The most frequent first.
    reasons: Vec<ReasonFacts>,
    /// Files that are not in the archive.
    files: u64,
    /// Files that a later pass settled; counted with `--resolved`.
    resolved: u64,
    /// Files that failed in windows that are held: they are recorded when such a window is released.
    held: u64,
}

impl Summary {
    async fn read(ledger: &dyn Ledger, query: ErrorQuery) -> Result<Self, Failure> {
        let reasons = reasons(ledger, query).await?;
        let files = reasons.iter().map(|it| it.files).sum();
        let resolved = reasons.iter().map(|it| it.resolved).sum();
        let held = held_windows(ledger).await?;
        let asked = held.iter().filter(|it| query.window.is_none_or(|end| end == it.end));
        let held = asked.filter(|it| !it.stuck).map(|it| it.files_failed).sum();
        Ok(Self { reasons, files, resolved, held })
    }
}

pub(super) async fn run(args: ErrorsArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let ledger = wiring::ledger_to_read(&config).await?;
    let query = ErrorQuery { reason: args.reason, window: args.window, resolved: args.resolved };
    if args.summary {
        let summary = Summary::read(&*ledger, query).await?;
        output.result(&summary, summary_text)?;
        return Ok(Exit::Done);
    }
    let mut lines = Lines { output, limit: args.limit, shown: 0, failed: None };
    if args.held {
        let store = wiring::store(&config, false).await?;
        let mut left_out = 0;
        let mut print = |it: HeldFailure| {
            if args.reason.is_some_and(|reason| reason != it.failed.reason) {
                return true;
            }
            let more = lines.print(&it, || held_line(&it));
            left_out += u64::from(!more);
            more || lines.failed.is_none()
        };
        failed_in_held_windows(&store, &*ledger, args.window, &mut print).await?;
        let none = lines.shown == 0 && left_out == 0;
        lines
            .end(left_out, if none { "No file failed in a window that is held.\n" } else { "" })?;
        return Ok(Exit::Done);
    }
    let mut print = |row: ListedFailure| lines.print(&row, || line(&row));
    errors(&*ledger, query, args.limit, &mut print).await?;
    let (mut left_out, mut said) = (0, String::new());
    if output.is_human() {
        let summary = Summary::read(&*ledger, query).await?;
        left_out = (summary.files + summary.resolved).saturating_sub(lines.shown);
        said = summary_text(&summary);
    }
    lines.end(left_out, &said)?;
    Ok(Exit::Done)
}

/// Rows that are printed as they are read, one line each; as JSON one object a line.
struct Lines {
    output: Output,
    limit: u64,
    shown: u64,
    failed: Option<std::io::Error>,
}

impl Lines {
    /// Prints a row, unless so many were; whether it did.
    fn print(&mut self, row: &impl Serialize, line: impl FnOnce() -> String) -> bool {
        if self.failed.is_some() || self.shown == self.limit {
            return false;
        }
        let text = if self.output.is_human() {
            line()
        } else {
            serde_json::to_string(row).unwrap_or_default() + "\n"
        };
        self.failed = self.output.raw(text.as_bytes()).err();
        self.shown += 1;
        self.failed.is_none()
    }

    /// For a person, what is to be said at the end.
    fn end(self, left_out: u64, said: &str) -> Result<(), Failure> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        if self.output.is_human() {
            self.output.raw(said.as_bytes())?;
            if left_out > 0 {
                let more = format!("{} more are not shown: --limit.\n", grouped(left_out));
                self.output.raw(more.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// One line for a person. Whoever wrote the catalog may have put lines or worse into it.
fn line(it: &ListedFailure) -> String {
    let resolved = it.resolved_at.map_or_else(String::new, |time| format!("\tresolved at {time}"));
    let file = (it.created_at, &*it.uid, it.location.as_deref(), it.reason, &*it.detail);
    format!("{}\twindow {} revision {}{resolved}\n", described(file), it.window, it.revision)
}

fn held_line(it: &HeldFailure) -> String {
    let HeldFailure { failed, window, revision, partition } = it;
    let location = failed.location.as_deref();
    let file = (failed.created_at, &*failed.uid, location, failed.reason, &*failed.detail);
    format!("{}\twindow {window} revision {revision} partition {partition}\n", described(file))
}

fn described(file: (Timestamp, &str, Option<&str>, FailureReason, &str)) -> String {
    let (created_at, uid, location, reason, detail) = file;
    let [uid, location, detail] = [uid, location.unwrap_or_default(), detail].map(printable);
    format!("{created_at}\t{uid}\t{location}\t{reason}\t{detail}")
}

fn summary_text(it: &Summary) -> String {
    let mut text = String::new();
    if it.held > 0 {
        let files = grouped(it.held);
        text.push_str(&format!(
            "{files} files failed in windows that are held. They are recorded when such a window is \
             released, and listed by `des errors --held`.\n"
        ));
    }
    if it.reasons.is_empty() {
        text.push_str("No file is recorded as failed here.\n");
        return text;
    }
    for reason in &it.reasons {
        text.push_str(&format!("{:>12}  {}", grouped(reason.files), reason.reason));
        if reason.resolved > 0 {
            text.push_str(&format!(", and {} that a later pass settled", grouped(reason.resolved)));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol::{FailureReason, Timestamp};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn row() -> ListedFailure {
        ListedFailure {
            uid: "in\nvoice".to_owned(),
            created_at: at("2024-12-01T10:20:30.123456Z"),
            location: Some("/data/a".to_owned()),
            reason: FailureReason::Missing,
            detail: "No such file or directory (os error 2)".to_owned(),
            window: at("2024-12-02"),
            revision: 0,
            recorded_at: at("2024-12-10T01:02:03Z"),
            resolved_at: None,
        }
    }

    #[test]
    fn a_row_is_one_line() {
        let settled = ListedFailure {
            location: None,
            resolved_at: Some(at("2024-12-11")),
            revision: 1,
            ..row()
        };
        insta::assert_snapshot!(line(&row()) + &line(&settled));
    }

    #[test]
    fn a_program_sees_stable_keys() {
        let count = |reason, files, resolved| ReasonFacts { reason, files, resolved };
        let reasons =
            vec![count(FailureReason::Missing, 1_200, 0), count(FailureReason::Changed, 3, 40)];
        let summary = Summary { reasons, files: 1_203, resolved: 40, held: 29 };
        insta::assert_snapshot!(summary_text(&summary));
        let row = serde_json::to_string_pretty(&row()).expect("it is JSON");
        let summary = serde_json::to_string_pretty(&summary).expect("it is JSON");
        insta::assert_snapshot!(format!("{row}\n{summary}"));
    }
}
