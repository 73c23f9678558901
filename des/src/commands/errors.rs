//! `des errors`: files that are not in the archive, and why.

use backends::ledger::ErrorQuery;
use coordinator::listing::{ListedFailure, ReasonFacts, errors, reasons};
use serde::Serialize;

use crate::cli::ErrorsArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped};
use crate::wiring;

#[derive(Serialize)]
struct Summary {
    /// The most frequent first.
    reasons: Vec<ReasonFacts>,
    /// Files that are not in the archive.
    files: u64,
    /// Files that a later pass settled; counted with `--resolved`.
    resolved: u64,
}

impl Summary {
    fn new(reasons: Vec<ReasonFacts>) -> Self {
        let files = reasons.iter().map(|it| it.files).sum();
        let resolved = reasons.iter().map(|it| it.resolved).sum();
        Self { reasons, files, resolved }
    }
}

pub(super) async fn run(args: ErrorsArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let ledger = wiring::ledger_to_read(&config).await?;
    let query = ErrorQuery { reason: args.reason, window: args.window, resolved: args.resolved };
    if args.summary {
        let summary = Summary::new(reasons(&*ledger, query).await?);
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
        let summary = Summary::new(reasons(&*ledger, query).await?);
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
        it.uid.escape_debug(),
        location.escape_debug(),
        it.reason,
        it.detail.escape_debug(),
        it.window,
        it.revision
    )
}

fn summary_text(it: &Summary) -> String {
    if it.reasons.is_empty() {
        return "No file is recorded as failed here.\n".to_owned();
    }
    let mut text = String::new();
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
        let summary = Summary::new(reasons);
        insta::assert_snapshot!(summary_text(&summary));
        let row = serde_json::to_string_pretty(&row()).expect("it is JSON");
        let summary = serde_json::to_string_pretty(&summary).expect("it is JSON");
        insta::assert_snapshot!(format!("{row}\n{summary}"));
    }
}
