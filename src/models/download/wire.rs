//! The connections that bring the bytes.
//!
//! `reqwest` reads with buffers that grow to 400 KB, and keeps up to three of them for a connection: with 64 connections
//! that is more memory than everything else. The same client underneath it, told to read with small ones, needs a fifth.
//! Where a proxy stands between, `reqwest` does it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Body, Client, Response};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::rustls::{self, ClientConfig};
use url::Url;

use super::error::{FetchError, Trouble};
use crate::models::answer::send;
use crate::net::shown::{shown, with_causes};

/// What is read at once, in bytes.
const BUFFER: usize = 64 << 10;

/// How long a server may take to accept a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// What we call ourselves.
pub(super) const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Requests files, or parts of them.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// [`None`]: the TLS settings of this machine are only understood by `reqwest`.
    direct: Option<legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>>,
    proxied: Client,
    proxies: Arc<Matcher>,
}

impl Wire {
    /// Connections for up to `most` ranges at once; through proxies by `proxied`.
    pub(super) fn new(proxied: Client, most: usize) -> Self {
        let direct = tls().map(|tls| {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT));
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1();
            legacy::Client::builder(TokioExecutor::new())
                .http1_read_buf_exact_size(BUFFER)
                .pool_max_idle_per_host(most)
                .pool_timer(TokioTimer::new())
                .build(connector.wrap_connector(tcp))
        });
        if let Err(error) = &direct {
            tracing::debug!("the TLS settings of this machine cannot be used: {error}");
        }
        Self {
            direct: direct.ok(),
            proxied,
            proxies: Arc::new(Matcher::from_env()),
        }
    }

    /// Sends a GET request. No head of an answer within `stall` is a failure.
    pub(super) async fn get(&self, url: &Url, mut headers: HeaderMap, stall: Duration) -> Result<Response, Trouble> {
        let uri: Option<Uri> = url.as_str().parse().ok();
        let direct = uri.filter(|uri| self.proxies.intercept(uri).is_none());
        let (Some(uri), Some(client)) = (direct, &self.direct) else {
            return send(self.proxied.get(url.clone()).headers(headers), url, stall).await;
        };
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match tokio::time::timeout(stall, client.request(request)).await {
            Ok(Ok(response)) => Ok(response.map(Body::wrap).into()),
            Ok(Err(error)) => Err(Trouble::again(FetchError::Request {
                url: shown(url),
                why: with_causes(&error),
            })),
            Err(_) => Err(Trouble::again(FetchError::Stalled {
                url: shown(url),
                waited: stall,
            })),
        }
    }
}

fn tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(config)
}
