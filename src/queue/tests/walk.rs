//! Random calls against a model of what they make of jobs.

use proptest::prelude::*;

use super::*;

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
