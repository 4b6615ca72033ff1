//! Prompts on a ComfyUI that is odd, or away.

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::comfy::message::Message;
use crate::executor::testing::{FakeComfy, settings};

fn owner() -> Owner {
    Owner {
        name: "job".to_owned(),
        // Nobody hears it.
        events: mpsc::unbounded_channel().0,
        stop: CancellationToken::new(),
        turn: CancellationToken::new(),
        resume: None,
        patience: None,
    }
}

/// A job on a ComfyUI at an address.
struct Bench {
    comfy: Comfy,
    connection: Connection,
    settings: Settings,
    owner: Owner,
    order: Order,
    graph: Graph,
}

impl Bench {
    async fn on(url: &str) -> Self {
        let comfy = Comfy::attached(&url.parse().unwrap()).unwrap();
        Self {
            connection: comfy.connection().await.unwrap(),
            comfy,
            settings: settings(),
            owner: owner(),
            order: Order::default(),
            graph: Graph::parse(&json!({"1": {"class_type": "SaveImage", "inputs": {}}})).unwrap(),
        }
    }

    async fn run(&self) -> Result<HistoryEntry, JobError> {
        let run = Run {
            comfy: &self.comfy,
            order: &self.order,
            settings: &self.settings,
            owner: &self.owner,
            extra_data: &Value::Null,
        };
        let mut watcher = Watcher::new(&self.owner, &self.comfy);
        let ended = run.to_end(&self.connection, &self.graph, &mut watcher, None);
        tokio::time::timeout(Duration::from_mins(3), ended)
            .await
            .expect("an end")
    }
}

const NO_QUEUE: &str = r#"{"queue_running": [], "queue_pending": []}"#;

/// The history of the prompt that is asked for.
fn history(path: &str, status: &str) -> Option<(u16, String)> {
    let id = path.strip_prefix("/history/")?;
    Some((200, format!(r#"{{"{id}": {{"outputs": {{}}, "status": {status}}}}}"#)))
}

fn succeeded(path: &str) -> (u16, String) {
    history(path, r#"{"status_str": "success", "messages": []}"#).unwrap_or((200, NO_QUEUE.to_owned()))
}

/// A prompt is over as soon as it is submitted, and no other is known.
fn at_once(path: &str, submitted: &[String]) -> (u16, String) {
    let id = path.strip_prefix("/history/");
    if id.is_some_and(|id| !submitted.iter().any(|known| known == id)) {
        return (200, "{}".to_owned());
    }
    succeeded(path)
}

/// All that were submitted run and run.
fn endlessly(path: &str, submitted: &[String]) -> (u16, String) {
    if path == "/queue" {
        let running: Vec<_> = submitted.iter().map(|id| json!([1, id])).collect();
        return (200, json!({"queue_running": running, "queue_pending": []}).to_string());
    }
    (200, "{}".to_owned())
}

#[tokio::test]
async fn the_nodes_own_words_come_with_numbers_that_are_none() {
    let status = r#"{"status_str": "error", "messages": [["execution_error", {"node_id": "1", "node_type": "SaveImage",
        "exception_type": "ValueError", "exception_message": "cannot convert float NaN to integer",
        "current_inputs": {"x": [NaN, -Infinity, "caf\\udce9"]}}]]}"#;
    let fake = FakeComfy::start(|path, _| history(path, status).unwrap_or((200, NO_QUEUE.to_owned()))).await;
    let error = Bench::on(&fake.url).await.run().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NodeFailed);
    assert!(
        error.message.contains("cannot convert float NaN to integer"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_no_silence() {
    for (status, body, said) in [
        (200, "<html>", "ComfyUI's answer to /history is not understood"),
        (
            500,
            "it cannot be written as JSON",
            "ComfyUI answered /history with status 500",
        ),
    ] {
        let fake = FakeComfy::start(move |_, _| (status, body.to_owned())).await;
        let error = Bench::on(&fake.url).await.run().await.unwrap_err();
        assert!(error.message.starts_with(said), "{}", error.message);
        assert_eq!(fake.submitted.lock().unwrap().len(), 1, "it is not run again");
    }
}

#[tokio::test]
async fn a_prompt_that_was_not_accepted_waits_for_comfyui() {
    let fake = FakeComfy::start(at_once).await;
    let bench = Bench::on(&fake.url).await;
    let address = fake.end().await;
    let back = async {
        bench.comfy.until_away().await;
        // Longer than any number of attempts that are counted.
        tokio::time::sleep(Duration::from_millis(500)).await;
        FakeComfy::at(&address, at_once).await
    };
    let (ended, fake) = tokio::join!(bench.run(), back);
    assert_eq!(ended.unwrap().end, PromptEnd::Success);
    assert_eq!(fake.submitted.lock().unwrap().len(), 1);
    assert!(!bench.comfy.is_away());
}

#[tokio::test]
async fn a_prompt_that_ran_on_meanwhile_is_found_again_and_one_that_is_gone_runs_again() {
    for stays in [true, false] {
        let fake = FakeComfy::start(endlessly).await;
        let bench = Bench::on(&fake.url).await;
        let back = async {
            while fake.submitted.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let address = fake.end().await;
            bench.comfy.until_away().await;
            let answer = move |path: &str, submitted: &[String]| {
                if stays {
                    succeeded(path)
                } else {
                    at_once(path, submitted)
                }
            };
            FakeComfy::at(&address, answer).await
        };
        let (ended, fake) = tokio::join!(bench.run(), back);
        assert_eq!(ended.unwrap().end, PromptEnd::Success);
        assert_eq!(fake.submitted.lock().unwrap().len(), usize::from(!stays));
    }
}

#[tokio::test]
async fn only_words_of_the_prompt_postpone_the_next_look() {
    let fake = FakeComfy::start(at_once).await;
    let bench = Bench::on(&fake.url).await;
    let mut watcher = Watcher::new(&bench.owner, &bench.comfy);
    let mut follow = Follow::new(&bench.settings, &bench.connection, "p", None);
    let mut heard = |text: &str| follow.postpones(Message::from_text(text), &mut watcher);
    assert!(!heard(
        r#"{"type": "crystools.monitor", "data": {"cpu_utilization": 5}}"#
    ));
    assert!(!heard(
        r#"{"type": "execution_start", "data": {"prompt_id": "another"}}"#
    ));
    assert!(heard(r#"{"type": "execution_start", "data": {"prompt_id": "p"}}"#));
    assert!(heard(r#"{"type": "something_new", "data": {"prompt_id": "p"}}"#));
    // The text of a node that runs is a sign of life.
    let text = Message::Text {
        node_id: "1".to_owned(),
        text: "polling".to_owned(),
    };
    follow.quiet = Some(Quiet::since_now(None));
    assert!(!follow.postpones(Message::from_text("{}"), &mut watcher) && follow.quiet.is_some());
    assert!(!follow.postpones(text, &mut watcher) && follow.quiet.is_none());
}
