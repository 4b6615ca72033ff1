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
use crate::config::{Config, HttpConfig};
use crate::shutdown;
use crate::telemetry::report::LogReporter;

/// How long the last answers may take after the last job has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals().context("signals cannot be watched")?;
    let app = App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept).await?;
    let listeners = async { anyhow::Ok((listen(&config.http).await?, listen_for_edits(&config).await?)) };
    let ((listener, health_listener), edit_listener) = match listeners.await {
        Ok(listeners) => listeners,
        Err(error) => {
            app.comfy.stop().await;
            return Err(error);
        }
    };
    let address = listener.local_addr().context("the socket has no address")?;
    // Until the jobs in hand have ended, new ones are answered 503.
    let close = CancellationToken::new();
    let mut health_server = None;
    if let Some(listener) = health_listener {
        let address = listener.local_addr().context("the socket has no address")?;
        tracing::info!(
            "the health check is at http://{address}{path}; nothing else is served there",
            path = config.http.health_path
        );
        let server = axum::serve(listener, app.health_router()).with_graceful_shutdown(close.clone().cancelled_owned());
        health_server = Some(tokio::spawn(server.into_future()));
    }
    let mut edit_server = None;
    if let Some(listener) = edit_listener {
        let address = listener.local_addr().context("the socket has no address")?;
        tracing::info!("the Edit Plus API is at http://{address}");
        let router = app.edit_router().into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, router).with_graceful_shutdown(close.clone().cancelled_owned());
        edit_server = Some(tokio::spawn(server.into_future()));
    }
    tracing::info!("listening on http://{address}; POST /runsync takes jobs");
    // Without it the last piece of an answer waits up to 40 ms for the client's acknowledgement of those before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its small packets back");
        }
    });
    let router = app.router().into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, router).with_graceful_shutdown(close.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    stop.cancelled().await;
    app.stop(config.http.shutdown_grace).await;
    close.cancel();
    if tokio::time::timeout(LAST_ANSWERS, server).await.is_err() {
        tracing::warn!("open connections are cut off");
    }
    for server in [health_server, edit_server].into_iter().flatten() {
        server.abort();
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The port of everything, and that of the health check if it has one of its own.
async fn listen(config: &HttpConfig) -> anyhow::Result<(TcpListener, Option<TcpListener>)> {
    let listener = bind(SocketAddr::new(config.host, config.port), "PORT").await?;
    let own = config.health_port.filter(|port| *port == 0 || *port != config.port);
    let health_listener = match own {
        Some(port) => Some(bind(SocketAddr::new(config.host, port), "PORT_HEALTH").await?),
        None => None,
    };
    Ok((listener, health_listener))
}

/// The port of the Edit Plus API. Another program may have the one that nobody chose: everything else is served then.
async fn listen_for_edits(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(port) = config.edit.port else { return Ok(None) };
    match bind(SocketAddr::new(config.http.host, port), "EDIT_PORT").await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if config.edit.port_is_chosen => Err(error),
        Err(error) => {
            tracing::warn!("the Edit Plus API is served under /edit alone: {error:#}");
            Ok(None)
        }
    }
}

async fn bind(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another worker running? {variable} chooses another port")
    })
}
