//! `des errors`: files that are not in the archive, and why.

use backends::Ledger;
use backends::ledger::ErrorQuery;
use coordinator::held::held_windows;
use coordinator::listing::{ListedFailure, ReasonFacts, errors, reasons};
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
    // Rows are printed as they are read, one line each; as JSON one object a line.
    let (mut failed, mut shown) = (None, 0_u64);
    let mut print = |row: ListedFailure| {
        let line = if output.is_human() {
            line(&row)
        } else {
            serde_json::to_string(&row).unwrap_or_default() + "\n"
        };
        failed = output.raw(line.as_bytes()).err();
        shown += 1;
        failed.is_none()
    };
    errors(&*ledger, query, args.limit, &mut print).await?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if output.is_human() {
        let summary = Summary::read(&*ledger, query).await?;
        let left_out = (summary.files + summary.resolved).saturating_sub(shown);
        let mut text = summary_text(&summary);
        if left_out > 0 {
            text.push_str(&format!("{} more are not shown: --limit.\n", grouped(left_out)));
        }
        output.raw(text.as_bytes())?;
    }
    Ok(Exit::Done)
}

/// One line for a person. Whoever wrote the catalog may have put lines or worse into it.
fn line(it: &ListedFailure) -> String {
    let location = it.location.as_deref().unwrap_or_default();
    let resolved = it.resolved_at.map_or_else(String::new, |time| format!("\tresolved at {time}"));
    format!(
        "{}\t{}\t{}\t{}\t{}\twindow {} revision {}{resolved}\n",
        it.created_at,
        printable(&it.uid),
        printable(location),
        it.reason,
        printable(&it.detail),
        it.window,
        it.revision
    )
}

fn summary_text(it: &Summary) -> String {
    let mut text = String::new();
    if it.held > 0 {
        let files = grouped(it.held);
        text.push_str(&format!(
            "{files} files failed in windows that are held. They are recorded when such a window is \
             released; `des stats` names the windows, and their receipts the files.\n"
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
