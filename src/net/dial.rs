//! Connections for those who speak HTTP themselves; everybody else uses `reqwest`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig, pki_types::ServerName};
use url::{Host, Url};

use super::guard::AddressGuard;

/// A connection to a server, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// Opens connections. The TLS settings are read when they are first needed.
#[derive(Default, Clone)]
pub struct Dialer {
    tls: OnceLock<TlsConnector>,
}

impl Dialer {
    /// A connection to the server of a URL, with TLS where that is https. Directly: proxies are not used. A `guard` judges
    /// the addresses that a name has; one in the URL itself is its caller's to have judged.
    pub async fn dial(&self, url: &Url, guard: Option<&AddressGuard>) -> io::Result<Box<dyn Stream>> {
        let host = url
            .host_str()
            .ok_or_else(|| io::Error::other("the address has no host"))?;
        let host = host.trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = match (guard, url.host()) {
            (Some(guard), Some(Host::Domain(name))) => {
                let found = guard.look_up_name(name).await.map_err(io::Error::other)?;
                let found: Vec<SocketAddr> = found.iter().map(|found| SocketAddr::new(found.ip(), port)).collect();
                TcpStream::connect(&*found).await?
            }
            _ => TcpStream::connect((host, port)).await?,
        };
        stream.set_nodelay(true)?;
        if url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(self.tls()?.connect(name, stream).await?))
    }

    fn tls(&self) -> io::Result<TlsConnector> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let tls = client_config()
            .map_err(|error| io::Error::other(format!("the TLS settings of this machine cannot be used: {error}")))?;
        Ok(self.tls.get_or_init(|| TlsConnector::from(Arc::new(tls))).clone())
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

pub(crate) fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(config)
}
