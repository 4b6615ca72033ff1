//! A client as cheap as can be: it reads each answer whole, looks at its status and length, and keeps as much of it as is
//! asked for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;

/// How much is read at once, in bytes.
const ROOM: usize = 256 * 1024;
/// The same for one of many connections.
const SMALL_ROOM: usize = 4 * 1024;

/// A connection that is kept alive. Any answer but 200 is a panic.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
    length: usize,
    /// The most bytes of a body that are kept.
    pub(crate) keep: usize,
}

/// How the end of a body is known.
enum End {
    Length(usize),
    Chunks,
}

impl Connection {
    pub(crate) fn to(address: &str) -> Self {
        Self::with_room(address, ROOM)
    }

    /// One of many.
    pub(crate) fn small(address: &str) -> Self {
        Self::with_room(address, SMALL_ROOM)
    }

    fn with_room(address: &str, room: usize) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream: BufReader::with_capacity(room, stream),
            line: String::new(),
            body: Vec::new(),
            length: 0,
            keep: usize::MAX,
        }
    }

    /// Sends one request and reads the answer; gives what is kept of its body.
    pub(crate) fn ask(&mut self, request: &[u8]) -> &[u8] {
        match self.begin(request) {
            End::Length(length) => self.take(length),
            End::Chunks => while self.chunk() {},
        }
        &self.body
    }

    /// The same for a small JSON body each way.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Value {
        let answer = self.ask(&request(method, path, "application/json", body.as_bytes()));
        serde_json::from_slice(answer).expect("JSON")
    }

    /// Sends one request whose answer comes in chunks.
    pub(crate) fn stream(&mut self, request: &[u8]) {
        assert!(matches!(self.begin(request), End::Chunks), "the answer is no stream");
    }

    /// The next chunk of a stream; [`None`] after the last one.
    pub(crate) fn next_chunk(&mut self) -> Option<&[u8]> {
        self.body.clear();
        if self.chunk() { Some(&self.body) } else { None }
    }

    /// Reads a stream until a chunk is what is waited for.
    pub(crate) fn until(&mut self, is_it: impl Fn(&[u8]) -> bool) {
        while !is_it(self.next_chunk().expect("the stream ended")) {}
    }

    /// What is kept of the last answer's body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The length of the last answer's body, kept or not.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn begin(&mut self, request: &[u8]) -> End {
        self.body.clear();
        self.length = 0;
        self.stream.get_mut().write_all(request).expect("it takes the request");
        self.line();
        let status = self.line.clone();
        let mut end = End::Length(0);
        loop {
            self.line();
            if self.line.is_empty() {
                break;
            }
            self.line.make_ascii_lowercase();
            if let Some(length) = self.line.strip_prefix("content-length: ") {
                end = End::Length(length.parse().expect("a length"));
            } else if self.line == "transfer-encoding: chunked" {
                end = End::Chunks;
            }
        }
        if !status.starts_with("HTTP/1.1 20") {
            if let End::Length(length) = end {
                self.take(length);
            }
            panic!("{status}: {}", String::from_utf8_lossy(&self.body));
        }
        end
    }

    /// Reads one line, without its end.
    fn line(&mut self) {
        self.line.clear();
        let read = self.stream.read_line(&mut self.line).expect("an answer");
        assert!(read > 0, "the connection was closed");
        self.line.truncate(self.line.trim_end().len());
    }

    /// Reads one chunk; false after the last one.
    fn chunk(&mut self) -> bool {
        self.line();
        let length = usize::from_str_radix(&self.line, 16).expect("the length of a chunk");
        self.take(length);
        self.line();
        length > 0
    }

    /// Reads so many bytes of the body.
    fn take(&mut self, mut left: usize) {
        while left > 0 {
            let piece = self.stream.fill_buf().expect("the rest of the answer");
            assert!(!piece.is_empty(), "the connection was closed");
            let piece = &piece[..piece.len().min(left)];
            let kept = self.keep.saturating_sub(self.body.len()).min(piece.len());
            self.body.extend_from_slice(&piece[..kept]);
            let read = piece.len();
            self.stream.consume(read);
            self.length += read;
            left -= read;
        }
    }
}

/// A whole request.
pub(crate) fn request(method: &str, path: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}
