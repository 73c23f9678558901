//! Logs, on stderr, and traces.

mod traces;

use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, LogFormat};

pub(crate) use traces::{SPANS, Traces, describe};

/// Starts logging as the command line asks.
pub(crate) fn start(cli: &Cli) {
    let default = if cli.command.is_service() { "info" } else { "warn" };
    // The drivers' own lines repeat, in their words, what ours say.
    let quiet = "lapin=off,sqlx=warn,object_store=error,s3s=off";
    let wanted = cli.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(format!("{quiet},{wanted}"))
        .unwrap_or_else(|_invalid| EnvFilter::new(format!("{quiet},{default}")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(crate::progress::log_writer)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    match cli.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
