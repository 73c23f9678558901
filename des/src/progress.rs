//! Progress on a terminal, and a way for log lines to pass it.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use coordinator::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::output::bytes;

/// The bars, once there are any.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Where log lines go: stderr, above the bars.
pub(crate) fn log_writer() -> impl Write {
    LogLine
}

struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match BARS.get() {
            Some(bars) => bars.suspend(|| std::io::stderr().write_all(line))?,
            None => std::io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A bar that counts files; hidden where stderr is not a terminal.
pub(crate) struct FileBar {
    bar: ProgressBar,
    bytes: u64,
}

impl FileBar {
    /// Whether there is a terminal for bars.
    pub(crate) fn is_shown() -> bool {
        std::io::stderr().is_terminal()
    }

    /// A bar up to `files`, labelled `what`.
    pub(crate) fn new(what: &str, files: u64) -> Self {
        let bar = if Self::is_shown() {
            BARS.get_or_init(MultiProgress::new).add(ProgressBar::new(files))
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template(
            "{prefix:<10} {bar:24} {human_pos:>9}/{human_len} files  {msg}  {rate:>9}  ETA {eta}",
        );
        if let Ok(style) = style {
            bar.set_style(style.with_key(
                "rate",
                |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let _shown = out.write_fmt(format_args!("{:.0}/s", state.per_sec()));
                },
            ));
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, bytes: 0 }
    }

    /// So many more files and bytes.
    pub(crate) fn advance(&mut self, files: u64, more: u64) {
        self.bytes += more;
        self.bar.set_position(
            self.bar.position().saturating_add(files).min(self.bar.length().unwrap_or(u64::MAX)),
        );
        self.bar.set_message(bytes(self.bytes));
    }

    /// Shows what a coordinator tells.
    pub(crate) fn show(&mut self, event: &Event) {
        match event {
            Event::Read { rows, bytes } => self.advance(*rows, *bytes),
            Event::Waiting { reason } => self.bar.set_message(format!("waiting: {reason}")),
            Event::Paused { pause } => self.bar.set_message(pause.to_string()),
            Event::Resumed => self.bar.set_message("resumed"),
            Event::Leading { .. }
            | Event::Planned { .. }
            | Event::Committed { .. }
            | Event::Verified { .. }
            | Event::Held { .. } => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
