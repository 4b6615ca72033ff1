//! The host that a request names.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use url::Url;

use super::error_response;
use crate::error::JobError;

/// Answers 400 to a request that names more than one host, or what is none (RFC 9112, section 3.2): whoever stands between
/// us and the client may have gone by another than we would.
pub(super) async fn refuse_unclear(request: Request, next: Next) -> Response {
    match unclear(request.headers()) {
        None => next.run(request).await,
        Some(what) => {
            let error = JobError::invalid(what).hint("Send one Host header, with a name or an address and a port.");
            let mut response = error_response(&error);
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
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

#[cfg(test)]
mod tests {
    use super::*;

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
