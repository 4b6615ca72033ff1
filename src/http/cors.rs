//! Which web pages may use the API from a browser (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Programs send no `Origin` and are not concerned. Pages of this machine, and of the host that the request is sent to, may;
//! others where `CORS_ORIGINS` names them. A browser keeps the answer from a page that may not, but would still have sent
//! what needs no leave to be sent, so that any page on the web could put jobs into the queue of a worker on its reader's
//! machine: such requests are refused here, by the header that browsers put in ([`FETCH_SITE`]).
//!
//! A page may also have the name of its own host lead to this machine (DNS rebinding). To the browser the worker is then
//! the page's own server, and nothing in a request but the name tells it from a program's. Where only this machine can
//! connect and no key is asked for, the worker therefore answers under names alone that no page can have, and under those
//! that the configuration gives.
//!
//! What names more than one host, or none, is refused before.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use url::{Host, Url};

use super::state::State;
use crate::config::Origins;
use crate::echo;
use crate::error::JobError;

/// Where a request of a page leads, seen from that page (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>).
const FETCH_SITE: &str = "sec-fetch-site";
/// How long a browser may remember what it was told.
const REMEMBERED: Duration = Duration::from_hours(1);

/// Tells browsers whose pages may read the answers.
pub(super) fn layer(state: &Arc<State>) -> CorsLayer {
    // Where every page may, none may use what a browser keeps for us, such as a proxy's password.
    let is_named = state.http.cors_origins != Origins::All;
    let state = Arc::clone(state);
    let allowed = move |origin: &HeaderValue, parts: &Parts| may_use(&state.http.cors_origins, origin, &parts.headers);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_credentials(AllowCredentials::predicate(move |_, _| is_named))
        .allow_private_network(true)
        .expose_headers([
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("x-should-retry"),
            header::RETRY_AFTER,
        ])
        .max_age(REMEMBERED)
}

/// Answers 400 to a request that names more than one host, or what is none (RFC 9112, section 3.2): whoever stands between
/// us and the client may have gone by another than we would.
pub(super) async fn refuse_unclear(request: Request, next: Next) -> Response {
    match unclear(request.headers()) {
        None => next.run(request).await,
        Some(what) => {
            let error = JobError::invalid(what).hint("Send one Host header, with a name or an address and a port.");
            (StatusCode::BAD_REQUEST, error).into_response()
        }
    }
}

/// What is wrong with the host, if anything. None at all is for those to judge who need one.
fn unclear(headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?;
    if hosts.next().is_some() {
        return Some("The request has more than one Host header");
    }
    let is_host = host
        .to_str()
        .is_ok_and(|host| host.is_empty() || host_url("http", host).is_some());
    (!is_host).then_some("The request's Host header names no host")
}

/// A URL of a host and nothing else: what would lead elsewhere is no host.
pub(super) fn host_url(scheme: &str, host: &str) -> Option<Url> {
    if host.contains(['/', '?', '#', '@', '\\']) {
        return None;
    }
    Url::parse(&format!("{scheme}://{host}/")).ok()
}

/// Answers 403 to what a page sends that may not.
pub(super) async fn refuse_strangers(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_open_to_this_machine = state.http.host.is_loopback() && !state.api_keys.are_set();
    if is_open_to_this_machine && !is_known(&state.http.cors_origins, state.http.public_url.as_ref(), headers) {
        let host = headers.get(header::HOST).map_or_else(String::new, shortened);
        let error = JobError::invalid(format!("This worker does not answer under the name {host}"))
            .hint("Use localhost instead, name the address that you use in PUBLIC_URL, or set API_KEY.");
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    // Browsers say so to addresses alone that they trust: with https, or of this machine and under its own names.
    let crosses = headers.get(FETCH_SITE).is_none_or(|site| site == "cross-site");
    if changes
        && crosses
        && let Some(origin) = headers.get(header::ORIGIN)
        && !may_use(&state.http.cors_origins, origin, headers)
    {
        let origin = shortened(origin);
        let error = JobError::invalid(format!("Pages of {origin} may not use this worker"))
            .hint("Name that origin in CORS_ORIGINS, or send the request from the page's server.");
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    next.run(request).await
}

/// Whether a request is sent to a host that no page can have: an address, a name that is not looked up in the world's
/// DNS, or the host of an address in the configuration.
fn is_known(named: &Origins, public: Option<&Url>, headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::HOST) {
        // No browser leaves it out (HTTP/1.0 may).
        return true;
    }
    let Some(host) = url_of(headers) else { return false };
    let Some(name) = host.domain() else { return true };
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.contains('.')
        || name.ends_with(".localhost")
        // Docker has host.docker.internal; ICANN keeps the ending for private networks (Board resolution of July 2024).
        || name.ends_with(".internal")
        || public.is_some_and(|url| url.domain() == Some(name))
        || match named {
            Origins::All => true,
            Origins::Named(named) => named
                .iter()
                .any(|origin| Url::parse(origin).is_ok_and(|url| url.domain() == Some(name))),
        }
}

fn shortened(value: &HeaderValue) -> String {
    echo::cut(&String::from_utf8_lossy(value.as_bytes()))
}

/// Whether pages of an origin may use the API, asked by a request with these headers.
fn may_use(named: &Origins, origin: &HeaderValue, headers: &HeaderMap) -> bool {
    match named {
        Origins::All => return true,
        Origins::Named(named) if named.iter().any(|named| named.as_bytes() == origin.as_bytes()) => return true,
        Origins::Named(_) => {}
    }
    let Some(origin) = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok()) else {
        // `null`: a file, or a page that is kept from telling.
        return false;
    };
    let Some(host) = origin.host() else { return false };
    is_this_machine(&host) || own_host(headers).is_some_and(|own| own == host.to_string())
}

fn is_this_machine(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// The host that a request was sent to, without its port, in the form that URLs give it.
fn own_host(headers: &HeaderMap) -> Option<String> {
    url_of(headers)?.host().map(|host| host.to_string())
}

fn url_of(headers: &HeaderMap) -> Option<Url> {
    host_url("http", headers.get(header::HOST)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(named: &Origins, origin: &str, host: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        may_use(named, &origin.parse().unwrap(), &headers)
    }

    #[test]
    fn pages_of_this_machine_and_of_the_same_host_may() {
        let none = Origins::default();
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:5173",
            "http://app.localhost",
            "http://192.168.1.5:3000",
        ] {
            assert!(allowed(&none, origin, "192.168.1.5:8188"), "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://example.com",
            "http://localhost.example.com",
            "http://192.168.1.50",
            "file:///x",
        ] {
            assert!(!allowed(&none, origin, "192.168.1.5:8188"), "{origin}");
        }
    }

    #[test]
    fn a_name_that_a_page_can_have_is_not_ours() {
        let known = |named: &Origins, public: Option<&str>, host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            is_known(named, public.map(|url| url.parse().unwrap()).as_ref(), &headers)
        };
        let none = Origins::default();
        for host in [
            "localhost:8188",
            "localhost.",
            "app.localhost",
            "127.0.0.1:8188",
            "[::1]:8188",
            "192.168.1.5",
            "gpu-box:8188",
            "host.docker.internal:8188",
        ] {
            assert!(known(&none, None, host), "{host}");
        }
        assert!(is_known(&none, None, &HeaderMap::new()));
        for host in [
            "example.com:8188",
            "example.com.",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "example.com@127.0.0.1",
            "a b",
            "",
        ] {
            assert!(!known(&none, None, host), "{host}");
        }
        assert!(known(&none, Some("https://gpu.example.com/w"), "gpu.example.com"));
        let named = Origins::Named(vec!["https://app.example.com".to_owned()]);
        assert!(known(&named, None, "APP.example.com:8188"));
        assert!(!known(&named, None, "example.com"));
        assert!(known(&Origins::All, None, "example.com"));
    }

    #[test]
    fn others_may_where_they_are_named() {
        let named = Origins::Named(vec!["https://app.example.com".to_owned()]);
        assert!(allowed(&named, "https://app.example.com", "a"));
        for origin in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://example.com",
        ] {
            assert!(!allowed(&named, origin, "a"), "{origin}");
        }
        assert!(allowed(&Origins::All, "null", "a"));
    }

    #[test]
    fn one_host_is_named_or_none() {
        let is_clear = |hosts: &[&'static str]| {
            let hosts = hosts.iter().map(|host| (header::HOST, host.parse().unwrap()));
            unclear(&hosts.collect()).is_none()
        };
        for right in [
            [].as_slice(),
            &[""],
            &["localhost:8188"],
            &["gpu_box"],
            &["[::1]:80"],
            &["example.com."],
        ] {
            assert!(is_clear(right), "{right:?}");
        }
        for wrong in [
            ["a", "a"].as_slice(),
            &["127.0.0.1", "evil.example"],
            &["evil.example@127.0.0.1"],
            &["127.0.0.1/x"],
            &["a b"],
            &["a:port"],
        ] {
            assert!(!is_clear(wrong), "{wrong:?}");
        }
    }
}
