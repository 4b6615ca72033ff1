//! The queue without a ComfyUI: jobs wait for its start.

mod ends;

use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch::Sender;

use super::*;
use crate::comfy::Boot;
use crate::executor::testing::executor;
use crate::executor::{Claim, LeftFile};
use crate::job::{Delivery, Dialect, ImageName, InputImage, OutputFolder, Work};
use crate::workflow::Graph;

const LIMIT: usize = 6;

/// A queue whose ComfyUI is not started before `boot` says so.
struct Bench {
    queue: Queue,
    boot: Sender<Boot>,
    data: TempDir,
}

fn request() -> JobRequest {
    let graph = serde_json::json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    JobRequest {
        work: Work::Workflow(Graph::parse(&graph).unwrap()),
        images: Vec::new(),
        delivery: Delivery::default(),
        org_api_key: None,
        warnings: Vec::new(),
    }
}

impl Bench {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(data: TempDir) -> Self {
        let (executor, boot) = executor(data.path());
        let options = store::StoreOptions {
            patience: Duration::from_millis(50),
            ..store::StoreOptions::default()
        };
        let (store, unfinished) = Store::open(data.path(), options).await.unwrap();
        let settings = JobsConfig {
            queue_limit: LIMIT,
            prefetch: 1,
            retries: 1,
            cancel_grace: Duration::from_secs(1),
            timeout: Duration::from_mins(1),
            chosen_timeout: None,
            queue_ttl: Duration::from_hours(1),
            stall_timeout: Duration::from_secs(10),
            result_ttl: Duration::from_hours(1),
            output_max_bytes: 0,
        };
        let queue = Queue::start(executor, store, unfinished, settings).await;
        Self { queue, boot, data }
    }

    async fn submit(&self, policy: Policy) -> Result<JobId, JobError> {
        self.queue.submit(self.queue.place()?, request(), policy).await
    }

    fn free_places(&self) -> usize {
        self.queue.0.places.available_permits()
    }

    /// ComfyUI cannot be started.
    fn fail(&self) {
        self.boot.send_replace(Boot::Failed(JobError::internal("no ComfyUI")));
    }
}

#[tokio::test]
async fn a_job_runs_out_of_time_while_comfyui_is_started() {
    let bench = Bench::start().await;
    let policy = Policy {
        ttl: Some(Duration::ZERO),
        ..Policy::default()
    };
    let id = bench.submit(policy).await.unwrap();
    let view = bench.queue.wait(id.as_str()).await.unwrap();
    assert_eq!((view.state, view.progress.percent), (JobState::TimedOut, 0));
    assert_eq!(bench.free_places(), LIMIT);
}

#[tokio::test]
async fn a_stop_leaves_waiting_jobs_to_the_next_start() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(bench.submit(Policy::default()).await.unwrap());
    }
    let (waited, ()) = tokio::join!(bench.queue.wait(ids[0].as_str()), bench.queue.drain());
    assert_eq!(waited.unwrap_err().kind, ErrorKind::Stopping);
    assert_eq!(bench.queue.place().unwrap_err().kind, ErrorKind::Stopping);
    bench.queue.store().close().await;
    let (_, unfinished) = Store::open(bench.data.path(), store::StoreOptions::default())
        .await
        .unwrap();
    let found: Vec<_> = unfinished.into_iter().map(|job| (job.id, job.state)).collect();
    assert_eq!(
        found,
        ids.into_iter().map(|id| (id, JobState::Queued)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_job_that_ended_is_told_although_the_worker_stops() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.queue.cancel(id.as_str()).await.unwrap();
    bench.queue.drain().await;
    // As one that ended long ago.
    lock(&bench.queue.0.live).forget(&id);
    for _ in 0..20 {
        assert_eq!(bench.queue.wait(id.as_str()).await.unwrap().state, JobState::Cancelled);
    }
}

#[tokio::test]
async fn jobs_whose_clients_cannot_come_back_end_at_the_next_start() {
    let dialects = [
        (Dialect::Runpod, JobState::Queued),
        (Dialect::OpenAi, JobState::Cancelled),
        (Dialect::Gradio, JobState::Cancelled),
        (Dialect::Kie, JobState::Queued),
        (Dialect::EditPlus, JobState::Queued),
    ];
    let bench = Bench::start().await;
    let mut jobs = Vec::new();
    for (dialect, expected) in dialects {
        let policy = Policy {
            dialect,
            ..Policy::default()
        };
        jobs.push((bench.submit(policy).await.unwrap(), expected));
    }
    // One of them ran.
    let store = bench.queue.store();
    store.submitted(&jobs[1].0, "a prompt").await.unwrap();
    store.started(&jobs[1].0, SystemTime::now(), 1).await.unwrap();
    bench.queue.abandon();
    store.close().await;

    let bench = Bench::on(bench.data).await;
    for (id, expected) in jobs {
        let view = bench.queue.view(id.as_str()).await.unwrap();
        assert_eq!(
            (view.state, view.policy.dialect.ends_with_its_client()),
            (expected, expected.is_final())
        );
        if let Some(result) = view.result {
            assert_eq!(
                result.unwrap_err().full_text(),
                "The worker ended while the client waited. Send it again."
            );
        }
    }
    assert_eq!((bench.queue.counts().in_queue, bench.free_places()), (3, LIMIT - 3));
}

#[tokio::test]
async fn jobs_wait_for_a_comfyui_that_cannot_be_started_and_their_clients_are_told() {
    let bench = Bench::start().await;
    let submit = async |dialect, platform| {
        let policy = Policy {
            platform,
            dialect,
            ..Policy::default()
        };
        bench.submit(policy).await.unwrap()
    };
    // The platform gives its jobs to another worker.
    let of_platform = submit(Dialect::Runpod, Some(crate::job::PlatformJob::default())).await;
    let mut kept = Vec::new();
    for dialect in [Dialect::Runpod, Dialect::Kie, Dialect::EditPlus] {
        kept.push(submit(dialect, None).await);
    }
    let attended = submit(Dialect::OpenAi, None).await;
    bench.fail();
    let end_of = async |id: &JobId| {
        let mut watch = bench.queue.watch(id.as_str()).await.unwrap();
        let view = watch.wait_for(|view| view.state.is_final()).await.unwrap().clone();
        view.result.unwrap().unwrap_err()
    };
    assert_eq!(end_of(&of_platform).await.message, "no ComfyUI");
    let (told, ended) = tokio::join!(bench.queue.wait(kept[0].as_str()), end_of(&attended));
    let told = told.unwrap_err();
    assert_eq!(
        (told.kind, told.message.as_str()),
        (ErrorKind::ComfyUnavailable, "no ComfyUI")
    );
    assert_eq!(
        (ended.kind, ended.message.as_str()),
        (ErrorKind::ComfyUnavailable, "no ComfyUI")
    );
    bench.queue.drain().await;
    for id in &kept {
        assert_eq!(bench.queue.view(id.as_str()).await.unwrap().state, JobState::Queued);
    }
}

/// A request with an image at an address.
fn request_with_image_at(url: &str) -> JobRequest {
    let name = ImageName::parse("image_1").unwrap();
    JobRequest {
        images: vec![InputImage::from_text(name, url).unwrap()],
        ..request()
    }
}

#[tokio::test]
async fn a_job_whose_image_does_not_come_lets_others_pass_and_can_be_called_off() {
    let bench = Bench::start().await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.png", silent.local_addr().unwrap());
    let slow = bench
        .queue
        .submit(
            bench.queue.place().unwrap(),
            request_with_image_at(&url),
            Policy::default(),
        )
        .await
        .unwrap();
    silent.accept().await.unwrap();
    let quick = bench.submit(Policy::default()).await.unwrap();
    let mut watched = bench.queue.watch(quick.as_str()).await.unwrap();
    watched.wait_for(|view| view.position == Some(1)).await.unwrap();
    assert_eq!(bench.queue.view(slow.as_str()).await.unwrap().position, Some(2));
    let view = bench.queue.cancel(slow.as_str()).await.unwrap();
    assert_eq!(view.state, JobState::Cancelled);
    bench.queue.drain().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_fetched_ends_its_job() {
    let bench = Bench::start().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.png?signature=4711", free.local_addr().unwrap());
    drop(free);
    let place = bench.queue.place().unwrap();
    let id = bench
        .queue
        .submit(place, request_with_image_at(&url), Policy::default())
        .await
        .unwrap();
    let view = bench.queue.wait(id.as_str()).await.unwrap();
    let error = view.result.unwrap().unwrap_err();
    assert_eq!((view.state, error.kind), (JobState::Failed, ErrorKind::InvalidRequest));
    assert!(
        error.message.contains("the image `image_1` cannot be fetched"),
        "{}",
        error.message
    );
    assert_eq!(bench.free_places(), LIMIT);
}

#[tokio::test]
async fn a_job_that_is_removed_is_unknown_afterwards() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.queue.remove(id.as_str()).await.unwrap();
    for _ in 0..2 {
        let error = bench.queue.view(id.as_str()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(
            bench.queue.remove(id.as_str()).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
    assert_eq!(bench.free_places(), LIMIT);
}

#[tokio::test]
async fn files_of_a_job_go_with_it_however_it_ended_and_those_told_too_late_go_at_once() {
    let bench = Bench::start().await;
    let output = bench.data.path().join("output/sub");
    std::fs::create_dir_all(&output).unwrap();
    for name in ["before.png", "early.png", "late.png", "too-late.png"] {
        std::fs::write(output.join(name), "12345").unwrap();
    }
    let left = |filename: &str, claim| {
        vec![LeftFile {
            folder: OutputFolder::Output,
            subfolder: "sub".to_owned(),
            filename: filename.to_owned(),
            bytes: 5,
            claim,
        }]
    };
    let id = bench.submit(Policy::default()).await.unwrap();
    let inner = &bench.queue.0;
    let (entry, ..) = inner.live(&id).unwrap();
    keep::take_down(inner, &entry, left("early.png", Claim::Made)).await;
    keep::take_down(inner, &entry, left("before.png", Claim::Named)).await;
    bench.queue.cancel(id.as_str()).await.unwrap();
    // Its execution is still on its way out.
    keep::take_down(inner, &entry, left("late.png", Claim::Made)).await;
    bench.queue.remove(id.as_str()).await.unwrap();
    keep::take_down(inner, &entry, left("too-late.png", Claim::Made)).await;
    keep::take_down(inner, &entry, left("before.png", Claim::Named)).await;
    let there = std::fs::read_dir(&output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(there.collect::<Vec<_>>(), ["before.png"]);
}

#[derive(Debug, Clone)]
enum Step {
    Submit(i32),
    Cancel(usize),
    Retry(usize),
    CancelAndRetry(usize),
    Purge,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (-1..2).prop_map(Step::Submit),
        2 => (0..20_usize).prop_map(Step::Cancel),
        2 => (0..20_usize).prop_map(Step::Retry),
        1 => (0..20_usize).prop_map(Step::CancelAndRetry),
        1 => Just(Step::Purge),
    ]
}

async fn walk(steps: Vec<Step>) {
    let bench = Bench::start().await;
    let queue = &bench.queue;
    let mut model: Vec<(JobId, JobState)> = Vec::new();
    // What somebody was shown last, once it was final.
    let mut seen = Vec::new();
    for step in steps {
        let job = |at: usize, model: &[(JobId, JobState)]| (!model.is_empty()).then(|| at % model.len());
        match step {
            Step::Submit(priority) => {
                let policy = Policy {
                    priority,
                    ..Policy::default()
                };
                let waiting = model.iter().filter(|(_, state)| !state.is_final()).count();
                match bench.submit(policy).await {
                    Ok(id) => {
                        seen.push(queue.watch(id.as_str()).await.unwrap());
                        model.push((id, JobState::Queued));
                    }
                    Err(error) => assert_eq!((error.kind, waiting), (ErrorKind::Busy, LIMIT)),
                }
            }
            Step::Cancel(at) => {
                let Some(at) = job(at, &model) else { continue };
                let view = queue.cancel(model[at].0.as_str()).await.unwrap();
                assert_eq!(view.state, JobState::Cancelled);
                model[at].1 = JobState::Cancelled;
            }
            Step::Retry(at) => {
                let Some(at) = job(at, &model) else { continue };
                let room = bench.free_places() > 0;
                let may = model[at].1.is_final();
                let retried = queue.retry(model[at].0.as_str()).await;
                assert_eq!(retried.is_ok(), may && room, "{retried:?}");
                if retried.is_ok() {
                    model[at].1 = JobState::Queued;
                    seen.push(queue.watch(model[at].0.as_str()).await.unwrap());
                }
            }
            Step::CancelAndRetry(at) => {
                let Some(at) = job(at, &model) else { continue };
                let id = model[at].0.clone();
                let id = id.as_str();
                let (cancelled, retried) = tokio::join!(queue.cancel(id), queue.retry(id));
                // Whatever came first, the job is in one state that is legal.
                assert!(cancelled.is_ok());
                let view = queue.view(id).await.unwrap();
                assert!(
                    matches!(view.state, JobState::Queued | JobState::Cancelled),
                    "{retried:?}"
                );
                model[at].1 = view.state;
                seen.push(queue.watch(id).await.unwrap());
            }
            Step::Purge => {
                let waiting = model.iter().filter(|(_, state)| !state.is_final()).count();
                assert_eq!(queue.purge().await.unwrap(), waiting);
                for (_, state) in &mut model {
                    *state = JobState::Cancelled;
                }
            }
        }
        let waiting = model.iter().filter(|(_, state)| !state.is_final()).count();
        assert_eq!(
            bench.free_places(),
            LIMIT - waiting,
            "each ended job gives its place back"
        );
        assert_eq!(
            (queue.counts().in_queue, queue.counts().in_progress),
            (waiting as u64, 0)
        );
        let mut positions = Vec::new();
        for (id, state) in &model {
            let view = queue.view(id.as_str()).await.unwrap();
            assert_eq!(view.state, *state);
            assert_eq!(queue.0.store.get(id).await.unwrap().unwrap().state, *state);
            positions.extend(view.position);
        }
        positions.sort_unstable();
        assert_eq!(positions, (1..=waiting).collect::<Vec<_>>());
    }
    for shown in &mut seen {
        if shown.borrow_and_update().state.is_final() {
            assert!(!shown.has_changed().unwrap_or(false));
        }
    }
    bench.fail();
    for (id, state) in &model {
        // What waits is not lost for that.
        assert_eq!(queue.view(id.as_str()).await.unwrap().state, *state);
    }
    queue.purge().await.unwrap();
    for (id, state) in &model {
        let end = queue.wait(id.as_str()).await.unwrap();
        let expected = if state.is_final() { *state } else { JobState::Cancelled };
        assert_eq!(end.state, expected);
        assert!(end.progress.percent < 100);
    }
    assert_eq!(bench.free_places(), LIMIT);
    for shown in seen {
        assert!(shown.borrow().state.is_final());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_calls_leave_each_job_in_one_state_and_lose_no_place(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(walk(steps));
    }
}
