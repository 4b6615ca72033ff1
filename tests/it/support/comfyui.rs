//! A client of ComfyUI's own API. It speaks to the worker and to ComfyUI itself alike, so that the one can be held against the
//! other.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{PATIENCE, text, until};

/// An answer, whatever it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    /// JSON where it is JSON, else the text.
    pub(crate) body: Value,
}

impl Said {
    /// The body of an answer that says yes.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:#}", self.body);
        self.body
    }
}

/// A client, by the address that it asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    key: Option<String>,
    from: Option<Ipv4Addr>,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            key: None,
            from: None,
            http: http(None),
        }
    }

    /// The same with a key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// The same from another address of this machine: somebody else, for a server that knows its clients by that.
    pub(crate) fn from(&self, address: [u8; 4]) -> Self {
        let from = Some(Ipv4Addr::from(address));
        Self {
            from,
            http: http(from),
            ..self.clone()
        }
    }

    /// A request, to be changed further.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request; an error is that of a process that was killed.
    pub(crate) async fn try_said(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Said> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let content_type = answer.headers().get("content-type");
        let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = answer.bytes().await?;
        let body = parsed(&String::from_utf8_lossy(&bytes));
        Ok(Said {
            status,
            content_type,
            body,
        })
    }

    pub(crate) async fn said(&self, request: reqwest::RequestBuilder) -> Said {
        self.try_said(request).await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Said {
        self.said(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Said {
        self.said(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a prompt with more beside it; gives its id.
    pub(crate) async fn prompt_with(&self, graph: &Value, more: &Value) -> String {
        let mut body = json!({ "prompt": graph });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let said = self.post("/prompt", &body).await;
        text(&said.ok(), "prompt_id").to_owned()
    }

    /// Sends a prompt whose events go to `client_id`; gives its id.
    pub(crate) async fn prompt(&self, graph: &Value, client_id: &str) -> String {
        self.prompt_with(graph, &json!({ "client_id": client_id })).await
    }

    /// What the history holds of a prompt; null when it is not there.
    pub(crate) async fn entry(&self, id: &str) -> Value {
        let history = self.get(&format!("/history/{id}")).await.ok();
        history.get(id).cloned().unwrap_or_default()
    }

    /// What the history holds of a prompt once it is there.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let mut entry = Value::Null;
        until("the prompt is in the history", async || {
            entry = self.entry(id).await;
            !entry.is_null()
        })
        .await;
        entry
    }

    /// The ids of the prompts that run, and of those that wait.
    pub(crate) async fn queue(&self) -> (Vec<String>, Vec<String>) {
        let queue = self.get("/queue").await.ok();
        let ids = |name: &str| {
            let prompts = queue[name].as_array().expect("a list").iter();
            prompts
                .map(|prompt| prompt[1].as_str().expect("an id").to_owned())
                .collect()
        };
        (ids("queue_running"), ids("queue_pending"))
    }

    /// Waits until a prompt runs.
    pub(crate) async fn runs(&self, id: &str) {
        until("the prompt runs", async || {
            self.queue().await.0.contains(&id.to_owned())
        })
        .await;
    }

    /// Opens a websocket as it is asked for, and hears nothing yet.
    pub(crate) async fn try_socket(&self, query: &str) -> Result<Socket, Box<tungstenite::Error>> {
        let address = self.base.strip_prefix("http://").expect("plain HTTP");
        let mut request = format!("ws://{address}/ws{query}").into_client_request()?;
        if let Some(key) = &self.key {
            let value = format!("Bearer {key}").parse().expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).expect("an address of this machine");
        }
        let stream = socket.connect(address.parse().expect("an address")).await;
        let stream = stream.map_err(tungstenite::Error::Io)?;
        let (stream, _) = tokio_tungstenite::client_async(request, MaybeTlsStream::Plain(stream)).await?;
        Ok(Socket { stream })
    }

    /// Opens a websocket; gives its first message too.
    pub(crate) async fn socket(&self, client_id: &str) -> (Socket, Value) {
        let opened = self.try_socket(&format!("?clientId={client_id}")).await;
        let mut socket = opened.expect("a websocket");
        let first = socket.next().await.expect("its first message");
        assert_eq!(text(&first, "type"), "status", "{first:#}");
        (socket, first)
    }
}

/// What is JSON, or nearly: the test nodes have ranges that no JSON has, and Python writes them all the same.
fn parsed(text: &str) -> Value {
    let plain = || {
        let text = text.replace("-Infinity", "null").replace("Infinity", "null");
        serde_json::from_str(&text.replace("NaN", "null"))
    };
    let json = serde_json::from_str(text).or_else(|_| plain());
    json.unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn http(from: Option<Ipv4Addr>) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    let client = client.local_address(from.map(Into::into));
    client.timeout(PATIENCE).build().expect("a client")
}

/// An open websocket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Sends JSON.
    pub(crate) async fn send(&mut self, message: &Value) {
        let sent = self.stream.send(Message::text(message.to_string())).await;
        sent.expect("it is open");
    }

    /// The next message: JSON as it is, a binary one as [`described`]; [`None`] when it is closed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await;
            match message.expect("a message in time")?.ok()? {
                Message::Text(text) => {
                    let parsed = serde_json::from_str(&text);
                    return Some(parsed.unwrap_or_else(|error| panic!("no JSON ({error}): {text}")));
                }
                Message::Binary(bytes) => return Some(described(&bytes)),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// All messages up to the one that is waited for.
    pub(crate) async fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut heard = Vec::new();
        loop {
            let Some(message) = self.next().await else {
                panic!("closed before it came: {heard:#?}");
            };
            let is_last = is_it(&message);
            heard.push(message);
            if is_last {
                return heard;
            }
        }
    }

    /// All messages up to the one that says that a prompt is over.
    pub(crate) async fn over(&mut self, id: &str) -> Vec<Value> {
        self.until(|message| is_over(message) && message["data"]["prompt_id"] == id)
            .await
    }
    pub(crate) async fn close(mut self) {
        let _ = self.stream.close(None).await;
        while let Some(Ok(_)) = self.stream.next().await {}
    }
}

/// Whether a message says that a prompt is over.
pub(crate) fn is_over(message: &Value) -> bool {
    message["type"] == "executing" && message["data"]["node"].is_null()
}

/// A binary message: which one it is, what is said of the picture, and the picture's kind.
fn described(bytes: &[u8]) -> Value {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes)
    };
    let kind = number(0).expect("which one it is");
    let (metadata, rest) = match kind {
        3 | 4 => {
            let length = number(4).expect("a length") as usize;
            let (metadata, rest) = bytes[8..].split_at(length);
            let metadata = String::from_utf8(metadata.to_vec()).expect("UTF-8");
            (serde_json::from_str(&metadata).unwrap_or(json!(metadata)), rest)
        }
        _ => (json!(number(4)), &bytes[8.min(bytes.len())..]),
    };
    let format = image::guess_format(rest).ok().map(|format| format!("{format:?}"));
    json!({"binary": kind, "metadata": metadata, "picture": format})
}

/// A picture of one colour, saved: nothing is quicker. No two of the same colour, or ComfyUI gives one file for both.
pub(crate) fn empty(color: u32, prefix: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

/// What is different in each run and on each server is made the same: ids become numbers in the order in which they are seen,
/// times and counters nothing, and the word by which a server's run is told from others `SALT`.
#[derive(Debug)]
pub(crate) struct Alike<'a> {
    salt: &'a str,
    ids: BTreeMap<String, String>,
}

impl<'a> Alike<'a> {
    pub(crate) fn new(salt: &'a str) -> Self {
        Self {
            salt,
            ids: BTreeMap::new(),
        }
    }

    pub(crate) fn made(&mut self, value: &Value) -> Value {
        const NUMBERS: [&str; 9] = [
            "timestamp",
            "create_time",
            "execution_start_time",
            "execution_end_time",
            "number",
            "priority",
            "color",
            "seed",
            "total",
        ];
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => {
                // A prompt: its number, its id, its graph and so on.
                let is_prompt = items.len() >= 4 && items[0].is_number() && items[2].is_object();
                let items = items.iter().enumerate();
                let made = items.map(|(at, item)| {
                    if is_prompt && at == 0 {
                        json!("#")
                    } else {
                        self.made(item)
                    }
                });
                Value::Array(made.collect())
            }
            Value::Object(fields) => {
                let made = fields.iter().map(|(name, value)| {
                    let is_number = value.is_number() && NUMBERS.contains(&name.as_str());
                    let value = if is_number { json!("#") } else { self.made(value) };
                    (self.text(name), value)
                });
                Value::Object(made.collect())
            }
            other => other.clone(),
        }
    }

    fn text(&mut self, text: &str) -> String {
        let text = text.replace(self.salt, "SALT");
        if uuid::Uuid::try_parse(&text).is_ok() {
            let next = format!("id {}", self.ids.len() + 1);
            return self.ids.entry(text).or_insert(next).clone();
        }
        // The counter of a file's name, and the random letters of PreviewImage's.
        let is_file = text.ends_with("_.png");
        if is_file {
            let stem = text.trim_end_matches("_.png");
            let stem = stem.trim_end_matches(|letter: char| letter.is_ascii_digit());
            let stem = stem.split("_temp_").next().unwrap_or_default();
            return format!("{stem}#_.png");
        }
        text
    }
}

/// Where two values are not the same: the place, and both.
pub(crate) fn differences(place: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let place = format!("{place}/{name}");
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => differences(&place, a, b, found),
                    (Some(a), None) => found.push(format!("{place}: ComfyUI has {a}, we have nothing")),
                    (None, b) => found.push(format!("{place}: we have {}", b.cloned().unwrap_or_default())),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{place}/{at}"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{place}: ComfyUI has {a}, we have {b}")),
    }
}
