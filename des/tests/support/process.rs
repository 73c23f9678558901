//! Real `des` processes: run to their end, or signalled on the way.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How often a process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A process that ended.
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) took: Duration,
    command: String,
}

impl Run {
    /// The run, which must have ended with this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON value: {error}\n{self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The run, whose stderr must hold every one of these texts.
    #[track_caller]
    pub(crate) fn says<T: AsRef<str>>(self, texts: impl IntoIterator<Item = T>) -> Self {
        for text in texts {
            let text = text.as_ref();
            assert!(self.stderr.contains(text), "`{text}` is not said:\n{self}");
        }
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, signal, took, .. } = self;
        let (stdout, stderr) = (shortened(self.text()), shortened(self.stderr.clone()));
        write!(
            f,
            "{command}\n-- exit code {code:?}, signal {signal:?}, after {took:?}\n\
             -- stdout:\n{stdout}\n-- stderr:\n{stderr}"
        )
    }
}

/// A process that runs. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    /// What it has said on stderr so far.
    said: Arc<Mutex<Vec<u8>>>,
    began: Instant,
    command: String,
}

impl Running {
    pub(crate) fn start<I, A>(mut command: Command, arguments: I) -> Self
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in
            ["DES_CONFIG", "DES_LOG", "DES_BIG_FILE_THRESHOLD_BYTES", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        {
            // What the test itself says stays.
            if command.get_envs().all(|(name, _)| name != variable) {
                command.env_remove(variable);
            }
        }
        let shown = shortened(format!("{command:?}"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let said = Arc::default();
        let stdout = child.stdout.take().map(|pipe| read_on_a_thread(pipe, Arc::default()));
        let stderr = child.stderr.take().map(|pipe| read_on_a_thread(pipe, Arc::clone(&said)));
        Self { child, stdout, stderr, said, began: Instant::now(), command: shown }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What follows `label` on stderr, up to the next space or end of line; it must be said.
    #[track_caller]
    pub(crate) fn told(&mut self, label: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let said = self.said.lock().expect("nobody panics with it").clone();
            let said = String::from_utf8_lossy(&said).into_owned();
            let after = said.split_once(label).map(|(_, after)| after.to_owned());
            if let Some((word, _)) = after.as_ref().and_then(|it| it.split_once([' ', '\n'])) {
                return word.to_owned();
            }
            assert!(self.is_running(), "it ended too early: {}", self.command);
            assert!(Instant::now() < deadline, "`{label}` is never said: {said}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits until `done`, which must come to pass while the process runs.
    #[track_caller]
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !done() {
            assert!(self.is_running(), "it ended too early: {}", self.command);
            assert!(Instant::now() < deadline, "it never came to that: {}", self.command);
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(self.is_running(), "it ended too early: {}", self.command);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Waits for its end, which must come within `limit`.
    #[track_caller]
    pub(crate) fn end(mut self, limit: Duration) -> Run {
        let deadline = Instant::now() + limit;
        let mut in_time = true;
        while self.is_running() {
            if Instant::now() > deadline {
                in_time = false;
                self.child.kill().expect("a child can be killed");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let took = self.began.elapsed();
        let status = self.child.wait().expect("it has ended");
        let collect = |thread: Option<JoinHandle<Vec<u8>>>| {
            thread.map(|thread| thread.join().expect("reading a pipe")).unwrap_or_default()
        };
        let run = Run {
            stdout: collect(self.stdout.take()),
            stderr: String::from_utf8_lossy(&collect(self.stderr.take())).into_owned(),
            code: status.code(),
            signal: status.signal(),
            took,
            command: std::mem::take(&mut self.command),
        };
        assert!(in_time, "it did not end within {limit:?}:\n{run}");
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
        // What a failed test's processes had to say is the first thing that one wants to read.
        if std::thread::panicking()
            && let Some(Ok(said)) = self.stderr.take().map(JoinHandle::join)
        {
            let (process, said) = (self.pid(), String::from_utf8_lossy(&said));
            let said = format!("{} (process {process})\n-- stderr:\n{said}\n", self.command);
            let _nowhere_to_say_it = std::io::stderr().write_all(said.as_bytes());
        }
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(8_000));
    text
}

fn read_on_a_thread(
    mut pipe: impl Read + Send + 'static,
    all: Arc<Mutex<Vec<u8>>>,
) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut chunk) {
            all.lock().expect("nobody panics with it").extend_from_slice(&chunk[..count]);
        }
        let all = all.lock().expect("nobody panics with it");
        all.clone()
    })
}
