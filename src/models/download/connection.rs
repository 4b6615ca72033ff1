//! One connection that ranges are read from, without anything between the socket and our buffer.
//!
//! A body costs `reqwest` two hops between tasks and an allocation for every few kilobytes; at a gigabyte a second that is
//! half of the work. `hyper` in place of what is here was tried: 1.70 to 1.90 s of processor time for a gigabyte against
//! 1.63 to 1.80, and 36 to 70 MB of memory against 33. Only what ranges need is spoken here: GET, and an answer whose
//! `Content-Length` is told. Anything else is for `reqwest`.

use std::io::{self, ErrorKind};

use bytes::BufMut as _;
use reqwest::StatusCode;
use reqwest::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::{Position, Url};

use crate::net::dial::Stream;

/// The longest head of an answer, in bytes; hyper's limit is of that order.
const LONGEST_HEAD: usize = 64 << 10;

/// What is read at once of a head, in bytes.
const HEAD: usize = 4 << 10;

/// The most headers in an answer.
const HEADERS: usize = 128;

/// A connection between two requests, or within an answer.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What was read beyond the head.
    beyond: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The length of the body; [`None`]: it is told in a way that is not spoken here.
    pub(super) length: Option<u64>,
    /// Whether the connection may be used again.
    pub(super) keep: bool,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            beyond: Vec::new(),
        }
    }

    /// Sends a request and reads the head of its answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> io::Result<Head> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        loop {
            if let Some((head, length)) = parse(&self.beyond)? {
                self.beyond.drain(..length);
                // Something like "100 Continue", before the answer itself.
                if head.status.is_informational() {
                    continue;
                }
                return Ok(head);
            }
            if self.beyond.len() >= LONGEST_HEAD {
                return Err(invalid("the head of the answer is too long"));
            }
            let mut more = (&mut self.beyond).limit(HEAD);
            if self.stream.read_buf(&mut more).await? == 0 {
                return Err(closed());
            }
        }
    }

    /// Reads the next bytes of a body, `most` of them or fewer, to the end of `buffer`.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        if !self.beyond.is_empty() {
            let count = self.beyond.len().min(most);
            buffer.extend(self.beyond.drain(..count));
            return Ok(count);
        }
        match self.stream.read_buf(&mut buffer.limit(most)).await? {
            0 => Err(closed()),
            count => Ok(count),
        }
    }

    /// Whether there is something that nobody asked for.
    pub(super) fn has_more(&self) -> bool {
        !self.beyond.is_empty()
    }
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed before the end")
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// A GET request for a URL, as it is sent.
pub(super) fn request(url: &Url, headers: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(b"GET ");
    text.extend_from_slice(url[Position::BeforePath..Position::AfterQuery].as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    text.extend_from_slice(url[Position::BeforeHost..Position::AfterPort].as_bytes());
    for (name, value) in headers {
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
    }
    text.extend_from_slice(b"\r\n\r\n");
    text
}

/// The head at the begin of these bytes and its length; [`None`] while it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = answer
        .parse(bytes)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?
    else {
        return Ok(None);
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| invalid("the answer has no status"))?;
    let is_new = answer.version == Some(1);
    let mut map = HeaderMap::new();
    for header in answer.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    let head = Head {
        status,
        length: body_length(&map)?,
        keep: is_new && !says_close(&map),
        headers: map,
    };
    Ok(Some((head, length)))
}

/// `Content-Length`, if that is what ends the body. Several that differ are an attack or a mistake (RFC 9112, section 6.3).
fn body_length(headers: &HeaderMap) -> io::Result<Option<u64>> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Ok(None);
    }
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let told = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let told = told.ok_or_else(|| invalid("the length of the answer is no number"))?;
        if length.replace(told).is_some_and(|other| other != told) {
            return Err(invalid("the answer has two lengths"));
        }
    }
    Ok(length)
}

fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_and_path() {
        let url = "http://127.0.0.1:8080/a%20b?c=d#e".parse().unwrap();
        let headers = HeaderMap::from_iter([(reqwest::header::RANGE, HeaderValue::from_static("bytes=0-9"))]);
        let text = String::from_utf8(request(&url, &headers)).unwrap();
        assert_eq!(
            text,
            "GET /a%20b?c=d HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nrange: bytes=0-9\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn an_answer_comes_in_pieces() {
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 1..answer.len() {
            let (ours, mut theirs) = tokio::io::duplex(16);
            let mut connection = Connection::new(Box::new(ours));
            let server = async {
                theirs.write_all(&answer[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                theirs.write_all(&answer[cut..]).await.unwrap();
                drop(theirs);
            };
            let client = async {
                let head = connection.ask(b"").await.unwrap();
                assert_eq!((head.status.as_u16(), head.length, head.keep), (206, Some(5), true));
                let mut body = Vec::new();
                while body.len() < 5 {
                    let most = 5 - body.len();
                    connection.read(&mut body, most).await.unwrap();
                }
                assert_eq!(body, b"hello");
                assert!(connection.read(&mut body, 1).await.is_err());
            };
            tokio::join!(server, client);
        }
    }

    #[test]
    fn lengths_and_the_end_of_a_connection() {
        let head = |text: &str| parse(format!("HTTP/1.1 200 OK\r\n{text}\r\n\r\n").as_bytes());
        let read = |text| head(text).unwrap().map(|(head, _)| (head.length, head.keep));
        assert_eq!(read("Content-Length: 7"), Some((Some(7), true)));
        assert_eq!(read("Content-Length: 7\r\nConnection: Close"), Some((Some(7), false)));
        assert_eq!(read("Transfer-Encoding: chunked"), Some((None, true)));
        assert!(head("Content-Length: 7\r\nContent-Length: 8").is_err());
        assert!(head("Content-Length: many").is_err());
        let old = parse(b"HTTP/1.0 200 OK\r\n\r\n").unwrap().unwrap().0;
        assert_eq!((old.length, old.keep), (None, false));
        assert!(parse(b"HTTP/1.1 20").unwrap().is_none());
        assert!(parse(b"<!doctype html>\r\n\r\n").is_err());
    }
}
