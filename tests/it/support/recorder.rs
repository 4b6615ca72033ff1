//! A network between a client and a worker that writes down what both say. Not a byte is changed on its way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Forwards connections to an address. It ends when it is dropped; connections that are open then do not.
pub(crate) struct Recorder {
    pub(crate) url: String,
    connections: Arc<Mutex<Vec<[Side; 2]>>>,
    listening: AbortHandle,
}

/// What one side of a connection said.
#[derive(Default, Clone)]
struct Side(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    /// The moments, by a clock that counts all that comes anywhere, with how much had come before each.
    moments: Vec<(usize, u64)>,
}

/// A request and its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) target: String,
    /// Headers by their names in lower case.
    pub(crate) asked: BTreeMap<String, String>,
    pub(crate) status: u16,
    pub(crate) answered: BTreeMap<String, String>,
    pub(crate) answer: Vec<u8>,
    /// Whether the answer was heard to its end.
    pub(crate) is_whole: bool,
    asked_at: u64,
    answered_at: u64,
}

impl Recorder {
    pub(crate) async fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let target = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let connections: Arc<Mutex<Vec<[Side; 2]>>> = Arc::default();
        let (kept, clock) = (Arc::clone(&connections), Arc::new(AtomicU64::new(0)));
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let sides: [Side; 2] = Default::default();
                kept.lock().expect("no panic").push(sides.clone());
                tokio::spawn(forward(client, target.clone(), sides, Arc::clone(&clock)));
            }
        });
        Self {
            url,
            connections,
            listening: listening.abort_handle(),
        }
    }

    /// What was asked so far, in that order.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        let connections = self.connections.lock().expect("no panic");
        let mut all: Vec<Exchange> = connections.iter().flat_map(exchanges).collect();
        all.sort_by_key(|exchange| exchange.asked_at);
        all
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Exchange {
    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The answer's JSON; null where it has none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.answer).unwrap_or_default()
    }

    /// What a script reads of it.
    pub(crate) fn told(&self) -> Value {
        let kind = self.answered.get("content-type").map_or("", String::as_str);
        let is_text = kind.starts_with("application/json") || kind.starts_with("text/");
        json!({
            "method": self.method,
            "target": self.target,
            "status": self.status,
            "headers": self.answered,
            "length": self.answer.len(),
            "text": is_text.then(|| String::from_utf8_lossy(&self.answer)),
            "is_whole": self.is_whole,
            "asked_at": self.asked_at,
            "answered_at": self.answered_at,
        })
    }
}

async fn forward(client: TcpStream, target: String, [asked, answered]: [Side; 2], clock: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(
        copy(from_client, to_server, &asked, &clock),
        copy(from_server, to_client, &answered, &clock)
    );
}

/// Carries one direction to its end, and tells the other side of it.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, side: &Side, clock: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        {
            let mut said = side.0.lock().expect("no panic");
            let moment = (said.bytes.len(), clock.fetch_add(1, Ordering::Relaxed));
            said.moments.push(moment);
            said.bytes.extend_from_slice(&buffer[..length]);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

impl Said {
    /// When the byte at a place came.
    fn moment(&self, place: usize) -> u64 {
        let before = self.moments.partition_point(|(start, _)| *start <= place);
        before.checked_sub(1).map_or(0, |at| self.moments[at].1)
    }
}

/// What a connection carried. Answers follow in the order of their requests.
fn exchanges([asked, answered]: &[Side; 2]) -> Vec<Exchange> {
    let (asked, answered) = (asked.0.lock().expect("no panic"), answered.0.lock().expect("no panic"));
    let (mut question_at, mut answer_at) = (0, 0);
    let mut all = Vec::new();
    while let Some(question) = Message::read(&asked.bytes[question_at..], Some(0)) {
        let mut first = question.first.split(' ').map(str::to_owned);
        let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let bodiless = (method == "HEAD").then_some(0);
        let mut answer = Message::read(&answered.bytes[answer_at..], bodiless);
        // A server may say that it waits for the body.
        while let Some(interim) = answer.take_if(|answer| answer.status() < 200) {
            answer_at += interim.length;
            answer = Message::read(&answered.bytes[answer_at..], bodiless);
        }
        let Some(answer) = answer else { break };
        all.push(Exchange {
            method,
            target,
            asked_at: asked.moment(question_at),
            asked: question.headers,
            status: answer.status(),
            answered_at: answered.moment(answer_at),
            is_whole: answer.is_whole,
            answered: answer.headers,
            answer: answer.body,
        });
        question_at += question.length;
        answer_at += answer.length;
    }
    all
}

/// A request or an answer.
struct Message {
    first: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    is_whole: bool,
    /// All of it on the wire.
    length: usize,
}

impl Message {
    /// Reads the message at the start of what came. `else_long` is the length of a body of which nothing is said; [`None`]
    /// is one to the end of the connection.
    fn read(bytes: &[u8], else_long: Option<usize>) -> Option<Self> {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..head]);
        let (first, headers) = text.split_once("\r\n").unwrap_or((&text, ""));
        let headers = headers.split("\r\n").filter_map(|line| line.split_once(':'));
        let headers: BTreeMap<String, String> = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &bytes[head + 4..];
        let is_answer = first.starts_with("HTTP/");
        let status = first.split(' ').nth(1).unwrap_or_default();
        let is_empty =
            is_answer && (else_long == Some(0) || status.starts_with('1') || status == "204" || status == "304");
        let (body, is_whole, length) = if is_empty {
            (Vec::new(), true, 0)
        } else if headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"))
        {
            unchunked(rest)
        } else {
            let said = headers.get("content-length").and_then(|length| length.parse().ok());
            let length: usize = said.or(else_long).unwrap_or(rest.len());
            let here = length.min(rest.len());
            (rest[..here].to_vec(), here == length, here)
        };
        Some(Self {
            first: first.to_owned(),
            headers,
            body,
            is_whole,
            length: head + 4 + length,
        })
    }

    fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_default()
    }
}

/// A body in chunks: what is in them, whether the last one is there, and how long it was on the wire.
fn unchunked(bytes: &[u8]) -> (Vec<u8>, bool, usize) {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return (body, false, bytes.len());
        };
        let size = String::from_utf8_lossy(&bytes[at..at + line]);
        let size = size
            .split(';')
            .next()
            .and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let start = at + line + 2;
        let end = start + size.expect("the size of a chunk");
        if bytes.len() < end + 2 {
            body.extend_from_slice(&bytes[start.min(bytes.len())..end.min(bytes.len())]);
            return (body, false, bytes.len());
        }
        body.extend_from_slice(&bytes[start..end]);
        at = end + 2;
        if end == start {
            return (body, true, at);
        }
    }
}
