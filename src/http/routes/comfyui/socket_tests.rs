use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::comfy::Comfy;
use crate::executor::testing::executor_on;
use crate::http::server::{Port, serve};
use crate::job::progress::Progress;
use crate::job::{Dialect, JobId, JobState, JobView, Policy, PromptOwner};
use crate::queue::testing::{queue, settings};
use crate::queue::{Change, Queue};

type Connected = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn serve_somewhere(router: Router) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, Port::Main, CancellationToken::new()));
    address.to_string()
}

/// A ComfyUI that sends to its websockets what it is told to, and keeps what is asked about its logs.
#[derive(Clone)]
struct Upstream {
    says: broadcast::Sender<Frame>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Upstream {
    async fn start() -> (Self, String) {
        let upstream = Self {
            says: broadcast::channel(100).0,
            asked: Arc::default(),
        };
        let (says, asked) = (upstream.says.clone(), Arc::clone(&upstream.asked));
        let socket = async move |request: Request| -> Result<Response, Response> {
            let (mut parts, _) = request.into_parts();
            let mut frames = says.subscribe();
            let upgrade = Upgrade::from_request_parts(&mut parts, &()).await?;
            Ok(upgrade.accept(LARGEST_MESSAGE, move |mut socket| async move {
                while let Ok(frame) = frames.recv().await {
                    if socket.send(frame).await.is_err() {
                        break;
                    }
                }
            }))
        };
        let subscribe = async move |body: Bytes| {
            asked.lock().push(serde_json::from_slice(&body).unwrap());
            StatusCode::OK
        };
        let router = Router::new()
            .route("/ws", get(socket))
            .route("/features", get(async || axum::Json(json!({"its": "own"}))))
            .route("/internal/logs/subscribe", routing::patch(subscribe));
        let address = serve_somewhere(router).await;
        (upstream, address)
    }

    /// Says it once a websocket of ours is there.
    async fn say(&self, frame: Frame) {
        while self.says.send(frame.clone()).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A worker's websockets on that ComfyUI.
struct Worker {
    upstream: Upstream,
    hub: Hub,
    address: String,
    _queue: Queue,
    _data: tempfile::TempDir,
}

impl Worker {
    async fn start() -> Self {
        let (upstream, comfy) = Upstream::start().await;
        let comfy = Comfy::attached(&format!("http://{comfy}").parse().unwrap()).unwrap();
        let data = tempfile::tempdir().unwrap();
        let queue = queue(executor_on(comfy.clone(), data.path()), data.path(), settings()).await;
        let hub = Hub::start(
            &queue,
            &comfy.clone().into(),
            &CancellationToken::new(),
            &TaskTracker::new(),
        );
        let serving = hub.clone();
        let open = async move |request: Request| -> Result<Response, Response> {
            let (mut parts, _) = request.into_parts();
            let client_id = client_id(&parts.uri).map_err(JobError::into_response)?;
            let upgrade = Upgrade::from_request_parts(&mut parts, &()).await?;
            Ok(meet(upgrade, serving, who(&client_id)))
        };
        let address = serve_somewhere(Router::new().route("/ws", get(open))).await;
        Self {
            upstream,
            hub,
            address,
            _queue: queue,
            _data: data,
        }
    }

    async fn open(&self, query: &str) -> Connected {
        connect_async(format!("ws://{}/ws{query}", self.address))
            .await
            .unwrap()
            .0
    }

    /// One that has its first message.
    async fn met(&self, client_id: &str) -> Connected {
        let mut client = self.open(&format!("?clientId={client_id}")).await;
        assert_eq!(json_of(&mut client).await["data"]["sid"], client_id);
        client
    }
}

fn who(client_id: &str) -> Listener {
    Listener {
        key: None,
        client_id: client_id.to_owned(),
    }
}

fn text(value: &Value) -> Frame {
    Frame::Text(value.to_string().into())
}

async fn message_of(client: &mut Connected) -> Message {
    let message = tokio::time::timeout(Duration::from_secs(5), client.next());
    message.await.expect("a message comes").unwrap().unwrap()
}

async fn json_of(client: &mut Connected) -> Value {
    match message_of(client).await {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        message => panic!("{message:?}"),
    }
}

#[test]
fn a_client_names_itself_or_is_named() {
    let id = |uri: &str| client_id(&uri.parse().unwrap());
    assert_eq!(id("/ws?clientId=a%20b&token=x"), Ok("a b".to_owned()));
    for uri in ["/ws", "/ws?clientId=", "/ws?clientid=a"] {
        assert_eq!(id(uri).unwrap().len(), 32, "{uri}");
    }
    assert!(id(&format!("/ws?clientId={}", "x".repeat(LONGEST_CLIENT_ID))).is_ok());
    let error = id(&format!("/ws?clientId={}", "x".repeat(LONGEST_CLIENT_ID + 1))).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("clientId"));
}

#[test]
fn flags_count_as_the_first_message_alone() {
    let flags =
        |metadata: Value| text(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": metadata}}));
    let mut client = Client::default();
    // No JSON, and no message at all, come before the first one.
    for nothing in [
        Frame::Text("x".into()),
        Frame::Text("[1]".into()),
        Frame::Binary(Bytes::new()),
    ] {
        assert!(!client.says(&nothing));
    }
    assert!(client.says(&flags(true.into())));
    assert!(client.knows_metadata);
    assert!(!client.says(&flags(false.into())));
    assert!(client.knows_metadata);
    let mut client = Client::default();
    assert!(client.says(&flags(1.into())));
    assert!(!client.knows_metadata);
    let mut client = Client::default();
    assert!(!client.says(&text(&json!({"type": "hello"}))));
    assert!(!client.says(&flags(true.into())));
    let mut client = Client::default();
    assert!(client.says(&text(&json!({"type": "feature_flags", "data": []}))));
    assert!(!client.knows_metadata);
}

#[tokio::test]
async fn a_client_is_greeted_its_flags_are_answered_and_previews_come_as_it_knows_them() {
    let worker = Worker::start().await;
    let mut plain = worker.open("").await;
    let greeting = json_of(&mut plain).await;
    assert_eq!(greeting["data"]["status"]["exec_info"]["queue_remaining"], 0);
    let sid = greeting["data"]["sid"].as_str().unwrap().to_owned();
    let mut newer = worker.met(&sid).await;
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    newer.send(Message::text(flags.to_string())).await.unwrap();
    assert_eq!(
        json_of(&mut newer).await,
        json!({"type": "feature_flags", "data": {"its": "own"}})
    );
    plain.send(Message::text("what?")).await.unwrap();
    // Both of one name hear.
    let preview = Bytes::from_static(b"\0\0\0\x04\0\0\0\x02{}JPEG");
    worker.hub.relay().tell(&who(&sid), &Frame::Binary(preview.clone()));
    assert_eq!(message_of(&mut newer).await, Message::Binary(preview));
    let old = Bytes::from_static(b"\0\0\0\x01\0\0\0\x01JPEG");
    assert_eq!(message_of(&mut plain).await, Message::Binary(old));
}

fn ended(state: JobState, client_id: Option<&str>, dialect: Dialect) -> JobView {
    let owner = PromptOwner {
        client_id: client_id.map(str::to_owned),
        ..PromptOwner::default()
    };
    let policy = Policy {
        dialect,
        prompt: Some(Box::new(owner)),
        ..Policy::default()
    };
    JobView {
        id: JobId::new(),
        policy: Arc::new(policy),
        state,
        progress: Progress::default(),
        position: None,
        created: SystemTime::now(),
        delay: Duration::ZERO,
        execution: Duration::ZERO,
        result: None,
        outputs: Arc::default(),
        entry: None,
    }
}

#[tokio::test]
async fn an_end_is_told_to_its_client_and_the_number_of_jobs_to_all() {
    let worker = Worker::start().await;
    let (mut own, mut other) = (worker.met("own").await, worker.met("other").await);
    let view = ended(JobState::Completed, Some("own"), Dialect::Comfyui);
    let id = view.id.to_string();
    assert!(!worker.hub.tell(Change::Ended(Box::new(view))).await);
    let heard = [
        json_of(&mut own).await,
        json_of(&mut own).await,
        json_of(&mut own).await,
    ];
    assert_eq!(heard[0]["type"], "execution_success");
    assert_eq!(heard[0]["data"]["prompt_id"], id);
    assert_eq!(
        heard[1]["data"],
        json!({"status": {"exec_info": {"queue_remaining": 0}}})
    );
    assert_eq!(
        heard[2],
        json!({"type": "executing", "data": {"node": null, "prompt_id": id}})
    );
    assert_eq!(json_of(&mut other).await, heard[1]);
    // Nobody hears more of these than that the number may be another.
    for (state, client_id, dialect) in [
        (JobState::Completed, None, Dialect::Comfyui),
        (JobState::Completed, Some("own"), Dialect::Runpod),
        (JobState::Cancelled, Some("own"), Dialect::Comfyui),
    ] {
        assert!(
            worker
                .hub
                .tell(Change::Ended(Box::new(ended(state, client_id, dialect))))
                .await
        );
    }
    worker.hub.relay().tell_all(&text(&json!({"type": "last"})));
    for client in [&mut own, &mut other] {
        assert_eq!(json_of(client).await["type"], "last");
    }
}

#[tokio::test]
async fn what_comfyui_sends_to_everybody_reaches_all_and_its_logs_those_who_read_them() {
    let worker = Worker::start().await;
    let (mut reader, mut other) = (worker.met("reader").await, worker.met("other").await);
    worker.hub.read_logs(who("reader"), true);
    worker.hub.read_logs(who("nobody"), true);
    let logs = json!({"type": "logs", "data": {"entries": [], "size": null}});
    for not_for_all in [
        json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 7}}}}),
        json!({"type": "executing", "data": {"node": "1"}}),
        json!({"type": "progress", "data": {"value": 1, "max": 2, "node": "1"}}),
        json!({"type": "execution_interrupted", "data": {"prompt_id": "x", "node_id": "1"}}),
        json!({"type": "feature_flags", "data": {}}),
        logs.clone(),
    ] {
        worker.upstream.say(text(&not_for_all)).await;
    }
    let of_a_pack = json!({"type": "pack.loaded", "data": {"load": 7}});
    worker.upstream.say(text(&of_a_pack)).await;
    assert_eq!(json_of(&mut reader).await, logs);
    assert_eq!(json_of(&mut reader).await, of_a_pack);
    assert_eq!(json_of(&mut other).await, of_a_pack);
    // ComfyUI is told once that somebody reads, and once that nobody does any more.
    worker.hub.read_logs(who("reader"), false);
    while worker.upstream.asked.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = worker.upstream.asked.lock().clone();
    assert_eq!([&asked[0]["enabled"], &asked[1]["enabled"]], [true, false]);
    assert_eq!(asked[0]["clientId"], asked[1]["clientId"]);
    worker.upstream.say(text(&logs)).await;
    worker.upstream.say(text(&of_a_pack)).await;
    assert_eq!(json_of(&mut reader).await, of_a_pack);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_ended_and_nobody_waits_for_it() {
    let worker = Worker::start().await;
    let slow = worker.met("slow").await;
    let mut quick = worker.met("quick").await;
    let frame = Frame::Text("x".repeat(100_000).into());
    for _ in 0..500 {
        worker.hub.relay().tell_all(&frame);
        assert_eq!(message_of(&mut quick).await.len(), 100_000);
    }
    // Its place is free although it is still connected.
    let begun = tokio::time::Instant::now();
    while worker.hub.relay().is_open(&who("slow")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    drop(slow);
}
