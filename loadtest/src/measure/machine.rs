//! What the machine is, and how much of it others took while something was measured.

use std::fs;

use serde::Serialize;

/// The kernel counts processor time in hundredths of a second, on every platform that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) processor: String,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.unwrap_or_default() / 1024,
            processor: field("/proc/cpuinfo", "model name"),
            kernel: release.trim().to_owned(),
        }
    }
}

/// Processor time so far, in seconds: the machine's, how much of it was used, and by us with the
/// children that have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    total: f64,
    busy: f64,
    ours: f64,
}

impl Load {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // user nice system idle iowait irq softirq steal; what follows is counted in the first two.
        let ticks: Vec<f64> = fields.take(8).filter_map(|it| it.parse().ok()).collect();
        let idle = |at: usize| ticks.get(at).copied().unwrap_or_default();
        let total: f64 = ticks.iter().sum();
        let busy = total - idle(3) - idle(4);
        let own = own_seconds();
        Self { total: total / TICKS_PER_SECOND, busy: busy / TICKS_PER_SECOND, ours: own }
    }

    /// The share of the machine's processors that others used since then, 0 to 1.
    pub(crate) fn taken_by_others(self) -> f64 {
        let now = Self::now();
        let total = now.total - self.total;
        let others = (now.busy - self.busy) - (now.ours - self.ours);
        if total > 0.0 { (others / total).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Processor seconds of this process and of its children that have ended.
pub(crate) fn own_seconds() -> f64 {
    stat_seconds("/proc/self/stat", 11..15)
}

/// Processor seconds of the children of this process that have ended.
pub(crate) fn children_seconds() -> f64 {
    stat_seconds("/proc/self/stat", 13..15)
}

/// Processor seconds of a process that runs: user and system.
pub(crate) fn process_seconds(pid: u32) -> f64 {
    stat_seconds(&format!("/proc/{pid}/stat"), 11..13)
}

fn stat_seconds(path: &str, fields: std::ops::Range<usize>) -> f64 {
    let stat = fs::read_to_string(path).unwrap_or_default();
    // The name in brackets may hold anything.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(fields.start).take(fields.len());
    ticks.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// A process's resident memory in MiB: now, and the most so far (`VmHWM`).
pub(crate) fn resident_mib(pid: u32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some((field("VmRSS:")? / 1024.0, field("VmHWM:")? / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_our_own_is_counted_as_ours() {
        let before = own_seconds();
        let mut sum = 0_u64;
        while own_seconds() - before < 0.05 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_seconds(std::process::id()) >= 0.05);
        let (now, most) = resident_mib(std::process::id()).expect("it runs");
        assert!(now > 0.0 && most >= now);
    }
}
