//! A file of this machine as an answer: whole, a part of it, or nothing where the client has it already (RFC 9110, sections
//! 13 and 14).

use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use bytes::Bytes;

use crate::disk::blocking;
use crate::job::{ContentHash, shown_as};

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 512 * 1024;
/// What is shorter is hashed where it is sent, in bytes: it takes less time than a thread for it.
const HASHED_AT_ONCE: usize = 256 * 1024;

/// Answers with the file at `path`, as far as these headers ask for it.
pub(super) async fn send(path: &Path, name: &str, headers: &HeaderMap) -> std::io::Result<Response> {
    let mut file = File::open(path).await?;
    let facts = file.metadata().await?;
    let length = facts.len();
    let stamp = Stamp::new(facts.modified().unwrap_or(UNIX_EPOCH), length);
    if stamp.is_known(headers) {
        return Ok(stamp.not_modified());
    }
    let asked = Asked::of(headers, &stamp, length);
    let body = match asked.within(length) {
        None => Body::empty(),
        Some(Range { start, end }) => {
            if start > 0 {
                file.seek(SeekFrom::Start(start)).await?;
            }
            file.set_max_buf_size(CHUNK);
            // Where the file grows meanwhile, its begin.
            Body::from_stream(ReaderStream::with_capacity(file.take(end - start), CHUNK))
        }
    };
    Ok(asked.answer(body, length, &stamp, name, headers))
}

/// The same with bytes that are here.
pub(super) async fn send_bytes(content: &Bytes, name: &str, headers: &HeaderMap) -> Response {
    let stamp = if content.len() < HASHED_AT_ONCE {
        Stamp::of_content(content)
    } else {
        let content = content.clone();
        blocking(move || Stamp::of_content(&content)).await
    };
    if stamp.is_known(headers) {
        return stamp.not_modified();
    }
    let length = content.len() as u64;
    let asked = Asked::of(headers, &stamp, length);
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let body = match asked.within(length) {
        None => Body::empty(),
        Some(Range { start, end }) => Body::from(content.slice(place(start)..place(end))),
    };
    asked.answer(body, length, &stamp, name, headers)
}

/// By what a client knows that a file is still the same.
struct Stamp {
    etag: String,
    /// In whole seconds, as headers have it; [`None`]: nobody knows.
    changed: Option<SystemTime>,
}

impl Stamp {
    fn new(changed: SystemTime, length: u64) -> Self {
        let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            etag: format!("\"{:x}-{length:x}\"", since.as_nanos()),
            changed: Some(UNIX_EPOCH + Duration::from_secs(since.as_secs())),
        }
    }

    fn of_content(content: &[u8]) -> Self {
        Self {
            etag: format!("\"{}\"", ContentHash::of(content).hex()),
            changed: None,
        }
    }

    fn not_modified(&self) -> Response {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        self.put(response.headers_mut());
        response
    }

    fn put(&self, headers: &mut HeaderMap) {
        let changed = self.changed.map(httpdate::fmt_http_date);
        let changed = changed.map(|changed| (header::LAST_MODIFIED, changed));
        for (name, value) in changed.into_iter().chain([(header::ETAG, self.etag.clone())]) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }

    /// Whether the client has it so.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        if let Some(known) = text(headers, &header::IF_NONE_MATCH) {
            let mut known = known.split(',').map(str::trim);
            return known.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        text(headers, &header::IF_MODIFIED_SINCE)
            .and_then(|since| httpdate::parse_http_date(since).ok())
            .is_some_and(|since| self.changed.is_some_and(|changed| changed <= since))
    }

    /// Whether a part fits to what the client has.
    fn fits(&self, headers: &HeaderMap) -> bool {
        match text(headers, &header::IF_RANGE) {
            None => !headers.contains_key(header::IF_RANGE),
            Some(tag) if tag.starts_with('"') => tag == self.etag,
            Some(date) => httpdate::parse_http_date(date).is_ok_and(|date| Some(date) == self.changed),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// How much of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    All,
    Part(Range<u64>),
    /// What the file does not have.
    Nothing,
}

impl Asked {
    /// What of so many bytes is sent; [`None`]: nothing.
    fn within(&self, length: u64) -> Option<Range<u64>> {
        match self {
            Self::All => Some(0..length),
            Self::Part(range) => Some(range.clone()),
            Self::Nothing => None,
        }
    }

    /// The answer with this body, which is what was asked for of a file of so many bytes.
    fn answer(self, body: Body, length: u64, stamp: &Stamp, name: &str, headers: &HeaderMap) -> Response {
        let mut response = Response::new(body);
        let (status, sent, range) = match self {
            Self::All => (StatusCode::OK, length, None),
            Self::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, 0, Some(format!("bytes */{length}"))),
            Self::Part(Range { start, end }) => {
                let range = format!("bytes {start}-{}/{length}", end - 1);
                (StatusCode::PARTIAL_CONTENT, end - start, Some(range))
            }
        };
        *response.status_mut() = status;
        let answer = response.headers_mut();
        answer.insert(header::CONTENT_LENGTH, sent.into());
        if let Some(range) = range.and_then(|range| HeaderValue::from_str(&range).ok()) {
            answer.insert(header::CONTENT_RANGE, range);
        }
        answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        stamp.put(answer);
        describe(answer, name, headers);
        response
    }

    /// More than one part, or none that is understood, is all of it.
    fn of(headers: &HeaderMap, stamp: &Stamp, length: u64) -> Self {
        let range = text(headers, &header::RANGE).filter(|_| stamp.fits(headers));
        let Some((first, last)) = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split_once('-'))
        else {
            return Self::All;
        };
        let number = |text: &str| {
            let text = text.trim();
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| match text.parse::<u64>() {
                // More than any file has.
                Err(_) if !text.is_empty() => Ok(u64::MAX),
                number => number,
            })
        };
        let range = match (number(first), number(last)) {
            // The last so many bytes.
            (Some(Err(_)), Some(Ok(last))) if first.is_empty() => length.saturating_sub(last)..length,
            (Some(Ok(first)), Some(Err(_))) if last.trim().is_empty() => first..length,
            (Some(Ok(first)), Some(Ok(last))) if first <= last => first..length.min(last.saturating_add(1)),
            _ => return Self::All,
        };
        if range.is_empty() {
            return Self::Nothing;
        }
        Self::Part(range)
    }
}

/// Says what a file of this name is, to a request with the headers `asked`.
pub(super) fn describe(answer: &mut HeaderMap, name: &str, asked: &HeaderMap) {
    let path = Path::new(name);
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let mut media_type = shown_as(name);
    if ending.eq_ignore_ascii_case("svg") {
        // Within an `<img>` it runs nothing; a browser must not keep that answer for anything else.
        answer.insert(header::VARY, HeaderValue::from_static("sec-fetch-dest"));
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if asked.get("sec-fetch-dest").is_some_and(|wanted| wanted == "image") {
            media_type = "image/svg+xml";
        }
    }
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(disposition) = HeaderValue::from_bytes(format!("filename=\"{name}\"").as_bytes()) {
        answer.insert(header::CONTENT_DISPOSITION, disposition);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn asked(headers: &[(&'static str, &str)]) -> (u16, String, HeaderMap) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::fs::write(&path, "0123456789").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(1_500)).unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let response = send(&path, "a\"b.png", &headers.collect()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 100).await.unwrap();
        (
            parts.status.as_u16(),
            String::from_utf8(body.to_vec()).unwrap(),
            parts.headers,
        )
    }

    #[tokio::test]
    async fn a_part_is_sent_where_one_is_asked_for() {
        let (status, body, headers) = asked(&[]).await;
        assert_eq!((status, body.as_str()), (200, "0123456789"));
        assert_eq!(headers["content-disposition"], "filename=\"a\\\"b.png\"");
        let etag = headers["etag"].to_str().unwrap().to_owned();
        for (range, wanted) in [
            ("bytes=0-0", "0"),
            ("bytes=2-4", "234"),
            ("bytes=7-", "789"),
            ("bytes=-3", "789"),
            ("bytes=-30", "0123456789"),
            ("bytes=8-99999999999", "89"),
        ] {
            let (status, body, headers) = asked(&[("range", range), ("if-range", &etag)]).await;
            assert_eq!((status, body.as_str()), (206, wanted), "{range}");
            assert_eq!(headers["content-length"], wanted.len().to_string());
        }
        assert_eq!(
            asked(&[("range", "bytes=2-4")]).await.2["content-range"],
            "bytes 2-4/10"
        );
        for all in [
            "bytes=5-2",
            "bytes=0-1,3-4",
            "bytes=-",
            "lines=1-2",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            assert_eq!(asked(&[("range", all)]).await.0, 200, "{all}");
        }
        for nothing in ["bytes=10-", "bytes=-0", "bytes=99999999999999999999999-"] {
            let (status, body, headers) = asked(&[("range", nothing)]).await;
            assert_eq!((status, body.as_str()), (416, ""), "{nothing}");
            assert_eq!(headers["content-range"], "bytes */10");
        }
        assert_eq!(asked(&[("range", "bytes=1-2"), ("if-range", "\"old\"")]).await.0, 200);
        let date = "Thu, 01 Jan 1970 00:00:01 GMT";
        assert_eq!(asked(&[("range", "bytes=1-2"), ("if-range", date)]).await.0, 206);
    }

    #[tokio::test]
    async fn bytes_that_are_here_are_sent_in_parts_too() {
        let content = Bytes::from_static(b"0123456789");
        let asked = async |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            send_bytes(&content, "a.txt", &headers).await
        };
        let part = asked("range", "bytes=2-4").await;
        assert_eq!(
            (part.status(), part.headers()["content-range"].to_str().unwrap()),
            (StatusCode::PARTIAL_CONTENT, "bytes 2-4/10")
        );
        let etag = part.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(to_bytes(part.into_body(), 100).await.unwrap(), "234");
        let whole = asked("accept", "*/*").await;
        assert_eq!(
            (whole.status(), whole.headers()["accept-ranges"].to_str().unwrap()),
            (StatusCode::OK, "bytes")
        );
        assert_eq!(to_bytes(whole.into_body(), 100).await.unwrap(), content);
        assert_eq!(
            asked("range", "bytes=10-").await.status(),
            StatusCode::RANGE_NOT_SATISFIABLE
        );
        assert_eq!(asked("if-none-match", &etag).await.status(), StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn what_the_client_has_is_not_sent() {
        let etag = asked(&[]).await.2["etag"].to_str().unwrap().to_owned();
        let date = "Thu, 01 Jan 1970 00:00:01 GMT";
        for known in [
            ("if-none-match", etag.as_str()),
            ("if-none-match", &format!("\"x\", W/{etag}")),
            ("if-none-match", "*"),
            ("if-modified-since", date),
        ] {
            assert_eq!(asked(&[known]).await.0, 304, "{known:?}");
        }
        assert_eq!(
            asked(&[("if-none-match", "\"x\""), ("if-modified-since", date)])
                .await
                .0,
            200
        );
    }

    #[test]
    fn a_drawing_is_shown_within_a_page_alone() {
        let shown = |headers: &HeaderMap| {
            let mut answer = HeaderMap::new();
            describe(&mut answer, "a.SVG", headers);
            (
                answer[header::CONTENT_TYPE].clone(),
                answer[header::CACHE_CONTROL].clone(),
            )
        };
        let image = HeaderMap::from_iter([("sec-fetch-dest".parse().unwrap(), HeaderValue::from_static("image"))]);
        let (bytes, drawing) = (
            HeaderValue::from_static("application/octet-stream"),
            HeaderValue::from_static("image/svg+xml"),
        );
        let no_store = HeaderValue::from_static("no-store");
        assert_eq!(shown(&HeaderMap::new()), (bytes, no_store.clone()));
        assert_eq!(shown(&image), (drawing, no_store));
    }
}
