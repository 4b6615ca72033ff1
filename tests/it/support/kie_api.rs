//! KIE's API of tasks on a real socket (docs.kie.ai, Market, Qwen; File Upload API), which makes pictures of one colour and does
//! wrong what it is told to do wrong. Where all goes well, another worker of ours is the better provider.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::image_server::png;
use super::scripted::{Reply, Words, serving};
use super::wire::{Connection, Head};

/// The key that each request must bring.
pub(crate) const KIE_KEY: &str = "the-key-of-an-account-at-kie";
/// What its pictures are like.
const SIDES: (u32, u32) = (96, 64);

/// The API of a provider.
pub(crate) struct KieApi {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct State {
    creates: VecDeque<Reply>,
    records: VecDeque<Reply>,
    created: Vec<Value>,
    uploads: Vec<Value>,
    asked: usize,
    fate: Value,
    violations: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    base: String,
}

/// An error as KIE tells it.
pub(crate) fn code(code: u16, words: &str) -> Reply {
    Reply::Says(Words::json(200, &json!({"code": code, "msg": words, "data": null})))
}

/// A task that failed.
pub(crate) fn failed(code: &str, words: &str) -> Value {
    json!({"state": "fail", "failCode": code, "failMsg": words})
}

impl KieApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            base: url.clone(),
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

    /// The next tasks are answered so, one after the other.
    pub(crate) fn answers_creates(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().creates.extend(replies);
    }

    /// The next questions are answered so, one after the other.
    pub(crate) fn answers_records(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().records.extend(replies);
    }

    /// What becomes of tasks, as the record tells it.
    pub(crate) fn becomes(&self, fate: Value) {
        self.shared.state.lock().fate = fate;
    }

    /// The tasks that somebody may pay for.
    pub(crate) fn created(&self) -> Vec<Value> {
        self.shared.state.lock().created.clone()
    }

    /// The images that were put up.
    pub(crate) fn uploads(&self) -> Vec<Value> {
        self.shared.state.lock().uploads.clone()
    }

    /// How often it was asked how a task is.
    pub(crate) fn asked(&self) -> usize {
        self.shared.state.lock().asked
    }

    /// Nothing was asked that the API does not know, and nothing is left of what a test had planned.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let state = self.shared.state.lock();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
        assert!(state.creates.is_empty(), "nobody came to see {:?}", state.creates);
    }
}

impl Shared {
    /// Answers a request; gives the connection back if it may bring another.
    async fn answer(&self, mut connection: Connection, head: Head) -> Option<Connection> {
        if head.path.starts_with("/made/") {
            let file = Words::file("image/png", png(SIDES.0, SIDES.1, 255));
            return Reply::Well.give(connection, &file).await;
        }
        let planned = match head.path.as_str() {
            "/api/v1/jobs/createTask" => self.state.lock().creates.pop_front(),
            "/api/v1/jobs/recordInfo" => self.state.lock().records.pop_front(),
            _ => None,
        };
        let planned = planned.unwrap_or(Reply::Well);
        let body = match planned {
            Reply::Unread => Vec::new(),
            _ => connection.body(head.length()?).await.ok()?,
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let well = if head.header("authorization") == format!("Bearer {KIE_KEY}") {
            self.well(&head, body, planned.words().is_some())
        } else {
            json!({"code": 401, "msg": "You do not have access permissions"})
        };
        planned.give(connection, &Words::json(200, &well)).await
    }

    fn well(&self, head: &Head, body: Value, is_refused: bool) -> Value {
        let mut state = self.state.lock();
        let data = match (head.method.as_str(), head.path.as_str()) {
            ("POST", "/api/v1/jobs/createTask") => {
                state.created.push(body);
                json!({"taskId": format!("task_{}", state.created.len())})
            }
            ("GET", "/api/v1/jobs/recordInfo") => {
                state.asked += 1;
                let result = json!({"resultUrls": [format!("{}/made/1.png", self.base)]}).to_string();
                let mut record = json!({"taskId": head.query("taskId"), "model": "qwen/text-to-image",
                    "state": "success", "resultJson": result, "failCode": null, "failMsg": null, "costTime": 3_000});
                for (field, value) in state.fate.as_object().into_iter().flatten() {
                    record[field] = value.clone();
                }
                record
            }
            ("POST", "/api/file-base64-upload") => {
                state.uploads.push(body);
                json!({"downloadUrl": format!("{}/made/upload.png", self.base)})
            }
            (method, path) => {
                state.violations.push(format!("{method} {path} is not of this API"));
                return json!({"code": 404, "msg": "not found"});
            }
        };
        if is_refused {
            return Value::Null;
        }
        json!({"code": 200, "msg": "success", "data": data})
    }
}
