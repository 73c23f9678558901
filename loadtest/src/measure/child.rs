//! A process that is run to its end and measured: wall time, processor time, memory.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::machine::{children_seconds, resident_mib};

/// After this long a process is killed: no measurement takes so long.
const LONGEST: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of so many looks at the memory one is kept for the plot.
const KEPT_ONE_IN: u32 = 5;

/// What a process came to.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// Wall time of the whole process.
    pub(crate) seconds: f64,
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    pub(crate) memory: Memory,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The resident memory of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The kernel's high-water mark (`VmHWM`), in MiB.
    pub(crate) peak_mib: f64,
    /// Seconds since its start, and MiB then.
    pub(crate) samples: Vec<(f64, f64)>,
}

/// Runs a command to its end, which must be a good one.
///
/// Processor time is taken from what the kernel adds to ours when a child ends: one at a time.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Ran> {
    let name = command.get_program().to_string_lossy().into_owned();
    let cpu_before = children_seconds();
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let watcher = Watcher::start(child.id());
    let errors = drain(&mut child);
    let mut stdout = String::new();
    if let Some(out) = child.stdout.as_mut() {
        out.read_to_string(&mut stdout)?;
    }
    let status = child.wait()?;
    let seconds = began.elapsed().as_secs_f64();
    let memory = watcher.stop();
    let stderr = errors.and_then(|it| it.join().ok()).unwrap_or_default();
    ensure!(status.success(), "{name} ended with {status}: {stdout}{stderr}");
    let cpu_seconds = children_seconds() - cpu_before;
    Ok(Ran { seconds, cpu_seconds, memory, stdout, stderr })
}

fn drain(child: &mut Child) -> Option<JoinHandle<String>> {
    let mut stderr = child.stderr.take()?;
    Some(std::thread::spawn(move || {
        let mut text = Vec::new();
        let _what_there_is = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }))
}

/// Looks at a process's memory until it is told to stop, or the process is gone.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

impl Watcher {
    pub(crate) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(pid, &told));
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Memory {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn watch(pid: u32, stop: &AtomicBool) -> Memory {
    let began = Instant::now();
    let mut memory = Memory::default();
    let mut looks = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        // A process that has ended and was not waited for yet has no memory any more.
        if let Some((now, most)) = resident_mib(pid) {
            memory.peak_mib = memory.peak_mib.max(most);
            if looks.is_multiple_of(KEPT_ONE_IN) {
                memory.samples.push((began.elapsed().as_secs_f64(), now));
            }
        }
        if began.elapsed() > LONGEST
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            let _gone = kill_process(pid, Signal::KILL);
        }
        looks += 1;
        std::thread::sleep(LOOK_EVERY);
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_says_and_costs_is_known() {
        let mut command = Command::new("sh");
        let ran = run(command.args(["-c", "echo out; echo err >&2; sleep 0.1"])).expect("it runs");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
        assert!(ran.seconds >= 0.1 && ran.memory.peak_mib > 0.0);
    }

    #[test]
    fn a_process_that_fails_is_an_error_with_its_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("it fails");
        assert!(error.to_string().contains("why"), "{error}");
    }
}
