//! Ends of jobs, and a store that does not take them at once.

use rusqlite::Connection;

use super::*;
use crate::job::progress::{Progress, Stage};
use crate::job::{Outcome, PlatformJob};
use crate::queue::expiry::remove_what_is_old;

/// Another program that has the database locked until this is dropped.
pub(super) fn lock_database(bench: &Bench) -> Connection {
    let connection = Connection::open(bench.data.path().join("jobs.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

fn told(host: &str) -> Policy {
    Policy {
        webhook: Some(format!("https://{host}.example.com/").parse().unwrap()),
        ..Policy::default()
    }
}

impl Bench {
    /// The jobs whose webhooks are due.
    async fn due_webhooks(&self) -> Vec<JobId> {
        let store = self.queue.store();
        let mut jobs = Vec::new();
        for due in store.due_webhooks(SystemTime::now(), &[], 8).await.unwrap() {
            jobs.extend(store.webhook_job(&due.id).await.unwrap());
        }
        jobs
    }

    pub(super) fn entry(&self, id: &JobId) -> Arc<LiveJob> {
        self.queue.0.live(id).unwrap().0
    }

    /// ComfyUI has begun with the job.
    pub(super) async fn begin(&self, id: &JobId) -> Result<(), store::StoreError> {
        assert!(self.entry(id).begin());
        self.queue.0.store.started(id, 1).await
    }

    pub(super) async fn complete(&self, id: &JobId) {
        let outcome = Arc::new(Outcome::default());
        let entry = self.entry(id);
        assert!(self.queue.0.end(&entry, JobState::Completed, Ok(outcome)).await);
    }

    async fn stored_state(&self, id: &JobId) -> JobState {
        self.queue.0.store.get(id).await.unwrap().unwrap().state
    }

    pub(super) async fn until_stored(&self, id: &JobId, state: JobState) {
        let stored = async {
            while self.stored_state(id).await != state {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), stored).await.unwrap();
    }

    /// The worker ends, and starts again.
    async fn again(self) -> Self {
        self.queue.abandon();
        self.queue.store_at_last().await;
        self.queue.store().close().await;
        Self::on(self.data).await
    }
}

#[tokio::test]
async fn a_store_that_is_locked_for_long_gets_the_ends_later_and_nothing_runs_twice() {
    let bench = Bench::start().await;
    let ends_meanwhile = bench.submit(told("a")).await.unwrap();
    let begins_meanwhile = bench.submit(told("b")).await.unwrap();
    bench.begin(&ends_meanwhile).await.unwrap();
    let other = lock_database(&bench);
    bench.complete(&ends_meanwhile).await;
    assert!(bench.begin(&begins_meanwhile).await.unwrap_err().is_busy());
    // Whoever asks is told what is true.
    let view = bench.queue.wait(ends_meanwhile.as_str()).await.unwrap();
    assert_eq!(view.state, JobState::Completed);
    assert_eq!(bench.stored_state(&ends_meanwhile).await, JobState::Running);
    drop(other);

    bench.complete(&begins_meanwhile).await;
    bench.until_stored(&ends_meanwhile, JobState::Completed).await;
    let bench = bench.again().await;
    assert_eq!(bench.queue.counts().in_queue, 0);
    for id in [&ends_meanwhile, &begins_meanwhile] {
        assert_eq!(bench.queue.view(id.as_str()).await.unwrap().state, JobState::Completed);
        assert_eq!(bench.queue.0.store.get(id).await.unwrap().unwrap().attempts, 1);
    }
    assert_eq!(bench.due_webhooks().await, [ends_meanwhile, begins_meanwhile]);
}

#[tokio::test]
async fn a_worker_that_ends_stores_what_it_still_has_to() {
    let bench = Bench::start().await;
    let id = bench.submit(told("a")).await.unwrap();
    let other = lock_database(&bench);
    bench.complete(&id).await;
    let unlocked = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(other);
    });
    let bench = bench.again().await;
    unlocked.await.unwrap();
    assert_eq!(bench.stored_state(&id).await, JobState::Completed);
    assert_eq!(bench.due_webhooks().await, [id]);
}

#[tokio::test]
async fn a_worker_that_ends_waits_for_an_end_that_is_being_stored() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    let other = lock_database(&bench);
    let (core, entry) = (Arc::clone(&bench.queue.0), bench.entry(&id));
    let ending = tokio::spawn(async move {
        let outcome = Ok(Arc::new(Outcome::default()));
        core.end(&entry, JobState::Completed, outcome).await
    });
    while !bench.entry(&id).has_ended() {
        tokio::task::yield_now().await;
    }
    let unlocked = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(other);
    });
    let bench = bench.again().await;
    unlocked.await.unwrap();
    assert!(ending.await.unwrap());
    assert_eq!(bench.stored_state(&id).await, JobState::Completed);
}

#[tokio::test]
async fn a_job_whose_end_is_not_stored_is_neither_retried_nor_removed_before() {
    let bench = Bench::start().await;
    let retried = bench.submit(Policy::default()).await.unwrap();
    let removed = bench.submit(Policy::default()).await.unwrap();
    let other = lock_database(&bench);
    for id in [&retried, &removed] {
        let view = bench.queue.cancel(id.as_str()).await.unwrap();
        assert_eq!(view.state, JobState::Cancelled);
    }
    for error in [
        bench.queue.retry(retried.as_str()).await.unwrap_err(),
        bench.queue.remove(removed.as_str()).await.unwrap_err(),
        bench.submit(Policy::default()).await.unwrap_err(),
    ] {
        assert_eq!((error.kind, error.kind.status()), (ErrorKind::StoreUnavailable, 503));
    }
    drop(other);
    let view = bench.queue.retry(retried.as_str()).await.unwrap();
    assert_eq!(view.state, JobState::Queued);
    bench.queue.remove(removed.as_str()).await.unwrap();
    assert!(bench.queue.view(removed.as_str()).await.is_err());
    // The old end is stored, and ends the new run no more.
    bench.queue.store_at_last().await;
    assert_eq!(bench.stored_state(&retried).await, JobState::Queued);
    assert_eq!(
        bench.queue.view(retried.as_str()).await.unwrap().state,
        JobState::Queued
    );
    assert_eq!(bench.free_places(), LIMIT - 1);
}

#[tokio::test]
async fn an_end_that_the_platform_was_told_before_it_was_stored_is_not_told_again() {
    let bench = Bench::start().await;
    let platform = || Policy {
        platform: Some(PlatformJob::default()),
        ..Policy::default()
    };
    let unstored = bench.submit(platform()).await.unwrap();
    let stored = bench.submit(platform()).await.unwrap();
    bench.complete(&stored).await;
    let other = lock_database(&bench);
    bench.complete(&unstored).await;
    bench.queue.reported(&unstored).await.unwrap();
    bench.queue.reported(&stored).await.unwrap_err();
    drop(other);
    let bench = bench.again().await;
    assert_eq!(bench.stored_state(&unstored).await, JobState::Completed);
    assert_eq!(bench.queue.store().unreported().await.unwrap(), []);
}

#[tokio::test]
async fn a_job_that_is_removed_in_time_is_unknown_at_once() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.complete(&id).await;
    remove_what_is_old(&bench.queue.0, Duration::ZERO).await;
    assert_eq!(bench.queue.list(None, None, 10).await.unwrap().len(), 0);
    assert_eq!(
        bench.queue.view(id.as_str()).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_request_is_kept_only_where_its_owner_may_have_it_run_again() {
    let bench = Bench::start().await;
    for (dialect, kept) in [(Dialect::Runpod, true), (Dialect::Kie, true), (Dialect::OpenAi, false)] {
        let policy = Policy {
            dialect,
            ..Policy::default()
        };
        let id = bench.submit(policy).await.unwrap();
        bench.queue.cancel(id.as_str()).await.unwrap();
        let payload = bench.queue.store().payload(&id).await.unwrap();
        assert_eq!(payload.is_some(), kept, "{dialect:?}");
        match bench.queue.retry(id.as_str()).await {
            Ok(_) => assert!(kept),
            Err(error) => assert_eq!((error.kind, kept), (ErrorKind::Conflict, false), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_job_that_is_only_being_delivered_needs_no_comfyui() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.begin(&id).await.unwrap();
    for (stage, expected) in [(Stage::Collecting, true), (Stage::Delivering, false)] {
        let entry = bench.entry(&id);
        entry.progress(Progress {
            stage,
            ..entry.view().progress
        });
        assert_eq!(bench.queue.0.needs_comfy(&id), expected, "{stage:?}");
    }
}

#[tokio::test]
async fn a_retried_job_came_when_it_was_retried() {
    let bench = Bench::start().await;
    let policy = Policy {
        ttl: Some(Duration::ZERO),
        ..Policy::default()
    };
    let id = bench.submit(policy).await.unwrap();
    let first = bench.queue.wait(id.as_str()).await.unwrap();
    assert_eq!(first.state, JobState::TimedOut);
    let again = bench.queue.retry(id.as_str()).await.unwrap();
    assert!(again.created > first.created);
    let stored = bench.queue.store().get(&id).await.unwrap().unwrap().created;
    let lost = again.created.duration_since(stored).unwrap_or_default();
    assert!(stored > first.created && lost < Duration::from_micros(1), "{lost:?}");
}

#[tokio::test]
async fn the_wait_of_a_job_begins_with_its_coming_in_whatever_life_of_the_worker() {
    let waited = Duration::from_secs(100);
    let entry = LiveJob::new(JobId::new(), Policy::default(), SystemTime::now() - waited);
    assert!(entry.view().delay >= waited);
    assert!(entry.begin());
    assert!(entry.view().delay >= waited && entry.view().execution < waited);
}

#[tokio::test]
async fn whoever_waits_for_a_running_job_is_told_its_id_when_the_worker_gives_it_up() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.begin(&id).await.unwrap();
    let stop = async { bench.queue.abandon() };
    let (waited, ()) = tokio::join!(bench.queue.wait(id.as_str()), stop);
    let error = waited.unwrap_err();
    assert_eq!(
        error.full_text(),
        format!(
            "The worker stops before the job's end. The job is kept and runs after the next start: ask for /status/{id} then."
        )
    );
    assert_eq!(error.kind, ErrorKind::Stopping);
}

#[tokio::test]
async fn a_job_that_began_as_the_worker_was_told_to_end_waits_for_the_next_start() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    let core = &bench.queue.0;
    let (entry, ..) = core.live(&id).unwrap();
    assert!(entry.begin());
    core.stopping.cancel();
    let cancelled = Err(JobError::new(ErrorKind::Cancelled, "cancelled"));
    let (waited, ()) = tokio::join!(
        bench.queue.wait(id.as_str()),
        super::super::dispatch::settle(core, &entry, cancelled)
    );
    assert_eq!(waited.unwrap_err().kind, ErrorKind::Stopping);
    assert_eq!(bench.queue.view(id.as_str()).await.unwrap().state, JobState::Queued);
    // Its owner is quicker.
    bench.queue.cancel(id.as_str()).await.unwrap();
    entry.go_back();
    assert_eq!(bench.queue.view(id.as_str()).await.unwrap().state, JobState::Cancelled);
    bench.queue.drain().await;
}
