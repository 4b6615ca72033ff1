//! Our own HTTP server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::secret::Secret;
use super::variable::{Reader, Variable, integer};

/// Where and how we listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// A port for the health check alone; 0 takes a free one. [`None`]: it is served with everything else.
    pub health_port: Option<u16>,
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
    /// How long a stop waits for jobs in hand.
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

const HOST: Variable = Variable {
    name: "HOST",
    kind: "IP address or localhost",
    default: Some("127.0.0.1"),
    example: "0.0.0.0",
    meaning: "Address our HTTP server listens on. The image sets `0.0.0.0`.",
    secret: false,
};
const PORT: Variable = Variable {
    name: "PORT",
    kind: "port, 0 to 65535",
    default: Some("8188"),
    example: "8188",
    meaning: "Port of our HTTP server; `0` takes a free one and logs it.",
    secret: false,
};
const PORT_HEALTH: Variable = Variable {
    name: "PORT_HEALTH",
    kind: "port, 0 to 65535",
    default: None,
    example: "8080",
    meaning: "A second port, which serves the health check and nothing else, as on RunPod's load-balancing endpoints; `0` takes a free one. Not set, or the same as `PORT`: there is none.",
    secret: false,
};
const HEALTH_CHECK_PATH: Variable = Variable {
    name: "HEALTH_CHECK_PATH",
    kind: "path",
    default: Some("/ping"),
    example: "/healthz",
    meaning: "Where the health check is served, beside `/ping`, without a key. A GET route of ours with that path gives way.",
    secret: false,
};
const MAX_BODY_MB: Variable = Variable {
    name: "MAX_BODY_MB",
    kind: "MiB, 1 to 1024",
    default: Some("64"),
    example: "100",
    meaning: "Largest request body; a larger one is answered 413.",
    secret: false,
};
const API_KEY: Variable = Variable {
    name: "API_KEY",
    kind: "secrets, comma-separated",
    default: None,
    example: "0123456789abcdef",
    meaning: "Keys that requests must bring one of, as `Authorization: Bearer KEY`; all others but the health check are answered 401. Not set: everybody is served.",
    secret: true,
};
const PUBLIC_URL: Variable = Variable {
    name: "PUBLIC_URL",
    kind: "http or https URL",
    default: None,
    example: "https://images.example.com",
    meaning: "Where clients see this server, for the links in its answers. Not set: the host that a request was sent to (`X-Forwarded-Host` and `X-Forwarded-Proto` from a proxy). A worker that only this machine can reach, and that has no `API_KEY`, answers under no other public name.",
    secret: false,
};
const CORS_ORIGINS: Variable = Variable {
    name: "CORS_ORIGINS",
    kind: "origins, comma-separated, or *",
    default: None,
    example: "https://app.example.com",
    meaning: "Web pages that may use the API from a browser, by their origin (scheme, host and port); `*`: all. Pages of this machine and of the host that a request is sent to may anyway. Programs are not concerned.",
    secret: false,
};
const SHUTDOWN_GRACE_S: Variable = Variable {
    name: "SHUTDOWN_GRACE_S",
    kind: "seconds, 0 to 3600",
    default: Some("30"),
    example: "120",
    meaning: "How long a stop (SIGTERM, SIGINT) waits for jobs in hand. A second signal ends at once.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &HOST,
    &PORT,
    &PORT_HEALTH,
    &HEALTH_CHECK_PATH,
    &API_KEY,
    &MAX_BODY_MB,
    &PUBLIC_URL,
    &CORS_ORIGINS,
    &SHUTDOWN_GRACE_S,
];

#[derive(Deserialize, Default)]
struct Raw {
    host: Option<String>,
    port: Option<String>,
    port_health: Option<String>,
    health_check_path: Option<String>,
    api_key: Option<String>,
    max_body_mb: Option<String>,
    public_url: Option<String>,
    cors_origins: Option<String>,
    shutdown_grace_s: Option<String>,
}

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

/// Reads the address of a server, with a folder perhaps.
fn base(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(url)
        }
        _ => Err("is no http or https URL without a query".to_owned()),
    }
}

/// Reads the origins of pages. Each becomes what browsers write for it.
fn origins(text: &str) -> Result<Origins, String> {
    if text.trim() == "*" {
        return Ok(Origins::All);
    }
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let written = names.map(|name| match base(name) {
        Ok(url) if url.path() == "/" && url.username().is_empty() => Ok(url.origin().ascii_serialization()),
        _ => Err(format!(
            "names `{name}`, which is no origin such as https://app.example.com; `*` stands for all of them alone"
        )),
    });
    written.collect::<Result<_, _>>().map(Origins::Named)
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<HttpConfig> {
    let raw: Raw = reader.raw(vars);
    let host = reader.value(&HOST, raw.host, listen_address);
    let port = reader.value(&PORT, raw.port, integer(0..=u16::MAX));
    let health_port = reader.optional(&PORT_HEALTH, raw.port_health, integer(0..=u16::MAX));
    let health_path = reader.value(&HEALTH_CHECK_PATH, raw.health_check_path, path);
    let api_keys = reader.optional(&API_KEY, raw.api_key, |text| {
        let keys: Vec<&str> = text.split(',').map(str::trim).collect();
        // An empty one would let everybody in, or nobody; nobody means that.
        if keys.iter().any(|key| key.is_empty()) {
            return Err("has an empty key".to_owned());
        }
        Ok(keys.into_iter().map(Secret::new).collect::<Vec<_>>())
    });
    let max_body_mb = reader.value(&MAX_BODY_MB, raw.max_body_mb, integer(1..=1024_usize));
    let public_url = reader.optional(&PUBLIC_URL, raw.public_url, base)?;
    let cors_origins = reader.optional(&CORS_ORIGINS, raw.cors_origins, origins);
    let grace = reader.value(&SHUTDOWN_GRACE_S, raw.shutdown_grace_s, integer(0..=3600_u64));
    Some(HttpConfig {
        host: host?,
        port: port?,
        health_port: health_port?,
        health_path: health_path?,
        api_keys: api_keys?.unwrap_or_default(),
        max_body_bytes: max_body_mb? * 1024 * 1024,
        public_url,
        cors_origins: cors_origins?.unwrap_or_default(),
        shutdown_grace: Duration::from_secs(grace?),
    })
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
