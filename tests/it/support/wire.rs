//! HTTP/1.1 by hand: what a server may do wrong lies below what a server library lets one do.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The first line of a request and its headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Head {
    /// A header's value; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// A value of the query; empty when it is not there.
    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The length of the body, in bytes; [`None`] when a body comes of which it is not said.
    pub(crate) fn length(&self) -> Option<usize> {
        match self.headers.get("content-length") {
            Some(length) => length.parse().ok(),
            None if self.headers.contains_key("transfer-encoding") => None,
            None => Some(0),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines.filter_map(|line| line.split_once(':'));
        Some(Self {
            method,
            path: path.to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
        })
    }
}

/// A client's connection; it may send one request after another.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What was read and belongs to nothing yet.
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The head of the next request; [`None`] when the client is gone.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).take(end).collect();
                return Head::parse(&String::from_utf8_lossy(&head));
            }
            self.more().await.ok()?;
        }
    }

    /// The body that belongs to the head that was read.
    pub(crate) async fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        self.read.reserve(length.saturating_sub(self.read.len()));
        while self.read.len() < length {
            self.more().await?;
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    async fn more(&mut self) -> io::Result<()> {
        self.read.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Resolves when the client has closed the connection or its half of it.
    pub(crate) async fn closed(&self) {
        match self.stream.peek(&mut [0]).await {
            Ok(0) | Err(_) => {}
            // It sends on: that is for later.
            Ok(_) => std::future::pending().await,
        }
    }

    /// Whether the client has closed the connection or its half of it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed().now_or_never().is_some()
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends the connection after what was written.
    pub(crate) async fn end(mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Answers whole.
    pub(crate) async fn answer(&mut self, status: u16, content_type: &str, body: &[u8]) -> io::Result<()> {
        let answer = serialised(status, content_type, body);
        self.stream.write_all(&answer).await?;
        self.stream.flush().await
    }

    /// Answers in five pieces with a pause before each.
    pub(crate) async fn answer_slowly(
        &mut self,
        status: u16,
        content_type: &str,
        body: &[u8],
        pause: Duration,
    ) -> io::Result<()> {
        let answer = serialised(status, content_type, body);
        for piece in answer.chunks(answer.len().div_ceil(5)) {
            tokio::time::sleep(pause).await;
            self.stream.write_all(piece).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }

    /// Answers with all but the last bytes, and closes the connection.
    pub(crate) async fn hang_up_in(mut self, status: u16, content_type: &str, body: &[u8]) {
        let answer = serialised(status, content_type, body);
        let _ = self.stream.write_all(&answer[..answer.len() - 5]).await;
        let _ = self.stream.shutdown().await;
    }

    /// Refuses a body before it was read; what comes of it is thrown away, so that the answer is not lost.
    pub(crate) async fn refuse(mut self, status: u16, length: usize) {
        let body = br#"{"error":"too large"}"#;
        if self.answer(status, "application/json", body).await.is_ok() && self.stream.shutdown().await.is_ok() {
            let mut left = length.saturating_sub(self.read.len());
            while left > 0 {
                self.read.clear();
                if self.more().await.is_err() {
                    return;
                }
                left = left.saturating_sub(self.read.len());
            }
        }
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}

fn serialised(status: u16, content_type: &str, body: &[u8]) -> Vec<u8> {
    if status == 204 {
        return b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    }
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}
