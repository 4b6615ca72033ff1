//! An images API in OpenAI's manner on a real socket, below `/v1`, which makes pictures of one colour and does wrong what it is
//! told to do wrong. Where all goes well, another worker of ours is the better provider.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::image_server::png;
use super::scripted::{Reply, Words, serving};
use super::wire::{Connection, Head};

/// The key that each request must bring.
pub(crate) const IMAGES_KEY: &str = "sk-the-key-of-a-provider";

/// The API of a provider.
pub(crate) struct ImagesApi {
    /// With `/v1`.
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

/// How a picture is told.
#[derive(Debug, Clone, Default)]
pub(crate) enum As {
    /// `b64_json`, as OpenAI has it.
    #[default]
    Base64,
    /// `b64_json` that begins with `data:image/png;base64,`.
    DataUri,
    /// The address of a file of this API.
    Url,
    /// This address.
    UrlOf(&'static str),
}

/// A request for pictures.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `generations` or `edits`.
    pub(crate) route: String,
    content_type: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    replies: VecDeque<Reply>,
    tells: As,
    violations: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    /// Where it listens.
    base: String,
}

impl ImagesApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let url = format!("{base}/v1");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            base,
        });
        let answering = Arc::clone(&shared);
        let serving = serving(listener, move |connection, head| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(connection, head).await }
        });
        Self {
            url,
            shared,
            _serving: serving,
        }
    }

    /// The next requests for pictures are answered so, one after the other.
    pub(crate) fn answers(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().replies.extend(replies);
    }

    /// How pictures are told from now on.
    pub(crate) fn tells(&self, tells: As) {
        self.shared.state.lock().tells = tells;
    }

    /// The requests for pictures, each of which somebody may pay for.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.state.lock().asked.clone()
    }

    /// Nothing was asked that the API does not know, and nothing is left of what a test had planned.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let state = self.shared.state.lock();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
        assert!(state.replies.is_empty(), "nobody came to see {:?}", state.replies);
    }
}

impl Asked {
    /// A field of JSON or of a form, as text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        if !self.content_type.starts_with("multipart/") {
            let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
            let value = body.get(name)?;
            return Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        let text = String::from_utf8_lossy(&self.body);
        let (_, after) = text.split_once(&format!("name=\"{name}\""))?;
        let (_, value) = after.split_once("\r\n\r\n")?;
        value.split("\r\n").next().map(str::to_owned)
    }

    /// Width and height that were asked for; where they were not, those that the API has itself.
    fn size(&self) -> (u32, u32) {
        let size = self.field("size").unwrap_or_default();
        let sides = size
            .split_once('x')
            .map(|(width, height)| (width.parse(), height.parse()));
        match sides {
            Some((Ok(width), Ok(height))) => (width, height),
            _ => (512, 512),
        }
    }
}

/// An error in OpenAI's shape.
pub(crate) fn refusal(status: u16, code: &str) -> Words {
    let error = json!({"message": format!("It is refused ({code})."), "type": "an_error", "param": null, "code": code});
    Words::json(status, &json!({ "error": error }))
}

impl Shared {
    /// Answers a request; gives the connection back if it may bring another.
    async fn answer(&self, mut connection: Connection, head: Head) -> Option<Connection> {
        let route = match (head.method.as_str(), head.path.as_str()) {
            ("POST", "/v1/images/generations") => "generations",
            ("POST", "/v1/images/edits") => "edits",
            ("GET", "/v1/models") => {
                let models = json!({"object": "list", "data": [{"id": "Qwen/Qwen-Image", "object": "model"}]});
                return Reply::Well.give(connection, &Words::json(200, &models)).await;
            }
            ("GET", path) if path.starts_with("/made/") => {
                let mut sides = path.trim_start_matches("/made/").trim_end_matches(".png").split('x');
                let mut side = || sides.next().and_then(|side| side.parse().ok()).expect("a side");
                let file = Words::file("image/png", png(side(), side(), 255));
                return Reply::Well.give(connection, &file).await;
            }
            (method, path) => {
                self.state
                    .lock()
                    .violations
                    .push(format!("{method} {path} is not of this API"));
                return Reply::Well.give(connection, &refusal(404, "not_found")).await;
            }
        };
        let planned = self.state.lock().replies.pop_front().unwrap_or(Reply::Well);
        let Some(length) = head.length() else {
            self.state
                .lock()
                .violations
                .push("the body's length is not said".to_owned());
            return None;
        };
        let body = match planned {
            Reply::Unread => Vec::new(),
            _ => connection.body(length).await.ok()?,
        };
        let asked = Asked {
            route: route.to_owned(),
            content_type: head.header("content-type").to_owned(),
            body,
        };
        let well = if head.header("authorization") == format!("Bearer {IMAGES_KEY}") {
            self.made(&asked)
        } else {
            refusal(401, "invalid_api_key")
        };
        self.state.lock().asked.push(asked);
        planned.give(connection, &well).await
    }

    fn made(&self, asked: &Asked) -> Words {
        let (width, height) = asked.size();
        let count = asked.field("n").and_then(|count| count.parse().ok()).unwrap_or(1);
        let picture = || STANDARD.encode(png(width, height, 255));
        let one = match &self.state.lock().tells {
            As::Base64 => json!({"b64_json": picture()}),
            As::DataUri => json!({"b64_json": format!("data:image/png;base64,{}", picture())}),
            As::Url => json!({"url": format!("{}/made/{width}x{height}.png", self.base)}),
            As::UrlOf(url) => json!({ "url": url }),
        };
        Words::json(200, &json!({"created": 1_780_000_000, "data": vec![one; count]}))
    }
}
