//! Engines elsewhere on one queue: endpoints on real sockets that answer as they are told.

use serde_json::{Value, json};

use super::endpoint::{Endpoint, PNG};
use super::*;
use crate::comfy::{Comfy, Folders};
use crate::config::{Config, Fallback, PrivateUrls};
use crate::engine::remote::{Remote, RemoteEngine, read_list};
use crate::executor::Executor;
use crate::executor::testing::executor_on;
use crate::job::{JobView, TemplateRequest, Work};
use crate::net::guard::AddressGuard;

/// A queue whose engines are elsewhere.
struct Front {
    queue: Queue,
    data: TempDir,
    executor: Arc<Executor>,
}

fn runpod(name: &str, url: &str, more: &str) -> String {
    format!("[[engine]]\nname = \"{name}\"\nkind = \"runpod\"\nurl = \"{url}/v2/x\"\n{more}\n")
}

fn images(name: &str, url: &str) -> String {
    format!(
        "[[engine]]\nname = \"{name}\"\nkind = \"openai\"\nurl = \"{url}/v1\"\nmodel = \"m\"\ngroup = 2\nsends = [\"seed\"]\n"
    )
}

impl Front {
    async fn start(list: &str) -> Self {
        Self::on(tempfile::tempdir().unwrap(), list).await
    }

    async fn on(data: TempDir, list: &str) -> Self {
        let folder = |name: &str| data.path().join(name);
        let folders = Folders {
            output: folder("output"),
            input: folder("input"),
            temp: folder("temp"),
            are_ours: true,
            ..Folders::default()
        };
        let executor = executor_on(Comfy::elsewhere(folders), data.path());
        let vars = [("ENGINES", list), ("HOME", "/")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).unwrap().engines;
        let guard = AddressGuard::new(PrivateUrls::All);
        let list = read_list(&config, config.source.as_ref().unwrap(), &guard)
            .await
            .unwrap();
        let engines = list.into_iter().map(|spec| {
            let remote = Remote::new(spec, &executor, "front", (None, &guard)).unwrap();
            Arc::new(RemoteEngine(remote)) as _
        });
        let pool = Pool::new(engines.collect::<Vec<_>>());
        let (store, unfinished) = Store::open(data.path(), store::StoreOptions::default()).await.unwrap();
        let queue = Queue::start(Arc::clone(&executor), pool, store, unfinished, settings()).await;
        Self { queue, data, executor }
    }

    /// The worker is killed, and started again with this list.
    async fn killed(self, list: &str) -> Self {
        self.queue.abandon();
        let Self { queue, data, executor } = self;
        queue.store().close().await;
        drop((queue, executor));
        Self::on(data, list).await
    }

    async fn submit(&self, policy: Policy) -> JobId {
        let work = Work::Template(TemplateRequest {
            prompt: "a fox".to_owned(),
            ..TemplateRequest::default()
        });
        let request = JobRequest { work, ..request() };
        self.queue
            .submit(self.queue.permit().unwrap(), request, policy)
            .await
            .unwrap()
    }

    /// Waits until it runs.
    async fn runs(&self, id: &JobId) {
        let mut watch = self.queue.watch(id.as_str()).await.unwrap();
        let running = watch.wait_for(|view| view.state == JobState::Running).await;
        drop(running.unwrap());
    }

    async fn end_of(&self, id: &JobId) -> JobView {
        let ended = self.queue.wait(id.as_str());
        tokio::time::timeout(Duration::from_secs(30), ended)
            .await
            .unwrap()
            .unwrap()
    }

    async fn run(&self, policy: Policy) -> JobView {
        let id = self.submit(policy).await;
        self.end_of(&id).await
    }
}

/// The engine that made it, or the error.
fn told(view: &JobView) -> String {
    match view.result.as_ref().unwrap() {
        Ok(outcome) => outcome.engine.clone().unwrap(),
        Err(error) => error.full_text(),
    }
}

#[tokio::test]
async fn a_job_is_sent_once_and_its_files_are_kept_here() {
    let (endpoint, url) = Endpoint::start().await;
    let front = Front::start(&runpod("a", &url, "")).await;
    let view = front.run(Policy::default()).await;
    let outcome = view.result.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((outcome.engine.as_deref(), outcome.files.len()), (Some("a"), 1));
    assert_eq!(outcome.seed, Some(7), "as the engine tells");
    let file = front.data.path().join("output").join(&outcome.files[0].filename);
    assert_eq!(std::fs::read(file).unwrap(), *PNG);
    assert_eq!(endpoint.runs(), 1);
    let sent = endpoint.runs.lock().unwrap()[0].clone();
    assert!(sent["input"]["workflow"].is_object());
    assert_eq!(sent["policy"]["executionTimeout"], 60_000);
}

#[tokio::test]
async fn only_what_is_not_there_goes_elsewhere() {
    let error = json!({"error": {"message": "broken"}});
    let (ok, none) = (json!({"id": "job-1", "status": "IN_QUEUE"}), Value::Null);
    let failed = |why: &str| json!({"status": "FAILED", "error": why});
    // What `/run` answers, how the job stands then; who makes it, or what is told.
    for (answer, stands, expected) in [
        ((429, error.clone()), none.clone(), "b"),
        ((500, error.clone()), none.clone(), "b"),
        ((401, error.clone()), none.clone(), "b"),
        ((404, error.clone()), none.clone(), "b"),
        (
            (400, error.clone()),
            none.clone(),
            "engine `a` refuses the job (400 Bad Request): broken",
        ),
        (
            (502, error.clone()),
            none.clone(),
            "may have run there, and been charged",
        ),
        (
            (200, json!("<html>")),
            none.clone(),
            "may have run there, and been charged",
        ),
        (
            (200, json!({"status": "IN_QUEUE"})),
            none.clone(),
            "may have run there, and been charged",
        ),
        ((200, ok.clone()), failed("CUDA error: an illegal memory access"), "b"),
        (
            (200, ok.clone()),
            failed("Invalid workflow JSON structure"),
            "engine `a`: Invalid workflow",
        ),
        ((200, ok.clone()), json!({"status": "TIMED_OUT"}), "b"),
        (
            (200, ok.clone()),
            json!({"status": "CANCELLED"}),
            "was cancelled at engine `a`",
        ),
        (
            (200, ok.clone()),
            json!({"id": "other", "status": "COMPLETED", "output": {}}),
            "was asked for the job job-1 and told of other",
        ),
        (
            (200, ok.clone()),
            json!({"status": "COMPLETED", "output": {"images": [{"filename": "x.png", "data": "aGVsbG8="}]}}),
            "is no picture",
        ),
        (
            (200, ok.clone()),
            json!({"status": "COMPLETED", "output": {"images": [{"filename": "x.png", "data": "%%"}]}}),
            "holds a file that is no base64",
        ),
    ] {
        let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
        let front = Front::start(&(runpod("a", &first_url, "") + &images("b", &second_url))).await;
        first.answers(answer.0, answer.1.clone());
        if !stands.is_null() {
            first.stands(stands.clone());
        }
        let view = front.run(Policy::default()).await;
        let told = told(&view);
        assert!(told.contains(expected), "{answer:?} {stands}: {told}");
        let made_elsewhere = expected == "b";
        assert_eq!(
            (first.runs(), second.runs()),
            (1, usize::from(made_elsewhere)),
            "{answer:?} {stands}"
        );
    }
}

#[tokio::test]
async fn one_that_cannot_be_reached_rests_and_others_get_its_jobs() {
    let (second, url) = Endpoint::start().await;
    let front = Front::start(&(runpod("a", "http://127.0.0.1:1", "") + &images("b", &url))).await;
    assert_eq!(told(&front.run(Policy::default()).await), "b");
    let states = front.queue.remote_states();
    assert_eq!((states[0].state, states[1].state), ("resting", "ready"));
    assert!(states[0].reason.as_ref().unwrap().contains("cannot be reached"));
    assert_eq!(second.runs(), 1);
}

#[tokio::test]
async fn without_fallback_a_job_fails_with_its_engine_or_waits_for_it() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let front = Front::start(&(runpod("a", &first_url, "") + &images("b", &second_url))).await;
    let never = || Policy {
        fallback: Some(Fallback::Never),
        ..Policy::default()
    };
    first.answers(500, json!({"error": "broken"}));
    assert!(told(&front.run(never()).await).contains("broken"));
    // It asks for a second.
    *first.retry_after.lock().unwrap() = Some("1".to_owned());
    first.answers(429, json!({"error": "busy"}));
    assert_eq!(told(&front.run(never()).await), "a");
    assert_eq!((first.runs(), second.runs()), (3, 0));
}

#[tokio::test]
async fn a_full_group_is_waited_for_unless_the_job_may_go_on() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let front = Front::start(&(runpod("a", &first_url, "capacity = 1") + &images("b", &second_url))).await;
    first.stands(json!({"status": "IN_PROGRESS"}));
    let one = front.submit(Policy::default()).await;
    until(|| first.runs() == 1).await;
    let two = front.submit(Policy::default()).await;
    let busy = Policy {
        fallback: Some(Fallback::Busy),
        ..Policy::default()
    };
    assert_eq!(told(&front.run(busy).await), "b");
    assert_eq!((first.runs(), second.runs()), (1, 1));
    *first.status.lock().unwrap() = None;
    assert_eq!(told(&front.end_of(&one).await), "a");
    assert_eq!(told(&front.end_of(&two).await), "a");
}

#[tokio::test]
async fn a_job_that_waits_there_for_too_long_is_taken_back_first() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let front = Front::start(&(runpod("a", &first_url, "queue_timeout_s = 1") + &images("b", &second_url))).await;
    first.stands(json!({"status": "IN_QUEUE"}));
    assert_eq!(told(&front.run(Policy::default()).await), "b");
    assert_eq!((first.runs(), first.cancelled(), second.runs()), (1, 1, 1));
}

#[tokio::test]
async fn a_cancelled_job_is_cancelled_there() {
    let (endpoint, url) = Endpoint::start().await;
    let front = Front::start(&runpod("a", &url, "")).await;
    endpoint.stands(json!({"status": "IN_PROGRESS", "output": {"percent": 40}}));
    let id = front.submit(Policy::default()).await;
    let mut watch = front.queue.watch(id.as_str()).await.unwrap();
    watch.wait_for(|view| view.progress.percent == 40).await.unwrap();
    front.queue.cancel(id.as_str()).await.unwrap();
    until(|| endpoint.cancelled() == 1).await;
    assert_eq!(endpoint.runs(), 1);
}

#[tokio::test]
async fn a_worker_that_was_killed_asks_again_and_sends_nothing_twice() {
    let (endpoint, url) = Endpoint::start().await;
    let list = runpod("a", &url, "");
    let front = Front::start(&list).await;
    endpoint.stands(json!({"status": "IN_PROGRESS"}));
    let mut id = front.submit(Policy::default()).await;
    let mut front = front;
    // More often than jobs are run again: it is not run again.
    for _ in 0..3 {
        front.runs(&id).await;
        front = front.killed(&list).await;
    }
    *endpoint.status.lock().unwrap() = None;
    assert_eq!(told(&front.end_of(&id).await), "a");
    assert_eq!(endpoint.runs(), 1);
    // The engine is gone from the list.
    endpoint.stands(json!({"status": "IN_PROGRESS"}));
    id = front.submit(Policy::default()).await;
    front.runs(&id).await;
    let front = front.killed(&runpod("b", &url, "")).await;
    assert!(told(&front.end_of(&id).await).contains("engine `a`, which ENGINES does not name any more"));
    // Or another one is called so.
    id = front.submit(Policy::default()).await;
    front.runs(&id).await;
    let front = front.killed(&images("b", &url).replace("group = 2", "")).await;
    assert!(told(&front.end_of(&id).await).contains("engine `b` is another one than when the job was sent there"));
    assert_eq!(endpoint.runs(), 3);
}

#[tokio::test]
async fn a_worker_that_is_killed_while_it_sends_sends_nothing_twice() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let list = runpod("a", &first_url, "") + &images("b", &second_url);
    let front = Front::start(&list).await;
    let held = first.hold.lock().await;
    let id = front.submit(Policy::default()).await;
    until(|| first.runs() == 1).await;
    let front = front.killed(&list).await;
    drop(held);
    let told = told(&front.end_of(&id).await);
    assert!(
        told.contains("was ended while it sent the job to engine `a`") && told.contains("may have run"),
        "{told}"
    );
    assert_eq!((first.runs(), second.runs()), (1, 0));
}

#[tokio::test]
async fn what_nobody_knows_goes_elsewhere_where_the_list_says_so() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let list = runpod("a", &first_url, "unknown = \"retry\"") + &images("b", &second_url);
    let front = Front::start(&list).await;
    first.answers(502, json!({}));
    assert_eq!(told(&front.run(Policy::default()).await), "b");
    assert_eq!((first.runs(), second.runs()), (1, 1));
    // Where there is no other, it is sent there once more.
    let front = Front::start(&runpod("a", &first_url, "unknown = \"retry\"")).await;
    first.answers(502, json!({}));
    assert_eq!(told(&front.run(Policy::default()).await), "a");
    first.answers(502, json!({}));
    first.answers(504, json!({}));
    assert!(told(&front.run(Policy::default()).await).contains("504"));
    assert_eq!(first.runs(), 5);
}

#[tokio::test]
async fn what_no_engine_can_do_is_refused_before_it_is_taken_in() {
    let (endpoint, url) = Endpoint::start().await;
    let front = Front::start(&images("b", &url)).await;
    let refused = front
        .queue
        .submit(front.queue.permit().unwrap(), request(), Policy::default())
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidRequest);
    assert!(
        refused.full_text().contains("engine `b`: it runs no graphs"),
        "{}",
        refused.full_text()
    );
    assert_eq!(endpoint.runs(), 0);
}

#[tokio::test]
async fn one_that_failed_everywhere_tells_each_attempt() {
    let ((first, first_url), (second, second_url)) = (Endpoint::start().await, Endpoint::start().await);
    let front = Front::start(&(runpod("a", &first_url, "") + &images("b", &second_url))).await;
    for _ in 0..2 {
        first.answers(500, json!({"error": "one"}));
        second.answers(503, json!({"error": {"message": "two"}}));
    }
    let told = told(&front.run(Policy::default()).await);
    let [one, two] = [
        "\n- engine `a` fails (500 Internal Server Error): one",
        "\n- engine `b` fails (503 Service Unavailable): two",
    ];
    assert_eq!(told, format!("no engine ran the job{one}{two}{one}{two}"));
    assert_eq!((first.runs(), second.runs()), (2, 2));
}
