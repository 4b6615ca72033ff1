//! Several engines on one queue. They run nothing, and end jobs when they are told to.

use std::sync::Mutex as StdMutex;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::engine::{Engine, Standing};
use crate::executor::elsewhere::Failed;
use crate::executor::{Event, JobControl};
use crate::job::{Outcome, PromptOwner};

#[derive(Debug)]
struct Scripted {
    name: &'static str,
    standing: watch::Sender<Standing>,
    /// It runs one job at a time, and prepares one more.
    slot: Semaphore,
    /// One for each job that may end.
    may_end: Semaphore,
    /// The jobs that began here, and whether their clients hear ComfyUI's own words.
    began: StdMutex<Vec<(JobId, bool)>>,
}

impl Scripted {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            standing: watch::Sender::new(Standing::Ready),
            slot: Semaphore::new(1),
            may_end: Semaphore::new(0),
            began: StdMutex::default(),
        })
    }

    async fn until(&self, is: impl Fn(Standing) -> bool) {
        let mut told = self.standing.subscribe();
        drop(told.wait_for(|standing| is(*standing)).await);
    }

    fn away(&self) -> JobError {
        JobError::new(ErrorKind::ComfyUnavailable, format!("{} is away", self.name))
    }

    fn began(&self) -> Vec<JobId> {
        self.began.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

impl Engine for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn places(&self) -> usize {
        2
    }

    fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()> {
        self.until(move |now| now != standing).boxed()
    }

    fn until_away(&self) -> BoxFuture<'_, JobError> {
        async move {
            self.until(|now| now == Standing::Away).await;
            self.away()
        }
        .boxed()
    }

    fn called(&self) -> BoxFuture<'_, ()> {
        self.until(|now| now != Standing::Away).boxed()
    }

    fn keeps_jobs(&self) -> bool {
        true
    }

    fn cancel_earlier<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn run<'a>(
        &'a self,
        id: &'a JobId,
        _: JobRequest,
        owner: &'a JobControl,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        let work = async move {
            let _slot = self.slot.acquire().await;
            self.began.lock().unwrap().push((id.clone(), owner.told.is_some()));
            owner.events.send(Event::Begun).unwrap();
            self.may_end.acquire().await.unwrap().forget();
            Ok(Outcome::default())
        };
        async move {
            tokio::select! {
                biased;
                () = owner.stop.cancelled() => Err(JobError::new(ErrorKind::Cancelled, "cancelled").into()),
                () = self.until(|now| now == Standing::Away) => Err(self.away().into()),
                done = work => done,
            }
        }
        .boxed()
    }
}

/// A queue on these engines.
async fn queue_of(engines: &[&Arc<Scripted>], data: &TempDir) -> Queue {
    let (executor, _boot) = executor(data.path());
    let (store, unfinished) = Store::open(data.path(), store::StoreOptions::default()).await.unwrap();
    let pool = Pool::new(engines.iter().map(|&engine| Arc::clone(engine) as Arc<dyn Engine>));
    Queue::start(executor, pool, store, unfinished, settings()).await
}

async fn submitted(queue: &Queue, policy: Policy) -> JobId {
    queue.submit(queue.permit().unwrap(), request(), policy).await.unwrap()
}

#[tokio::test]
async fn a_job_that_waits_behind_another_goes_where_nothing_is_to_do() {
    let data = tempfile::tempdir().unwrap();
    let (a, b) = (Scripted::new("a"), Scripted::new("b"));
    let queue = queue_of(&[&a, &b], &data).await;
    let first = submitted(&queue, Policy::default()).await;
    until(|| a.began().len() + b.began().len() == 1).await;
    let second = submitted(&queue, Policy::default()).await;
    until(|| a.began().len() == 1 && b.began().len() == 1).await;
    let told = Policy {
        dialect: Dialect::Comfyui,
        prompt: Some(Box::new(PromptOwner::default())),
        ..Policy::default()
    };
    let third = submitted(&queue, told).await;
    // It is prepared behind one of them, and the other one is done first.
    until(|| queue.jobs_at("a") + queue.jobs_at("b") == 3).await;
    let (busy, idle) = if queue.jobs_at("a") == 2 { (&a, &b) } else { (&b, &a) };
    idle.may_end.add_permits(1);
    until(|| idle.began().len() == 2).await;
    assert_eq!(
        idle.began.lock().unwrap()[1],
        (third.clone(), true),
        "its client still hears"
    );
    assert_eq!(busy.began().len(), 1);
    assert_eq!(queue.jobs_at(busy.name), 1);
    for engine in [&a, &b] {
        engine.may_end.add_permits(1);
    }
    for id in [first, second, third] {
        assert_eq!(queue.wait(id.as_str()).await.unwrap().state, JobState::Completed);
    }
    until(|| queue.jobs_at("a") + queue.jobs_at("b") == 0).await;
    assert_eq!(a.began().len() + b.began().len(), 3, "each has run once");
}

#[tokio::test]
async fn what_its_owner_cancels_while_it_is_prepared_does_not_come_back() {
    let data = tempfile::tempdir().unwrap();
    let (a, b) = (Scripted::new("a"), Scripted::new("b"));
    let queue = queue_of(&[&a, &b], &data).await;
    for _ in 0..2 {
        submitted(&queue, Policy::default()).await;
    }
    until(|| a.began().len() == 1 && b.began().len() == 1).await;
    let third = submitted(&queue, Policy::default()).await;
    until(|| queue.jobs_at("a") + queue.jobs_at("b") == 3).await;
    queue.cancel(third.as_str()).await.unwrap();
    until(|| queue.jobs_at("a") + queue.jobs_at("b") == 2).await;
    for engine in [&a, &b] {
        engine.may_end.add_permits(2);
    }
    until(|| queue.counts().completed == 2).await;
    assert_eq!(a.began().len() + b.began().len(), 2);
    assert_eq!(queue.view(third.as_str()).await.unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn a_job_whose_engine_is_away_runs_at_another_and_waits_while_there_is_none() {
    let data = tempfile::tempdir().unwrap();
    let (a, b) = (Scripted::new("a"), Scripted::new("b"));
    b.standing.send_replace(Standing::Starting);
    let queue = queue_of(&[&a, &b], &data).await;
    let id = submitted(&queue, Policy::default()).await;
    until(|| a.began().len() == 1).await;
    a.standing.send_replace(Standing::Away);
    // The other one is not there yet.
    let mut watched = queue.watch(id.as_str()).await.unwrap();
    let goes_back = watched.wait_for(|view| view.state == JobState::Queued);
    drop(tokio::time::timeout(Duration::from_secs(20), goes_back).await.unwrap());
    until(|| queue.jobs_at("a") == 0).await;
    assert!(b.began().is_empty());
    b.standing.send_replace(Standing::Ready);
    until(|| b.began() == [id.clone()]).await;
    b.may_end.add_permits(1);
    let view = queue.wait(id.as_str()).await.unwrap();
    assert_eq!(view.state, JobState::Completed);

    // While all are away, what had begun and what had not waits.
    b.standing.send_replace(Standing::Ready);
    let running = submitted(&queue, Policy::default()).await;
    until(|| b.began().len() == 2).await;
    let prepared = submitted(&queue, Policy::default()).await;
    until(|| queue.jobs_at("b") == 2).await;
    b.standing.send_replace(Standing::Away);
    until(|| queue.jobs_at("b") == 0).await;
    b.standing.send_replace(Standing::Ready);
    until(|| b.began().len() == 3).await;
    b.may_end.add_permits(2);
    for id in [running, prepared] {
        assert_eq!(queue.wait(id.as_str()).await.unwrap().state, JobState::Completed);
    }

    b.standing.send_replace(Standing::Away);
    let id = submitted(&queue, Policy::default()).await;
    let mut watched = queue.watch(id.as_str()).await.unwrap();
    assert_eq!(watched.borrow_and_update().state, JobState::Queued);
    a.standing.send_replace(Standing::Ready);
    until(|| a.began().len() == 2).await;
    a.may_end.add_permits(1);
    assert_eq!(queue.wait(id.as_str()).await.unwrap().state, JobState::Completed);
}

#[tokio::test]
async fn a_job_that_two_engines_have_gone_away_under_fails() {
    let data = tempfile::tempdir().unwrap();
    let (a, b) = (Scripted::new("a"), Scripted::new("b"));
    let queue = queue_of(&[&a, &b], &data).await;
    let id = submitted(&queue, Policy::default()).await;
    until(|| a.began() == [id.clone()]).await;
    a.standing.send_replace(Standing::Away);
    until(|| b.began() == [id.clone()]).await;
    a.standing.send_replace(Standing::Ready);
    b.standing.send_replace(Standing::Away);
    let view = queue.wait(id.as_str()).await.unwrap();
    assert_eq!((view.state, a.began().len()), (JobState::Failed, 1));
    assert_eq!(view.result.unwrap().unwrap_err().message, "b is away");
}
