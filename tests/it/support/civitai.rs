//! Civitai: its REST API and its downloads, which lead to a signed address of another host; each on a real socket.
//!
//! Paths, fields and statuses are those of Civitai's documentation of its REST API.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::wire::{Connection, Head};

/// The key of an account that may have everything.
pub(crate) const KEY: &str = "civitai-KEY-OF-THE-TESTS";
/// What is written to a signed address.
const SIGNATURE: &str = "X-Amz-Signature=4711";

/// How the signed host sends a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sends {
    /// As it is asked for.
    Well,
    /// In chunks without end: after the file come zeros.
    Endless,
}

/// A version of a model with one file.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) model: u64,
    pub(crate) base: &'static str,
    pub(crate) format: &'static str,
    pub(crate) content: Vec<u8>,
    /// What the API says of the content; [`None`]: nothing.
    pub(crate) sha256: Option<String>,
    /// Whether it is for those alone who have [`KEY`].
    pub(crate) early: bool,
    pub(crate) sends: Sends,
}

impl Version {
    /// A good one for everybody.
    pub(crate) fn good(content: &[u8]) -> Self {
        Self {
            model: 500,
            base: "Qwen",
            format: "SafeTensor",
            content: content.to_vec(),
            sha256: Some(hash(content)),
            early: false,
            sends: Sends::Well,
        }
    }
}

/// The SHA-256 of a file as the API has it: in upper case.
fn hash(content: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether it came to the host of signed addresses.
    pub(crate) signed: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: String,
    /// `Authorization`, without the word `Bearer`.
    pub(crate) key: String,
}

/// The servers. They end when it is dropped.
pub(crate) struct Civitai {
    pub(crate) url: Url,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    signed: SocketAddr,
    versions: Mutex<BTreeMap<u64, Version>>,
    asked: Mutex<Vec<Asked>>,
}

impl Civitai {
    pub(crate) async fn start() -> Self {
        let own = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let signed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = own.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            signed: signed.local_addr().expect("an address"),
            versions: Mutex::default(),
            asked: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        for (listener, is_signed) in [(own, false), (signed, true)] {
            let shared = Arc::clone(&shared);
            serving.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move { shared.serve(Connection::new(stream), is_signed).await });
                }
            });
        }
        Self {
            url: format!("http://{address}").parse().expect("a URL"),
            shared,
            _serving: serving,
        }
    }

    /// Adds a version, or puts another in its place.
    pub(crate) fn put(&self, id: u64, version: Version) {
        self.shared.versions.lock().expect("no panic").insert(id, version);
    }

    /// Every request in the order in which they came.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").clone()
    }

    /// The requests for a version's file, at the host of signed addresses.
    pub(crate) fn fetched(&self, id: u64) -> Vec<Asked> {
        let path = format!("/signed/{id}");
        let asked = self.asked().into_iter();
        asked.filter(|asked| asked.signed && asked.path == path).collect()
    }
}

impl Shared {
    async fn serve(&self, mut connection: Connection, is_signed: bool) {
        while let Some(head) = connection.head().await {
            self.asked.lock().expect("no panic").push(Asked {
                signed: is_signed,
                method: head.method.clone(),
                path: head.path.clone(),
                range: head.header("range").to_owned(),
                key: head.header("authorization").trim_start_matches("Bearer ").to_owned(),
            });
            let written = if is_signed {
                self.file(&mut connection, &head).await
            } else {
                self.api(&mut connection, &head).await
            };
            if written.is_err() {
                return;
            }
        }
    }

    fn version(&self, id: &str) -> Option<(u64, Version)> {
        let id = id.parse().ok()?;
        Some((id, self.versions.lock().expect("no panic").get(&id)?.clone()))
    }

    async fn api(&self, connection: &mut Connection, head: &Head) -> std::io::Result<()> {
        let parts: Vec<&str> = head.path.trim_start_matches('/').split('/').collect();
        let key = head.header("authorization").trim_start_matches("Bearer ");
        match parts[..] {
            ["api", "v1", "models", model] => {
                let versions = self.versions.lock().expect("no panic").clone();
                let of_model = versions.iter().rev();
                let of_model = of_model.filter(|(_, version)| version.model.to_string() == model);
                let ids: Vec<Value> = of_model.map(|(id, _)| json!({ "id": id })).collect();
                say(
                    connection,
                    &json!({"id": model.parse::<u64>().ok(), "modelVersions": ids}),
                )
                .await
            }
            ["api", "v1", "model-versions", id] => match self.version(id) {
                Some((id, version)) => say(connection, &description(id, &version)).await,
                None => {
                    connection
                        .answer(404, "application/json", br#"{"error":"no such"}"#)
                        .await
                }
            },
            ["api", "download", "models", id] => match self.version(id) {
                Some((_, version)) if version.early && key != KEY => {
                    let page = b"<!doctype html><title>Sign in to Civitai</title>";
                    let page = if head.method == "HEAD" { &b""[..] } else { page };
                    connection.answer(401, "text/html; charset=utf-8", page).await
                }
                Some((id, _)) => {
                    let to = format!("http://{}/signed/{id}?{SIGNATURE}", self.signed);
                    let answer =
                        format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
                    connection.write(answer.as_bytes()).await
                }
                None => connection.answer(404, "text/plain", b"").await,
            },
            _ => connection.answer(404, "text/plain", b"").await,
        }
    }

    /// What lies at a signed address. It is good for GET alone, and refuses a second way to prove who asks.
    async fn file(&self, connection: &mut Connection, head: &Head) -> std::io::Result<()> {
        let found = self.version(head.path.trim_start_matches("/signed/"));
        let Some((_, version)) = found.filter(|_| head.query("X-Amz-Signature") == "4711") else {
            return connection.answer(403, "application/xml", b"").await;
        };
        if head.method != "GET" {
            return connection.answer(403, "application/xml", b"").await;
        }
        if !head.header("authorization").is_empty() {
            return connection.answer(400, "application/xml", b"<Error/>").await;
        }
        let content = &version.content;
        let kind = "Content-Type: application/octet-stream\r\n";
        if version.sends == Sends::Endless {
            let begin = format!("HTTP/1.1 200 OK\r\n{kind}Transfer-Encoding: chunked\r\n\r\n");
            connection.write(begin.as_bytes()).await?;
            let mut next: &[u8] = content;
            loop {
                let chunk = format!("{:x}\r\n", next.len());
                connection.write(&[chunk.as_bytes(), next, b"\r\n"].concat()).await?;
                next = &[0; 8_192];
            }
        }
        let size = content.len();
        let range = head.header("range").strip_prefix("bytes=");
        let range = range.and_then(|range| range.split_once('-'));
        let (from, to) = match range {
            Some((from, to)) => {
                let (from, to): (usize, usize) = (from.parse().expect("a place"), to.parse().unwrap_or(size));
                (from, to.saturating_add(1).min(size))
            }
            None => (0, size),
        };
        if from >= size {
            let answer = format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n");
            return connection.write(answer.as_bytes()).await;
        }
        let begin = format!(
            "HTTP/1.1 206 Partial Content\r\n{kind}ETag: \"{}\"\r\nContent-Range: bytes {from}-{}/{size}\r\nContent-Length: {}\r\n\r\n",
            &hash(content)[..32],
            to - 1,
            to - from
        );
        connection.write(begin.as_bytes()).await?;
        connection.write(&content[from..to]).await
    }
}

async fn say(connection: &mut Connection, value: &Value) -> std::io::Result<()> {
    let text = value.to_string();
    connection
        .answer(200, "application/json; charset=utf-8", text.as_bytes())
        .await
}

fn description(id: u64, version: &Version) -> Value {
    json!({
        "id": id,
        "modelId": version.model,
        "name": "v1.0",
        "baseModel": version.base,
        "files": [{
            "id": id + 1_000,
            "sizeKB": version.content.len() as f64 / 1024.0,
            "name": "style.safetensors",
            "type": "Model",
            "primary": true,
            "metadata": {"format": version.format, "size": null, "fp": null},
            "hashes": version.sha256.as_ref().map_or(json!({}), |sha256| json!({"SHA256": sha256, "AutoV2": &sha256[..10]})),
            "downloadUrl": format!("https://civitai.com/api/download/models/{id}"),
        }],
    })
}
