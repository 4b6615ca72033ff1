//! Prompts on a ComfyUI that is odd, or away.

use serde_json::json;

use super::*;
use crate::comfy::Folders;
use crate::executor::Claim;
use crate::executor::ledger::Ledger;
use crate::executor::testing::{FakeComfy, owner, settings};

/// A job on a ComfyUI at an address.
struct Bench {
    comfy: Comfy,
    connection: Connection,
    settings: Settings,
    owner: JobControl,
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
        self.run_watched(&mut ProgressSink::new(&self.owner, &self.comfy)).await
    }

    async fn run_watched(&self, sink: &mut ProgressSink<'_>) -> Result<HistoryEntry, JobError> {
        let run = Run {
            comfy: &self.comfy,
            order: &self.order,
            settings: &self.settings,
            owner: &self.owner,
            extra_data: &Value::Null,
        };
        let ended = run.to_end(&self.connection, &self.graph, sink, None);
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
async fn what_a_proxy_says_is_not_comfyuis_last_word() {
    for status in [404, 429] {
        // More looks than senseless answers are taken.
        let looks = std::sync::atomic::AtomicUsize::new(0);
        let answer = move |path: &str, submitted: &[String]| {
            let is_look = path == "/queue" || path.starts_with("/history/");
            if is_look && !submitted.is_empty() && looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 5 {
                return (status, "<html>".to_owned());
            }
            at_once(path, submitted)
        };
        let fake = FakeComfy::start(answer).await;
        fake.refuses.lock().unwrap().push(status);
        let ended = Bench::on(&fake.url).await.run().await;
        assert_eq!(ended.unwrap().end, PromptEnd::Success);
        assert_eq!(fake.submitted.lock().unwrap().len(), 1, "it is run once");
    }
}

#[tokio::test]
async fn what_comfyui_refuses_is_not_sent_again() {
    for status in [413, 500] {
        let fake = FakeComfy::start(at_once).await;
        fake.refuses.lock().unwrap().push(status);
        let error = Bench::on(&fake.url).await.run().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
        assert_eq!(fake.submitted.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_comfyui_that_numbers_prompts_by_itself_gets_each_graph_once_and_gives_it_back() {
    for runs in [true, false] {
        let asked = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&asked);
        let answer = move |path: &str, _: &[String]| {
            seen.lock().push(path.to_owned());
            let running = if runs {
                json!([[1, "its-own"]])
            } else {
                json!([[1, "anothers"]])
            };
            (200, json!({"queue_running": running, "queue_pending": []}).to_string())
        };
        let fake = FakeComfy::start(answer).await;
        fake.own_ids.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut bench = Bench::on(&fake.url).await;
        bench.settings.jobs.retries = 5;
        let error = bench.run().await.unwrap_err().full_text();
        assert!(
            error.contains("too old") && error.contains("Take a newer ComfyUI: COMFYUI_VERSION"),
            "{error}"
        );
        assert_eq!(fake.submitted.lock().unwrap().len(), 1);
        let asked = asked.lock();
        assert!(asked.iter().any(|path| path == "/queue"), "{asked:?}");
        // What runs is interrupted where it is ours, and no other.
        let interrupted = asked
            .iter()
            .any(|path| path.ends_with("/cancel") || path == "/interrupt");
        assert_eq!(interrupted, runs, "{asked:?}");
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
async fn what_a_prompt_saved_that_comfyui_lost_is_looked_for_though_it_was_not_seen_to_begin() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders {
        output: data.path().to_owned(),
        input: data.path().join("input"),
        temp: data.path().join("temp"),
        are_ours: true,
        ..Folders::default()
    };
    let saved = data.path().join("a_00001_.png");
    let answer = move |path: &str, submitted: &[String]| {
        if submitted.len() != 1 {
            return at_once(path, submitted);
        }
        // The first prompt saves a file, and is never heard of.
        std::fs::write(&saved, "PNG").unwrap();
        let answer = if path == "/queue" { NO_QUEUE } else { "{}" };
        (200, answer.to_owned())
    };
    let fake = FakeComfy::start(answer).await;
    let mut bench = Bench::on(&fake.url).await;
    let graph = json!({"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}});
    bench.graph = Graph::parse(&graph).unwrap();
    let (events, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut sink = ProgressSink::new(&bench.owner, &bench.comfy);
    sink.ledger = Ledger::new(events, Some(&folders), None);
    let ended = bench.run_watched(&mut sink).await;
    assert_eq!(ended.unwrap().end, PromptEnd::Success);
    assert_eq!(fake.submitted.lock().unwrap().len(), 2);
    drop(sink);
    let mut told = Vec::new();
    while let Some(Event::Left(files)) = heard.recv().await {
        told.extend(files.into_iter().map(|file| (file.filename, file.claim)));
    }
    assert_eq!(told, [("a_00001_.png".to_owned(), Claim::Found)]);
}

#[tokio::test]
async fn a_prompt_that_sleeps_has_longer_than_a_comfyui_that_is_silent_and_is_not_run_again() {
    use std::os::unix::process::CommandExt as _;
    // Its processes do nothing, as those of a node that polls an API.
    let mut asleep = std::process::Command::new("sleep");
    let mut asleep = asleep.arg("60").process_group(0).spawn().unwrap();
    let fake = FakeComfy::start(endlessly).await;
    let mut bench = Bench::on(&fake.url).await;
    bench.connection = bench.connection.of_process(asleep.id());
    bench.settings.jobs.stall_timeout = Duration::from_millis(400);
    bench.settings.jobs.retries = 5;
    let begun = std::time::Instant::now();
    let error = bench.run().await.unwrap_err();
    asleep.kill().unwrap();
    asleep.wait().unwrap();
    assert!(begun.elapsed() > bench.settings.jobs.stall_timeout * 4);
    let text = error.full_text();
    assert!(
        text.contains("its processes do nothing") && text.contains("is not run again"),
        "{text}"
    );
    assert_eq!(fake.submitted.lock().unwrap().len(), 1);
}
