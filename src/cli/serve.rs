//! `serve`: the HTTP API.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Jobs};
use crate::config::{Config, HttpConfig};
use crate::http::server::{Port, serve as serve_port};
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
    let mut servers = JoinSet::new();
    if let Some(listener) = health_listener {
        let address = listener.local_addr().context("the socket has no address")?;
        tracing::info!(
            "the health check is at http://{address}{path}; nothing else is served there",
            path = config.http.health_path
        );
        servers.spawn(serve_port(listener, app.health_router(), Port::Health, close.clone()));
    }
    if let Some(listener) = edit_listener {
        let address = listener.local_addr().context("the socket has no address")?;
        tracing::info!("the Edit Plus API is at http://{address}");
        servers.spawn(serve_port(listener, app.edit_router(), Port::Edit, close.clone()));
    }
    tracing::info!("listening on http://{address}; POST /runsync takes jobs");
    servers.spawn(serve_port(listener, app.router(), Port::Main, close.clone()));
    stop.cancelled().await;
    app.stop(config.http.shutdown_grace).await;
    close.cancel();
    let ended = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, ended).await.is_err() {
        tracing::warn!("open connections are cut off");
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
