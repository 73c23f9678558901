//! Signals: the first one drains, the second one ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Exit code of a process that a second signal ended, as shells have it for SIGINT.
const ENDED_AT_ONCE: i32 = 130;

/// A token that SIGTERM or SIGINT cancels.
///
/// # Errors
/// When signals cannot be listened to.
pub(crate) fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(ENDED_AT_ONCE);
            }
            warn!(
                "stopping: finishing or giving back what is being worked on; a second signal ends at once"
            );
            cancelled.cancel();
        }
    });
    Ok(token)
}
