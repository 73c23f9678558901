//! What `des top` shows, as lines. Pure.

use super::view::{View, WindowView};
use super::workers::{self, lines};
use crate::output::grouped;

/// Windows and reasons that are shown; there is room for the workers, too.
const WINDOWS_SHOWN: usize = 8;
const REASONS_SHOWN: usize = 4;
/// Characters of a bar.
const BAR: u64 = 30;

/// One view; `lost` says why it is not of this moment.
pub(super) fn frame(view: &View, lost: Option<&str>) -> Vec<String> {
    let mut shown = vec![format!(
        "des  job {}  {}  {}",
        view.job,
        workers::to_the_second(view.at),
        view.process.role.replace('_', " ")
    )];
    if let Some(why) = lost {
        shown.push(format!("NOT LIVE: {why}"));
    }
    shown.push(view.explanation.clone());
    shown.push(String::new());
    shown.extend(figures(view));
    shown.extend(view.troubles.iter().map(|it| format!("trouble      {}: {}", it.what, it.text)));
    shown.push(String::new());
    shown.push(format!("{} windows in flight", grouped(view.open_windows)));
    shown.extend(view.windows.iter().take(WINDOWS_SHOWN).map(window));
    shown.push(String::new());
    match workers::result("this coordinator", view) {
        Ok(told) => shown.extend(lines(&told.workers, told.at)),
        Err(why) => shown.push(why.to_string()),
    }
    // Texts of others are shown as text, whatever they hold.
    shown.iter_mut().for_each(|line| *line = line.replace(char::is_control, " "));
    shown
}

fn figures(view: &View) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let watermark = view.watermark.as_ref();
    let moved = watermark.map(|it| format!("{} of {}", it.archived_until, it.target));
    let lag = view.lag_seconds.and_then(|lag| u64::try_from(lag).ok()).map(length);
    let backlog = &view.backlog;
    let mut due = or_dash(backlog.pending_files.map(grouped)) + " files due";
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    if let Some(seconds) = backlog.seconds {
        due.push_str(&format!(", {} at this pace", length(seconds as u64)));
    }
    due.push_str(&format!(", {} partitions to do", grouped(backlog.partitions_to_do)));
    if let Some(broker) = &backlog.broker {
        due.push_str(&format!(", {} tasks wait", grouped(broker.tasks)));
        due.push_str(&format!(", {} workers listen", grouped(broker.workers)));
    }
    let rate = view.throughput.as_ref().map(|it| match it.files.as_slice() {
        [.., before, now] => {
            format!("{} files this minute, {} the minute before", grouped(*now), grouped(*before))
        }
        _ => "nothing accepted yet".to_owned(),
    });
    let others: u64 = view.errors.iter().skip(REASONS_SHOWN).map(|it| it.files).sum();
    let shown = view.errors.iter().take(REASONS_SHOWN);
    let mut reasons: Vec<String> =
        shown.map(|it| format!("{} {}", grouped(it.files), it.reason)).collect();
    if others > 0 {
        reasons.push(format!("{} others", grouped(others)));
    }
    let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
    vec![
        format!("watermark    {}", or_dash(moved)),
        format!("lag          {}", or_dash(lag)),
        format!("backlog      {due}"),
        format!("accepted     {}", or_dash(rate)),
        format!("failed files {reasons}"),
    ]
}

/// `2024-12-02T00:00:00Z  [######........]  9 of 16 partitions, 1,000 files, 3 failed`
fn window(it: &WindowView) -> String {
    let counts = &it.partitions;
    let filled = (counts.accepted * BAR).checked_div(counts.all).unwrap_or_default().min(BAR);
    let times = |sign: &str, count: u64| sign.repeat(usize::try_from(count).unwrap_or_default());
    let bar = times("#", filled) + &times(".", BAR - filled);
    let mut text = format!("{}  [{bar}]  ", it.end);
    text.push_str(&match (it.requested, counts.all) {
        (true, _) => "asked for".to_owned(),
        (_, all) => format!("{} of {} partitions", grouped(counts.accepted), grouped(all)),
    });
    text.push_str(&format!(", {} files", grouped(it.files)));
    for (count, what) in [(it.files_failed, "failed"), (counts.backing_off, "tried again later")] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    if it.revision > 0 {
        text.push_str(&format!(", revision {}", it.revision));
    }
    if it.held {
        text.push_str(", HELD");
    }
    text
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6 s`
fn length(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// As much of the lines as a screen has room for.
pub(super) fn cut(lines: &[String], (width, height): (u16, u16)) -> Vec<String> {
    let (width, height) = (usize::from(width), usize::from(height));
    let cut = |line: &String| line.chars().take(width).collect();
    lines.iter().take(height).map(cut).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A status as a coordinator tells it, with keys that are not read.
    pub(in super::super) fn view() -> View {
        let status = serde_json::json!({
            "version": 1, "at": "2024-12-20T10:11:12.345678Z", "job": "default", "actions": [],
            "process": { "role": "leading", "ready": true, "told": "leading" },
            "explanation": "The watermark moves.", "tone": "moving",
            "watermark": {
                "archived_until": "2024-12-03T00:00:00Z", "target": "2024-12-13T00:00:00Z",
                "left_at": "2024-12-03T00:00:00Z", "lag_days": 7,
            },
            "lag_seconds": 864_000,
            "lease": { "holder": "coordinator-a-1-0a1b2c3d", "epoch": 3, "expired": false },
            "backlog": {
                "pending_files": 1_234_567, "seconds": 3_725.5, "partitions_to_do": 14,
                "partitions_backing_off": 1, "broker": { "tasks": 10, "workers": 3 },
            },
            "open_windows": 2,
            "windows": [
                {
                    "end": "2024-12-04T00:00:00Z", "revision": 0, "requested": false, "held": false,
                    "files": 160_000, "files_failed": 3,
                    "partitions": { "all": 16, "accepted": 9, "to_do": 6, "backing_off": 1 },
                    "each_partition": [{ "partition": 9, "state": "running", "rows": 10_000 }],
                },
                {
                    "end": "2024-12-05T00:00:00Z", "revision": 1, "requested": false, "held": true,
                    "files": 8, "files_failed": 8,
                    "partitions": { "all": 1, "accepted": 1, "to_do": 0, "backing_off": 0 },
                    "each_partition": [],
                },
            ],
            "workers": [
                {
                    "worker": "worker-node-1-77-0a1b2c3d", "since": "2024-12-20T08:00:00.5Z",
                    "heard_at": "2024-12-20T10:11:11Z",
                    "tasks": [
                        {
                            "window": "2024-12-04T00:00:00Z", "revision": 0, "partition": 9,
                            "attempt": 1, "rows": 1_200, "rows_per_second": 5_000.5,
                        },
                        {
                            "window": "2024-12-05T00:00:00Z", "revision": 1, "partition": 0,
                            "attempt": 2, "rows": 7, "rows_per_second": null,
                        },
                    ],
                },
                {
                    "worker": "worker-node-2-78-0a1b2c3e", "since": "2024-12-20T09:00:00Z",
                    "heard_at": "2024-12-20T10:02:00Z", "tasks": [],
                },
            ],
            "throughput": { "files": [0, 90_000, 45_000] },
            "errors": [{ "reason": "missing", "files": 20 }],
            "troubles": [{ "what": "store", "text": "no answer\u{1b}[31m" }],
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn everything_that_matters_is_on_one_screen() {
        insta::assert_snapshot!(frame(&view(), None).join("\n"));
    }

    #[test]
    fn what_is_not_of_this_moment_says_so_and_no_text_steers_the_terminal() {
        let lines = frame(&view(), Some("no coordinator answers"));
        assert_eq!(lines[1], "NOT LIVE: no coordinator answers");
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
        let standby = View { workers: None, ..view() };
        let told = frame(&standby, None).pop().expect("lines");
        assert!(told.contains("only it hears the workers"), "{told}");
    }

    #[test]
    fn a_small_screen_has_the_beginning() {
        let lines = cut(&frame(&view(), None), (20, 5));
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| line.chars().count() <= 20), "{lines:?}");
    }

    #[test]
    fn lengths_are_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (61, "1 min 1 s"), (3_725, "1 h 2 min"), (864_000, "10 d 0 h")]
        {
            assert_eq!(length(seconds), text);
        }
    }
}
