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
use crate::config::{Config, HttpConfig, TracesConfig};
use crate::http::server::{Port, serve as serve_port};
use crate::http::{DOCS, METRICS};
use crate::telemetry::report::LogReporter;
use crate::telemetry::traces;

/// Where the page for people is.
const PLAY: &str = "/play";

/// How long the last answers may take after the last job has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    begin_traces(&config.traces);
    let app = App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept).await?;
    let listeners = match listen(&config).await {
        Ok(listeners) => listeners,
        Err(error) => {
            app.comfy.stop().await;
            return Err(error);
        }
    };
    app.join_fleet();
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
            Port::Metrics => app.metrics_router(),
        };
        if port == Port::Main {
            // The last line of the start.
            tracing::info!("{}", addresses(&config, address));
        }
        servers.spawn(serve_port(listener, router, port, close.clone()));
    }
    app.warm_up_in_background();
    stop.cancelled().await;
    app.stop(config.http.shutdown_grace).await;
    close.cancel();
    let ended = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, ended).await.is_err() {
        tracing::warn!("open connections are cut off");
    }
    traces::end().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Begins to trace, as configured.
pub(super) fn begin_traces(config: &TracesConfig) {
    traces::begin(config.endpoint.as_ref(), config.service_name.as_deref());
}

/// Where a person finds what: as it is opened on this machine, or where the configuration says that we are seen.
fn addresses(config: &Config, address: SocketAddr) -> String {
    let base = match &config.http.public_url {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None if address.ip().is_unspecified() || address.ip().is_loopback() => {
            format!("http://localhost:{}", address.port())
        }
        None => format!("http://{address}"),
    };
    let page = if config.page.is_on(&config.platform) {
        format!("ComfyUI's page: {base}/  ")
    } else {
        String::new()
    };
    format!("{page}pictures from a prompt: {base}{PLAY}  API: {base}{DOCS}")
}

/// The port of everything, at last; and those of the health check, the metrics and the Edit Plus API, if they have one of their own.
async fn listen(config: &Config) -> anyhow::Result<Vec<(Port, TcpListener)>> {
    let (http, edit) = (&config.http, &config.edit);
    let main = bind(http.host, http.port, "PORT").await?;
    let mut listeners = Vec::new();
    if let Some(port) = http.health_port.filter(|port| *port == 0 || *port != http.port) {
        listeners.push((Port::Health, bind(http.host, port, "PORT_HEALTH").await?));
    }
    listeners.extend(
        listen_for_metrics(http)
            .await?
            .map(|listener| (Port::Metrics, listener)),
    );
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

/// The port of the metrics, where there is one.
pub(super) async fn listen_for_metrics(config: &HttpConfig) -> anyhow::Result<Option<TcpListener>> {
    let Some(port) = config.metrics_port else {
        return Ok(None);
    };
    let listener = bind(config.host, port, "METRICS_PORT").await?;
    let address = listener.local_addr().context("the socket has no address")?;
    tracing::info!("the metrics are at http://{address}{METRICS}; nothing else is served there");
    Ok(Some(listener))
}

async fn bind(host: IpAddr, port: u16, variable: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another worker running? {variable} chooses another port")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_a_person_opens_them() {
        let config = |vars: &[(&str, &str)]| {
            let vars = vars
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Config::from_vars(vars).unwrap()
        };
        let told = |vars: &[(&str, &str)], address: &str| addresses(&config(vars), address.parse().unwrap());
        let all = "ComfyUI's page: http://localhost:8188/  pictures from a prompt: http://localhost:8188/play  API: http://localhost:8188/docs";
        assert_eq!(told(&[], "0.0.0.0:8188"), all);
        assert_eq!(told(&[], "127.0.0.1:8188"), all);
        assert_eq!(
            told(&[("COMFYUI_PAGE", "false")], "192.0.2.5:80"),
            "pictures from a prompt: http://192.0.2.5:80/play  API: http://192.0.2.5:80/docs"
        );
        let public = told(&[("PUBLIC_URL", "https://gpu.example.com/w/")], "0.0.0.0:8188");
        assert!(public.contains("https://gpu.example.com/w/play"), "{public}");
    }
}
