//! `des stats`: where the watermark stands and what lies on either side of it.

use coordinator::operate::{Stats, stats};
use protocol::Timestamp;

use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped, table};
use crate::wiring;

pub(super) async fn run(config: &Config, output: Output) -> Result<Exit, Failure> {
    let catalog = wiring::catalog(config).await?;
    let ledger = wiring::ledger_to_read(config).await?;
    let found = stats(&*ledger, &*catalog, config.coordinator.window_span_micros).await?;
    output.result(&found, human)?;
    Ok(Exit::Done)
}

fn human(it: &Stats) -> String {
    let pending_bytes =
        it.pending_bytes.map_or_else(|| "unknown (no size column)".to_owned(), bytes);
    let days = it.lag_seconds / 86_400;
    let mut text = table(&[
        ("archived until", it.archived_until.to_string()),
        ("target", format!("{} ({} days before now)", it.target_cutoff, it.lag_days)),
        ("behind", format!("{} s (about {days} days)", it.lag_seconds)),
        ("pending files", grouped(it.pending_files)),
        ("pending bytes", pending_bytes),
        ("oldest pending", or_none(it.oldest_pending)),
        ("done", done(it)),
        ("open windows", grouped(it.open_windows)),
        ("held windows", grouped(it.held.len() as u64)),
        ("failed files", grouped(it.failed_files)),
        ("origin", it.origin.to_string()),
        ("uncovered files", grouped(it.uncovered_files)),
    ]);
    if let Some(pace) = it.pace.as_ref().filter(|_| it.pending_files > 0) {
        text.push_str(&format!(
            "{:.0} files/s, {}/s. \"done\" is {}.\n",
            pace.files_per_second,
            rate(pace.bytes_per_second),
            pace.how
        ));
    }
    if let Some(advice) = &it.n_bits_advice {
        text.push_str(&format!("{}.\n", advice.text));
    }
    if let Some(paused) = &it.paused {
        let until =
            paused.until.map_or_else(|| "`des resume`".to_owned(), |until| until.to_string());
        text.push_str(&format!(
            "paused since {} until {until} by {}: {}\n",
            paused.since, paused.by, paused.reason
        ));
    }
    if let Some(throttled) = &it.throttled {
        text.push_str(&format!("throttled since {}: {}\n", throttled.since, throttled.reason));
    }
    for held in &it.held {
        text.push_str(&format!("held: the window that ends at {}: {}\n", held.end, held.reason));
    }
    let unplaceable = it.null_uid + it.null_created_at + it.out_of_range_created_at;
    if unplaceable > 0 {
        text.push_str(&format!(
            "{} rows can never be archived: {} without uid, {} without created_at, {} with a \
             created_at that is infinite or out of range.\n",
            grouped(unplaceable),
            it.null_uid,
            it.null_created_at,
            it.out_of_range_created_at
        ));
    }
    if let Some(left) = it.moved_by_hand_from {
        text.push_str(&format!(
            "Somebody moved the watermark by hand: des left it at {left}. Nothing proceeds until it \
             is moved back, or moved with `des adjust`.\n"
        ));
    }
    text
}

fn or_none(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "none".to_owned(), |time| time.to_string())
}

/// When what is pending will be done.
fn done(it: &Stats) -> String {
    match (it.pending_files, &it.pace, it.eta) {
        (0, ..) => "nothing is pending".to_owned(),
        (_, Some(pace), Some(eta)) => {
            let left = std::time::Duration::from_secs(pace.pending_seconds);
            format!("in about {} of work, from now on at {eta}", humantime::format_duration(left))
        }
        _ => "unknown: no window was committed yet whose rate could be measured".to_owned(),
    }
}

/// Bytes in a second, for a person.
#[expect(clippy::cast_possible_truncation, reason = "it saturates, and is not negative")]
fn rate(per_second: f64) -> String {
    bytes(per_second as u64)
}

#[cfg(test)]
mod tests {
    use coordinator::rate::{BitsAdvice, Pace};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn stats() -> Stats {
        Stats {
            archived_until: at("2024-12-01"),
            origin: at("2024-11-01"),
            target_cutoff: at("2024-12-04"),
            lag_days: 7,
            lag_seconds: 3 * 86_400,
            pending_files: 3_600_000,
            pending_bytes: Some(12_600_000_000),
            oldest_pending: Some(at("2024-12-01T00:00:01.5Z")),
            pace: Some(Pace {
                windows: 3,
                files: 12_000,
                busy_seconds: 12.0,
                files_per_second: 1_000.0,
                bytes_per_second: 3_500_000.0,
                pending_seconds: 3_600,
                how: "pending files over a rate".to_owned(),
            }),
            eta: Some(at("2024-12-11T13:00")),
            uncovered_files: 0,
            failed_files: 2,
            null_uid: 0,
            null_created_at: 1,
            out_of_range_created_at: 0,
            open_windows: 0,
            held: Vec::new(),
            paused: None,
            throttled: None,
            moved_by_hand_from: None,
            n_bits_advice: Some(BitsAdvice {
                n_bits: 4,
                n_bits_now: 8,
                files_per_shard: 16.0,
                bytes_per_shard: 32_000.0,
                shards_per_window: 250.0,
                shards_per_window_then: 16.0,
                text: "Shards are tiny. This is for a new archive".to_owned(),
            }),
        }
    }

    #[test]
    fn a_person_sees_when_it_will_be_done() {
        insta::assert_snapshot!(human(&stats()));
        let unknown = Stats { pace: None, eta: None, n_bits_advice: None, ..stats() };
        let unknown = human(&Stats { pending_bytes: None, oldest_pending: None, ..unknown });
        assert!(unknown.contains("unknown (no size column)"), "{unknown}");
        assert!(unknown.contains("unknown: no window was committed"), "{unknown}");
        let nothing = human(&Stats { pending_files: 0, ..stats() });
        assert!(
            nothing.contains("nothing is pending") && !nothing.contains("files/s"),
            "{nothing}"
        );
    }

    #[test]
    fn a_program_sees_stable_keys() {
        let json = serde_json::to_string_pretty(&stats()).expect("it is JSON");
        insta::assert_snapshot!(json);
    }
}
