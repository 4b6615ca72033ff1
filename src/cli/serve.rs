//! `serve`: the HTTP API.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Jobs};
use crate::config::Config;
use crate::shutdown;
use crate::telemetry::report::LogReporter;

/// How long the last answers may take after the last job has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals().context("signals cannot be watched")?;
    let app = App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept).await?;
    let address = SocketAddr::new(config.http.host, config.http.port);
    let listener = TcpListener::bind(address).await;
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            app.comfy.stop().await;
            return Err(error).with_context(|| {
                format!("cannot listen on {address}; is another worker running? PORT chooses another port")
            });
        }
    };
    let address = listener.local_addr().context("the socket has no address")?;
    tracing::info!("listening on http://{address}; POST /runsync takes jobs");
    // Without it the last piece of an answer waits up to 40 ms for the client's acknowledgement of those before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its small packets back");
        }
    });
    // Until the jobs in hand have ended, new ones are answered 503.
    let close = CancellationToken::new();
    let server = axum::serve(listener, app.router()).with_graceful_shutdown(close.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    stop.cancelled().await;
    app.stop(config.http.shutdown_grace).await;
    close.cancel();
    if tokio::time::timeout(LAST_ANSWERS, server).await.is_err() {
        tracing::warn!("open connections are cut off");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
