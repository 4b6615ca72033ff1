//! Which web pages may use the API from a browser (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Programs send no `Origin` and are not concerned. Pages of this machine, and of the host that the request is sent to, may;
//! others where `CORS_ORIGINS` names them. A browser keeps the answer from a page that may not, but would still have sent
//! what needs no leave to be sent, so that any page on the web could put jobs into the queue of a worker on its reader's
//! machine: such requests are refused here, by the header that browsers put in ([`FETCH_SITE`]). A websocket is such a
//! request too: to no browser it matters whose page opens one. So is a GET of what only ComfyUI or one of its node packs
//! knows, whatever that does; a link on another site's page leads to ComfyUI's own page and no further.
//!
//! What a browser brings by itself, a cookie, counts for pages of this server alone, and for those that are named
//! ([`cookies_count`]).
//!
//! A page may also have the name of its own host lead to this machine (DNS rebinding). To the browser the worker is then
//! the page's own server, and nothing in a request but the name tells it from a program's. Where only this machine can
//! connect and no key is asked for, the worker therefore answers under names alone that no page can have, and under those
//! that the configuration gives. Without a key ComfyUI-Manager, which installs code, is never reached under others.
//!
//! What names more than one host, or none, is refused before.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use url::{Host, Url};

use super::pass::is_passed;
use super::route::ROOT;
use super::state::State;
use super::websocket::is_asked_for;
use crate::config::{HttpConfig, Origins};
use crate::echo;
use crate::error::JobError;

/// Where a request of a page leads, seen from that page (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>).
const FETCH_SITE: &str = "sec-fetch-site";
/// What it asks for: a page to go to (`navigate`), or something else.
const FETCH_MODE: &str = "sec-fetch-mode";
/// Where what it gets goes: into a window (`document`), a frame, a picture.
const FETCH_DEST: &str = "sec-fetch-dest";
/// The host that a client asked a proxy for.
const FORWARDED_HOST: &str = "x-forwarded-host";
/// What the paths of ComfyUI-Manager's routes have in them.
const MANAGER_WORDS: &[&str] = &["manager", "customnode", "externalmodel", "snapshot"];
/// How often something may be encoded in a path that is passed on.
const MANAGER_LAYERS: usize = 4;
/// How long a browser may remember what it was told.
const REMEMBERED: Duration = Duration::from_hours(1);

/// Tells browsers whose pages may read the answers.
pub(super) fn layer(state: &Arc<State>) -> CorsLayer {
    // Where every page may, none may use what a browser keeps for us, such as a proxy's password.
    let is_named = state.http.cors_origins != Origins::All;
    let state = Arc::clone(state);
    let allowed = move |origin: &HeaderValue, parts: &Parts| {
        let named = &state.http.cors_origins;
        may_use(named, state.http.public_url.as_ref(), origin, &parts.headers)
    };
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
    let is_open_to_this_machine = state.http.host.is_loopback();
    let is_powerful = state.manager && may_be_managers(request.uri().path());
    let asks_for_name = !state.api_keys.are_set() && (is_open_to_this_machine || is_powerful);
    if asks_for_name && !is_known(&state.http.cors_origins, state.http.public_url.as_ref(), headers) {
        let host = headers.get(header::HOST).map_or_else(String::new, shortened);
        let error = JobError::invalid(format!("This worker does not answer under the name {host}"))
            .hint("Use localhost instead, name the address that you use in PUBLIC_URL, or set API_KEY.");
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    if let Some(pages) = stranger(&state.http, &request, is_passed(&request, &state)) {
        let hint = if is_linked_to(&request) {
            "Open the worker's page itself, and go on from there."
        } else {
            "Name that origin in CORS_ORIGINS, or send the request from the page's server. Is it the worker's own page, behind a proxy, name its address in PUBLIC_URL."
        };
        let error = JobError::invalid(format!("{pages} may not use this worker")).hint(hint);
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    next.run(request).await
}

/// Whose pages sent a request, if they may not. `passed_on`: ComfyUI answers it.
fn stranger(http: &HttpConfig, request: &Request, passed_on: bool) -> Option<String> {
    let headers = request.headers();
    let is_read = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let site = headers.get(FETCH_SITE);
    let is_of_others = site.is_some_and(|site| site == "cross-site" || site == "same-site");
    if passed_on && is_of_others && is_linked_to(request) {
        // Nobody has meant to do what ComfyUI or a pack does there. ComfyUI itself refuses its page too.
        let leads_on = request.uri().path() == ROOT || http.cors_origins == Origins::All;
        return (!leads_on).then(|| "A link on another site's page".to_owned());
    }
    // Browsers say so to addresses alone that they trust: with https, or of this machine and under its own names.
    let crosses = match site {
        Some(site) => site == "cross-site",
        None => !is_read || is_asked_for(headers),
    };
    let matters = !is_read || is_asked_for(headers) || passed_on;
    if !(crosses && matters) {
        return None;
    }
    let named = &http.cors_origins;
    match headers.get(header::ORIGIN) {
        Some(origin) if may_use(named, http.public_url.as_ref(), origin, headers) => None,
        Some(origin) => Some(format!("Pages of {}", shortened(origin))),
        // Programs send neither; of a picture or a script that it puts in, a page sends no origin.
        None if site.is_none() || *named == Origins::All => None,
        None if is_read => Some("What a page of another site puts into itself".to_owned()),
        None => None,
    }
}

/// Whether a browser goes to a page by this request: without the origin that it has where a page asks.
fn is_linked_to(request: &Request) -> bool {
    let headers = request.headers();
    is_navigation(request) && !is_asked_for(headers) && !headers.contains_key(header::ORIGIN)
}

/// Whether a path could lead to ComfyUI-Manager, however often it is encoded. Some that do not are like it.
fn may_be_managers(path: &str) -> bool {
    let mut path = path.to_lowercase();
    for _ in 0..MANAGER_LAYERS {
        path = percent_decode_str(&path).decode_utf8_lossy().to_lowercase();
    }
    MANAGER_WORDS.iter().any(|word| path.contains(word))
}

/// Whether a browser goes to a page with this request, as far as it says.
pub(super) fn is_navigation(request: &Request) -> bool {
    let says = |name, what| request.headers().get(name).is_none_or(|value| value == what);
    request.method() == Method::GET && says(FETCH_MODE, "navigate") && says(FETCH_DEST, "document")
}

/// Whether the cookies of a request count, which a browser sends with what any page of the same site asks for: another port
/// of this machine, another name below the same domain. Those of other sites come without ours.
pub(super) fn cookies_count(http: &HttpConfig, request: &Request) -> bool {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN);
    let is_named = |origin: &HeaderValue| match &http.cors_origins {
        // What every page may do needs no cookie.
        Origins::All => false,
        Origins::Named(named) => named.iter().any(|named| named.as_bytes() == origin.as_bytes()),
    };
    if origin.is_some_and(is_named) {
        return true;
    }
    match headers.get(FETCH_SITE) {
        // One that is gone to has no origin.
        Some(site) => site == "same-origin" || site == "none" || origin.is_none() && is_navigation(request),
        None => origin.is_none_or(|origin| is_own(http.public_url.as_ref(), origin, headers)),
    }
}

/// Whether an origin is this server's own, port and all.
fn is_own(public: Option<&Url>, origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok()) else {
        return false;
    };
    let is_of = |host: Option<&HeaderValue>| {
        let host = host.and_then(|host| host_url(origin.scheme(), host.to_str().ok()?));
        host.is_some_and(|host| host.origin() == origin.origin())
    };
    public.is_some_and(|public| public.origin() == origin.origin())
        || is_of(headers.get(header::HOST))
        || is_of(forwarded_host(headers))
}

/// The host that a websocket was asked of, where a proxy tells: with no other request a page could not write that header
/// itself.
fn forwarded_host(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(FORWARDED_HOST).filter(|_| is_asked_for(headers))
}

/// Whether a request is sent to a host that no page can have: an address, a name that is not looked up in the world's
/// DNS, or the host of an address in the configuration.
fn is_known(named: &Origins, public: Option<&Url>, headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::HOST) {
        // No browser leaves it out (HTTP/1.0 may).
        return true;
    }
    let Some(host) = headers.get(header::HOST).and_then(url_at) else {
        return false;
    };
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
fn may_use(named: &Origins, public: Option<&Url>, origin: &HeaderValue, headers: &HeaderMap) -> bool {
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
    let is_at = |url: &Url| url.host() == Some(host.clone());
    let own = [headers.get(header::HOST), forwarded_host(headers)];
    is_this_machine(&host)
        || public.is_some_and(is_at)
        || own.into_iter().flatten().filter_map(url_at).any(|url| is_at(&url))
}

fn is_this_machine(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn url_at(host: &HeaderValue) -> Option<Url> {
    host_url("http", host.to_str().ok()?)
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
