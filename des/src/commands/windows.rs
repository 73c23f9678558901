//! `des windows`: every pass over a window that the ledger knows, the newest first.

use coordinator::listing::{ListedWindow, windows};
use serde::Serialize;

use crate::cli::WindowsArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped};
use crate::wiring;

#[derive(Serialize)]
struct WindowsResult {
    /// The newest first.
    windows: Vec<ListedWindow>,
    /// Whether there are older ones that `--limit` left out.
    more: bool,
}

pub(super) async fn run(args: WindowsArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let ledger = wiring::ledger_to_read(&config).await?;
    let limit = args.limit;
    let mut windows = windows(&*ledger, (args.from, args.to), limit + 1).await?;
    let more = windows.len() > limit as usize;
    windows.truncate(limit as usize);
    output.result(&WindowsResult { windows, more }, human)?;
    Ok(Exit::Done)
}

fn human(result: &WindowsResult) -> String {
    if result.windows.is_empty() {
        return "No window is recorded here.\n".to_owned();
    }
    let mut text = format!(
        "{:<21}{:<21}{:>4}  {:<10}{:<21}{:>12}{:>8}{:>8}{:>12}{:>12}  {}\n",
        "after",
        "until",
        "rev",
        "state",
        "since",
        "rows",
        "failed",
        "shards",
        "raw",
        "stored",
        "partitions"
    );
    for it in &result.windows {
        let or_dash = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        text.push_str(&format!(
            "{:<21}{:<21}{:>4}  {:<10}{:<21}{:>12}{:>8}{:>8}{:>12}{:>12}  {}\n",
            it.start.to_string(),
            it.end.to_string(),
            it.revision,
            it.state,
            or_dash(it.since.map(|since| to_the_second(&since.to_string()))),
            grouped(it.rows),
            grouped(it.failed),
            or_dash(it.shards.map(grouped)),
            or_dash(it.bytes_raw.map(bytes)),
            or_dash(it.bytes_stored.map(bytes)),
            partitions(it)
        ));
    }
    if result.more {
        text.push_str("There are older ones: --limit, --to.\n");
    }
    text
}

/// `2024-12-01T10:00:00.123456Z` without its fraction.
fn to_the_second(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// `3 of 16 accepted, 2 tried again later`
fn partitions(it: &ListedWindow) -> String {
    let counts = it.partitions;
    let mut text = match (it.state, counts.all) {
        ("requested", _) => return format!("not begun, {}", it.purpose),
        (_, 0) => return "none".to_owned(),
        (_, all) if counts.accepted == all => format!("{all} accepted"),
        (_, all) => format!("{} of {all} accepted", counts.accepted),
    };
    if counts.backing_off > 0 {
        text.push_str(&format!(", {} tried again later", counts.backing_off));
    }
    text
}

#[cfg(test)]
mod tests {
    use coordinator::explain::Partitions;
    use protocol::Timestamp;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn window(day: u8, state: &'static str) -> ListedWindow {
        let committed = state == "committed";
        ListedWindow {
            start: at(&format!("2024-12-{day:02}")),
            end: at(&format!("2024-12-{:02}", day + 1)),
            revision: 0,
            purpose: "scan",
            state,
            since: Some(at("2024-12-20T10:11:12.345678Z")),
            rows: 123_456,
            failed: 12,
            released: None,
            shards: committed.then_some(256),
            bytes_raw: committed.then_some(462_960_000),
            bytes_stored: committed.then_some(250_123_456),
            partitions: Partitions { all: 3, accepted: 3, to_do: 0, backing_off: 0 },
            certificate: committed.then(|| "_des/certificates/x.json".to_owned()),
        }
    }

    fn result() -> WindowsResult {
        let requested = ListedWindow {
            revision: 1,
            purpose: "replay",
            rows: 0,
            failed: 0,
            since: None,
            partitions: Partitions::default(),
            ..window(3, "requested")
        };
        let open = ListedWindow {
            partitions: Partitions { all: 16, accepted: 9, to_do: 5, backing_off: 2 },
            ..window(5, "open")
        };
        let windows = vec![open, window(4, "held"), requested, window(3, "committed")];
        WindowsResult { windows, more: true }
    }

    #[test]
    fn a_person_sees_a_table() {
        insta::assert_snapshot!(human(&result()));
        let none = WindowsResult { windows: Vec::new(), more: false };
        assert_eq!(human(&none), "No window is recorded here.\n");
    }

    #[test]
    fn a_program_sees_stable_keys() {
        let json = serde_json::to_string_pretty(&result()).expect("it is JSON");
        insta::assert_snapshot!(json);
    }
}
