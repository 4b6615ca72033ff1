//! The queue without a ComfyUI: jobs wait for its start.

mod elsewhere;
mod endpoint;
mod ends;
mod engines;
mod files;
mod prompts;
mod release;
mod walk;

use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch::Sender;

use super::testing::{LIMIT, request, settings};
use super::*;
use crate::comfy::Boot;
use crate::executor::testing::executor;
use crate::job::{Dialect, ImageName, InputImage};

/// A queue whose ComfyUI is not started before `boot` says so.
struct Bench {
    queue: Queue,
    boot: Sender<Boot>,
    data: TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(data: TempDir) -> Self {
        let (executor, boot) = executor(data.path());
        let queue = testing::queue(executor, data.path(), settings()).await;
        Self { queue, boot, data }
    }

    async fn submit(&self, policy: Policy) -> Result<JobId, JobError> {
        self.queue.submit(self.queue.permit()?, request(), policy).await
    }

    fn free_places(&self) -> usize {
        self.queue.0.places.available_permits()
    }

    /// ComfyUI cannot be started.
    fn fail(&self) {
        self.boot.send_replace(Boot::Failed(JobError::internal("no ComfyUI")));
    }
}

/// Waits until it is so.
async fn until(is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
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
    assert_eq!(bench.queue.permit().unwrap_err().kind, ErrorKind::Stopping);
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
    bench.queue.0.live.lock().forget(&id);
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
    store.submitted(&jobs[1].0, "a prompt", "local").await.unwrap();
    store.started(&jobs[1].0, 1).await.unwrap();
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
async fn nothing_is_left_of_a_warm_up_or_a_fleets_job_after_the_next_start() {
    for (warm_up, cancelled) in [(true, 0), (false, 1)] {
        let bench = Bench::start().await;
        let policy = Policy {
            warm_up,
            fleet: !warm_up,
            ..Policy::default()
        };
        let id = bench.submit(policy).await.unwrap();
        let store = bench.queue.store();
        store.submitted(&id, "a prompt", "local").await.unwrap();
        store.started(&id, 1).await.unwrap();
        bench.queue.abandon();
        store.close().await;

        let bench = Bench::on(bench.data).await;
        let gone = bench.queue.view(id.as_str()).await.unwrap_err();
        let counts = bench.queue.counts();
        assert_eq!(
            (gone.kind, counts.in_queue, counts.failed, bench.free_places()),
            (ErrorKind::NotFound, 0, cancelled, LIMIT)
        );
    }
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
            bench.queue.permit().unwrap(),
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
    let place = bench.queue.permit().unwrap();
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
