//! In which order the ends of prompts are told, and for whom ComfyUI is heard.

use std::time::SystemTime;

use futures_util::SinkExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message as Sent;

use super::*;
use crate::executor::testing::executor_on;
use crate::job::progress::Progress;
use crate::job::{JobState, PromptOwner};
use crate::queue::testing::{queue, request, settings};

/// A hub on a ComfyUI at this port.
struct Bench {
    hub: Hub,
    _data: tempfile::TempDir,
}

impl Bench {
    async fn start(port: u16) -> Self {
        let comfy = Comfy::attached(&format!("http://127.0.0.1:{port}").parse().unwrap()).unwrap();
        let data = tempfile::tempdir().unwrap();
        let queue = queue(executor_on(comfy.clone(), data.path()), data.path(), settings()).await;
        let hub = Hub::start(
            &queue,
            &comfy.clone().into(),
            &CancellationToken::new(),
            &TaskTracker::new(),
        );
        Self { hub, _data: data }
    }

    fn begins(&self, id: &JobId) {
        let begins = json!({"type": "execution_start", "data": {"prompt_id": id.as_str()}});
        let begins = Frame::Text(begins.to_string().into());
        self.hub.relay().tell_in_turn(&who(), id.as_str(), &begins);
    }

    async fn ends(&self, id: &JobId, state: JobState) -> bool {
        let view = JobView {
            id: id.clone(),
            policy: Arc::new(policy()),
            state,
            progress: Progress::default(),
            position: None,
            created: SystemTime::now(),
            delay: Duration::ZERO,
            execution: Duration::ZERO,
            result: None,
            outputs: Arc::default(),
            entry: None,
        };
        self.hub.tell(Change::Ended(Box::new(view))).await
    }
}

fn who() -> Listener {
    Listener {
        key: None,
        client_id: "page".to_owned(),
    }
}

fn policy() -> Policy {
    Policy {
        dialect: Dialect::Comfyui,
        prompt: Some(Box::new(PromptOwner {
            client_id: Some("page".to_owned()),
            ..PromptOwner::default()
        })),
        ..Policy::default()
    }
}

fn read(frame: Option<Frame>) -> Value {
    match frame {
        Some(Frame::Text(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_end_that_is_stored_before_that_of_an_earlier_prompt_comes_after_it() {
    let bench = Bench::start(9).await;
    let mut ear = bench.hub.relay().listen(who());
    let (first, second) = (JobId::new(), JobId::new());
    bench.begins(&first);
    bench.begins(&second);
    // Of the one that waits only the number of jobs is told at once, by the caller.
    assert!(bench.ends(&second, JobState::Completed).await);
    assert!(!bench.ends(&first, JobState::Completed).await);
    for (kind, id) in [
        ("execution_start", Some(&first)),
        ("execution_success", Some(&first)),
        ("status", None),
        ("executing", Some(&first)),
        ("execution_start", Some(&second)),
        ("execution_success", Some(&second)),
        ("executing", Some(&second)),
    ] {
        let heard = read(ear.next().await);
        assert_eq!(heard["type"], kind);
        assert_eq!(heard["data"]["prompt_id"], json!(id.map(JobId::as_str)), "{heard}");
    }
}

#[tokio::test]
async fn one_cancelled_before_it_was_seen_to_begin_ends_for_a_client_that_was_told_of_it() {
    let bench = Bench::start(9).await;
    let mut ear = bench.hub.relay().listen(who());
    let (known, unknown) = (JobId::new(), JobId::new());
    assert!(bench.ends(&unknown, JobState::Cancelled).await);
    bench.begins(&known);
    assert!(!bench.ends(&known, JobState::Cancelled).await);
    for kind in ["execution_start", "execution_interrupted", "status", "executing"] {
        let heard = read(ear.next().await);
        assert_eq!(heard["type"], kind);
        if kind != "status" {
            assert_eq!(heard["data"]["prompt_id"], known.as_str());
        }
    }
    // Its last words are heard no more.
    bench.begins(&known);
    bench.begins(&unknown);
    bench.hub.relay().tell_all(&frames::executing("last"));
    assert_eq!(read(ear.next().await)["data"]["node"], "last");
}

#[tokio::test]
async fn a_begin_that_is_told_after_the_end_begins_nothing() {
    let bench = Bench::start(9).await;
    let queue = &bench.hub.0.queue;
    let id = queue
        .submit(queue.permit().unwrap(), request(), policy())
        .await
        .unwrap();
    let is_running = || bench.hub.0.running.lock().contains_key(&id);
    bench.hub.tell(Change::Began(id.clone())).await;
    assert!(is_running());
    assert!(queue.cancel_waiting(&id).await.unwrap());
    bench.ends(&id, JobState::Cancelled).await;
    bench.hub.tell(Change::Began(id.clone())).await;
    assert!(!is_running());
}

#[tokio::test]
async fn nothing_is_heard_for_everybody_once_nobody_is_there_however_much_is_said() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let bench = Bench::start(listener.local_addr().unwrap().port()).await;
    let mut ear = bench.hub.relay().listen(who());
    let talk = tokio::spawn(async move {
        // The executor asks it too.
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut socket) = accept_async(stream).await else {
                continue;
            };
            while socket.send(Sent::text(r#"{"type": "load", "data": {}}"#)).await.is_ok() {
                sleep(WITHOUT_CLIENTS / 10).await;
            }
            return;
        }
    });
    while read(ear.next().await)["type"] != "load" {}
    drop(ear);
    timeout(Duration::from_secs(20), talk).await.unwrap().unwrap();
}
