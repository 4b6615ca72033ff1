//! The marks by which we tell browsers apart: what one of them has sent is its own, and what it stops without saying what is
//! only that.
//!
//! A mark lets nobody in. It is a random text in a cookie, of which only a digest is kept with a job. Programs have none: they
//! are told apart by their address and what they call themselves, as several may be behind one address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use super::auth::{is_for_a_page, opens_page};
use super::cookies::{self, SameSite, VISITOR};
use super::cors::cookies_count;
use super::state::State;
use crate::config::HttpConfig;

/// How long a browser keeps its mark.
const LASTS: Duration = Duration::from_hours(365 * 24);
/// The length of a mark, as hexadecimal digits.
const LENGTH: usize = 32;

/// The mark of the browser or the program that sent a request, among its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visitor(pub(super) String);

/// Tells what browser a request is from, and gives one that opens a page its mark.
pub(super) async fn know_visitor(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    let known = cookies_count(&state.http, &request)
        .then(|| known(request.headers()))
        .flatten();
    let fresh = match &known {
        None if opens_page(&request) && is_for_a_page(&state, &request) => new_mark(),
        _ => None,
    };
    let secure = came_by_https(&state.http, request.headers());
    let visitor = match known.as_ref().or(fresh.as_ref()) {
        Some(mark) => kept(mark),
        None => program(&request),
    };
    request.extensions_mut().insert(Visitor(visitor));
    let mut response = next.run(request).await;
    if let Some(mark) = fresh.filter(|_| is_page(&response)) {
        // Lax: else a browser would not send it by a link to the page, and would get another one each time.
        cookies::set(&mut response, VISITOR, &mark, LASTS, SameSite::Lax, secure);
    }
    response
}

fn known(headers: &HeaderMap) -> Option<String> {
    let is_mark = |mark: &&str| mark.len() == LENGTH && mark.bytes().all(|byte| byte.is_ascii_hexdigit());
    cookies::values(headers, VISITOR).find(is_mark).map(str::to_owned)
}

/// [`None`]: the system gives no random bytes, and the browser is known as programs are.
fn new_mark() -> Option<String> {
    let mut mark = [0; LENGTH / 2];
    getrandom::fill(&mut mark).ok()?;
    Some(hex::encode(mark))
}

/// What is kept of a program that brings no mark.
fn program(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map_or_else(String::new, |ConnectInfo(peer)| peer.ip().to_canonical().to_string());
    let agent = request.headers().get(header::USER_AGENT);
    let agent = agent.map_or(&b""[..], HeaderValue::as_bytes);
    let digest = Sha256::new()
        .chain_update(address)
        .chain_update([0])
        .chain_update(agent);
    hex::encode(&digest.finalize()[..8])
}

/// What is kept of a mark with a job: who sees that cannot pass for the browser.
fn kept(mark: &str) -> String {
    hex::encode(&Sha256::digest(mark)[..8])
}

fn is_page(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_html = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    // A page that the browser has kept comes without its kind.
    is_html && response.status() == StatusCode::OK || response.status() == StatusCode::NOT_MODIFIED
}

/// Whether a browser has sent a request by https, to a proxy: what it says of its page itself, then what the proxy says, then
/// what is configured.
pub(super) fn came_by_https(http: &HttpConfig, headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    match origin {
        Some(origin) if origin.starts_with(b"https:") => return true,
        Some(origin) if origin.starts_with(b"http:") => return false,
        _ => {}
    }
    match headers.get("x-forwarded-proto") {
        // Proxies in a row each add theirs; the first is the client's.
        Some(schemes) => {
            schemes
                .as_bytes()
                .split(|&byte| byte == b',')
                .next()
                .map(<[u8]>::trim_ascii)
                == Some(b"https")
        }
        None => http.public_url.as_ref().is_some_and(|url| url.scheme() == "https"),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::{Html, IntoResponse as _};

    use super::*;
    use crate::config::Config;

    fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        headers.collect()
    }

    #[test]
    fn a_mark_is_random_and_only_its_digest_is_kept() {
        let (one, two) = (new_mark().unwrap(), new_mark().unwrap());
        assert_ne!(one, two);
        let brought = |mark: &str| known(&headers(&[("cookie", &format!("a=b; {VISITOR}={mark}"))]));
        assert_eq!(brought(&one), Some(one.clone()));
        assert!(!one.contains(&kept(&one)) && kept(&one).len() == 16 && kept(&one) != kept(&two));
        for wrong in ["", "a", &one[1..], &format!("{one}0"), &format!("{}ü", &one[2..])] {
            let brought = HeaderMap::from_iter([(
                header::COOKIE,
                format!("{VISITOR}={wrong}").into_bytes().try_into().unwrap(),
            )]);
            assert_eq!(known(&brought), None, "{wrong}");
        }
    }

    #[test]
    fn a_program_is_known_by_its_address_and_its_name() {
        let known = |peer: &str, agent: Option<&str>| {
            let mut request = Request::new(axum::body::Body::empty());
            let peer: SocketAddr = peer.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
            if let Some(agent) = agent {
                request.headers_mut().insert(header::USER_AGENT, agent.parse().unwrap());
            }
            program(&request)
        };
        let krita = known("192.168.1.5:1", Some("krita"));
        assert_eq!(known("[::ffff:192.168.1.5]:2", Some("krita")), krita);
        for (peer, agent) in [
            ("192.168.1.5:1", Some("curl")),
            ("192.168.1.5:1", None),
            ("192.168.1.6:1", Some("krita")),
        ] {
            assert_ne!(known(peer, agent), krita, "{peer} {agent:?}");
        }
    }

    #[test]
    fn pages_alone_bring_a_mark() {
        assert!(is_page(&Html("").into_response()));
        assert!(is_page(&StatusCode::NOT_MODIFIED.into_response()));
        assert!(!is_page(&"text".into_response()));
        assert!(!is_page(&(StatusCode::NOT_FOUND, Html("")).into_response()));
    }

    #[test]
    fn https_is_told_by_the_browser_the_proxy_or_the_configuration() {
        let configured = |vars: &[(&str, &str)]| {
            let vars = vars
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Config::from_vars(vars).unwrap().http
        };
        let (none, public) = (
            configured(&[]),
            configured(&[("PUBLIC_URL", "https://gpu.example.com")]),
        );
        let plain = configured(&[("PUBLIC_URL", "http://gpu.example.com")]);
        let proxied = headers(&[("x-forwarded-proto", "https, http")]);
        assert!(came_by_https(&none, &proxied));
        assert!(came_by_https(&public, &HeaderMap::new()));
        assert!(came_by_https(&none, &headers(&[("origin", "https://gpu.example.com")])));
        assert!(!came_by_https(&none, &HeaderMap::new()) && !came_by_https(&plain, &HeaderMap::new()));
        assert!(!came_by_https(&public, &headers(&[("x-forwarded-proto", "http")])));
        // Past the proxy, where the browser would not keep such a cookie.
        assert!(!came_by_https(
            &public,
            &headers(&[("origin", "http://192.168.1.5:8188")])
        ));
        assert!(came_by_https(&public, &headers(&[("origin", "null")])));
    }
}
