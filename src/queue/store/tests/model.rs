//! Random calls against a model of three jobs, reopened after each.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Call {
    Insert,
    Started(u32),
    Submitted,
    Requeued,
    Finish(JobState, bool),
    Remove,
}

/// What the store should know about a job.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    state: JobState,
    attempts: u32,
    prompt_id: Option<String>,
    result: Option<Bytes>,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        2 => Just(Call::Insert),
        3 => (1..4_u32).prop_map(Call::Started),
        1 => Just(Call::Submitted),
        1 => Just(Call::Requeued),
        3 => (prop::sample::select(&JobState::ALL[..]), any::<bool>()).prop_map(|(state, big)| Call::Finish(state, big)),
        1 => Just(Call::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_calls_leaves_the_life_of_a_job(calls in prop::collection::vec((0..3_usize, call()), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(calls));
    }
}

async fn check(calls: Vec<(usize, Call)>) {
    let folder = tempfile::tempdir().unwrap();
    let ids = [JobId::new(), JobId::new(), JobId::new()];
    let mut model: BTreeMap<JobId, Known> = BTreeMap::new();
    let mut store = open(folder.path()).await;
    for (n, call) in calls {
        let id = &ids[n];
        let known = model.get(id).cloned();
        let took = match &call {
            Call::Insert => store
                .insert(NewJob {
                    id: id.clone(),
                    ..new_job()
                })
                .await
                .map(|()| true),
            Call::Started(attempt) => store.started(id, *attempt).await.map(|()| true),
            Call::Submitted => store.submitted(id, "prompt", "local").await.map(|()| true),
            Call::Requeued => store.requeued(id).await.map(|()| true),
            Call::Finish(state, large) => store.finish(id, end(*state, body(*large))).await,
            Call::Remove => {
                remove(&store, std::slice::from_ref(id)).await;
                Ok(true)
            }
        };
        let (expected, took_expected) = step(known.as_ref(), &call);
        assert_eq!(took.is_ok_and(|took| took), took_expected, "{call:?} on {known:?}");
        match expected {
            Some(known) => model.insert(id.clone(), known),
            None => model.remove(id),
        };

        store.close().await;
        let (reopened, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
        store = reopened;
        for id in &ids {
            let seen = store.get(id).await.unwrap().map(|job| Known {
                state: job.state,
                attempts: job.attempts,
                prompt_id: job.prompt_id,
                result: job.result,
            });
            assert_eq!(seen.as_ref(), model.get(id), "after {call:?}");
            if let Some(known) = seen {
                assert_eq!(!known.state.is_final(), unfinished.iter().any(|job| job.id == *id));
            }
        }
        assert_eq!(store.list(None, None, 10).await.unwrap().len(), model.len());
        let large = model.values().filter(|known| known.result == Some(body(true))).count();
        assert_eq!(body_files(folder.path()).len(), large);
    }
}

/// What a call makes of a job, and whether it is taken.
fn step(known: Option<&Known>, call: &Call) -> (Option<Known>, bool) {
    let Some(known) = known else {
        let new = Known {
            state: JobState::Queued,
            attempts: 0,
            prompt_id: None,
            result: None,
        };
        return match call {
            Call::Insert => (Some(new), true),
            Call::Remove => (None, true),
            _ => (None, false),
        };
    };
    let mut next = known.clone();
    let took = match call {
        Call::Remove if known.state.is_final() => return (None, true),
        Call::Remove => true,
        Call::Submitted if !known.state.is_final() => {
            next.prompt_id = Some("prompt".to_owned());
            true
        }
        Call::Started(attempt) if known.state.may_become(JobState::Running) => {
            (next.state, next.attempts) = (JobState::Running, *attempt);
            true
        }
        Call::Requeued if known.state.may_become(JobState::Queued) => {
            if known.state.is_final() {
                (next.attempts, next.prompt_id) = (0, None);
            }
            (next.state, next.result) = (JobState::Queued, None);
            true
        }
        Call::Finish(state, large) if state.is_final() && known.state.may_become(*state) => {
            (next.state, next.result) = (*state, Some(body(*large)));
            true
        }
        _ => false,
    };
    (Some(next), took)
}

fn body(large: bool) -> Bytes {
    if large { big(b'r') } else { Bytes::from_static(b"r") }
}
