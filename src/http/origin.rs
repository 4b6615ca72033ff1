//! Where clients see this server, for links in answers.

use axum::http::{HeaderMap, header};
use url::Url;

use super::host::host_url;

/// The configured address, else the one that the request was sent to. A proxy tells the latter in `X-Forwarded-Host` and
/// `X-Forwarded-Proto`; who forges them gets links that do not work. [`None`]: the request does not say.
pub(super) fn origin(configured: Option<&Url>, headers: &HeaderMap) -> Option<Url> {
    if let Some(url) = configured {
        return Some(url.clone());
    }
    let first = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        // Proxies in a row each add theirs; the first is the client's.
        value.split(',').next().map(str::trim).filter(|text| !text.is_empty())
    };
    let scheme = first("x-forwarded-proto").filter(|scheme| matches!(*scheme, "http" | "https"));
    let host = first("x-forwarded-host").or_else(|| first(header::HOST.as_str()));
    host.and_then(|host| host_url(scheme.unwrap_or("http"), host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        origin(None, &headers.collect()).map(Into::into)
    }

    #[test]
    fn links_lead_where_the_client_asked() {
        assert_eq!(told(&[("host", "127.0.0.1:8188")]).unwrap(), "http://127.0.0.1:8188/");
        let proxied = [
            ("host", "10.0.0.7:8188"),
            ("x-forwarded-host", "api.example.com, inner"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(told(&proxied).unwrap(), "https://api.example.com/");
        assert_eq!(
            told(&[("host", "a"), ("x-forwarded-proto", "javascript")]).unwrap(),
            "http://a/"
        );
        for wrong in ["", "a/b", "user@a", "a?b", "a b"] {
            assert_eq!(told(&[("host", wrong)]), None, "{wrong}");
        }
        let configured = "https://public.example.com/images".parse().unwrap();
        assert_eq!(origin(Some(&configured), &HeaderMap::new()), Some(configured));
    }
}
