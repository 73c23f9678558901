//! The sentence and the facts behind it, as text for a person. Pure.

use super::facts::{Facts, Lease, WindowFacts};

/// Reasons of error rows that are named.
const REASONS_NAMED: usize = 12;
/// Windows that are named.
const WINDOWS_NAMED: usize = 10;
/// A ledger that takes so long to answer is called slow, in milliseconds.
const SLOW_MS: u64 = 1_000;

impl Facts {
    /// The sentence, then the facts, for a person.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{}.", self.sentence()), String::new()];
        if let Some(it) = &self.watermark {
            lines.push(format!(
                "watermark  {} (target {}, lag {} days)",
                it.archived_until, it.target, it.lag_days
            ));
            if let Some(began) = it.open_transaction {
                lines.push(format!(
                    "waits      no window reaches over {began}: since then a transaction has been \
                     open on the catalog"
                ));
            }
            if let Some(files) = it.pending_files {
                lines.push(format!("due        {files} files"));
            }
            let uncovered = it.uncovered_files.filter(|files| *files > 0);
            if let Some(files) = uncovered {
                lines.push(format!(
                    "uncovered  {files} files at or below the origin, {}",
                    it.origin
                ));
            }
        }
        if self.now.is_some() {
            lines.push(format!(
                "lease      {}",
                self.lease.as_ref().map_or_else(|| "nobody".to_owned(), Lease::describe)
            ));
        }
        if let Some(millis) = self.answered_after_ms.filter(|millis| *millis >= SLOW_MS) {
            let seconds = format!("{}.{} s", millis / 1_000, millis % 1_000 / 100);
            lines.push(format!(
                "slow       the ledger took {seconds} to say what time it is: everything waits for it"
            ));
        }
        if let Some(it) = &self.paused {
            let until =
                it.until.map_or_else(|| "until resumed".to_owned(), |it| format!("until {it}"));
            let (since, by, reason) = (it.since, &it.by, it.one_line());
            let whose = if it.all_jobs { ", of all jobs" } else { "" };
            lines.push(format!("paused     since {since}, {until}, by {by}{whose}: {reason}"));
        }
        if let Some(it) = &self.throttled {
            lines.push(format!("throttled  since {}: {}", it.since, it.reason));
        }
        for window in self.windows.iter().take(WINDOWS_NAMED) {
            lines.extend(window.lines());
        }
        let more = self.open_windows.saturating_sub(self.windows.len().min(WINDOWS_NAMED) as u64);
        if more > 0 {
            lines.push(format!("           and {more} more that are not committed"));
        }
        for it in &self.dropped {
            lines.push(format!(
                "dropped    the last pass over the window that ends at {}: {}",
                it.end, it.reason
            ));
        }
        if let Some(broker) = &self.broker {
            lines.push(format!(
                "broker     {} tasks wait, {} workers listen",
                broker.tasks, broker.workers
            ));
            if broker.dead_letters > 0 {
                lines.push(format!(
                    "dead       {} messages that nobody could read wait in the queue of dead \
                     letters, each with its reason",
                    broker.dead_letters
                ));
            }
        }
        for reason in self.errors.iter().take(REASONS_NAMED) {
            lines.push(format!("failed     {} files: {}", reason.files, reason.reason));
        }
        for trouble in &self.troubles {
            lines.push(format!("trouble    {}: {}", trouble.what, trouble.text));
        }
        lines.join("\n") + "\n"
    }
}

impl Lease {
    fn describe(&self) -> String {
        let ends = if self.expired { "expired at" } else { "until" };
        let since =
            self.age_seconds.map_or_else(String::new, |age| format!(" for {}", lasted(age)));
        format!("{}{since}, epoch {}, {ends} {}", self.holder, self.epoch, self.expires_at)
    }
}

/// A stretch of time in its two largest units, such as `2 h 5 min`.
fn lasted(seconds: i64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min")];
    let first = parts.iter().position(|(number, _)| *number > 0);
    let Some(first) = first else { return format!("{seconds} s") };
    let shown: Vec<_> =
        parts.iter().skip(first).take(2).map(|(number, unit)| format!("{number} {unit}")).collect();
    shown.join(" ")
}

impl WindowFacts {
    fn lines(&self) -> Vec<String> {
        let state = match (self.requested, self.held) {
            (true, _) => "replay asked for",
            (_, true) => "held",
            (false, false) => "open",
        };
        let mut lines =
            vec![format!("{:<11}{}", state.split(' ').next().unwrap_or(state), self.name())];
        if self.requested {
            lines[0].push_str(", asked for and not begun");
        }
        if let Some(why) = &self.waits {
            lines.push(format!("           it cannot be planned and is tried again: {why}"));
        }
        if self.requested {
            return lines;
        }
        let Self { partitions: it, files, files_failed, .. } = self;
        lines[0].push_str(&format!(
            ": {files} files; {} partitions: {} accepted, {} to do or being done, {} to be tried \
             again",
            it.all, it.accepted, it.to_do, it.backing_off
        ));
        if let Some(since) = self.since {
            lines.push(format!("           {state} since {since}"));
        }
        if *files_failed > 0 {
            lines.push(format!("           {files_failed} files failed in what is accepted"));
        }
        if let Some(it) = &self.slowest {
            let since = it.since.map_or_else(String::new, |since| format!(" since {since}"));
            let worker =
                it.worker.as_ref().map_or_else(String::new, |name| format!(", with {name}{since}"));
            let (partition, rows) = (it.partition, it.rows);
            lines.push(format!(
                "           it waits most for partition {partition}: {rows} files{worker}"
            ));
        }
        if let Some(it) = &self.troubled {
            let again =
                it.not_before.map_or_else(String::new, |time| format!(", again from {time} on"));
            lines.push(format!(
                "           partition {}: came back {} times, {} attempts and {} interruptions \
                 counted{again}; {}: {}",
                it.partition, it.setbacks, it.attempts, it.interruptions, it.class, it.detail
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use protocol::Timestamp;

    use super::super::facts::{
        Broker, DroppedFacts, Partitions, PauseFacts, Reason, SlowPartition, StuckFacts,
        ThrottledFacts, Trouble, TroubledPartition, Watermark,
    };
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    /// Somebody leads, ten files are due, and nothing is begun.
    fn facts() -> Facts {
        Facts {
            now: Some(at("2024-12-20T10:00")),
            watermark: Some(Watermark {
                archived_until: at("2024-12-10"),
                left_at: at("2024-12-10"),
                origin: at("2024-12-01"),
                lag_days: 7,
                target: at("2024-12-13"),
                open_transaction: None,
                pending_files: Some(10),
                uncovered_files: Some(0),
            }),
            lease: Some(Lease {
                holder: "coordinator-a-1".to_owned(),
                epoch: 3,
                expires_at: at("2024-12-20T10:00:12"),
                expired: false,
                since: Some(at("2024-12-20T07:54:10")),
                age_seconds: Some(7_550),
            }),
            broker: Some(Broker { tasks: 0, workers: 2, dead_letters: 0 }),
            ..Facts::default()
        }
    }

    fn window(partitions: Partitions) -> WindowFacts {
        WindowFacts {
            start: at("2024-12-10"),
            end: at("2024-12-11"),
            revision: 0,
            requested: false,
            held: false,
            files: 1_000,
            files_failed: 0,
            partitions,
            troubled: None,
            since: Some(at("2024-12-20T09:58")),
            waits: None,
            slowest: None,
        }
    }

    #[test]
    fn a_stretch_of_time_has_two_units() {
        let told = [0, 59, 60, 3_599, 3_600, 7_550, 86_400, 200_000].map(lasted);
        let expected =
            ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "2 h 5 min", "1 d 0 h", "2 d 7 h"];
        assert_eq!(told, expected);
    }

    fn with_window(window: WindowFacts) -> Facts {
        Facts { open_windows: 1, windows: vec![window], ..facts() }
    }

    fn trouble(attempts: u32, again: Option<&str>) -> TroubledPartition {
        TroubledPartition {
            partition: 4,
            setbacks: attempts + 1,
            attempts,
            interruptions: 1,
            class: "store".to_owned(),
            detail: "503 Slow Down".to_owned(),
            not_before: again.map(at),
        }
    }

    fn throttled(kind: &str, reason: &str) -> Option<ThrottledFacts> {
        let (kind, reason) = (kind.to_owned(), reason.to_owned());
        Some(ThrottledFacts { since: at("2024-12-20T09:00"), kind, reason })
    }

    macro_rules! snapshot {
        ($name:ident, $facts:expr) => {
            #[test]
            fn $name() {
                insta::assert_snapshot!($facts.text());
            }
        };
    }

    snapshot!(a_window_is_being_read, facts());
    snapshot!(it_is_moving, {
        let partitions = Partitions { all: 16, accepted: 9, to_do: 7, ..Partitions::default() };
        Facts {
            broker: Some(Broker { tasks: 5, workers: 2, dead_letters: 3 }),
            ..with_window(WindowFacts {
                slowest: Some(SlowPartition {
                    partition: 7,
                    rows: 50_000,
                    setbacks: 0,
                    worker: Some("worker-a-1".to_owned()),
                    since: Some(at("2024-12-20T09:59:20")),
                }),
                ..window(partitions)
            })
        }
    });
    snapshot!(some_came_back_and_the_ledger_is_slow, {
        let partitions = Partitions { all: 16, to_do: 15, backing_off: 1, ..Partitions::default() };
        let troubled = Some(trouble(0, Some("2024-12-20T10:00:08")));
        let facts = with_window(WindowFacts { troubled, ..window(partitions) });
        Facts { answered_after_ms: Some(1_260), ..facts }
    });
    snapshot!(nothing_is_due, {
        let mut facts = facts();
        facts.watermark = facts.watermark.map(|it| Watermark {
            target: it.archived_until,
            pending_files: Some(0),
            uncovered_files: Some(12),
            ..it
        });
        facts.errors = vec![
            Reason { reason: "missing".to_owned(), files: 20 },
            Reason { reason: "no_permission".to_owned(), files: 1 },
        ];
        facts
    });
    snapshot!(a_transaction_is_open, {
        let mut facts = facts();
        facts.watermark = facts.watermark.map(|it| Watermark {
            lag_days: 0,
            target: it.archived_until,
            open_transaction: Some(at("2024-12-10T09:00")),
            pending_files: Some(0),
            ..it
        });
        facts
    });
    snapshot!(late_rows_cannot_be_taken_up, {
        let mut facts = facts();
        facts.watermark = facts.watermark.map(|it| Watermark {
            target: it.archived_until,
            pending_files: Some(0),
            ..it
        });
        let reason = "there is no _des/manifests/a.zst".to_owned();
        facts.dropped = vec![DroppedFacts { end: at("2024-12-05"), reason }];
        facts
    });
    snapshot!(nobody_leads, Facts { lease: None, broker: None, ..facts() });
    snapshot!(the_leader_is_gone, {
        let lease = facts().lease.map(|lease| Lease { expired: true, ..lease });
        Facts { lease, ..facts() }
    });
    snapshot!(somebody_moved_the_watermark, {
        let mut facts = facts();
        facts.watermark = facts.watermark.map(|it| Watermark { left_at: at("2024-12-09"), ..it });
        facts
    });
    snapshot!(too_many_files_failed, {
        let partitions = Partitions { all: 16, accepted: 16, ..Partitions::default() };
        with_window(WindowFacts { held: true, files_failed: 40, ..window(partitions) })
    });
    snapshot!(everything_is_tried_again_later, {
        let partitions =
            Partitions { all: 16, accepted: 14, backing_off: 2, ..Partitions::default() };
        let troubled = Some(trouble(2, Some("2024-12-20T10:00:08")));
        with_window(WindowFacts { troubled, ..window(partitions) })
    });
    snapshot!(no_worker_listens, {
        let partitions = Partitions { all: 16, to_do: 16, ..Partitions::default() };
        Facts {
            broker: Some(Broker { tasks: 16, workers: 0, dead_letters: 0 }),
            ..with_window(window(partitions))
        }
    });
    snapshot!(the_broker_is_away, {
        let troubles =
            vec![Trouble { what: "broker".to_owned(), text: "connection refused".to_owned() }];
        Facts { troubles, broker: None, ..facts() }
    });
    snapshot!(the_ledger_is_away, {
        let troubles =
            vec![Trouble { what: "ledger".to_owned(), text: "connection refused".to_owned() }];
        Facts { troubles, ..Facts::default() }
    });
    snapshot!(an_operator_paused, {
        let partitions = Partitions { all: 16, accepted: 16, ..Partitions::default() };
        let held = WindowFacts { held: true, files_failed: 40, ..window(partitions) };
        let paused = PauseFacts {
            since: at("2024-12-20T08:00"),
            by: "ada@console".to_owned(),
            reason: "backup of\nthe source".to_owned(),
            until: Some(at("2024-12-20T18:00")),
            all_jobs: false,
        };
        Facts { paused: Some(paused), ..with_window(held) }
    });
    snapshot!(all_jobs_are_paused, {
        let (since, by) = (at("2024-12-20T08:00"), "ada@console".to_owned());
        let reason = "the file server moves".to_owned();
        let paused = PauseFacts { since, by, reason, until: None, all_jobs: true };
        Facts { paused: Some(paused), ..facts() }
    });
    snapshot!(limits_say_wait, {
        let partitions = Partitions { all: 16, accepted: 9, to_do: 7, ..Partitions::default() };
        Facts {
            throttled: throttled("query", "the query answers 3"),
            ..with_window(window(partitions))
        }
    });
    snapshot!(work_is_spaced_out, {
        let partitions = Partitions { all: 16, accepted: 9, to_do: 7, ..Partitions::default() };
        let throttled = throttled("files_per_second", "at most 5 files per second may begin");
        Facts { throttled, ..with_window(window(partitions)) }
    });
    snapshot!(there_is_no_archive, Facts { now: Some(at("2024-12-20")), ..Facts::default() });
    snapshot!(a_certified_window_cannot_be_passed, {
        let stuck = StuckFacts { end: at("2024-12-11"), reason: "its manifest is gone".to_owned() };
        Facts { stuck: Some(stuck), ..facts() }
    });
    snapshot!(a_replay_was_asked_for, {
        let requested =
            WindowFacts { revision: 1, requested: true, ..window(Partitions::default()) };
        with_window(requested)
    });
    snapshot!(a_replay_cannot_be_planned, {
        let requested = WindowFacts {
            revision: 1,
            requested: true,
            waits: Some("reading its certificate: 403 AccessDenied".to_owned()),
            ..window(Partitions::default())
        };
        with_window(requested)
    });
    snapshot!(the_ledger_is_older_than_the_store, {
        Facts { behind: Some("it is older than the archive".to_owned()), ..facts() }
    });
}
