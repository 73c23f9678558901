//! Whose turn it is when several jobs share a worker's slots. Pure.
//!
//! Start-time fair queueing: each line has a tag, the slot time that it was served over its weight,
//! and the line with the least tag is next. What a task will take is estimated when it begins and
//! corrected when it ends, so that tasks that begin together are shared out too. A line that had
//! nothing to do does not save up: it joins where the others are.

use std::time::Duration;

/// What the first task of a line is taken to last.
const FIRST_ESTIMATE_SECONDS: f64 = 1.0;
/// The least that a task costs, so that nobody's turn lasts for ever.
const LEAST_SECONDS: f64 = 0.001;
/// How much of an estimate the last task is.
const LAST_TASK: f64 = 0.25;

/// Lines of tasks that share slots, each with a weight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    lines: Vec<Line>,
    /// The highest tag at which a task began: where a line joins that was empty.
    reached: f64,
}

#[derive(Clone, Debug)]
struct Line {
    weight: f64,
    /// Slot seconds over the weight, those of running tasks estimated.
    tag: f64,
    /// Seconds that a task is taken to last.
    estimate: f64,
    was_empty: bool,
}

/// What a task was charged when it began, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Charge(f64);

impl Shares {
    /// A new line, and its number. A line of weight 2 gets twice the slot time of one of weight 1
    /// for as long as both have tasks.
    pub(crate) fn add(&mut self, weight: u16) -> usize {
        let (weight, estimate) = (f64::from(weight.max(1)), FIRST_ESTIMATE_SECONDS);
        self.lines.push(Line { weight, tag: self.reached, estimate, was_empty: true });
        self.lines.len() - 1
    }

    /// All lines, whose turn it is first.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lines.len()).collect();
        // A line that was empty stands where it would join.
        let tag = |line: &Line| if line.was_empty { line.tag.max(self.reached) } else { line.tag };
        order.sort_by(|a, b| tag(&self.lines[*a]).total_cmp(&tag(&self.lines[*b])));
        order
    }

    /// Nothing waits in the line, though it was asked.
    pub(crate) fn found_empty(&mut self, line: usize) {
        self.lines[line].was_empty = true;
    }

    /// A task of the line begins.
    pub(crate) fn begin(&mut self, line: usize) -> Charge {
        let line = &mut self.lines[line];
        if std::mem::take(&mut line.was_empty) {
            line.tag = line.tag.max(self.reached);
        }
        self.reached = self.reached.max(line.tag);
        let charge = line.estimate;
        line.tag += charge / line.weight;
        Charge(charge)
    }

    /// A task of the line ended, `took` after it began.
    pub(crate) fn end(&mut self, line: usize, Charge(charged): Charge, took: Duration) {
        let line = &mut self.lines[line];
        let took = took.as_secs_f64().max(LEAST_SECONDS);
        line.tag += (took - charged) / line.weight;
        line.estimate += (took - line.estimate) * LAST_TASK;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One line of a simulation: weight, seconds of its tasks in turn, and how many there are.
    #[derive(Clone, Debug)]
    struct Work {
        weight: u16,
        seconds: Vec<u32>,
        tasks: usize,
        /// Nothing waits before that.
        from: f64,
    }

    /// A task that ran: line, begin, end.
    type Ran = (usize, f64, f64);

    /// Plays a worker of `slots` slots over the lines until nothing is left or `until`.
    fn play(slots: usize, lines: &[Work], until: f64) -> Vec<Ran> {
        let mut shares = Shares::default();
        let (mut begun, mut ran, mut now) = (vec![0; lines.len()], Vec::new(), 0.0);
        let mut running: Vec<(usize, Charge, f64, f64)> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(shares.add(line.weight), number);
        }
        while now < until {
            while running.len() < slots {
                let next = shares.order().into_iter().find(|&at| {
                    let waits = begun[at] < lines[at].tasks && now >= lines[at].from;
                    if !waits {
                        shares.found_empty(at);
                    }
                    waits
                });
                let Some(at) = next else { break };
                let seconds = lines[at].seconds[begun[at] % lines[at].seconds.len()];
                begun[at] += 1;
                running.push((at, shares.begin(at), now, now + f64::from(seconds)));
            }
            let opens = lines.iter().map(|line| line.from).filter(|from| *from > now);
            let ends = running.iter().map(|task| task.3);
            let Some(next) = ends.chain(opens).min_by(f64::total_cmp) else { break };
            now = next;
            running.retain(|&(at, charge, began, ends)| {
                if ends <= now {
                    shares.end(at, charge, Duration::from_secs_f64(ends - began));
                    ran.push((at, began, ends));
                }
                ends > now
            });
        }
        ran.extend(running.into_iter().map(|(at, _, began, ends)| (at, began, ends)));
        ran
    }

    /// Slot seconds of a line between two times.
    fn served(ran: &[Ran], line: usize, from: f64, to: f64) -> f64 {
        let parts = ran.iter().filter(|task| task.0 == line);
        parts.map(|&(_, began, ends)| (ends.min(to) - began.max(from)).max(0.0)).sum()
    }

    fn work(weight: u16, seconds: &[u32], tasks: usize, from: f64) -> Work {
        Work { weight, seconds: seconds.to_vec(), tasks, from }
    }

    #[test]
    fn a_job_alone_has_every_slot() {
        let ran = play(4, &[work(1, &[10], 40, 0.0), work(9, &[10], 0, 0.0)], 1e6);
        assert_eq!(ran.len(), 40);
        assert!(ran.iter().all(|task| task.2 <= 100.0), "4 slots, 400 slot seconds: {ran:?}");
    }

    #[test]
    fn a_small_job_goes_before_a_backlog_that_was_there_first() {
        let ran = play(2, &[work(1, &[60], 100_000, 0.0), work(1, &[60], 4, 36_000.0)], 40_000.0);
        let last = ran.iter().filter(|task| task.0 == 1).map(|task| task.2).fold(0.0, f64::max);
        assert!(last <= 36_000.0 + 6.0 * 60.0, "the small job ends at {last}");
    }

    #[test]
    fn who_had_nothing_to_do_saves_nothing_up() {
        let lines = [work(1, &[60], 100_000, 0.0), work(1, &[60], 100_000, 36_000.0)];
        let ran = play(2, &lines, 40_000.0);
        let (old, new) = (served(&ran, 0, 36e3, 40e3), served(&ran, 1, 36e3, 40e3));
        assert!((old - new).abs() <= 240.0, "{old} and {new} slot seconds");
    }

    #[test]
    fn a_job_of_long_tasks_gets_no_more_than_one_of_short_tasks() {
        let lines = [work(1, &[300], 100_000, 0.0), work(1, &[2], 100_000, 0.0)];
        let ran = play(1, &lines, 60_000.0);
        let (long, short) = (served(&ran, 0, 0.0, 6e4), served(&ran, 1, 0.0, 6e4));
        assert!((long - short).abs() <= 900.0, "{long} and {short} slot seconds");
    }

    fn lines() -> impl Strategy<Value = Vec<Work>> {
        let line = (1_u16..=5, prop::collection::vec(1_u32..=120, 1..6));
        let line = line.prop_map(|(weight, seconds)| work(weight, &seconds, usize::MAX, 0.0));
        prop::collection::vec(line, 1..=5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// With every line busy each gets slot time by its weight, whatever its tasks last, but for
        /// what a few tasks are; and no line waits for long.
        #[test]
        fn busy_lines_share_by_weight_and_none_starves(slots in 1_usize..=8, lines in lines()) {
            const UNTIL: f64 = 40_000.0;
            let ran = play(slots, &lines, UNTIL);
            let (slots, weights): (u32, u16) =
                (slots.try_into().expect("few"), lines.iter().map(|line| line.weight).sum());
            let all = f64::from(slots) * UNTIL;
            let total: f64 = (0..lines.len()).map(|at| served(&ran, at, 0.0, UNTIL)).sum();
            prop_assert!((total - all).abs() < 1.0, "a slot was idle: {total} of {all}");
            // Each slot may be a task ahead or behind, with an estimate that is off by as much.
            let slack = 120.0 * f64::from(slots + 2) * 3.0;
            for (at, line) in lines.iter().enumerate() {
                let due = all * f64::from(line.weight) / f64::from(weights);
                let had = served(&ran, at, 0.0, UNTIL);
                prop_assert!((had - due).abs() <= slack, "line {at} had {had}, not {due}: {lines:?}");
                let mut begins: Vec<f64> =
                    ran.iter().filter(|task| task.0 == at).map(|task| task.1).collect();
                begins.extend([0.0, UNTIL]);
                begins.sort_by(f64::total_cmp);
                let share = f64::from(line.weight) / f64::from(weights);
                let longest = begins.windows(2).map(|it| it[1] - it[0]).fold(0.0, f64::max);
                let patience = slack / (share * f64::from(slots)) + 240.0;
                prop_assert!(longest <= patience, "line {at} waited {longest}: {lines:?}");
            }
        }
    }
}
