//! `serve`: the HTTP API.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Jobs};
use crate::config::Config;
use crate::http::server::{Port, serve as serve_port};
use crate::telemetry::report::LogReporter;

/// How long the last answers may take after the last job has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    let app = App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept).await?;
    let listeners = match listen(&config).await {
        Ok(listeners) => listeners,
        Err(error) => {
            app.comfy.stop().await;
            return Err(error);
        }
    };
    // Until the jobs in flight have ended, new ones are answered 503.
    let close = CancellationToken::new();
    let mut servers = JoinSet::new();
    for (port, listener) in listeners {
        let address = listener.local_addr().context("the socket has no address")?;
        let router = match port {
            Port::Main => {
                tracing::info!("listening on http://{address}; POST /runsync takes jobs");
                app.router()
            }
            Port::Edit => {
                tracing::info!("the Edit Plus API is at http://{address}");
                app.edit_router()
            }
            Port::Health => {
                let path = &config.http.health_path;
                tracing::info!("the health check is at http://{address}{path}; nothing else is served there");
                app.health_router()
            }
        };
        servers.spawn(serve_port(listener, router, port, close.clone()));
    }
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

/// The port of everything, at last; and those of the health check and of the Edit Plus API, if they have one of their own.
async fn listen(config: &Config) -> anyhow::Result<Vec<(Port, TcpListener)>> {
    let (http, edit) = (&config.http, &config.edit);
    let main = bind(http.host, http.port, "PORT").await?;
    let mut listeners = Vec::new();
    if let Some(port) = http.health_port.filter(|port| *port == 0 || *port != http.port) {
        listeners.push((Port::Health, bind(http.host, port, "PORT_HEALTH").await?));
    }
    if let Some(port) = edit.port {
        match bind(http.host, port, "EDIT_PORT").await {
            Ok(listener) => listeners.push((Port::Edit, listener)),
            Err(error) if edit.port_is_chosen => return Err(error),
            // Another program may have the port that nobody chose.
            Err(error) => tracing::warn!("the Edit Plus API is served under /edit alone: {error:#}"),
        }
    }
    listeners.push((Port::Main, main));
    Ok(listeners)
}

async fn bind(host: IpAddr, port: u16, variable: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another worker running? {variable} chooses another port")
    })
}
