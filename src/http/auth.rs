//! Who is served: everybody, or those who bring one of the keys of `API_KEY`.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::extract::{ConnectInfo, MatchedPath, Request, State as Shared};
use axum::http::{Extensions, HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::every_route;
use super::route::{DOCS, DOCUMENT, PING, PLAY, ROOT, Route, SCRIPT};
use super::state::State;
use crate::config::Secret;
use crate::dialect::schema::EVENTS;
use crate::error::JobError;

/// Gradio's header for a key.
pub(super) const HF_AUTHORIZATION: HeaderName = HeaderName::from_static("x-hf-authorization");
/// The parameter of an event stream's address that holds a key.
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
    fn admit(&self, headers: &HeaderMap, token: Option<&str>) -> Result<Option<Admitted>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let given = given(headers).into_iter().flatten().chain(token.map(str::as_bytes));
        let mut refused = "The request brings no key";
        for given in given {
            let given: [u8; 32] = Sha256::digest(given).into();
            // Digests are of one length, and all keys are looked at: the time tells neither length nor begin of a key.
            let found = self
                .0
                .iter()
                .fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
            if bool::from(found) {
                return Ok(Some(Admitted(given)));
            }
            refused = "The request's key is not right";
        }
        Err(refused)
    }
}

/// The digest of the key that let a request in, among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Admitted(pub(in crate::http) [u8; 32]);

/// Who sent a request, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Caller {
    /// The mark of the key that let it in; [`None`]: none was asked for.
    pub(in crate::http) key: Option<String>,
    /// A browser's mark, or the address that the request came from.
    pub(in crate::http) name: String,
}

impl Caller {
    /// Who sent the request with these extensions.
    pub(in crate::http) fn of(extensions: &Extensions) -> Self {
        let key = extensions
            .get::<Admitted>()
            .map(|Admitted(digest)| hex::encode(&digest[..8]));
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        Self {
            key,
            name: peer.map_or_else(String::new, |ConnectInfo(peer)| peer.ip().to_string()),
        }
    }
}

/// The keys that a request brings in its headers. Gradio's Python clients have a header of their own for the one that they
/// are given (`token=`, formerly `hf_token=`), and keep `Authorization` for others.
fn given(headers: &HeaderMap) -> [Option<&[u8]>; 2] {
    [header::AUTHORIZATION, HF_AUTHORIZATION].map(|name| headers.get(name).map(|value| key(value.as_bytes())))
}

/// The key in the address of an event stream: a browser's `EventSource` sends no headers of the page's choice.
fn token(request: &Request) -> Option<String> {
    let matched = request.extensions().get::<MatchedPath>()?;
    if request.method() != Method::GET || !is_event_stream(matched.as_str()) {
        return None;
    }
    let mut query = url::form_urlencoded::parse(request.uri().query()?.as_bytes());
    query
        .find(|(name, _)| name == TOKEN)
        .map(|(_, value)| value.into_owned())
}

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

/// The key of an `Authorization` header: what follows `Bearer` (RFC 6750; the case of the word is free, RFC 9110), or
/// all of it, since clients of RunPod's may send the bare key.
fn key(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked("Bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer ") => key.trim_ascii(),
        _ => value,
    }
}

/// What needs no key: the health check, since platforms that probe it send none; the documentation, which tells what is
/// public to browsers that have no key; and a Gradio event that is cancelled, since npm's client (2.7.0) sends no key
/// with that. Who knows the id of an event, which nobody can guess, has sent it.
const OPEN: &[&str] = &[
    PING,
    ROOT,
    DOCUMENT,
    DOCS,
    SCRIPT,
    "/gradio_api/cancel",
    "/gradio_api/reset",
];

/// Whether a path is served without a key. A link to a file is a key itself.
pub(super) fn is_open(path: &str, health_path: &str) -> bool {
    // The page is the same for everybody; what it shows it asks for with a key.
    let is_page = path.strip_prefix(PLAY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    OPEN.contains(&path) || is_page || path == health_path || path.starts_with("/files/")
}

/// Answers 401 to a request without one of the keys.
pub(super) async fn require_key(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    if is_open(request.uri().path(), &state.http.health_path) {
        return next.run(request).await;
    }
    match state.api_keys.admit(request.headers(), token(&request).as_deref()) {
        Ok(admitted) => {
            if let Some(admitted) = admitted {
                request.extensions_mut().insert(admitted);
            }
            next.run(request).await
        }
        Err(reason) => {
            let error =
                JobError::invalid(reason).hint("Send `Authorization: Bearer KEY` with one of the keys of API_KEY.");
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn admitted(keys: &[&str], value: Option<&str>) -> bool {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        ApiKeys::new(&keys).admit(&headers, None).is_ok()
    }

    #[test]
    fn no_key_set_lets_everybody_in() {
        assert!(admitted(&[], None));
        assert!(admitted(&[], Some("Bearer x")));
    }

    #[test]
    fn each_key_is_taken_with_and_without_bearer() {
        for value in ["Bearer one", "bearer one", "BEARER  one ", "one", "Bearer two", "two"] {
            assert!(admitted(&["one", "two"], Some(value)), "{value}");
        }
        // A key may begin with the word.
        assert!(admitted(&["Bearer"], Some("Bearer")));
    }

    #[test]
    fn everything_else_is_refused() {
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer on",
            "Bearer one1",
            "Bearer ONE",
            "Bearer one,two",
            "Basic one",
            "Bearerone",
        ] {
            assert!(!admitted(&["one", "two"], Some(value)), "{value}");
        }
        assert!(!admitted(&["one"], None));
    }

    #[test]
    fn a_key_may_come_in_gradios_header_or_in_the_address_of_a_stream() {
        let keys = ApiKeys::new(&[Secret::new("one")]);
        let brings = |headers: &[(HeaderName, &str)], token| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()));
            keys.admit(&headers.collect(), token).is_ok()
        };
        assert!(brings(&[(HF_AUTHORIZATION, "Bearer one")], None));
        assert!(brings(
            &[(header::AUTHORIZATION, "Bearer hf"), (HF_AUTHORIZATION, "Bearer one")],
            None
        ));
        assert!(brings(&[(header::AUTHORIZATION, "Basic x")], Some("one")));
        assert!(!brings(&[(HF_AUTHORIZATION, "Bearer two")], Some("")));
        assert!(!brings(&[], Some("two")));
        for (path, is_stream) in [
            ("/events/{id}", true),
            ("/gradio_api/queue/data", true),
            ("/gradio_api/heartbeat/{session_hash}", true),
            ("/gradio_api/call/infer/{event_id}", true),
            ("/status/{id}", false),
            ("/v1/images/generations", false),
            ("/view", false),
        ] {
            assert_eq!(is_event_stream(path), is_stream, "{path}");
        }
    }

    #[test]
    fn the_key_that_lets_in_is_the_one_that_counts() {
        let keys = ApiKeys::new(&[Secret::new("one"), Secret::new("two")]);
        let admitted = |headers: &[(HeaderName, &str)], token| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()));
            keys.admit(&headers.collect(), token).unwrap()
        };
        let plain = admitted(&[(header::AUTHORIZATION, "Bearer one")], None);
        assert!(plain.is_some());
        for junk in ["Bearer junk", "Bearer other", "Basic x"] {
            let beside = [(header::AUTHORIZATION, junk), (HF_AUTHORIZATION, "Bearer one")];
            assert_eq!(admitted(&beside, None), plain, "{junk}");
            assert_eq!(admitted(&[(header::AUTHORIZATION, junk)], Some("one")), plain, "{junk}");
        }
        assert_ne!(admitted(&[(header::AUTHORIZATION, "two")], None), plain);
        assert_eq!(ApiKeys::new(&[]).admit(&HeaderMap::new(), None), Ok(None));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", ApiKeys::new(&[Secret::new("4711")])), "1 keys");
    }
}
