//! A ComfyUI that makes nothing: every prompt is over when it comes, or after a given time, and left the same pictures.
//!
//! It speaks what the worker needs of the real one's HTTP API and websocket, and nothing else. The classes are those of
//! `tests/data/object_info-qwen.json`.
//!
//! A benchmark is its own stand-in where the worker is to start it: the `main.py` that the worker is given becomes the
//! benchmark by `exec`, under [`MODE`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
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
/// Names the mode in which a benchmark stands in for ComfyUI.
const MODE: &str = "--fake-comfyui";
/// The node that tells of its steps and shows previews: the sampler of all templates.
const SAMPLER: &str = "sample";
/// The size of a preview, in bytes: about that of 512 pixels a side as JPEG.
const PREVIEW_BYTES: usize = 40_000;

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
    /// Steps of a prompt, each with a preview; their time follows each.
    pub(crate) previews: AtomicU32,
    /// The time of a step with a preview, in milliseconds.
    pub(crate) preview_ms: AtomicU64,
    /// When each preview was written, by its number. A preview begins with that in six digits; they count on over all prompts.
    pub(crate) shown: Mutex<HashMap<u32, Instant>>,
    /// Previews so far.
    pub(crate) numbers: AtomicU32,
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
    sockets: HashMap<String, mpsc::UnboundedSender<Event>>,
}

/// What a websocket is told.
enum Event {
    Text(String),
    /// A preview by its number.
    Preview(u32, Bytes),
}

impl Fake {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a prompt.
    fn end(&self, id: String, client: &str) {
        let over = json!({"type": "executing", "data": {"node": null, "prompt_id": id}});
        self.known().prompts.insert(id);
        self.tell(client, Event::Text(over.to_string()));
    }

    fn tell(&self, client: &str, event: Event) {
        if let Some(socket) = self.known().sockets.get(client) {
            // A socket that is gone hears nothing, as with the real one.
            let _ = socket.send(event);
        }
    }

    /// Goes through the steps of a prompt, each with a preview.
    async fn steps(&self, id: &str, client: &str, steps: u32) {
        let begun = json!({"type": "executing", "data": {"node": SAMPLER, "prompt_id": id}});
        self.tell(client, Event::Text(begun.to_string()));
        let every = Duration::from_millis(self.plan.preview_ms.load(Ordering::Relaxed));
        for step in 0..steps {
            let node = json!({"value": step, "max": steps, "state": "running", "node_id": SAMPLER});
            let state = json!({"prompt_id": id, "nodes": {SAMPLER: node}});
            let state = json!({"type": "progress_state", "data": state});
            self.tell(client, Event::Text(state.to_string()));
            let number = self.plan.numbers.fetch_add(1, Ordering::Relaxed);
            self.tell(client, Event::Preview(number, preview(id, number)));
            tokio::time::sleep(every).await;
        }
    }
}

/// A preview with its metadata, as ComfyUI sends it to who announces that it takes them.
fn preview(id: &str, number: u32) -> Bytes {
    let metadata = json!({"prompt_id": id, "node_id": SAMPLER, "image_type": "image/jpeg"}).to_string();
    let length = u32::try_from(metadata.len()).expect("it is short");
    let mut frame = [4_u32.to_be_bytes(), length.to_be_bytes()].concat();
    frame.extend_from_slice(metadata.as_bytes());
    frame.extend_from_slice(format!("{number:06}").as_bytes());
    frame.resize(8 + metadata.len() + PREVIEW_BYTES, 0x5a);
    frame.into()
}

/// Stands in for ComfyUI if this program was started for that; then gives true when it is over.
pub(crate) fn stood_in() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(MODE) {
        return false;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(serve(arguments.collect()));
    true
}

/// Makes a folder that the worker takes for ComfyUI's, with the picture in it; gives its path.
pub(crate) fn install(folder: &std::path::Path, picture: &[u8]) -> String {
    let comfyui = folder.join("comfyui");
    std::fs::create_dir_all(comfyui.join("output")).expect("a folder");
    std::fs::write(comfyui.join("output").join(PICTURE), picture).expect("a file");
    let this = std::env::current_exe().expect("its own path");
    let this = this.display();
    let main = format!("import os, sys\nos.execv('{this}', ['{this}', '{MODE}', *sys.argv[1:]])\n");
    std::fs::write(comfyui.join("main.py"), main).expect("a file");
    comfyui.display().to_string()
}

/// Serves on the port that `--port` among `arguments` names, for as long as the process lives.
async fn serve(arguments: Vec<String>) {
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
    let mut object_info: Value = serde_json::from_str(object_info).expect("JSON");
    // Edits by megapixels have it beside the classes of the templates.
    object_info["GetImageSize"] = json!({
        "input": {"required": {"image": ["IMAGE", {}]}},
        "output": ["INT", "INT", "INT"],
        "name": "GetImageSize",
        "output_node": false,
    });
    let fake = Arc::new(Fake {
        object_info,
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
        .route("/upload/image", post(upload))
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
    let steps = fake.plan.previews.load(Ordering::Relaxed);
    if takes.is_zero() && steps == 0 {
        fake.end(id, &client);
        return answer;
    }
    tokio::spawn(async move {
        let _gpu = fake.gpu.lock().await;
        let begun = Instant::now();
        fake.steps(&id, &client, steps).await;
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

/// Takes an image in and forgets it.
async fn upload(headers: HeaderMap, body: Bytes) -> Json<Value> {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let boundary = multer::parse_boundary(kind.unwrap_or_default()).expect("a form");
    let mut form = multer::Multipart::new(Body::from(body).into_data_stream(), boundary);
    let (mut name, mut subfolder) = (String::new(), String::new());
    while let Some(field) = form.next_field().await.expect("a whole form") {
        if let Some(file) = field.file_name() {
            file.clone_into(&mut name);
        } else if field.name() == Some("subfolder") {
            subfolder = field.text().await.expect("a text");
        }
    }
    Json(json!({"name": name, "subfolder": subfolder, "type": "input"}))
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
                let message = match event {
                    Event::Text(text) => Message::text(text),
                    Event::Preview(number, frame) => {
                        let mut shown = fake.plan.shown.lock().unwrap_or_else(PoisonError::into_inner);
                        shown.insert(number, Instant::now());
                        Message::binary(frame)
                    }
                };
                if socket.send(message).await.is_err() {
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
