//! A ComfyUI that makes nothing: every prompt is over when it comes, or after a given time, and left the same pictures.
//!
//! It speaks what the worker needs of the real one's HTTP API and websocket, and nothing else. The classes are those of
//! `tests/data/object_info-qwen.json`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// The picture that each prompt leaves, by its name in the output folder.
pub(crate) const PICTURE: &str = "bench_00001_.png";

/// What prompts take and leave; may be changed at any time.
#[derive(Default)]
pub(crate) struct Plan {
    /// How long a prompt runs, in milliseconds; they run one at a time.
    pub(crate) takes_ms: AtomicU64,
    /// Further pictures that it leaves.
    pub(crate) more_pictures: AtomicUsize,
    /// What `/view` gives for each of them.
    pub(crate) content: Bytes,
    /// When each prompt began and ended, where they take time.
    pub(crate) spans: Mutex<Vec<(Instant, Instant)>>,
}

/// What the routes share.
struct Fake {
    object_info: Value,
    arguments: Vec<String>,
    plan: Arc<Plan>,
    /// Held by the prompt that runs.
    gpu: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Prompts that are over.
    prompts: HashSet<String>,
    /// Open websockets by their client id.
    sockets: HashMap<String, mpsc::UnboundedSender<String>>,
}

impl Fake {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a prompt.
    fn end(&self, id: String, client: &str) {
        let over = json!({"type": "executing", "data": {"node": null, "prompt_id": id}}).to_string();
        let mut known = self.known();
        known.prompts.insert(id);
        if let Some(socket) = known.sockets.get(client) {
            // A socket that is gone hears nothing, as with the real one.
            let _ = socket.send(over);
        }
    }
}

/// Serves on the port that `--port` among `arguments` names, for as long as the process lives.
pub(crate) async fn serve(arguments: Vec<String>) {
    let port = arguments.iter().position(|argument| argument == "--port");
    let port: u16 = port
        .and_then(|position| arguments.get(position + 1)?.parse().ok())
        .expect("--port has a number");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
    serve_on(listener, arguments, Arc::default()).await;
}

/// Serves on a listener, for as long as the process lives.
pub(crate) async fn serve_on(listener: TcpListener, arguments: Vec<String>, plan: Arc<Plan>) {
    let object_info = include_str!("../../tests/data/object_info-qwen.json");
    let fake = Arc::new(Fake {
        object_info: serde_json::from_str(object_info).expect("JSON"),
        arguments,
        plan,
        gpu: tokio::sync::Mutex::default(),
        known: Mutex::default(),
    });
    let router = Router::new()
        .route("/", get(async || "the page"))
        .route("/system_stats", get(system_stats))
        .route("/object_info", get(all_classes))
        .route("/object_info/{class}", get(one_class))
        .route("/node_replacements", get(async || Json(json!({}))))
        .route("/prompt", post(prompt))
        .route("/history/{id}", get(history))
        .route(
            "/view",
            get(async |State(fake): State<Arc<Fake>>| fake.plan.content.clone()),
        )
        .route(
            "/queue",
            get(async || Json(json!({"queue_running": [], "queue_pending": []}))),
        )
        .with_state(Arc::clone(&fake));
    let address = listener.local_addr().expect("an address");
    let (sender, streams) = mpsc::unbounded_channel();
    tokio::spawn(sort(listener, fake, sender));
    axum::serve(Plain { address, streams }, router)
        .await
        .expect("it serves");
}

async fn system_stats(State(fake): State<Arc<Fake>>) -> Json<Value> {
    Json(json!({"system": {"argv": fake.arguments}, "devices": []}))
}

async fn all_classes(State(fake): State<Arc<Fake>>) -> Json<Value> {
    Json(fake.object_info.clone())
}

async fn one_class(State(fake): State<Arc<Fake>>, Path(class): Path<String>) -> Json<Value> {
    Json(match fake.object_info.get(&class) {
        Some(description) => json!({ class: description }),
        None => json!({}),
    })
}

async fn prompt(State(fake): State<Arc<Fake>>, Json(prompt): Json<Value>) -> Json<Value> {
    let text = |key: &str| prompt[key].as_str().unwrap_or_default().to_owned();
    let (id, client) = (text("prompt_id"), text("client_id"));
    // A client that names no id is given one.
    let id = if id.is_empty() {
        uuid::Uuid::new_v4().to_string()
    } else {
        id
    };
    let answer = Json(json!({"prompt_id": id, "number": 1, "node_errors": {}}));
    let takes = Duration::from_millis(fake.plan.takes_ms.load(Ordering::Relaxed));
    if takes.is_zero() {
        fake.end(id, &client);
        return answer;
    }
    tokio::spawn(async move {
        let _gpu = fake.gpu.lock().await;
        let begun = Instant::now();
        tokio::time::sleep(takes).await;
        let span = (begun, Instant::now());
        fake.plan
            .spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(span);
        fake.end(id, &client);
    });
    answer
}

async fn history(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Json<Value> {
    if !fake.known().prompts.remove(&id) {
        return Json(json!({}));
    }
    let mut names = vec![PICTURE.to_owned()];
    let more = 2..fake.plan.more_pictures.load(Ordering::Relaxed) + 2;
    names.extend(more.map(|number| format!("bench_{number:05}_.png")));
    let picture = |name| json!({"filename": name, "subfolder": "", "type": "output"});
    let pictures: Vec<Value> = names.into_iter().map(picture).collect();
    let status = json!({"status_str": "success", "completed": true, "messages": []});
    Json(json!({ id: {"outputs": {"60": {"images": pictures}}, "status": status} }))
}

/// Takes the websockets out of the stream of connections: axum is built without them.
async fn sort(listener: TcpListener, fake: Arc<Fake>, plain: mpsc::UnboundedSender<TcpStream>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (fake, plain) = (Arc::clone(&fake), plain.clone());
        tokio::spawn(async move {
            let mut head = [0; 7];
            while stream
                .peek(&mut head)
                .await
                .is_ok_and(|length| (1..head.len()).contains(&length))
            {
                tokio::task::yield_now().await;
            }
            if &head == b"GET /ws" {
                socket(stream, &fake).await;
            } else {
                let _ = plain.send(stream);
            }
        });
    }
}

async fn socket(stream: TcpStream, fake: &Fake) {
    let mut client = String::new();
    let (sender, mut events) = mpsc::unbounded_channel();
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let accept = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().unwrap_or_default();
        client.push_str(query.strip_prefix("clientId=").unwrap_or_default());
        // Known before the client hears of it: its prompt may follow at once.
        fake.known().sockets.insert(client.clone(), sender);
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, accept).await else {
        return;
    };
    loop {
        tokio::select! {
            Some(event) = events.recv() => {
                if socket.send(Message::text(event)).await.is_err() {
                    break;
                }
            }
            frame = socket.next() => {
                if !matches!(frame, Some(Ok(_))) {
                    break;
                }
            }
        }
    }
    fake.known().sockets.remove(&client);
}

/// The connections that are no websockets.
struct Plain {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<TcpStream>,
}

impl axum::serve::Listener for Plain {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        match self.streams.recv().await {
            Some(stream) => (stream, self.address),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
