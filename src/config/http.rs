//! Our own HTTP server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use url::Url;

use super::variable::{Reader, Secret, Variable, listed, parsed, seconds, web_address, whole};

/// Where and how we listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// A port for the health check alone; 0 takes a free one. [`None`]: it is served with everything else.
    pub health_port: Option<u16>,
    /// A port for the metrics alone; 0 takes a free one. [`None`]: there is none.
    pub metrics_port: Option<u16>,
    /// Where the health check is served, beside `/ping`.
    pub health_path: String,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// The keys that a request must bring one of; none: everybody is served.
    pub api_keys: Vec<Secret>,
    /// Where clients see this server; [`None`]: where their requests are sent to.
    pub public_url: Option<Url>,
    /// The pages that may use the API from a browser.
    pub cors_origins: Origins,
    /// How long a stop waits for the jobs that were taken.
    pub shutdown_grace: Duration,
}

/// Pages that may use the API from a browser, beside those of this machine and of the worker's own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those of any origin.
    All,
    /// Those of these origins, as browsers write them: `https://app.example.com`.
    Named(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

const HOST: Variable<IpAddr> = parsed("HOST", "IP address or localhost", listen_address)
    .default_and_example("127.0.0.1", "0.0.0.0")
    .meaning("Address our HTTP server listens on. The image sets `0.0.0.0`.");
pub(super) const PORT: Variable<u16> = whole("PORT", "port", 0..=65_535)
    .default_and_example("8188", "8188")
    .meaning("Port of our HTTP server; `0` takes a free one and logs it.");
const PORT_HEALTH: Variable<u16> = whole("PORT_HEALTH", "port", 0..=65_535)
    .example("8080")
    .meaning("A second port, which serves the health check and nothing else, as on RunPod's load-balancing endpoints; `0` takes a free one. Not set, or the same as `PORT`: there is none.");
const METRICS_PORT: Variable<u16> = whole("METRICS_PORT", "port", 0..=65_535)
    .example("9464")
    .meaning("A port for `/metrics` alone, which Prometheus reads without a key, also of workers on RunPod's queue; `0` takes a free one and logs it. Let only Prometheus reach it. Not set: `/metrics` is on `PORT`, for this machine and for those who bring a key.");
const HEALTH_CHECK_PATH: Variable<String> = parsed("HEALTH_CHECK_PATH", "path", path)
    .default_and_example("/ping", "/healthz")
    .meaning("Where the health check is served, beside `/ping`, without a key. A GET route of ours with that path gives way.");
const MAX_BODY_MB: Variable<usize> = whole("MAX_BODY_MB", "MiB", 1..=1024)
    .default_and_example("64", "100")
    .meaning("Largest request body; a larger one is answered 413.");
const API_KEY: Variable<Vec<Secret>> = parsed("API_KEY", "secrets, comma-separated", keys)
    .hidden()
    .example("0123456789abcdef")
    .meaning("Keys that requests must bring one of, as `Authorization: Bearer KEY` (or `Basic`, with the key as password); all others but the health check are answered 401. People log in with one of them at `/login`; a browser that opens a page is led there. Not set: everybody is served.");
const PUBLIC_URL: Variable<Url> = parsed("PUBLIC_URL", "http or https URL", base)
    .example("https://images.example.com")
    .meaning("Where clients see this server, for the links in its answers. Not set: the host that a request was sent to (`X-Forwarded-Host` and `X-Forwarded-Proto` from a proxy). A worker that only this machine can reach, and that has no `API_KEY`, answers under no other public name.");
const CORS_ORIGINS: Variable<Origins> = parsed("CORS_ORIGINS", "origins, comma-separated, or *", origins)
    .example("https://app.example.com")
    .meaning("Web pages that may use the API from a browser, by their origin (scheme, host and port); `*`: all. Pages of this machine and of the host that a request is sent to may anyway. Programs are not concerned.");
const SHUTDOWN_GRACE_S: Variable<Duration> = seconds("SHUTDOWN_GRACE_S", 0..=3600)
    .default_and_example("30", "120")
    .meaning("How long a stop (SIGTERM, SIGINT) waits for jobs in flight. A second signal ends at once.");

/// Reads an address to listen on. `localhost` is 127.0.0.1, whatever the machine's resolver thinks of it.
pub fn listen_address(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse()
        .map_err(|_| "is neither an IP address nor localhost".to_owned())
}

/// Reads a path without anything that would need encoding, or would mean more than itself in a route.
fn path(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    if text.starts_with('/') && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("is no path of letters, digits, `-`, `.`, `_`, `~` and `/` that begins with `/`".to_owned())
    }
}

/// Reads keys. An empty one would let everybody in, or nobody; nobody means that.
fn keys(text: &str) -> Result<Vec<Secret>, String> {
    let keys = text.split(',').map(str::trim);
    keys.map(|key| match key {
        "" => Err("has an empty key".to_owned()),
        key => Ok(Secret::new(key)),
    })
    .collect()
}

/// Reads the address of a server, with a folder perhaps.
fn base(text: &str) -> Result<Url, String> {
    let url = web_address(text).ok();
    url.filter(|url| url.query().is_none() && url.fragment().is_none())
        .ok_or_else(|| "is no http or https URL without a query".to_owned())
}

/// Reads the origins of pages. Each becomes what browsers write for it.
fn origins(text: &str) -> Result<Origins, String> {
    if text.trim() == "*" {
        return Ok(Origins::All);
    }
    let written = listed(text).map(|name| match base(name) {
        Ok(url) if url.path() == "/" && url.username().is_empty() => Ok(url.origin().ascii_serialization()),
        _ => Err(format!(
            "names `{name}`, which is no origin such as https://app.example.com; `*` stands for all of them alone"
        )),
    });
    written.collect::<Result<_, _>>().map(Origins::Named)
}

pub(super) fn read(reader: &mut Reader) -> HttpConfig {
    HttpConfig {
        host: reader.value(&HOST),
        port: reader.value(&PORT),
        health_port: reader.optional(&PORT_HEALTH),
        metrics_port: reader.optional(&METRICS_PORT),
        health_path: reader.value(&HEALTH_CHECK_PATH),
        api_keys: reader.optional(&API_KEY).unwrap_or_default(),
        max_body_bytes: reader.value(&MAX_BODY_MB) * 1024 * 1024,
        public_url: reader.optional(&PUBLIC_URL),
        cors_origins: reader.optional(&CORS_ORIGINS).unwrap_or_default(),
        shutdown_grace: reader.value(&SHUTDOWN_GRACE_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_path_is_plain() {
        for right in ["/", "/ping", "/health/v1.0", "/_~-"] {
            assert_eq!(path(right).as_deref(), Ok(right));
        }
        for wrong in ["ping", "", "/{id}", "/a?b", "/a b", "/:x", "/*", "/ü", "http://x/"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let named = |names: &[&str]| Ok(Origins::Named(names.iter().map(|&name| name.to_owned()).collect()));
        assert_eq!(origins(" * "), Ok(Origins::All));
        assert_eq!(
            origins("https://App.example.com/, http://10.0.0.1:80,,https://a.example.com:8443"),
            named(&[
                "https://app.example.com",
                "http://10.0.0.1",
                "https://a.example.com:8443"
            ])
        );
        for wrong in [
            "example.com",
            "*,https://a.example.com",
            "https://a.example.com/b",
            "https://u@a.example.com",
            "null",
        ] {
            assert!(origins(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn localhost_is_an_address() {
        assert_eq!(listen_address("LocalHost").unwrap().to_string(), "127.0.0.1");
        assert_eq!(listen_address("::1").unwrap().to_string(), "::1");
        assert!(listen_address("example.com").is_err());
    }
}
