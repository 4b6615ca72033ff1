//! What servers say about a file in the headers of their answers.

use std::ops::Range;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{RequestBuilder, Response, StatusCode};
use url::Url;

use super::error::{Failure, FetchError, TRY_LATER, forbidden};
use crate::config::Secret;
use crate::display::{error_chain, redacted};
use crate::net::guard::Refused;
use crate::net::retry::retry_after;

/// What is known of a file before its first byte came.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// Where its bytes are.
    pub(super) url: Url,
    /// The token for that address, if it may have it.
    pub(super) token: Option<Secret>,
    /// Whether the address was given to us for a time only, and may stop working.
    pub(super) signed: bool,
    /// The size in bytes.
    pub(super) size: Option<u64>,
    /// The SHA-256 in lowercase hexadecimal.
    pub(super) sha256: Option<String>,
    /// The commit, on the Hub.
    pub(super) commit: Option<String>,
    /// What tells two versions apart, where neither hash nor commit does: for `If-Range`.
    pub(super) validator: Option<String>,
}

impl Resolved {
    /// What a request for this part of the file says; one without an end is for all of it.
    pub(super) fn asking_for(&self, part: &Range<u64>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if part.end < u64::MAX {
            let range = HeaderValue::try_from(format!("bytes={}-{}", part.start, part.end - 1));
            headers.extend(range.map(|range| (RANGE, range)));
        }
        // What is no header was refused when the token was first sent.
        if let Some(token) = &self.token
            && let Ok(mut token) = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
        {
            token.set_sensitive(true);
            headers.insert(AUTHORIZATION, token);
        }
        headers
    }
}

impl Resolved {
    /// Whether `other` is the same version, as far as anybody can tell.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a == b || a.is_none() || b.is_none();
        same(&self.sha256, &other.sha256)
            && same(&self.validator, &other.validator)
            && (self.size == other.size || self.size.is_none() || other.size.is_none())
    }
}

/// A header's text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A header of the Hub's own, by its name in lower case.
pub(super) fn own<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    text(headers, &HeaderName::from_static(name))
}

/// `Content-Length`. Of a HEAD request too, where the body's length is not it.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// An `ETag` that is a SHA-256 in hexadecimal.
pub(super) fn as_sha256(etag: &str) -> Option<String> {
    let text = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let is = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is.then(|| text.to_ascii_lowercase())
}

/// What `If-Range` takes (RFC 9110, section 13.1.5): a strong `ETag`, else the time of the last change.
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    let strong = text(headers, &ETAG).filter(|etag| etag.starts_with('"'));
    strong.or_else(|| text(headers, &LAST_MODIFIED)).map(str::to_owned)
}

/// `Content-Range: bytes 0-99/1000`, or `bytes */1000` in an answer 416. The first two are [`None`] in that one; the third
/// where the server does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The first byte and the one after the last.
    pub(super) part: Option<(u64, u64)>,
    /// The size of the whole file.
    pub(super) total: Option<u64>,
}

/// Reads `Content-Range`; [`None`] when it is missing or makes no sense.
pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (part, total) = text(headers, &CONTENT_RANGE)?
        .strip_prefix("bytes")?
        .trim_start()
        .split_once('/')?;
    let part = match part.trim() {
        "*" => None,
        part => {
            let (first, last) = part.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            Some((first, last.checked_add(1).filter(|end| first < *end)?))
        }
    };
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some(ContentRange { part, total })
}

/// Whether the answer is a page for people.
pub(super) fn is_web_page(headers: &HeaderMap) -> bool {
    text(headers, &CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html") || kind.eq_ignore_ascii_case("application/xhtml+xml")
    })
}

/// How long a server wants to be left alone: `Retry-After`, or the rest of the window that the Hub's rate limit names
/// (`RateLimit: "resolvers";r=0;t=55`).
pub(super) fn wanted_rest(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers).or_else(|| {
        let limit = own(headers, "ratelimit")?;
        let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
        seconds.parse().ok().map(Duration::from_secs)
    })
}

/// Where a redirect leads.
pub(super) fn redirect(response: &Response) -> Option<Result<Url, FetchError>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let from = response.url();
    let refuse = |why| {
        let message = format!("a redirect at {} {why}", redacted(from));
        Err(FetchError::told(message, None))
    };
    let target = text(response.headers(), &LOCATION).and_then(|location| from.join(location).ok());
    Some(match target {
        None => refuse("does not say where to"),
        Some(to) if !matches!(to.scheme(), "http" | "https") => refuse("leads to something else than a web server"),
        Some(to) if from.scheme() == "https" && to.scheme() == "http" => {
            refuse("leads to an address without encryption")
        }
        Some(to) => Ok(to),
    })
}

/// What does not end within `stall` is a failure of the file that errors call `label`.
pub(super) async fn within<T>(stall: Duration, label: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(stall, work).await.map_err(|_| {
        let message = format!("{label} sent nothing for {} s", stall.as_secs_f64());
        Failure::again(FetchError::told(message, Some(TRY_LATER)))
    })
}

/// Sends a request. No head of an answer within `stall` is a failure.
pub(super) async fn send(request: RequestBuilder, label: &str, stall: Duration) -> Result<Response, Failure> {
    let sent = within(stall, label, request.send()).await?;
    sent.map_err(|error| {
        if let Some(refused) = Refused::within(&error) {
            return forbidden(refused);
        }
        let hopeless = error.is_builder();
        // The error names the URL with all its secrets; ours leaves them out.
        let failure = Failure::broken(label, &error_chain(&error.without_url()));
        if hopeless {
            Failure::Final(failure.into_error())
        } else {
            failure
        }
    })
}

/// What an answer is worth that is neither a success nor a redirect.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, label: &str, token: bool) -> Failure {
    let status = status.as_u16();
    match status {
        401 | 403 => Failure::Final(FetchError::refused(label, status, token)),
        404 | 410 => {
            let message = format!("there is no file at {label} (status {status})");
            Failure::Final(FetchError::told(message, Some("Check the address.")))
        }
        408 | 425 | 429 | 500.. => Failure::Again {
            error: FetchError::status(label, status),
            after: wanted_rest(headers),
            busy: matches!(status, 429 | 503),
        },
        _ => Failure::Final(FetchError::status(label, status)),
    }
}

/// Whether two addresses are of one server, to which the same token may be shown.
pub(super) fn same_server(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn content_ranges() {
        let read = |value| content_range(&headers("content-range", value));
        let part = |part, total| Some(ContentRange { part, total });
        assert_eq!(read("bytes 0-99/1000"), part(Some((0, 100)), Some(1000)));
        assert_eq!(read("bytes 5-5/*"), part(Some((5, 6)), None));
        assert_eq!(read("bytes */7"), part(None, Some(7)));
        for nonsense in [
            "bytes 5-4/10",
            "bytes 1-/10",
            "items 0-1/2",
            "bytes 0-1",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn only_what_is_exact_tells_versions_apart() {
        assert_eq!(validator(&headers("etag", "\"abc\"")), Some("\"abc\"".to_owned()));
        assert_eq!(validator(&headers("etag", "W/\"abc\"")), None);
        let time = "Tue, 15 Nov 1994 12:45:26 GMT";
        assert_eq!(validator(&headers("last-modified", time)), Some(time.to_owned()));
    }

    #[test]
    fn hashes() {
        let hash = "A".repeat(64);
        assert_eq!(as_sha256(&hash), Some("a".repeat(64)));
        assert_eq!(as_sha256(&format!("W/\"{hash}\"")), Some("a".repeat(64)));
        assert_eq!(as_sha256(&"a".repeat(40)), None);
        assert_eq!(as_sha256(&"g".repeat(64)), None);
    }

    #[test]
    fn a_server_says_how_long_it_wants_to_rest() {
        assert_eq!(wanted_rest(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        let limit = headers("ratelimit", "\"resolvers\";r=0;t=55");
        assert_eq!(wanted_rest(&limit), Some(Duration::from_secs(55)));
        assert_eq!(wanted_rest(&headers("ratelimit", "nonsense")), None);
    }

    #[test]
    fn web_pages_are_told_from_files() {
        assert!(is_web_page(&headers("content-type", "text/html; charset=utf-8")));
        assert!(!is_web_page(&headers("content-type", "application/octet-stream")));
    }
}
