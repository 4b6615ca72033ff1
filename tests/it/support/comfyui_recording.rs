//! The same requests to ComfyUI and to the worker in front of it: what is answered and what is heard must be the same.

use std::pin::Pin;

use reqwest::Method;
use serde_json::{Value, json};

use super::comfyui::{Alike, Client, Said, Socket, differences};
use super::{Worker, alone, until};

/// What one of the two said, in order.
#[derive(Debug)]
pub(crate) struct Recording<'a> {
    pub(crate) client: &'a Client,
    /// A word that no other run has: in the names of clients and files.
    pub(crate) salt: String,
    /// A number that no other run has: nothing comes from ComfyUI's cache by accident.
    number: u32,
    said: Vec<(String, Value)>,
}

impl Recording<'_> {
    /// The id of this run's client.
    pub(crate) fn client_id(&self) -> String {
        format!("client-{}", self.salt)
    }

    /// A picture of one colour, saved.
    pub(crate) fn empty(&self, number: u32) -> Value {
        let color = (self.number + number) % 0xFF_FFFF;
        super::comfyui::empty(color, &format!("{}/empty", self.salt))
    }

    /// A graph that takes so many steps.
    pub(crate) fn slow(&self, steps: u32, ms_per_step: u32, preview: bool, number: u32) -> Value {
        let seed = self.number + number;
        self.one(
            "SlowProgress",
            &json!({"steps": steps, "ms_per_step": ms_per_step, "preview": preview, "seed": seed}),
        )
    }

    /// A graph of one node, and one that saves what it gives.
    pub(crate) fn one(&self, class: &str, inputs: &Value) -> Value {
        json!({
            "1": {"class_type": class, "inputs": inputs},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("{}/x", self.salt)}},
        })
    }

    /// Notes something.
    pub(crate) fn note(&mut self, what: &str, value: Value) {
        self.said.push((what.to_owned(), value));
    }

    /// Asks, and notes what is answered.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Said {
        let mut request = self.client.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let what = body.map_or_else(|| format!("{method} {path}"), |body| format!("{method} {path} {body}"));
        self.send(&what, request).await
    }

    /// Sends a request, and notes what is answered.
    pub(crate) async fn send(&mut self, what: &str, request: reqwest::RequestBuilder) -> Said {
        let said = self.client.said(request).await;
        let kind = said.content_type.as_deref().map(essence);
        let is_json = kind == Some("application/json");
        // Files are compared by their kind: what is in them is another in each run.
        let body = if is_json || said.status >= 400 {
            said.body.clone()
        } else {
            json!(said.body.as_str().map(str::is_empty))
        };
        self.note(what, json!({"status": said.status, "kind": kind, "body": body}));
        said
    }

    pub(crate) async fn get(&mut self, path: &str) -> Said {
        self.ask(Method::GET, path, None).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Said {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Sends a prompt of this run's client with more beside it, and notes the answer; gives the id if it is taken.
    pub(crate) async fn prompt_with(&mut self, graph: &Value, more: &Value) -> Option<String> {
        let mut body = json!({"prompt": graph, "client_id": self.client_id()});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let said = self.post("/prompt", &body).await;
        said.body["prompt_id"].as_str().map(str::to_owned)
    }

    /// Sends a prompt that is taken.
    pub(crate) async fn prompt(&mut self, graph: &Value) -> String {
        let id = self.prompt_with(graph, &json!({})).await;
        id.unwrap_or_else(|| panic!("refused: {:#?}", self.said.last()))
    }

    /// Opens this run's websocket and notes its first message.
    pub(crate) async fn socket(&mut self) -> Socket {
        let (socket, first) = self.client.socket(&self.client_id()).await;
        self.note("the first message of a websocket", first);
        socket
    }

    /// The same with the message that newer clients send first.
    pub(crate) async fn socket_with_flags(&mut self) -> Socket {
        let mut socket = self.socket().await;
        socket
            .send(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}}))
            .await;
        let flags = socket.next().await.expect("its flags");
        self.note("the answer to the flags", flags);
        socket
    }

    /// Notes what a websocket hears until a prompt is over.
    pub(crate) async fn over(&mut self, socket: &mut Socket, id: &str) {
        let heard = socket.over(id).await;
        self.heard(heard);
    }

    /// Notes messages. How often the length of the queue is told is each server's own: what counts is how it changes.
    pub(crate) fn heard(&mut self, messages: Vec<Value>) {
        let mut last = Value::Null;
        let told = messages.into_iter().filter(|message| {
            let is_news = message["type"] != "status" || *message != last;
            if message["type"] == "status" {
                last = message.clone();
            }
            is_news
        });
        let told = Value::Array(told.collect());
        self.note("what the websocket hears", told);
    }

    /// Waits until nothing waits or runs.
    pub(crate) async fn idle(&self) {
        until("nothing waits or runs", async || {
            self.client.queue().await == (Vec::new(), Vec::new())
        })
        .await;
    }
}

/// A media type without what stands behind it.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

async fn recorded(client: &Client, scenario: &impl AsyncFn(&mut Recording<'_>)) -> Vec<(String, Value)> {
    let number = u32::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().expect("bytes")) >> 9;
    let mut recording = Recording {
        client,
        salt: format!("salt{number}x"),
        number,
        said: Vec::new(),
    };
    scenario(&mut recording).await;
    let Recording { salt, said, .. } = recording;
    let mut alike = Alike::new(&salt);
    let made = said.into_iter().map(|(what, value)| {
        let what = alike.made(&json!(what)).as_str().unwrap_or_default().to_owned();
        (what, alike.made(&value))
    });
    made.collect()
}

/// A scenario that is being played.
type Played<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Plays a scenario with ComfyUI and with a worker on it, and fails with every difference.
pub(crate) fn is_the_same<'a>(scenario: impl AsyncFn(&mut Recording<'_>) + 'a) -> Played<'a> {
    is_the_same_but(scenario, &[])
}

/// The same; what is known to differ is named by a part of its line.
pub(crate) fn is_the_same_but<'a>(scenario: impl AsyncFn(&mut Recording<'_>) + 'a, known: &'a [&'a str]) -> Played<'a> {
    Box::pin(compared(scenario, known))
}

async fn compared(scenario: impl AsyncFn(&mut Recording<'_>), known: &[&str]) {
    let shared = alone().await;
    let comfy_url = shared.comfy_url().await;
    let worker = Worker::attached(&comfy_url, &[]).await;
    worker.ready().await;
    // What other tests left there.
    let client = Client::new(&comfy_url);
    client.post("/history", &json!({"clear": true})).await;
    let theirs = recorded(&client, &scenario).await;
    let ours = recorded(&Client::new(&worker.url), &scenario).await;
    worker.app.close().await;
    let mut found = Vec::new();
    for (at, (one, other)) in theirs.iter().zip(&ours).enumerate() {
        let short: String = one.0.chars().take(160).collect();
        differences(&format!("{at} {short}:"), &one.1, &other.1, &mut found);
    }
    assert_eq!(theirs.len(), ours.len());
    found.retain(|line| !known.iter().any(|known| line.contains(known)));
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
