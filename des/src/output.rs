//! Results on stdout, for a person or for a program; failures on stderr; exit codes.

use std::io::Write;
use std::process::ExitCode;

use coordinator::adjust::AdjustError;
use coordinator::gc::GcError;
use coordinator::held::HeldError;
use coordinator::init::InitError;
use coordinator::operate::RequestError;
use coordinator::pause::PauseError;
use coordinator::throttle::ThrottleError;
use serde::Serialize;

use crate::cli::Format;
use crate::config::ConfigError;

/// How a command ended, when it ended well enough to have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed, after the result was printed.
    Failed,
    /// `verify` found damage.
    Damage,
    /// The file is not in the archive.
    NotFound,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Damage => Self::from(3),
            Exit::NotFound => Self::from(4),
        }
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The usage or the configuration is wrong. Exit code 2.
    Usage(String),
    /// Something failed. Exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self::Usage(why.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_usage = error.is::<ConfigError>()
            || matches!(error.downcast_ref(), Some(InitError::Refused(_)))
            || matches!(error.downcast_ref(), Some(AdjustError::Refused(_)))
            || matches!(error.downcast_ref(), Some(HeldError::NotHeld(_)))
            || matches!(error.downcast_ref(), Some(PauseError::Refused(_)))
            || matches!(error.downcast_ref(), Some(ThrottleError::Refused(_)))
            || matches!(error.downcast_ref(), Some(RequestError::Refused(_)))
            || matches!(error.downcast_ref(), Some(GcError::Refused(_)));
        if is_usage { Self::Usage(error.to_string()) } else { Self::Failed(error) }
    }
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_human(self) -> bool {
        self.format == Format::Human
    }

    /// Prints a result: one JSON object, or what `human` makes of it.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> std::io::Result<()> {
        let mut text = match self.format {
            Format::Human => human(value),
            Format::Json => serde_json::to_string_pretty(value)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.raw(text.as_bytes())
    }

    /// Prints bytes as they are. A reader that went away is no failure.
    pub(crate) fn raw(self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Prints a failure, and gives its exit code.
    pub(crate) fn failed(self, failure: &Failure) -> ExitCode {
        let (text, code) = match failure {
            Failure::Usage(why) => (why.clone(), 2),
            Failure::Failed(error) => (headline_and_causes(error), 1),
        };
        let _nowhere_to_tell = writeln!(std::io::stderr(), "error: {text}");
        if self.format == Format::Json {
            let object = serde_json::json!({ "error": text });
            let _nowhere_to_tell = self.result(&object, |_| String::new());
        }
        ExitCode::from(code)
    }
}

/// The error, then what caused it, without what the line above says already.
fn headline_and_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
    }
    text
}

/// A table of labels and values, aligned.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|(label, value)| {
            let padding = " ".repeat(width - label.chars().count());
            format!("  {label}{padding}  {value}\n")
        })
        .collect()
}

/// What others wrote, in one line for a person: what could move the cursor is escaped, quotes are not.
pub(crate) fn printable(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

/// A number with thousands separated.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes for a person.
pub(crate) fn bytes(number: u64) -> String {
    bytesize::ByteSize(number).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(&[("a", "1".into()), ("long", "2".into())]);
        assert_eq!(text, "  a     1\n  long  2\n");
    }
}
