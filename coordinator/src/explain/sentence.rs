//! Why the watermark moves, or does not: one sentence, the weightiest reason first. Pure.

use super::facts::{DroppedFacts, Facts, PauseFacts, ThrottledFacts, Watermark, WindowFacts};
use crate::attempts::{UNPUBLISHED, is_trouble, is_waited_for};
use crate::throttle::Reason;

impl Facts {
    /// Why the watermark moves, or does not: one sentence, the weightiest reason first.
    pub fn sentence(&self) -> String {
        let Some(watermark) = self.watermark else { return self.without_watermark() };
        self.forbidden(&watermark)
            .or_else(|| self.paused(&watermark))
            .or_else(|| self.blocked(&watermark))
            .or_else(|| self.stuck(&watermark))
            .or_else(|| self.unreachable(&watermark))
            .or_else(|| self.idle(&watermark).map(|idle| idle + &self.left_out()))
            .or_else(|| self.throttled(&watermark))
            .unwrap_or_else(|| self.under_way(&watermark) + &self.spaced_out() + &self.left_out())
    }

    fn without_watermark(&self) -> String {
        if let Some(why) = self.trouble_of("ledger") {
            return format!("Nothing can move: the ledger does not answer: {why}");
        }
        match &self.behind {
            Some(why) => format!("Nothing can move: {why}"),
            None => "There is no archive yet: run `des migrate`, `des init` or `des coordinator`"
                .to_owned(),
        }
    }

    /// Until an operator explains it, nothing may move.
    fn forbidden(&self, watermark: &Watermark) -> Option<String> {
        if let Some(why) = &self.behind {
            return Some(format!("The watermark must not move: {why}"));
        }
        (watermark.left_at != watermark.archived_until).then(|| {
            format!(
                "The watermark does not move because somebody moved it by hand: it stands at {}, \
                 and des left it at {}. Put it back, or say with `des adjust` where it belongs",
                watermark.archived_until, watermark.left_at
            )
        })
    }

    /// An operator paused.
    fn paused(&self, watermark: &Watermark) -> Option<String> {
        let pause = self.paused.as_ref()?;
        let (what, resume) = match pause.all_jobs {
            false => ("the archive", "des resume"),
            true => ("all jobs", "des resume --all-jobs"),
        };
        let ends = match pause.until {
            Some(until) => format!("It ends at {until}, or with `{resume}`"),
            None => format!("It ends with `{resume}`"),
        };
        Some(format!(
            "The watermark stands at {} because {} paused {what} at {}: {}. {ends}",
            watermark.archived_until,
            pause.by,
            pause.since,
            pause.one_line()
        ))
    }

    /// The first window that waits for an operator.
    fn blocked(&self, watermark: &Watermark) -> Option<String> {
        let window = self.windows.iter().find(|it| it.held)?;
        let (until, end, which) = (watermark.archived_until, window.end, window.name());
        let lead = match end > until {
            true => format!("The watermark stands at {until} because {which} is held"),
            false => format!("A replay is held, {which}; the watermark passed it"),
        };
        Some(format!(
            "{lead}: {} of its {} files failed, more than max_failed_files and max_failed_ratio \
             allow. `des errors --held --window {end}` lists them. Bring them back and run `des \
             retry --window {end}`, or accept it with `des release --window {end} --reason WHY`",
            window.files_failed, window.files
        ))
    }

    /// A certified window that cannot be planned again.
    fn stuck(&self, watermark: &Watermark) -> Option<String> {
        let stuck = self.stuck.as_ref()?;
        Some(format!(
            "The watermark stands at {} because it cannot pass the window that ends at {}: {}",
            watermark.archived_until, stuck.end, stuck.reason
        ))
    }

    fn unreachable(&self, watermark: &Watermark) -> Option<String> {
        let trouble = self.troubles.first()?;
        let until = watermark.archived_until;
        Some(format!(
            "The watermark cannot move from {until} while the {} does not answer: {}",
            trouble.what, trouble.text
        ))
    }

    /// Nothing is being done, and why.
    fn idle(&self, watermark: &Watermark) -> Option<String> {
        let until = watermark.archived_until;
        if self.open_windows == 0
            && watermark.target <= until
            && let Some(began) = watermark.open_transaction
        {
            return Some(format!(
                "The watermark waits at {until} for a transaction that has been open on the catalog \
                 since {began} and may still write rows that are as old: end it, or keep lag_days \
                 at 1 or more"
            ));
        }
        if self.open_windows == 0 && watermark.target <= until {
            return Some(format!(
                "Nothing is due: everything until {until} is settled, and what is younger waits \
                 until it is {} days old and its window is over",
                watermark.lag_days
            ));
        }
        let nobody = match &self.lease {
            None => "nobody leads".to_owned(),
            Some(lease) if lease.expired => {
                format!(
                    "nobody leads: the lease of {} expired at {}",
                    lease.holder, lease.expires_at
                )
            }
            Some(_) => return None,
        };
        let due = watermark
            .pending_files
            .map_or_else(String::new, |files| format!("; {files} files are due"));
        Some(format!(
            "The watermark stands at {until} because {nobody}{due}. Start `des coordinator`, or \
             run `des migrate`"
        ))
    }

    /// Nothing is begun, at an operator's wish.
    fn throttled(&self, watermark: &Watermark) -> Option<String> {
        let it = self.throttled.as_ref().filter(|it| it.stops())?;
        Some(format!(
            "The watermark stands at {} and nothing new has been begun since {}: {}",
            watermark.archived_until, it.since, it.reason
        ))
    }

    /// Work is spaced out, at an operator's wish.
    fn spaced_out(&self) -> String {
        let it = self.throttled.as_ref().filter(|it| !it.stops());
        it.map_or_else(String::new, |it| format!("; {}", it.reason))
    }

    /// What below the watermark is not taken up, and what to do.
    fn left_out(&self) -> String {
        let Some(DroppedFacts { end, reason }) = self.dropped.first() else { return String::new() };
        let others = match self.dropped.len() {
            1 => "",
            _ => ", and of others,",
        };
        format!(
            "; but what is late, failed or damaged of the window that ends at {end}{others} is not \
             taken up: {reason}. Bring back what is missing, as from a backup, then run `des replay \
             --window {end}`; where the ledger is what is wrong, \
             `des rebuild-ledger`"
        )
    }

    /// Somebody leads and something is to be done.
    fn under_way(&self, watermark: &Watermark) -> String {
        let until = watermark.archived_until;
        let Some(window) = self.windows.iter().find(|window| !window.requested) else {
            let waits = self.windows.iter().find(|window| window.waits.is_some());
            return match waits.or(self.windows.first()) {
                Some(requested) => match &requested.waits {
                    Some(why) => {
                        format!("A replay of {} was asked for and waits: {why}", requested.name())
                    }
                    None => format!("A replay of {} was asked for and begins", requested.name()),
                },
                None => format!(
                    "The watermark stands at {until}, and the next window is being read from the catalog"
                ),
            };
        };
        let (done, all) = (window.partitions.accepted, window.partitions.all);
        let progress = format!("{} has {done} of {all} partitions done", window.name());
        // Whether or not anybody listens, nobody can be told.
        if let Some(partition) = &window.troubled
            && partition.class == UNPUBLISHED
        {
            return format!("The watermark waits at {until}: {progress}; {}", partition.detail);
        }
        if let Some(broker) = self.broker
            && broker.workers == 0
            && done < all
        {
            return format!(
                "The watermark stands at {until} because no worker listens: {progress}. Start \
                 `des worker`, or wait for a slot of one that serves several jobs"
            );
        }
        let waiting = done < all && window.partitions.to_do == 0;
        match &window.troubled {
            Some(partition) if is_waited_for(&partition.class) => {
                format!("The watermark waits at {until}: {progress}; {}", partition.detail)
            }
            Some(partition) if waiting => format!(
                "The watermark waits at {until}: {progress}, and the others are tried again{}; {}: {}",
                partition.not_before.map_or_else(String::new, |time| format!(" from {time} on")),
                partition.class,
                partition.detail
            ),
            troubled => {
                let came_back = troubled
                    .as_ref()
                    .filter(|it| is_trouble(&it.class))
                    .map(|it| format!("; some came back, as with {}: {}", it.class, it.detail))
                    .unwrap_or_default();
                let dead = self.broker.map_or(0, |broker| broker.dead_letters);
                let unread = (dead > 0 && done < all).then(|| {
                    format!(
                        "; {dead} messages that nobody could read are dead letters, and may be what \
                         is missing: is a process of another release at work? Upgrade it, workers \
                         before coordinators; what is missing is published again by itself"
                    )
                });
                let unread = unread.unwrap_or_default();
                format!("The watermark is moving from {until}: {progress}{came_back}{unread}")
            }
        }
    }

    fn trouble_of(&self, what: &str) -> Option<&str> {
        self.troubles
            .iter()
            .find(|trouble| trouble.what == what)
            .map(|trouble| trouble.text.as_str())
    }
}

impl PauseFacts {
    /// The reason, into which whoever gave it may have put lines or worse.
    pub(super) fn one_line(&self) -> String {
        self.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

impl ThrottledFacts {
    /// Whether nothing at all is begun; else work is only spaced out.
    pub(crate) fn stops(&self) -> bool {
        !Reason::is_rate(&self.kind)
    }
}

impl WindowFacts {
    /// What a sentence calls it.
    pub(super) fn name(&self) -> String {
        match self.revision {
            0 => format!("the window that ends at {}", self.end),
            revision => format!("the window that ends at {}, revision {revision}", self.end),
        }
    }
}
