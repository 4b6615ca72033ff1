//! Jobs of ComfyUI's own API: what is known of them, and what their owners do with them.

use serde_json::{Value, json};

use super::ends::lock_database;
use super::*;
use crate::comfy::Comfy;
use crate::executor::testing::{FakeComfy, executor_on};
use crate::job::{JobView, Outcome, PromptOwner};
use crate::queue::store::{Shown, ShownPart};

fn prompt(priority: i32) -> Policy {
    Policy {
        dialect: Dialect::Comfyui,
        priority,
        prompt: Some(Box::new(PromptOwner {
            client_id: Some("a client".into()),
            number: 3,
            ..PromptOwner::default()
        })),
        ..Policy::default()
    }
}

fn own_id() -> JobId {
    JobId::parse(&uuid::Uuid::new_v4().to_string()).unwrap()
}

impl Bench {
    async fn submit_as(&self, id: &JobId, policy: Policy) -> Result<JobId, JobError> {
        let place = self.queue.permit()?;
        self.queue.submit_as(id.clone(), place, request(), policy).await
    }

    fn line(&self) -> Vec<JobId> {
        let line = self.queue.line(Dialect::Comfyui);
        line.into_iter().map(|view| view.id).collect()
    }
}

#[tokio::test]
async fn an_id_that_is_taken_is_a_conflict_and_free_again_once_its_job_is_removed() {
    let bench = Bench::start().await;
    let id = own_id();
    bench.submit_as(&id, prompt(0)).await.unwrap();
    let refused = bench.submit_as(&id, prompt(0)).await.unwrap_err();
    assert_eq!((refused.kind, bench.line().len()), (ErrorKind::Conflict, 1));
    assert_eq!(bench.free_places(), LIMIT - 1);
    bench.complete(&id).await;
    bench.queue.0.live.lock().forget(&id);
    assert_eq!(
        bench.submit_as(&id, prompt(0)).await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    bench.queue.remove(id.as_str()).await.unwrap();
    bench.submit_as(&id, prompt(0)).await.unwrap();
    assert_eq!(bench.line(), [id]);
}

#[tokio::test]
async fn the_line_has_those_that_run_then_those_that_wait_by_priority_and_no_others() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for priority in [0, 0, 5, 7] {
        ids.push(bench.submit_as(&own_id(), prompt(priority)).await.unwrap());
    }
    bench.submit(Policy::default()).await.unwrap();
    let [first, second, sooner, soonest] = &ids[..] else {
        unreachable!()
    };
    bench.begin(second).await.unwrap();
    let line = bench.queue.line(Dialect::Comfyui);
    let places: Vec<_> = line.iter().map(|view| (view.state, view.position)).collect();
    let of: Vec<_> = line.iter().map(|view| &view.id).collect();
    assert_eq!(of[0], second);
    assert_eq!(places[0], (JobState::Running, None));
    // What was taken from the backlog before the others came waits in ComfyUI.
    let taken = bench.queue.0.live.lock().waiting()[0].id.clone();
    let mut expected: Vec<_> = [&taken].into_iter().chain([soonest, sooner, first]).collect();
    expected.dedup();
    let mut seen = std::collections::HashSet::new();
    expected.retain(|id| *id != second && seen.insert(*id));
    assert_eq!(of[1..], expected);
    assert!(places[1..].iter().all(|(state, _)| *state == JobState::Queued));
    assert!(line[1..].iter().all(|view| view.position.is_some()));
}

#[tokio::test]
async fn only_a_job_that_waits_is_cancelled_as_one_that_waits() {
    let bench = Bench::start().await;
    let (waits, runs) = (own_id(), own_id());
    for id in [&waits, &runs] {
        bench.submit_as(id, prompt(0)).await.unwrap();
    }
    bench.begin(&runs).await.unwrap();
    assert!(!bench.queue.cancel_waiting(&runs).await.unwrap());
    assert!(bench.queue.cancel_waiting(&waits).await.unwrap());
    assert!(!bench.queue.cancel_waiting(&waits).await.unwrap());
    assert!(!bench.queue.cancel_waiting(&own_id()).await.unwrap());
    let state = async |id: &JobId| bench.queue.view(id.as_str()).await.unwrap().state;
    assert_eq!(
        (state(&waits).await, state(&runs).await),
        (JobState::Cancelled, JobState::Running)
    );
    assert!(!bench.queue.interrupt(&waits), "it is over");
    assert!(bench.queue.interrupt(&runs));
    let view = bench.queue.wait(runs.as_str()).await.unwrap();
    assert_eq!(view.state, JobState::Cancelled);
    assert_eq!(bench.free_places(), LIMIT);
}

#[tokio::test]
async fn a_request_is_known_as_it_came_until_its_job_is_completed() {
    let bench = Bench::start().await;
    let id = own_id();
    let extra_data = serde_json::Map::from_iter([("extra_pnginfo".to_owned(), json!({"workflow": {}}))]);
    let sent = JobRequest {
        extra_data: extra_data.clone(),
        ..request()
    };
    let place = bench.queue.permit().unwrap();
    bench.queue.submit_as(id.clone(), place, sent, prompt(0)).await.unwrap();
    let known = bench.queue.request(&id).await.unwrap().unwrap();
    assert_eq!(known.extra_data, extra_data);
    bench.complete(&id).await;
    assert!(bench.queue.request(&id).await.unwrap().is_none());
    assert!(bench.queue.request(&own_id()).await.unwrap().is_none());
    let refused = bench.queue.refuse(prompt(0), JobError::invalid("no")).await.unwrap();
    assert!(bench.queue.request(&refused).await.unwrap().is_none());
}

#[tokio::test]
async fn changes_are_told_in_their_order_and_an_end_once_it_is_shown() {
    let bench = Bench::start().await;
    let (mut first, mut second) = (bench.queue.changes(), bench.queue.changes());
    let id = bench.submit_as(&own_id(), prompt(0)).await.unwrap();
    assert_eq!(bench.queue.counts().in_queue, 1);
    bench.complete(&id).await;
    drop(bench.queue.changes());
    let other = bench.submit(Policy::default()).await.unwrap();
    for heard in [&mut first, &mut second] {
        assert!(matches!(heard.recv().await, Some(Change::Came(came)) if came == id));
        let Some(Change::Ended(view)) = heard.recv().await else {
            panic!("no end")
        };
        assert_eq!((view.id, view.state), (id.clone(), JobState::Completed));
        assert!(view.result.is_some());
        assert!(matches!(heard.recv().await, Some(Change::Came(came)) if came == other));
    }
}

#[tokio::test]
async fn a_job_that_fails_before_comfyui_has_it_is_in_the_line_until_its_end_is_stored() {
    let bench = Bench::start().await;
    let id = bench.submit_as(&own_id(), prompt(0)).await.unwrap();
    let core = &bench.queue.0;
    // Taken here, or by the queue already.
    let _taken = core.assign();
    let entry = bench.entry(&id);
    let other = lock_database(&bench);
    let settled = super::super::dispatch::settle(core, &entry, Err(JobError::invalid("no")));
    tokio::pin!(settled);
    assert!(futures_util::poll!(&mut settled).is_pending());
    assert!(entry.has_ended());
    assert_eq!(bench.line(), std::slice::from_ref(&id));
    drop(other);
    settled.await;
    assert_eq!(bench.line(), []);
    bench.until_stored(&id, JobState::Failed).await;
    let shown = core.store.shown(Shown::default(), ShownPart::ALL).await.unwrap();
    assert_eq!(shown.into_iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_prompt_that_is_sent_again_is_shown_again_and_comes_after_those_that_wait() {
    let bench = Bench::start().await;
    let ids = [own_id(), own_id()];
    for id in &ids {
        bench.submit_as(id, prompt(0)).await.unwrap();
    }
    let fail = async || {
        let error = Arc::new(JobError::invalid("no"));
        assert!(
            bench
                .queue
                .0
                .end(&bench.entry(&ids[0]), JobState::Failed, Err(error))
                .await
        );
    };
    fail().await;
    bench.queue.hide(vec![ids[0].clone()]).await.unwrap();
    let shown = async || {
        bench
            .queue
            .0
            .store
            .shown(Shown::default(), ShownPart::ALL)
            .await
            .unwrap()
    };
    assert_eq!(shown().await, []);
    let view = bench.queue.retry(ids[0].as_str()).await.unwrap();
    let owner = view.policy.prompt.clone().unwrap();
    assert!(!owner.hidden && owner.number > 3);
    assert_eq!(bench.line(), [ids[1].clone(), ids[0].clone()]);
    let stored = bench.queue.0.store.get(&ids[0]).await.unwrap().unwrap();
    assert_eq!(stored.policy, *view.policy);
    fail().await;
    assert_eq!(shown().await[0].id, ids[0]);
}

#[tokio::test]
async fn an_end_that_cannot_be_stored_is_told_all_the_same() {
    let bench = Bench::start().await;
    let id = bench.submit_as(&own_id(), prompt(0)).await.unwrap();
    let mut changes = bench.queue.changes();
    let other = lock_database(&bench);
    bench.complete(&id).await;
    assert!(matches!(changes.recv().await, Some(Change::Ended(view)) if view.id == id));
    drop(other);
}

#[tokio::test]
async fn jobs_are_listed_by_their_age_whatever_their_ids() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(bench.submit_as(&own_id(), prompt(0)).await.unwrap());
    }
    bench.submit(Policy::default()).await.unwrap();
    ids.reverse();
    let list = async || bench.queue.list(None, Some(Dialect::Comfyui), 10).await.unwrap();
    let all: Vec<_> = list().await.into_iter().map(|view| view.id).collect();
    assert_eq!(all, ids);
    bench.queue.abandon();
    bench.queue.store().close().await;
    // They wait in the same order after a restart.
    let bench = Bench::on(bench.data).await;
    ids.reverse();
    assert_eq!(bench.line(), ids);
}

/// The history of each prompt that was submitted, in ComfyUI's words.
fn over(path: &str, submitted: &[String], status: &Value, outputs: &Value) -> (u16, String) {
    let body = match path {
        "/object_info/SaveImage" => {
            json!({"SaveImage": {"input": {"optional": {}}, "output": [], "output_node": true}})
        }
        "/queue" => json!({"queue_running": [], "queue_pending": []}),
        _ => match path.strip_prefix("/history/") {
            Some(id) if submitted.iter().any(|known| known == id) => json!({id: {
                "prompt": [1, id, {}, {"client_id": "x"}, ["1"]],
                "outputs": outputs,
                "status": status,
                "meta": {},
            }}),
            _ => json!({}),
        },
    };
    (200, body.to_string())
}

#[tokio::test]
async fn comfyuis_entry_is_there_with_the_end_and_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    for (status, state) in [
        (
            json!({"status_str": "success", "completed": true, "messages": []}),
            JobState::Completed,
        ),
        (
            json!({"status_str": "error", "completed": false, "messages": [
                ["execution_error", {"node_id": "1", "node_type": "SaveImage", "exception_type": "E", "exception_message": "boom"}]]}),
            JobState::Failed,
        ),
    ] {
        // Larger than what stands in a row.
        let outputs = json!({"1": {"text": ["long".repeat(20_000)]}});
        let (said, left) = (status.clone(), outputs.clone());
        let fake = FakeComfy::start(move |path, submitted| over(path, submitted, &said, &left)).await;
        let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
        let queue = testing::queue(executor_on(comfy, data.path()), data.path(), settings()).await;
        let id = own_id();
        let mut changes = queue.changes();
        let place = queue.permit().unwrap();
        queue.submit_as(id.clone(), place, request(), prompt(0)).await.unwrap();
        let view = queue.wait(id.as_str()).await.unwrap();
        assert_eq!(view.state, state, "{:?}", view.result);
        let check = |view: &JobView| {
            let entry: Value = serde_json::from_str(view.entry.as_deref().unwrap()).unwrap();
            assert_eq!(entry["prompt"], json!([3, id, {}, {"client_id": "a client"}, ["1"]]));
            assert_eq!((&entry["status"], &entry["outputs"]), (&status, &outputs));
        };
        check(&view);
        assert!(matches!(changes.recv().await, Some(Change::Came(_))));
        assert!(matches!(changes.recv().await, Some(Change::Began(_))));
        let Some(Change::Ended(ended)) = changes.recv().await else {
            panic!("no end")
        };
        check(&ended);
        queue.drain().await;
        queue.store().close().await;

        let (executor, _boot) = executor(data.path());
        let queue = testing::queue(executor, data.path(), settings()).await;
        check(&queue.view(id.as_str()).await.unwrap());
        queue.drain().await;
        queue.store().close().await;
    }
}

#[tokio::test]
async fn a_job_of_another_api_has_no_entry() {
    let data = tempfile::tempdir().unwrap();
    let status = json!({"status_str": "success", "completed": true, "messages": []});
    let fake = FakeComfy::start(move |path, submitted| over(path, submitted, &status, &json!({}))).await;
    let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
    let queue = testing::queue(executor_on(comfy, data.path()), data.path(), settings()).await;
    let place = queue.permit().unwrap();
    let id = queue.submit(place, request(), Policy::default()).await.unwrap();
    assert_eq!(queue.wait(id.as_str()).await.unwrap().entry, None);
}

/// One that is interrupted has an entry a moment later.
#[tokio::test]
async fn a_prompt_that_is_interrupted_has_comfyuis_entry() {
    let data = tempfile::tempdir().unwrap();
    let interrupted = std::sync::atomic::AtomicBool::new(false);
    let answer = move |path: &str, submitted: &[String]| {
        let is_over = interrupted.load(std::sync::atomic::Ordering::Relaxed);
        if path.ends_with("/cancel") {
            interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        if path == "/queue" && !is_over {
            let running: Vec<_> = submitted.iter().map(|id| json!([1, id])).collect();
            return (200, json!({"queue_running": running, "queue_pending": []}).to_string());
        }
        if path.starts_with("/history/") && !is_over {
            return (200, "{}".to_owned());
        }
        let status = json!({"status_str": "error", "completed": false, "messages": [["execution_interrupted", {"node_id": "1"}]]});
        let outputs = json!({"1": {"images": [{"filename": "until_then.png", "subfolder": "", "type": "output"}]}});
        over(path, submitted, &status, &outputs)
    };
    let fake = FakeComfy::start(answer).await;
    let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
    let queue = testing::queue(executor_on(comfy, data.path()), data.path(), settings()).await;
    let place = queue.permit().unwrap();
    let id = queue.submit(place, request(), prompt(0)).await.unwrap();
    let mut watched = queue.watch(id.as_str()).await.unwrap();
    watched.wait_for(|view| view.state == JobState::Running).await.unwrap();
    assert!(queue.interrupt(&id));
    let view = queue.wait(id.as_str()).await.unwrap();
    let entry: Value = serde_json::from_str(view.entry.as_deref().unwrap()).unwrap();
    assert_eq!(view.state, JobState::Cancelled);
    assert_eq!(entry["status"]["messages"][0][0], "execution_interrupted");
    assert_eq!(entry["outputs"]["1"]["images"][0]["filename"], "until_then.png");
    queue.0.live.lock().forget(&id);
    assert_eq!(queue.view(id.as_str()).await.unwrap().entry, view.entry);
}

#[test]
fn results_of_older_versions_are_read() {
    let stored = |result: &str| {
        let job = StoredJob {
            id: own_id(),
            state: JobState::Completed,
            created: SystemTime::now(),
            delay: None,
            execution: None,
            attempts: 1,
            prompt_id: None,
            engine: None,
            policy: Policy::default(),
            result: Some(result.to_owned().into()),
        };
        super::super::core::view_of(job)
    };
    let outcome = serde_json::to_string(&Outcome {
        seed: Some(u64::MAX),
        ..Outcome::default()
    });
    let view = stored(&format!(r#"{{"outcome":{}}}"#, outcome.unwrap()));
    assert_eq!((view.result.unwrap().unwrap().seed, view.entry), (Some(u64::MAX), None));
    let error = serde_json::to_string(&JobError::invalid("no")).unwrap();
    let view = stored(&format!(r#"{{"error":{error}}}"#));
    assert_eq!(view.result.unwrap().unwrap_err().message, "no");
    for damaged in ["", "{}", "[]", r#"{"outcome":7}"#] {
        let error = stored(damaged).result.unwrap().unwrap_err();
        assert!(error.message.contains("damaged"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_prompt_of_a_worker_that_was_killed_ends_once_whether_comfyui_has_it_or_not() {
    for lives_on in [true, false] {
        let bench = Bench::start().await;
        let id = bench.submit_as(&own_id(), prompt(0)).await.unwrap();
        let earlier = uuid::Uuid::now_v7().to_string();
        bench.queue.0.store.submitted(&id, &earlier, "local").await.unwrap();
        bench.queue.0.store.started(&id, 1).await.unwrap();
        bench.queue.abandon();
        bench.queue.store().close().await;

        let known = lives_on.then_some(earlier);
        let answer = move |path: &str, submitted: &[String]| {
            let all: Vec<_> = submitted.iter().cloned().chain(known.clone()).collect();
            let status =
                json!({"status_str": "success", "messages": [["execution_success", {"prompt_id": all.last()}]]});
            over(path, &all, &status, &json!({}))
        };
        let fake = FakeComfy::start(answer).await;
        let comfy = Comfy::attached(&fake.url.parse().unwrap()).unwrap();
        let data = bench.data.path();
        let queue = testing::queue(executor_on(comfy, data), data, settings()).await;
        let view = queue.wait(id.as_str()).await.unwrap();
        assert_eq!(view.state, JobState::Completed, "{:?}", view.result);
        let entry: Value = serde_json::from_str(view.entry.as_deref().unwrap()).unwrap();
        assert_eq!(entry["prompt"][1], id.as_str());
        assert_eq!(entry["status"]["messages"][0][1]["prompt_id"], id.as_str());
        assert_eq!(fake.submitted.lock().unwrap().len(), usize::from(!lives_on));
    }
}
