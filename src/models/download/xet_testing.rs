//! A Hub and a Xet storage on a real socket: hands out tokens, says of which chunks the file is made, and serves them
//! from signed URLs. It can fail at each.
//!
//! Formats: <https://github.com/huggingface/hub-docs/blob/main/docs/xet/api.md> and, beside it, `xorb.md`.

use std::future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::models::download::part::hex;

/// Where the Hub has the file: `org/repo`, at this path.
pub(in super::super) const PATH: &str = "x.bin";
/// The file's hash.
pub(in super::super) const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// What the storage wants of those who ask it for the parts.
const CAS_TOKEN: &str = "cas-4711";
/// What the URLs of the parts are signed with.
pub(in super::super) const SIGNATURE: &str = "sig-0815";

/// Bytes of a chunk, as they are most often.
const CHUNK: usize = 64 * 1024;
/// Chunks of a part.
const CHUNKS: usize = 16;
/// Before each chunk: version, packed length, packing (0: none), length.
const CHUNK_HEADER: usize = 8;

/// What is done with a request instead of serving it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Fault {
    /// Answers this status.
    Status(u16),
    /// Never answers.
    Hang,
    /// Sends half of the part and ends the connection.
    Cut,
    /// Sends other bytes.
    Wrong,
    /// Sends half of the part and nothing more; tells [`Storage::gave_up`] when the other side closes.
    Hold,
}

/// Serves one file until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Storage {
    pub(in super::super) port: u16,
    pub(in super::super) content: Bytes,
    state: Arc<Inner>,
    gave_up: mpsc::UnboundedReceiver<()>,
}

#[derive(Debug)]
struct Inner {
    content: Bytes,
    port: u16,
    /// Where the Hub says that the storage is.
    cas: Mutex<String>,
    /// Faults for paths that begin so, and how often each still happens.
    faults: Mutex<Vec<(&'static str, Fault, usize)>>,
    /// The path of each request and its `Authorization`; a range of the whole file is put behind its path.
    came: Mutex<Vec<(String, Option<String>)>>,
    gave_up: mpsc::UnboundedSender<()>,
}

impl Storage {
    /// A storage with a file of this many bytes.
    pub(in super::super) async fn start(size: usize) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let content: Bytes = (0..size)
            .map(|index| (index * 31 + index / 997).to_le_bytes()[0])
            .collect();
        let (sender, gave_up) = mpsc::unbounded_channel();
        let state = Arc::new(Inner {
            content: content.clone(),
            port,
            cas: Mutex::new(format!("http://127.0.0.1:{port}/cas")),
            faults: Mutex::default(),
            came: Mutex::default(),
            gave_up: sender,
        });
        let router = Router::new().fallback(serve).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            port,
            content,
            state,
            gave_up,
        }
    }

    /// Lets the next `times` requests of paths that begin so fail.
    pub(in super::super) fn fail(&self, path: &'static str, fault: Fault, times: usize) {
        self.state.faults.lock().unwrap().push((path, fault, times));
    }

    /// Lets the Hub name another storage.
    pub(in super::super) fn storage_is_at(&self, url: &str) {
        url.clone_into(&mut self.state.cas.lock().unwrap());
    }

    /// The requests of paths that begin so: path and `Authorization`.
    pub(in super::super) fn came(&self, path: &str) -> Vec<(String, Option<String>)> {
        let came = self.state.came.lock().unwrap();
        came.iter().filter(|(at, _)| at.starts_with(path)).cloned().collect()
    }

    /// Waits until a connection that was held is closed from the other side.
    pub(in super::super) async fn gave_up(&mut self) {
        self.gave_up.recv().await.unwrap();
    }
}

async fn serve(State(state): State<Arc<Inner>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers();
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned());
    state.came.lock().unwrap().push((path.clone(), authorization.clone()));
    let fault = state.fault(&path);
    match fault {
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Hang) => future::pending().await,
        Some(Fault::Cut | Fault::Hold | Fault::Wrong) | None => {}
    }
    if path.starts_with("/api/models/org/repo/xet-read-token/") {
        let cas = state.cas.lock().unwrap().clone();
        return json!({"accessToken": CAS_TOKEN, "exp": 4_102_444_800_u64, "casUrl": cas})
            .to_string()
            .into_response();
    }
    if path == format!("/cas/v2/reconstructions/{HASH}") {
        if authorization != Some(format!("Bearer {CAS_TOKEN}")) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        return match range(headers, state.content.len()) {
            Some(range) => state.parts(range).to_string().into_response(),
            None => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        };
    }
    if path == format!("/org/repo/resolve/main/{PATH}") {
        return state.resolve();
    }
    if path == "/whole" {
        let range = range(headers, state.content.len()).unwrap();
        let told = format!("bytes {}-{}/{}", range.start, range.end - 1, state.content.len());
        state
            .came
            .lock()
            .unwrap()
            .push((format!("/whole {}", range.start), None));
        let headers = [(header::CONTENT_RANGE, told)];
        return (StatusCode::PARTIAL_CONTENT, headers, state.content.slice(range)).into_response();
    }
    let Some(part) = path.strip_prefix("/cdn/").and_then(|part| part.parse().ok()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if request.uri().query() != Some(SIGNATURE) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let part = state.part(part);
    let range = range(headers, part.len()).unwrap();
    let bytes = part.slice(range);
    let body = match fault {
        Some(Fault::Wrong) => {
            let mut wrong = bytes.to_vec();
            *wrong.last_mut().unwrap() ^= 1;
            Body::from(wrong)
        }
        Some(fault) => Body::from_stream(Half {
            bytes: Some(bytes.slice(..bytes.len() / 2)),
            hold: matches!(fault, Fault::Hold),
            gave_up: state.gave_up.clone(),
        }),
        None => Body::from(bytes),
    };
    (StatusCode::PARTIAL_CONTENT, body).into_response()
}

/// `Range: bytes=a-b`, as far as there are bytes; [`None`] when it begins behind the last.
fn range(headers: &HeaderMap, len: usize) -> Option<Range<usize>> {
    let range = headers.get(header::RANGE).unwrap().to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last.parse::<usize>().unwrap().saturating_add(1).min(len);
    (first < end).then_some(first..end)
}

impl Inner {
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (_, fault, times) = faults
            .iter_mut()
            .find(|(at, _, times)| path.starts_with(at) && *times > 0)?;
        *times -= 1;
        Some(*fault)
    }

    /// The Hub's answer about the file.
    fn resolve(&self) -> Response {
        let sha256 = hex(&Sha256::digest(&self.content));
        let told = [
            ("x-repo-commit", "0123abcd".to_owned()),
            ("x-linked-etag", format!("\"{sha256}\"")),
            ("x-linked-size", self.content.len().to_string()),
            ("x-xet-hash", HASH.to_owned()),
            // Another server than the Hub, as far as anybody can tell.
            ("location", format!("http://localhost:{}/whole?{SIGNATURE}", self.port)),
        ];
        (StatusCode::FOUND, told).into_response()
    }

    /// The answer about the parts that hold a range.
    fn parts(&self, range: Range<usize>) -> Value {
        let mut terms = Vec::new();
        let mut fetch = serde_json::Map::new();
        let per_part = CHUNK * CHUNKS;
        for part in range.start / per_part..range.end.div_ceil(per_part) {
            let begin = part * per_part;
            let first = range.start.saturating_sub(begin) / CHUNK;
            let end = (range.end - begin).min(per_part).div_ceil(CHUNK);
            let len = (begin + end * CHUNK).min(self.content.len()) - begin - first * CHUNK;
            let from = first * (CHUNK + CHUNK_HEADER);
            let to = from + len + (end - first) * CHUNK_HEADER;
            let hash = format!("{part:064x}");
            let chunks = json!({"start": first, "end": end});
            terms.push(json!({"hash": hash, "unpacked_length": len, "range": chunks}));
            let url = format!("http://127.0.0.1:{}/cdn/{part}?{SIGNATURE}", self.port);
            let ranges = json!([{"chunks": chunks, "bytes": {"start": from, "end": to - 1}}]);
            fetch.insert(hash, json!([{"url": url, "ranges": ranges}]));
        }
        json!({"offset_into_first_range": range.start % CHUNK, "terms": terms, "xorbs": fetch})
    }

    /// A part as it is stored.
    fn part(&self, part: usize) -> Bytes {
        let begin = part * CHUNK * CHUNKS;
        let end = (begin + CHUNK * CHUNKS).min(self.content.len());
        let mut stored = Vec::new();
        for chunk in self.content[begin..end].chunks(CHUNK) {
            let len = u32::try_from(chunk.len()).unwrap().to_le_bytes();
            stored.push(0);
            stored.extend_from_slice(&len[..3]);
            stored.push(0);
            stored.extend_from_slice(&len[..3]);
            stored.extend_from_slice(chunk);
        }
        stored.into()
    }
}

/// Half of a part, and then an error or nothing.
struct Half {
    bytes: Option<Bytes>,
    hold: bool,
    gave_up: mpsc::UnboundedSender<()>,
}

impl Stream for Half {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None if self.hold => Poll::Pending,
            None => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if self.hold {
            // Nobody listens when the test is over.
            let _ = self.gave_up.send(());
        }
    }
}
