//! Who is served: everybody, or those who bring one of the keys of `API_KEY`.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::route::{DOCS, DOCUMENT, PING, ROOT};
use super::{State, error_response};
use crate::config::Secret;
use crate::error::JobError;

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

    /// Whether a request with these headers is served.
    fn admit(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Ok(());
        }
        let value = headers.get(header::AUTHORIZATION).ok_or("The request brings no key")?;
        let given = Sha256::digest(key(value.as_bytes()));
        // Digests are of one length, and all keys are looked at: the time tells neither length nor begin of a key.
        let found = self
            .0
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        bool::from(found).then_some(()).ok_or("The request's key is not right")
    }
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
/// public to browsers that have no key; and a Gradio event that is called off, since npm's client (2.7.0) sends no key
/// with that. Who knows the id of an event, which nobody can guess, has sent it.
const OPEN: &[&str] = &[PING, ROOT, DOCUMENT, DOCS, "/gradio_api/cancel", "/gradio_api/reset"];

/// Whether a path is served without a key. A link to a file is a key itself.
pub(super) fn is_open(path: &str, health_path: &str) -> bool {
    OPEN.contains(&path) || path == health_path || path.starts_with("/files/")
}

/// Answers 401 to a request without one of the keys.
pub(super) async fn require_key(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    if is_open(request.uri().path(), &state.health_path) {
        return next.run(request).await;
    }
    match state.api_keys.admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(reason) => unauthorized(reason),
    }
}

fn unauthorized(reason: &str) -> Response {
    let error = JobError::invalid(reason).hint("Send `Authorization: Bearer KEY` with one of the keys of API_KEY.");
    let mut response = error_response(&error);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(keys: &[&str], value: Option<&str>) -> bool {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        ApiKeys::new(&keys).admit(&headers).is_ok()
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
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", ApiKeys::new(&[Secret::new("4711")])), "1 keys");
    }
}
