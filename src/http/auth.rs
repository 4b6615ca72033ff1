//! Who is served: everybody, or those who bring one of the keys of `API_KEY`, or a session that was opened with one.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::cookies::{self, SESSION, SameSite};
use super::cors::{cookies_count, is_navigation};
use super::edit_port::OwnPort;
use super::every_route;
use super::paths::EndsWithSlash;
use super::route::{DOCS, DOCUMENT, LOGIN, LOGOUT, METRICS, PING, PLAY, ROOT, Route, SCRIPT};
use super::sessions::{Found, LASTS};
use super::state::State;
use super::visitors::Visitor;
use super::websocket::is_asked_for;
use crate::config::Secret;
use crate::delivery::links::BadLink;
use crate::dialect::schema::EVENTS;
use crate::error::JobError;

/// Gradio's header for a key.
pub(super) const HF_AUTHORIZATION: HeaderName = HeaderName::from_static("x-hf-authorization");
/// The parameter of the address of an event stream, or of a websocket, that holds a key.
pub(super) const TOKEN: &str = "token";

/// The keys that let a request in. Cheap to clone.
#[derive(Clone, Default)]
pub struct ApiKeys(Arc<[[u8; 32]]>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl ApiKeys {
    /// Takes the keys; none lets everybody in.
    pub fn new(keys: &[Secret]) -> Self {
        Self(keys.iter().map(|key| Sha256::digest(key.reveal()).into()).collect())
    }

    /// Whether requests must bring a key.
    pub(crate) fn are_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether a request with these headers is served, or one with this `token` in its address, and for which key; [`None`]:
    /// without one.
    pub(super) fn admit(&self, headers: &HeaderMap, token: Option<&str>) -> Result<Option<Admitted>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut refused = "The request brings no key";
        for given in given(headers).chain(token.map(|token| Cow::from(token.as_bytes()))) {
            if let Some(admitted) = self.find(&given) {
                return Ok(Some(admitted));
            }
            refused = "The request's key is not right";
        }
        Err(refused)
    }

    /// The key that this is, if it is one.
    pub(super) fn find(&self, given: &[u8]) -> Option<Admitted> {
        let given: [u8; 32] = Sha256::digest(given).into();
        // Digests are of one length, and all keys are looked at: the time tells neither length nor begin of a key.
        let found = self
            .0
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        bool::from(found).then_some(Admitted(given))
    }

    /// The key that has this mark.
    pub(super) fn by_mark(&self, mark: &str) -> Option<Admitted> {
        let mut keys = self.0.iter().map(|key| Admitted(*key));
        keys.find(|key| key.mark() == mark)
    }
}

/// The digest of the key that let a request in, among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Admitted(pub(in crate::http) [u8; 32]);

impl Admitted {
    /// What the key is known by where something is kept that belongs to it.
    pub(super) fn mark(self) -> String {
        hex::encode(&self.0[..8])
    }
}

/// Who sent a request, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Caller {
    /// The mark of the key that let it in; [`None`]: none was asked for.
    pub(in crate::http) key: Option<String>,
    /// The mark of a browser or a program ([`Visitor`]).
    pub(in crate::http) name: String,
}

impl Caller {
    /// Who sent the request with these extensions.
    pub(in crate::http) fn of(extensions: &Extensions) -> Self {
        Self {
            key: extensions.get::<Admitted>().map(|key| key.mark()),
            name: extensions.get().map_or_else(String::new, |Visitor(mark)| mark.clone()),
        }
    }
}

/// The keys that a request brings in its headers. Gradio's Python clients have a header of their own for the one that they
/// are given (`token=`, formerly `hf_token=`), and keep `Authorization` for others.
fn given(headers: &HeaderMap) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let values = [header::AUTHORIZATION, HF_AUTHORIZATION].map(|name| headers.get(name));
    let values = values.into_iter().flatten().map(|value| value.as_bytes().trim_ascii());
    values.flat_map(|value| {
        let basic = basic(value).into_iter().flatten().map(Cow::from);
        basic.chain([Cow::from(key(value))])
    })
}

/// The key in the address of an event stream or a websocket: a browser's `EventSource` and `WebSocket` send no headers of
/// the page's choice.
fn token(request: &Request) -> Option<String> {
    let matched = request.extensions().get::<MatchedPath>()?.as_str();
    let takes = is_event_stream(matched) || SOCKETS.contains(&matched) && is_asked_for(request.headers());
    if request.method() != Method::GET || !takes {
        return None;
    }
    let mut query = url::form_urlencoded::parse(request.uri().query()?.as_bytes());
    query
        .find(|(name, _)| name == TOKEN)
        .map(|(_, value)| value.into_owned())
}

/// Where clients of ComfyUI open their websocket.
const SOCKETS: &[&str] = &["/ws", "/api/ws"];

/// Whether GET at this path is answered with a stream of events.
pub(super) fn is_event_stream(path: &str) -> bool {
    static STREAMS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let is_stream = |route: &&Route| {
            let responses = (route.describe)().responses;
            let mut contents = responses.values().map(|response| &response["content"]);
            route.methods.contains(&"GET") && contents.any(|content| content.get(EVENTS).is_some())
        };
        every_route().filter(is_stream).map(|route| route.path).collect()
    });
    STREAMS.contains(&path)
}

/// The password and the name in an `Authorization` header of the kind `Basic` (RFC 7617): a client that can send nothing else
/// has the key as one of them.
fn basic(value: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (scheme, pair) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let pair = STANDARD.decode(pair.trim_ascii()).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some([pair[colon + 1..].to_vec(), pair[..colon].to_vec()])
}

/// The key of an `Authorization` header: what follows `Bearer` (RFC 6750; the case of the word is free, RFC 9110), or
/// all of it, since clients of RunPod's may send the bare key.
fn key(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked("Bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer ") => key.trim_ascii(),
        _ => value,
    }
}

/// What needs no key here: the metrics, whose route judges by itself; the health check, since platforms that probe it send none; the documentation, which tells what is
/// public to browsers that have no key; the way in; and a Gradio event that is cancelled, since npm's client (2.7.0) sends no
/// key with that. Who knows the id of an event, which nobody can guess, has sent it.
const OPEN: &[&str] = &[
    PING,
    METRICS,
    DOCUMENT,
    DOCS,
    SCRIPT,
    LOGIN,
    LOGOUT,
    "/api/v2/health",
    "/gradio_api/cancel",
    "/gradio_api/reset",
];

/// Whether a route is served without a key, by the path that it has in the table. A link to a file is a key itself.
pub(super) fn is_open(matched: &str, health_path: &str) -> bool {
    OPEN.contains(&matched) || matched == health_path || matched.starts_with("/files/")
}

/// The route of the content of an asset, which a signed link leads to.
const CONTENT: &str = "/api/v2/assets/{id}/content";

/// Marks a request that came by a signed link: it sees this one thing, whoever has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignedLink;

/// Whether a request comes by a link that takes the place of a key; [`None`]: by none.
fn signed_link(state: &State, request: &Request) -> Option<Result<(), BadLink>> {
    let is_content = request
        .extensions()
        .get::<MatchedPath>()
        .is_some_and(|matched| matched.as_str() == CONTENT);
    if !is_content || ![Method::GET, Method::HEAD].contains(request.method()) {
        return None;
    }
    let (mut expires, mut signature) = (None, None);
    for (name, value) in url::form_urlencoded::parse(request.uri().query()?.as_bytes()) {
        match &*name {
            "expires" => expires = value.parse().ok(),
            "signature" => signature = Some(value),
            _ => {}
        }
    }
    let signature = signature?;
    let (before, after) = CONTENT.split_once("{id}")?;
    let id = request.uri().path().strip_prefix(before)?.strip_suffix(after)?;
    let checked = expires.ok_or(BadLink::Wrong);
    Some(checked.and_then(|expires| state.file_links.check_asset(id, expires, &signature, SystemTime::now())))
}

/// Whether a request is for a page that people open: ComfyUI's own, with all that only ComfyUI knows, or ours.
pub(super) fn is_for_a_page(state: &State, request: &Request) -> bool {
    // On the port of the Edit Plus API there is none.
    if request.extensions().get::<OwnPort>().is_some() {
        return false;
    }
    match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        Some(matched) => matched == ROOT || matched == PLAY || matched.starts_with("/play/"),
        None => state.page,
    }
}

/// Whether a browser goes to a page with this request: it says that it shows HTML.
pub(super) fn opens_page(request: &Request) -> bool {
    let mut accepted = request.headers().get_all(header::ACCEPT).iter();
    is_navigation(request) && accepted.any(|kinds| memchr::memmem::find(kinds.as_bytes(), b"text/html").is_some())
}

/// The session of a browser that sent a request, with the text that stands for it.
pub(super) fn session(state: &State, request: &Request) -> Option<(String, Found)> {
    if !cookies_count(&state.http, request) {
        return None;
    }
    let mut sessions = cookies::values(request.headers(), SESSION);
    sessions.find_map(|text| Some((text.to_owned(), state.sessions.find(text)?)))
}

/// Answers 401 to a request without one of the keys, or leads its browser to the login.
pub(super) async fn require_key(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    if matched.is_some_and(|matched| is_open(matched.as_str(), &state.http.health_path)) {
        return next.run(request).await;
    }
    let link = signed_link(&state, &request);
    if link == Some(Ok(())) {
        request.extensions_mut().insert(SignedLink);
        return next.run(request).await;
    }
    let (admitted, session) = match state.api_keys.admit(request.headers(), token(&request).as_deref()) {
        Ok(admitted) => (admitted, None),
        Err(reason) => match session(&state, &request) {
            Some((text, found)) => (Some(found.key), Some((text, found))),
            None => match link {
                Some(Err(bad)) => return refused(&state, &request, &format!("The request brings no key, and {bad}")),
                _ => return refused(&state, &request, reason),
            },
        },
    };
    if let Some(admitted) = admitted {
        request.extensions_mut().insert(admitted);
    }
    let mut response = next.run(request).await;
    if admitted.is_some() {
        keep_private(response.headers_mut());
    }
    if let Some((text, found)) = session
        && found.renewed
    {
        cookies::set(&mut response, SESSION, &text, LASTS, SameSite::Strict, found.secure);
    }
    response
}

/// The way from a request's address to the root: relative, since a proxy may serve us below a folder. Empty at the root.
pub(super) fn to_root(request: &Request) -> String {
    let path = request.uri().path();
    let is_folder = path != ROOT && request.extensions().get::<EndsWithSlash>().is_some();
    let below = path.matches('/').count().saturating_sub(1) + usize::from(is_folder);
    "../".repeat(below)
}

/// Tells what keeps answers on the way that this one is for its client alone: it came for a key or a session. A shared cache
/// knows that of `Authorization` (RFC 9111, section 3.5), and not of cookies.
fn keep_private(headers: &mut HeaderMap) {
    let said = headers.get_all(header::CACHE_CONTROL).iter();
    let said: Vec<String> = said.filter_map(|said| Some(said.to_str().ok()?.to_owned())).collect();
    let directives = said.iter().flat_map(|said| said.split(',')).map(str::trim);
    let is = |directive: &str, name: &str| {
        let named = directive.split('=').next().unwrap_or_default();
        named.eq_ignore_ascii_case(name)
    };
    let kept = directives.filter(|directive| {
        !directive.is_empty() && !["public", "private", "s-maxage"].iter().any(|name| is(directive, name))
    });
    let kept: Vec<&str> = std::iter::once("private").chain(kept).collect();
    let kept = HeaderValue::try_from(kept.join(", "));
    headers.insert(
        header::CACHE_CONTROL,
        kept.unwrap_or(HeaderValue::from_static("private")),
    );
}

fn refused(state: &State, request: &Request, reason: &str) -> Response {
    if is_for_a_page(state, request) && opens_page(request) {
        let asked = request.uri().path_and_query().map_or(ROOT, |asked| asked.as_str());
        let next: String = url::form_urlencoded::byte_serialize(asked.as_bytes()).collect();
        return Redirect::to(&format!("{}{}?next={next}", to_root(request), &LOGIN[1..])).into_response();
    }
    let error = JobError::invalid(reason).hint("Send `Authorization: Bearer KEY` with one of the keys of API_KEY.");
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
