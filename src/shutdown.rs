//! Stopping in two steps: the first signal ends the intake and waits for work in hand, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal, as a shell reports SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Watches for SIGTERM and SIGINT from now on. The token is cancelled by the first; the second ends the process,
/// and ComfyUI with it, since it notices that we are gone.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.is_cancelled() {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(EXIT_AT_ONCE);
            }
            tracing::info!("{name}: no more jobs are taken; those in hand are finished");
            stop.cancel();
        }
    });
    Ok(token)
}
